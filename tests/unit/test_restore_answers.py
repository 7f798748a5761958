"""When two answers of a Qdrant are the same, and which version reads whose data."""

from __future__ import annotations

from typing import Any

import pytest

from ops.backup.manifest import KnownQuery, Point, QdrantCollection
from ops.errors import BackupError, UnprovenError
from ops.restore.answers import (
    alike,
    compare_collection,
    readable,
    same_answers,
    wait_until_green,
)

INFO = {
    "config": {"params": {"vectors": {"size": 2, "distance": "Dot"}}},
    "payload_schema": {"kind": {"data_type": "keyword", "points": 3}},
}
POINTS = {
    1: {"id": 1, "vector": [0.1, 0.2], "payload": {"kind": "note", "secret": "do not show"}},
    2: {"id": 2, "vector": [0.3, 0.4], "payload": {}},
}
PROMISED = QdrantCollection(
    name="books",
    item="qdrant/books.snapshot",
    count=(2, 2),
    info=INFO,
    samples=[Point.model_validate(point) for point in POINTS.values()],
    queries=[KnownQuery(vector=[1, 1], limit=2, answers=[(2, 0.7), (1, 0.3)])],
)


def server(**changed: Any) -> Any:
    """A Qdrant that holds exactly what is promised, but for what is changed."""

    def ask(method: str, path: str, json: Any) -> Any:
        if path.endswith("/points/count"):
            assert json == {"exact": True}
            return {"count": changed.get("count", 2)}
        if path.endswith("/points/query"):
            answers = changed.get("answers", [(2, 0.7), (1, 0.3)])
            return {"points": [{"id": i, "score": score} for i, score in answers]}
        if path.endswith("/points"):
            return list((POINTS | changed.get("points", {})).values())
        return INFO | changed.get("info", {})

    return ask


def wrong(ask: Any, promised: QdrantCollection = PROMISED) -> list[str]:
    return [c.subject for c in compare_collection(ask, "qdrant", promised) if not c.ok]


def test_what_is_promised_is_found() -> None:
    found = compare_collection(server(), "qdrant", PROMISED)
    assert [c.ok for c in found] == [True] * 5
    assert [c.subject.removeprefix("qdrant/books: ") for c in found] == [
        "exact count",
        "vectors",
        "payload indexes",
        "sampled points",
        "query 1",
    ]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"count": 1}, "exact count"),
        ({"count": 3}, "exact count"),
        ({"points": {1: POINTS[1] | {"vector": [0.1, 0.20001]}}}, "sampled points"),
        ({"points": {1: POINTS[1] | {"payload": {"kind": "note"}}}}, "sampled points"),
        ({"points": {1: POINTS[1] | {"id": 7}}}, "sampled points"),
        ({"answers": [(1, 0.7), (2, 0.3)]}, "query 1"),
        ({"answers": [(2, 0.7), (1, 0.31)]}, "query 1"),
        ({"answers": [(2, 0.7)]}, "query 1"),
        ({"info": {"payload_schema": {}}}, "payload indexes"),
        ({"info": {"config": {"params": {"vectors": {"size": 3, "distance": "Dot"}}}}}, "vectors"),
        ({"info": {"config": {"params": {"vectors": {"size": 2, "distance": "Cosine"}}}}},
         "vectors"),
    ],
)  # fmt: skip
def test_each_difference_is_named(changed: dict[str, Any], what: str) -> None:
    assert wrong(server(**changed)) == [f"qdrant/books: {what}"]


def test_evidence_shows_no_payload_and_no_vector() -> None:
    changed = {1: POINTS[1] | {"payload": {"secret": "other words"}, "vector": [9.875, 1]}}
    for comparison in compare_collection(server(points=changed), "qdrant", PROMISED):
        text = f"{comparison}"
        assert "do not show" not in text and "other words" not in text and "9.875" not in text


def test_a_count_taken_while_points_were_written_is_a_range() -> None:
    moving = PROMISED.model_copy(update={"count": (9, 4)})  # some were deleted meanwhile
    for count, expected in ((3, 1), (4, 0), (6, 0), (9, 0), (10, 1)):
        assert len(wrong(server(count=count), moving)) == expected, count


def test_floats_that_came_through_json_are_alike_and_others_are_not() -> None:
    assert alike([0.1, {"indices": [1], "values": [0.30000001]}],
                 [0.10000001, {"indices": [1], "values": [0.3]}])  # fmt: skip
    assert not alike([0.1], [0.10001])
    assert not alike([0.1], [0.1, 0.2])
    assert not alike({"a": 1}, {"b": 1})
    assert not alike(True, 1)
    assert alike(0.0, 0.0)
    assert not alike(0.0, 1e-9)


@pytest.mark.parametrize(
    ("expected", "found", "cut", "same"),
    [
        ([(1, 0.9), (2, 0.5), (3, 0.5), (4, 0.1)], [(1, 0.9), (3, 0.5), (2, 0.5), (4, 0.1)],
         False, True),
        ([(1, 0.9), (2, 0.5)], [(2, 0.9), (1, 0.5)], False, False),
        ([(1, 0.9), (2, 0.5), (3, 0.5)], [(1, 0.9), (2, 0.5), (4, 0.5)], True, True),
        ([(1, 0.9), (2, 0.5), (3, 0.5)], [(1, 0.9), (2, 0.5), (4, 0.5)], False, False),
        ([(1, 0.9), (2, 0.5)], [(1, 0.9), (1, 0.5)], True, False),
        ([(1, 0.9), (2, 0.5)], [(1, 0.9)], True, False),
        ([], [], False, True),
    ],
)  # fmt: skip
def test_equal_scores_may_swap_and_nothing_else(
    expected: list[tuple[int | str, float]],
    found: list[tuple[int | str, float]],
    cut: bool,
    same: bool,
) -> None:
    assert same_answers(expected, found, cut=cut) is same


@pytest.mark.parametrize(
    ("made_by", "server", "may"),
    [
        ("1.19.0", "1.19.0", True),
        ("1.19.0", "1.20.3", True),
        ("1.19.0", "1.21.0", False),
        ("1.19.0", "1.18.4", False),
        ("1.19.0", "2.0.0", False),
        ("1.19.0", "unknown", False),
    ],
)
def test_a_server_reads_its_own_minor_and_the_last(made_by: str, server: str, may: bool) -> None:
    assert readable(made_by, server) is may


def test_green_is_waited_for_and_a_grey_one_is_nudged_once() -> None:
    statuses = iter(["grey", "grey", "yellow", "green"])
    sent: list[str] = []

    def ask(method: str, path: str, json: Any) -> Any:
        sent.append(method)
        return {"status": next(statuses)} if method == "GET" else True

    wait_until_green(ask, "books", seconds=30)
    assert sent.count("PATCH") == 1
    with pytest.raises(BackupError, match="red"):
        wait_until_green(lambda *_: {"status": "red"}, "books", seconds=30)
    with pytest.raises(UnprovenError, match="yellow"):
        wait_until_green(lambda *_: {"status": "yellow"}, "books", seconds=0)
