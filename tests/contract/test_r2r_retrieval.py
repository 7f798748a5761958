"""R2R's search, answers and indices: our client against the real one, as two users."""

from __future__ import annotations

import secrets

import pytest
from r2r_place import Person, Place, same

from ops.clients.r2r import R2R
from ops.clients.r2r.answers import BrokenAnswerError
from ops.clients.r2r.errors import AbsentError, InvalidError, RefusedError
from ops.clients.r2r.indices import NewIndex
from ops.clients.r2r.retrieval import Generation, SearchSettings, in_collections

pytestmark = pytest.mark.slow

WAIT = 120


def text_of(who: Person, word: str) -> str:
    """A document in the user's own collection with a word that nobody else has."""
    text = f"The stack room of {who.user.name} is closed with the key {word}."
    made = who.r2r.documents.create_text(text, title=word, collections=[who.team.id])
    who.r2r.documents.wait_ingested(made.document_id, timeout=WAIT)
    return text


@pytest.fixture(scope="module")
def keys(anna: Person, bob: Person) -> tuple[str, str]:
    """Anna's word and Bob's."""
    words = (f"anna{secrets.token_hex(5)}", f"bob{secrets.token_hex(5)}")
    text_of(anna, words[0])
    text_of(bob, words[1])
    return words


def texts(who: R2R, query: str, settings: SearchSettings | None = None) -> str:
    return " ".join(each.text for each in who.retrieval.search(query, settings).chunks)


def test_what_is_found_is_as_the_server_gives_it(
    r2r_place: Place, anna: Person, keys: tuple[str, str]
) -> None:
    found = anna.r2r.retrieval.search(keys[0], SearchSettings(limit=5)).chunks
    body = {"query": keys[0], "search_settings": {"limit": 5}}
    token = r2r_place.token(anna.login)
    raw = r2r_place.results("POST", "/v3/retrieval/search", token, json=body)
    assert [str(each.id) for each in found] == [each["id"] for each in raw["chunk_search_results"]]
    same(found[0], raw["chunk_search_results"][0])
    assert keys[0] in found[0].text and found[0].owner_id == anna.id
    assert found[0].collection_ids == [anna.team.id]
    assert (found[0].score or 0) >= (found[-1].score or 0) > -1


def test_two_users_do_not_find_each_others(
    anna: Person, bob: Person, keys: tuple[str, str]
) -> None:
    wide = SearchSettings(limit=1000)
    for query in (*keys, "key of the stack room"):
        assert keys[1] not in texts(anna.r2r, query, wide)
        assert keys[0] not in texts(bob.r2r, query, wide)
    assert keys[0] in texts(anna.r2r, keys[0], wide) and keys[1] in texts(bob.r2r, keys[1], wide)
    # nor by asking for the other's collection
    theirs = SearchSettings(limit=1000, filters=in_collections([bob.team.id]))
    assert texts(anna.r2r, keys[1], theirs) == ""


def test_a_filter_keeps_a_superuser_to_one_collection(
    admin: R2R, anna: Person, bob: Person, keys: tuple[str, str]
) -> None:
    settings = SearchSettings(limit=1000, filters=in_collections([anna.team.id]))
    found = admin.retrieval.search("key of the stack room", settings).chunks
    assert found and all(anna.team.id in each.collection_ids for each in found)
    both = SearchSettings(limit=1000, filters=in_collections([anna.team.id, bob.team.id]))
    assert {each.owner_id for each in admin.retrieval.search("key", both).chunks} == {
        anna.id,
        bob.id,
    }


def test_a_filter_keeps_a_user_to_one_of_their_collections(
    r2r_place: Place, anna: Person, keys: tuple[str, str]
) -> None:
    """The user's own documents in other collections too are left out, which the server does for
    nobody but superusers where the filter is not inside of another."""
    other = anna.r2r.collections.create(f"contract-{secrets.token_hex(6)}")
    inside = SearchSettings(limit=1000, filters=in_collections([other.id]))
    assert texts(anna.r2r, keys[0], inside) == ""
    body = {
        "query": keys[0],
        "search_settings": {"filters": {"collection_ids": {"$overlap": [str(other.id)]}}},
    }
    token = r2r_place.token(anna.login)
    bare = r2r_place.results("POST", "/v3/retrieval/search", token, json=body)
    assert keys[0] in " ".join(each["text"] for each in bare["chunk_search_results"])
    anna.r2r.collections.delete(other.id)


