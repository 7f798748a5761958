"""Which tokens are in force, against what Qdrant answers; the server's part is in contract."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from settings_lab import readers

from ops.errors import ServiceError
from ops.grants import plan, reads, tokens
from ops.settings import Settings
from ops.settings.rights import value_of, values_in_force

LIVE, RETIRING, EVES, LOST = (f"00000000-0000-4000-8000-00000000000{number}" for number in "1234")
PATH = "/collections/stackroom_access"
SCROLL = f"{PATH}/points/scroll"
ABSENT = {"status": {"error": "Not found: Collection `stackroom_access` doesn't exist!"}}


def answers(points: dict[Any, dict[str, Any]], indexed: bool = True) -> dict[str, Any]:
    rows = [{"id": key, "payload": payload} for key, payload in points.items()]
    schema = {"token": {"data_type": "keyword"}} if indexed else {}
    return {
        PATH: {"result": {"status": "green", "payload_schema": schema}},
        SCROLL: {"result": {"points": rows, "next_page_offset": None}},
    }


def value(token: str) -> str:
    """Everybody here has the same rights."""
    settings = readers(bob={})
    return value_of(settings, settings.developers["bob"], token)


def point(token: str, name: str) -> dict[str, Any]:
    return {"token": value(token), "developer": name}


MISSING = {PATH: ABSENT, SCROLL: ABSENT}
TWO = readers(bob={"token": LIVE, "retiring": RETIRING}, eve={"token": EVES})
AS_WANTED = {
    LIVE: point(LIVE, "bob"),
    RETIRING: point(RETIRING, "bob"),
    EVES: point(EVES, "eve"),
}


def sent(settings: Settings, given: dict[str, Any]) -> list[tuple[str, str, Any]]:
    return [(request.method, request.path, request.body) for request in plan(settings, given)]


def test_the_questions_change_nothing() -> None:
    assert [(request.method, request.path) for request in reads()] == [
        ("GET", PATH),
        ("POST", SCROLL),
    ]


def test_the_wanted_tokens_are_those_of_whoever_has_not_expired() -> None:
    settings = readers(
        bob={"token": LIVE, "retiring": RETIRING},
        eve={"token": EVES, "expires": date(2020, 1, 1)},
        carl={"collections": []},
    )
    assert values_in_force(settings) == {
        LIVE: (value(LIVE), "bob"),
        RETIRING: (value(RETIRING), "bob"),
    }


@pytest.mark.parametrize("given", [MISSING, {}])
def test_where_there_is_no_list_it_is_made(given: dict[str, Any]) -> None:
    """`{}` is a host whose stack is not there yet: its plan must not fail."""
    made = sent(readers(bob={"token": LIVE}), given)
    assert made == [
        ("PUT", PATH, {"vectors": {}}),
        ("PUT", f"{PATH}/index?wait=true", {"field_name": "token", "field_schema": "keyword"}),
        (
            "PUT",
            f"{PATH}/points?wait=true",
            {"points": [{"id": LIVE, "vector": {}, "payload": point(LIVE, "bob")}]},
        ),
    ]
    assert sent(readers(), given) == []


def test_what_is_as_wanted_is_left_alone() -> None:
    assert sent(TWO, answers(AS_WANTED)) == []
    assert sent(readers(), answers({})) == []


def test_what_is_not_wanted_is_revoked_at_once_and_first() -> None:
    given = answers({EVES: point(EVES, "eve"), LOST: point(LOST, "mallory"), 7: {}})
    first, second = sent(TWO, given)
    assert first == ("POST", f"{PATH}/points/delete?wait=true", {"points": [LOST, 7]})
    assert second[:2] == ("PUT", f"{PATH}/points?wait=true")
    assert [row["id"] for row in second[2]["points"]] == [LIVE, RETIRING]
    assert plan(TWO, given)[0].says == "revoke 2 tokens of mallory, nobody"


def test_the_last_token_goes_and_the_list_stays() -> None:
    assert sent(readers(), answers({LIVE: point(LIVE, "bob")})) == [
        ("POST", f"{PATH}/points/delete?wait=true", {"points": [LIVE]})
    ]


@pytest.mark.parametrize(
    "changed", [{"access": "write"}, {"collections": ["a", "b"]}, {"expires": date(2980, 1, 1)}]
)
def test_other_rights_are_another_value_under_the_same_id(changed: dict[str, Any]) -> None:
    """So the token that was handed out with the rights of before is refused."""
    settings = readers(bob={"token": LIVE, "retiring": RETIRING, **changed})
    (request,) = plan(settings, answers({k: AS_WANTED[k] for k in (LIVE, RETIRING)}))
    assert request.method == "PUT" and request.body
    rows = {row["id"]: row["payload"]["token"] for row in request.body["points"]}
    assert rows.keys() == {LIVE, RETIRING}
    assert not {value(LIVE), value(RETIRING)} & set(rows.values())


def test_the_order_of_collections_is_no_right() -> None:
    one = readers(bob={"token": LIVE, "collections": ["a", "b"]})
    other = readers(bob={"token": LIVE, "collections": ["b", "a"]})
    assert values_in_force(one) == values_in_force(other)


@pytest.mark.parametrize(
    "payload",
    # Qdrant looks at the payload, never at the id: a revoked token could hide under a live id
    [point(LOST, "bob"), point(LIVE, "eve"), {"developer": "bob"}, point(LIVE, "bob") | {"x": 1}],
)
def test_a_point_that_says_something_else_is_written_anew(payload: dict[str, Any]) -> None:
    (request,) = plan(readers(bob={"token": LIVE}), answers({LIVE: payload}))
    assert request.method == "PUT"
    assert request.body == {"points": [{"id": LIVE, "vector": {}, "payload": point(LIVE, "bob")}]}


def test_a_lost_index_is_made_again() -> None:
    (request,) = plan(TWO, answers(AS_WANTED, indexed=False))
    assert request.path == f"{PATH}/index?wait=true"


def test_the_tokens_in_force_are_those_that_qdrant_would_find() -> None:
    given = answers({LIVE: point(LOST, "bob"), 7: {"token": EVES}, 8: {"token": 5}, 9: {}})
    assert tokens(given) == {value(LOST): "bob", EVES: ""}
    assert tokens(MISSING) == {}


@pytest.mark.parametrize(
    "answer",
    [None, {"status": {"error": "Forbidden: Global access is required"}}, {"status": "error"}],
)
def test_an_answer_that_is_none(answer: Any) -> None:
    for path in (PATH, SCROLL):
        with pytest.raises(ServiceError, match=f"Qdrant did not answer {path}: "):
            plan(TWO, answers(AS_WANTED) | {path: answer})


def test_more_points_than_tokens_can_be() -> None:
    given = answers(AS_WANTED)
    given[SCROLL]["result"]["next_page_offset"] = LOST
    with pytest.raises(ServiceError, match="more than 10000 points"):
        plan(TWO, given)
