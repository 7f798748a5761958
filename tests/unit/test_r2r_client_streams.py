"""Answers and exports of R2R as they come: pieces of any size, and connections that break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from r2r_client_lab import Lab, Reply, refused, results, running

from ops.clients.r2r import R2R, ApiKey, Patience
from ops.clients.r2r.answers import BrokenAnswerError, Event, events
from ops.clients.r2r.errors import ConflictError, FailedError, NoAnswerError
from ops.clients.r2r.retrieval import Generation, SearchSettings, in_collections
from ops.errors import ServiceError

RAG, DOCUMENTS = "/v3/retrieval/rag", "/v3/documents"
TEAM = UUID("122fdf6a-e116-546b-a8f6-e4cb2e2c0a09")
CHUNK = {
    "id": "3f3d47f3-8baf-58eb-8bc2-0171fb1c6e09",
    "document_id": "3e157b3a-8469-51db-90d9-52e7d896b49b",
    "owner_id": None,
    "collection_ids": [],
    "score": 0.5,
    "text": "close the door\u2028twice",
    "metadata": {},
}


def event(name: str, said: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(said, ensure_ascii=False)}\n\n".encode()


def piece(text: str) -> bytes:
    part = {"type": "text", "payload": {"value": text, "annotations": []}}
    return event("message", {"id": "m", "delta": {"content": [part]}})


FOUND = event("search_results", {"id": "s", "data": {"chunk_search_results": [CHUNK]}})
FINAL = event("final_answer", {"generated_answer": "Close the door.", "citations": []})
DONE = b"event: done\ndata: [DONE]\n\n"
CITED = event("citation", {"id": "3f3d47f", "is_new": True, "payload": CHUNK})


@pytest.fixture
def lab() -> Iterator[Lab]:
    with running() as opened:
        yield opened


@pytest.fixture
def r2r(lab: Lab) -> Iterator[R2R]:
    with R2R(lab.url, ApiKey(SecretStr("key")), patience=Patience(first=0.001)) as opened:
        yield opened


def test_an_answer_comes_in_pieces(lab: Lab, r2r: R2R) -> None:
    lab.on(RAG, Reply(pieces=(FOUND, piece("Close "), CITED, piece("the door."), FINAL, DONE)))
    with r2r.retrieval.stream("how?", generation=Generation(model="m")) as answer:
        assert list(answer) == ["Close ", "the door."]
    written = answer.written
    assert written.complete and written.text == "Close the door." and written.found is not None
    assert written.found.chunks[0].text == CHUNK["text"]
    assert [each.id for each in written.citations] == ["3f3d47f"]
    said = json.loads(lab.seen[0].body)
    assert said["rag_generation_config"] == {"model": "m", "stream": True}


@pytest.mark.parametrize("cut", [True, False])
def test_a_partial_answer_is_kept_when_the_connection_breaks(lab: Lab, r2r: R2R, cut: bool) -> None:
    """Cut, and ended in order without R2R having said that the answer is whole."""
    lab.on(RAG, Reply(pieces=(FOUND, piece("Close "), piece("the d"), b"event: mess"), cut=cut))
    got: list[str] = []
    with r2r.retrieval.stream("how?") as answer, pytest.raises(BrokenAnswerError) as caught:
        got.extend(answer)  # what was handed out stays handed out
    assert got == ["Close ", "the d"]
    partial = caught.value.partial
    assert partial is answer.written and partial.text == "Close the d" and not partial.complete
    assert partial.found is not None and partial.found.chunks
    assert "after 11 characters" in str(caught.value) and caught.value.exit_code == 4
    assert len(lab.seen) == 1  # a model is paid by the call: never asked twice


def test_a_partial_answer_is_kept_when_nothing_comes_any_more(lab: Lab, r2r: R2R) -> None:
    lab.on(RAG, Reply(pieces=(piece("Close "), DONE), hang=30))
    with (
        r2r.retrieval.stream("how?", silence=0.3) as answer,
        pytest.raises(BrokenAnswerError, match="in time") as caught,
    ):
        list(answer)
    assert caught.value.partial.text == "Close "


def test_who_stops_listening_is_told_nothing(lab: Lab, r2r: R2R) -> None:
    lab.on(RAG, Reply(pieces=(piece("Close "), DONE), hang=30))
    with r2r.retrieval.stream("how?", silence=20) as answer:
        assert next(iter(answer)) == "Close "


def test_a_stream_that_is_refused_is_a_refusal(lab: Lab, r2r: R2R) -> None:
    lab.on(RAG, Reply(500, {"detail": "Internal RAG Error"}))
    with (
        pytest.raises(FailedError, match="Internal RAG Error"),
        r2r.retrieval.stream("how?"),
    ):
        pass
    assert len(lab.seen) == 1


@pytest.mark.parametrize(
    "said", [event("message", {"delta": 1}), b"event: message\ndata: {\n\n", event("citation", {})]
)
def test_an_event_of_an_unknown_form_is_a_typed_error(lab: Lab, r2r: R2R, said: bytes) -> None:
    lab.on(RAG, Reply(pieces=(said, DONE)))
    with (
        r2r.retrieval.stream("how?") as answer,
        pytest.raises(ServiceError, match="in an unknown form"),
    ):
        list(answer)


def test_an_event_that_says_error_says_why(lab: Lab, r2r: R2R) -> None:
    lab.on(RAG, Reply(pieces=(event("error", {"error": {"message": "no model"}}), DONE)))
    with r2r.retrieval.stream("how?") as answer, pytest.raises(ServiceError, match="no model"):
        list(answer)


@given(st.binary(max_size=400).map(lambda raw: raw.hex()), st.lists(st.integers(1, 60)))
def test_events_are_the_same_however_their_bytes_are_cut(text: str, sizes: list[int]) -> None:
    sent = (
        f": a comment\r\nevent: one\r\ndata: {text}\r\ndata: ü\u2028\x0b\r\n\r\n"
        f"id: 7\ndata:bare\n\nevent: empty\n\nevent: last\ndata: x\n\nevent: lost\ndata: y"
    ).encode()
    pieces, rest = [], sent
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert list(events([*pieces, rest])) == [
        Event("one", f"{text}\nü\u2028\x0b"),
        Event("message", "bare"),
        Event("last", "x"),
    ]


def test_filters_go_where_r2r_heeds_them(lab: Lab, r2r: R2R) -> None:
    lab.on("/v3/retrieval/search", results({"chunk_search_results": [CHUNK]}))
    settings = SearchSettings(filters=in_collections([TEAM]), limit=3)
    assert len(r2r.retrieval.search("door", settings).chunks) == 1
    assert json.loads(lab.seen[0].body) == {
        "query": "door",
        "search_mode": "custom",
        "search_settings": {
            "filters": {"$and": [{"collection_ids": {"$overlap": [str(TEAM)]}}]},
            "limit": 3,
        },
    }


@pytest.mark.parametrize("wrong", [{"top_k": 3}, {"filter": {}}, {"limit": 1001}, {"limit": 0}])
def test_a_setting_that_r2r_would_drop_is_an_error_here(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SearchSettings(**wrong)


def test_a_document_is_sent_once_though_its_answer_is_lost(
    lab: Lab, r2r: R2R, tmp_path: Path
) -> None:
    """R2R keeps the file of every try for ever."""
    file = tmp_path / "guide.md"
    file.write_text("close the door", encoding="utf-8")
    lab.on(DOCUMENTS, Reply(reset=True))
    with pytest.raises(NoAnswerError):
        r2r.documents.create_file(file)
    assert len(lab.seen) == 1


def test_a_file_is_sent_whole_at_every_try(lab: Lab, r2r: R2R, tmp_path: Path) -> None:
    file = tmp_path / "guide.md"
    file.write_bytes(b"close the door " * 20_000)
    made = {"document_id": str(TEAM), "message": "done", "task_id": None}
    lab.on(DOCUMENTS, refused(503), refused(503), results(made))
    r2r.documents.create_file(file, collections=[TEAM], metadata={"a": "ü"}, title="T.md")
    assert len(lab.seen) == 3
    for seen in lab.seen:
        assert seen.headers["content-type"].startswith("multipart/form-data")
        assert file.read_bytes() in seen.body and b'filename="guide.md"' in seen.body
        assert f'["{TEAM}"]'.encode() in seen.body and b'"title": "T.md"' in seen.body


def test_a_document_that_is_there_is_a_conflict(lab: Lab, r2r: R2R) -> None:
    lab.on(DOCUMENTS, refused(409, "already exists"))
    with pytest.raises(ConflictError, match="already exists"):
        r2r.documents.create_text("x", title="guide")
    assert len(lab.seen) == 1


def test_an_export_that_breaks_leaves_nothing(lab: Lab, r2r: R2R, tmp_path: Path) -> None:
    target = tmp_path / "export.csv"
    target.write_text("as before")
    lab.on(f"{DOCUMENTS}/export", Reply(pieces=(b'"id"\n"1"\n', b'"2'), cut=True))
    with pytest.raises(NoAnswerError):
        r2r.documents.export_to(target)
    assert [each.name for each in tmp_path.iterdir()] == ["export.csv"]
    assert target.read_text() == "as before"
    with pytest.raises(ServiceError, match="cannot be written"):
        r2r.documents.export_to(tmp_path / "absent" / "export.csv")


def test_an_exports_rows_are_whole_however_they_come(lab: Lab, r2r: R2R) -> None:
    cell = "a\n\u2028\r\nü, " + "long " * 50_000  # longer than what csv takes by default
    whole = f'"id","metadata"\r\n"1","{cell}"\r\n"2",""\r\n'.encode()
    cut = tuple(whole[at : at + 1021] for at in range(0, len(whole), 1021))
    lab.on(f"{DOCUMENTS}/export", Reply(pieces=cut))
    with r2r.documents.rows(["id", "metadata"], {"ingestion_status": {"$eq": "failed"}}) as rows:
        assert list(rows) == [{"id": "1", "metadata": cell}, {"id": "2", "metadata": ""}]
    assert json.loads(lab.seen[0].body) == {
        "columns": ["id", "metadata"],
        "filters": {"ingestion_status": {"$eq": "failed"}},
        "include_header": True,
    }


@pytest.mark.parametrize(
    ("columns", "filters"),
    [(["document_type"], {}), ([], {"owner": "x"}), ([], {"id": {"$in": []}}), ([], {"id": {}})],
)
def test_an_export_that_r2r_would_not_narrow_is_not_asked_for(
    lab: Lab, r2r: R2R, columns: list[str], filters: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="R2R"), r2r.documents.export(columns, filters):
        pass
    assert not lab.seen