def test_why_settings_are_typed(
    r2r_place: Place, admin: R2R, anna: Person, keys: tuple[str, str]
) -> None:
    """The server drops a filter that stands where others put it, and searches everything."""
    body = {"query": keys[1], "filters": in_collections([anna.team.id]), "limit": 1000}
    token = r2r_place.token(r2r_place.admin)
    raw = r2r_place.results("POST", "/v3/retrieval/search", token, json=body)
    found = " ".join(each["text"] for each in raw["chunk_search_results"])
    assert keys[1] in found


def test_a_member_finds_what_was_shared(anna: Person, bob: Person, keys: tuple[str, str]) -> None:
    wide = SearchSettings(limit=1000)
    anna.r2r.collections.add_member(anna.team.id, bob.id)
    assert keys[0] in texts(bob.r2r, keys[0], wide)
    anna.r2r.collections.remove_member(anna.team.id, bob.id)
    assert keys[0] not in texts(bob.r2r, keys[0], wide)


def test_hybrid_search(anna: Person, keys: tuple[str, str]) -> None:
    settings = SearchSettings(
        use_hybrid_search=True, use_fulltext_search=True, use_semantic_search=True, limit=5
    )
    assert keys[0] in texts(anna.r2r, keys[0], settings)


def test_a_filter_the_server_does_not_know_is_a_typed_error(anna: Person) -> None:
    settings = SearchSettings(filters={"collection_ids": {"$near": ["x"]}})
    with pytest.raises(RefusedError):
        anna.r2r.retrieval.search("x", settings)


def test_a_whole_answer_and_what_it_read(anna: Person, keys: tuple[str, str]) -> None:
    settings = SearchSettings(filters=in_collections([anna.team.id]))
    found = anna.r2r.retrieval.answer(f"what is closed with {keys[0]}?", settings)
    assert found.generated_answer
    assert any(keys[0] in each.text for each in found.search_results.chunks)


def test_an_answer_as_it_is_written(anna: Person, keys: tuple[str, str]) -> None:
    with anna.r2r.retrieval.stream(f"what is closed with {keys[0]}?") as answer:
        pieces = list(answer)
    written = answer.written
    assert written.complete and written.text and "".join(pieces) == written.text
    assert written.found is not None
    assert any(keys[0] in each.text for each in written.found.chunks)


def test_a_model_that_is_not_there_is_a_typed_error(anna: Person) -> None:
    nobody = Generation(model="openai/no-such-model")
    with pytest.raises(RefusedError) as caught:
        anna.r2r.retrieval.answer("x", generation=nobody)
    assert caught.value.status >= 400


def test_an_answer_that_the_server_breaks_off_keeps_what_was_found(
    anna: Person, keys: tuple[str, str]
) -> None:
    """A model that fails is told by no event: the server closes the connection half-way."""
    nobody = Generation(model="openai/no-such-model")
    with (
        anna.r2r.retrieval.stream(keys[0], generation=nobody) as answer,
        pytest.raises(BrokenAnswerError, match="after 0 characters") as caught,
    ):
        list(answer)
    found = caught.value.partial.found
    assert found is not None and any(keys[0] in each.text for each in found.chunks)


def test_an_index_is_made_listed_and_deleted(r2r_place: Place, admin: R2R) -> None:
    name = f"contract_{secrets.token_hex(4)}"
    longer = NewIndex(index_name=f"a_{name}", index_arguments={"m": 8, "ef_construction": 32})
    admin.indices.create(longer)
    try:
        with pytest.raises(AbsentError):  # though the server finds one that contains the name
            admin.indices.get(name)
        admin.indices.create(NewIndex(index_name=name, index_measure="l2_distance"))
        made = admin.indices.get(name)
        listed = {each.name: each for each in admin.indices.every()}
        assert listed[name] == made and f"a_{name}" in listed
        token = r2r_place.token(r2r_place.admin)
        raw = r2r_place.results("GET", "/v3/indices?limit=1000", token)["indices"]
        same(made, next(each["index"] for each in raw if each["index"]["name"] == name))
        assert made.table_name == "chunks" and "hnsw" in made.definition
        assert "m='8'" in listed[f"a_{name}"].definition
        admin.indices.delete(name)
        with pytest.raises(AbsentError):
            admin.indices.get(name)
    finally:
        admin.indices.delete(f"a_{name}")
    with pytest.raises(AbsentError):
        admin.indices.get(f"a_{name}")


def test_an_index_that_is_not_there_is_a_typed_error(admin: R2R) -> None:
    with pytest.raises(RefusedError):
        admin.indices.delete("no_such_index")


def test_a_wrong_body_is_invalid(anna: Person) -> None:
    with pytest.raises(InvalidError, match=r"hybrid_settings\.rrf_k"):
        anna.r2r.retrieval.search("x", SearchSettings(hybrid_settings={"rrf_k": "many"}))
