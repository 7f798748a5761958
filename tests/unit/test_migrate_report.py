"""A report says what it came to in its first line and its exit code, never more than is known."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.migrate.report import CollectionReport, End, PointDifference, Report, at_most, made
from ops.migrate.shape import Unequal, compare_aliases, compare_indexes, compare_settings
from ops.migrate.side import CollectionInfo, Json, described
from ops.migrate.verify import Chosen

ENDS = (End(name="a", version="1.19.0"), End(name="b", version="1.19.0"))
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def report(*collections: CollectionReport, aliases: list[Unequal] | None = None) -> Report:
    return made(ENDS, NOW, 1.5, list(collections), aliases)


def collection(**given: object) -> CollectionReport:
    return CollectionReport.model_validate(
        {"source": "books", "target": "books", "way": "every point"} | given
    )


LOST = {
    "different": 3,
    "kinds": {"missing": 3},
    "points": [PointDifference(id=7, kinds=["missing"])],
}


@pytest.mark.parametrize(
    ("given", "outcome", "code", "differences"),
    [
        ({}, "same", 0, 0),
        ({"rounded": 4, "rounding": 1e-7}, "same", 0, 0),
        ({"noted": [Unequal(what="params.new", target=1)]}, "same", 0, 0),
        (LOST, "different", 2, 3),
        ({"absent": True}, "different", 2, 1),
        ({"settings": [Unequal(what="hnsw_config.m", source=16, target=8)]}, "different", 2, 1),
        ({"indexes": [Unequal(what="page", source="integer")]}, "different", 2, 1),
        ({"unknown": "it is gone"}, "unknown", 3, 0),
        (LOST | {"unknown": "it is gone"}, "different", 2, 3),
    ],
)
def test_an_outcome_is_as_bad_as_what_was_seen(
    given: Json, outcome: str, code: int, differences: int
) -> None:
    found = report(collection(), collection(**given), aliases=[])
    assert (found.outcome, found.exit_code, found.differences) == (outcome, code, differences)
    assert found.first_line().startswith(outcome.upper()) and len(found.first_line()) < 80
    assert Report.model_validate_json(found.model_dump_json()) == found


def test_an_alias_is_a_difference_too() -> None:
    found = report(collection(), aliases=[Unequal(what="library", source="books")])
    assert found.exit_code == 2
    assert "alias library: source books, target has none" in list(found.lines())


def test_a_person_reads_which_points_differ() -> None:
    lines = list(report(collection(**LOST, source_points=9, target_points=6)).lines())
    assert "  missing: 3: 7, ..." in lines
    assert any("9 points, target 6" in line for line in lines)


@given(st.integers(1, 9), st.data())
def test_the_bound_of_a_sample_is_what_counting_all_draws_gives(
    total: int, data: st.DataObject
) -> None:
    drawn = data.draw(st.integers(1, total))
    draws = list(combinations(range(total), drawn))
    for confidence in (0.51, 0.95):
        plausible = [
            bad
            for bad in range(total + 1)
            if sum(min(draw) >= bad for draw in draws) / len(draws) > 1 - confidence
        ]
        assert at_most(total, drawn, confidence) == max(plausible)


def test_the_bound_of_a_large_sample_is_about_three_over_its_size() -> None:
    assert at_most(200_000, 1000, 0.95) == pytest.approx(3 / 1000 * 200_000, rel=0.01)
    assert at_most(200_000, 200_000, 0.99) == 0
    assert at_most(0, 0, 0.99) == 0
    assert at_most(10, 0, 0.95) == 10


@given(st.lists(st.integers(0, 999) | st.uuids().map(str), unique=True), st.integers(0, 20))
def test_a_sample_is_the_same_in_whatever_order_points_come(
    ids: list[int | str], points: int
) -> None:
    one, other = Chosen(points, 1), Chosen(points, 1)
    one.offer(ids)
    for each in reversed(ids):
        other.offer([each])
    assert one.ids() == other.ids()
    assert len(one.ids()) == min(points, len(ids)) and set(one.ids()) <= set(ids)


def test_every_point_is_as_likely_to_be_chosen() -> None:
    hits = [0] * 50
    for seed in range(400):
        chosen = Chosen(10, seed)
        chosen.offer(range(50))
        for each in chosen.ids():
            assert isinstance(each, int)
            hits[each] += 1
    assert min(hits) > 45 and max(hits) < 125  # 80 expected, eight in deviation


def info(**answer: Json) -> CollectionInfo:
    config = {"params": {"vectors": {"size": 4, "distance": "Dot"}}, "hnsw_config": {"m": 16}}
    return described("books", {"config": config | answer.pop("config", {}), **answer}, 0, [])


def test_settings_that_are_null_are_not_there() -> None:
    params = {"vectors": {"size": 4, "distance": "Dot", "on_disk": None, "datatype": "float32"}}
    other = info(config={"params": params, "quantization_config": None})
    assert compare_settings(info(), other) == compare_settings(other, info()) == []


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"params": {"vectors": {"size": 5, "distance": "Dot"}}}, ["vectors.size"]),
        (
            {"params": {"vectors": {"": {"size": 4, "distance": "Dot", "on_disk": True}}}},
            ["vectors.on_disk"],
        ),
        (
            {"params": {"vectors": {"a": {"size": 4, "distance": "Dot"}}}},
            ["vectors", "vectors.a"],
        ),
        (
            {
                "params": {
                    "vectors": {"size": 4, "distance": "Dot"},
                    "sparse_vectors": {"words": {}},
                }
            },
            ["sparse_vectors.words"],
        ),
        ({"hnsw_config": {"m": 16, "payload_m": 4}}, ["hnsw_config.payload_m"]),
        (
            {"quantization_config": {"scalar": {"type": "int8"}}},
            ["quantization_config.scalar.type"],
        ),
        ({"strict_mode_config": {"enabled": False}}, ["strict_mode_config.enabled"]),
        ({"metadata": {"team": "a"}}, ["metadata.team"]),
    ],
)
def test_a_setting_that_differs_is_named(config: Json, what: list[str]) -> None:
    named = {each.what for each in compare_settings(info(), info(config=config))}
    assert all(any(each == one or each.startswith(f"{one}.") for each in named) for one in what)
    assert named == {each.what for each in compare_settings(info(config=config), info())}
    assert compare_settings(info(config=config), info(config=config)) == []


def test_a_source_that_knows_few_settings_is_compared_by_those() -> None:
    few = described(
        "books", {"config": {"params": {"vectors": {"size": 4, "distance": "Dot"}}}}, 0, []
    )
    assert compare_settings(few, info()) != []
    assert compare_settings(few, info(), whole=False) == []


def test_an_index_is_its_type_and_its_parameters() -> None:
    def indexed(schema: Json) -> CollectionInfo:
        return info(payload_schema={"page": schema})

    plain = indexed({"data_type": "integer"})
    written = indexed({"data_type": "integer", "params": {"type": "integer"}})
    other = indexed({"data_type": "integer", "params": {"type": "integer", "range": False}})
    assert compare_indexes(plain, written) == []
    assert [each.what for each in compare_indexes(plain, other)] == ["page.range"]
    assert {each.what for each in compare_indexes(plain, info())} == {"page", "page.type"}
    assert compare_indexes(plain, indexed({"data_type": "keyword"})) != []


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ({"library": "books-2"}, []),
        ({"library": "books-2", "books": "books-2"}, []),  # stands in for the old name
        ({}, ["library"]),
        ({"library": "other"}, ["library"]),
        ({"library": "books-2", "more": "books-2"}, ["more"]),
        ({"library": "books-2", "more": "other"}, []),  # of a collection that is not compared
    ],
)
def test_aliases_lead_to_the_counterpart(target: dict[str, str], wrong: list[str]) -> None:
    found = compare_aliases({"library": "books", "far": "elsewhere"}, target, {"books": "books-2"})
    assert [each.what for each in found] == wrong
