"""Points are the same where nothing was lost: to the bit, but for what Qdrant itself rounds."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.migrate.compare import Found, Tally, compare_pages, compare_records, same_vector
from ops.migrate.side import Page, PointId, Record, VectorSpec, order

COSINE = VectorSpec(4, "Cosine")
DOT = VectorSpec(4, "Dot")
IDS = st.integers(0, 2**64 - 1) | st.uuids().map(str)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
# text that looks like an array of numbers is the trap of comparing arrays as text
TEXTS = st.text() | st.sampled_from(["[1,2]", "see [0]", "[17]", "[-1.5e3,2]", "[", "1]"])
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=6,
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def page(points: list[dict[str, Any]], following: PointId | None = None) -> Page:
    text = ",".join(json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in points)
    return Page(text.encode(), len(points), following)


def compared(one: Page, other: Page, spec: VectorSpec = DOT) -> Tally:
    tally = Tally(listed=100)
    compare_pages(one, other, {"": spec}, tally)
    return tally


def flipped(number: float, bit: int) -> float:
    """The float32 beside it that one bit makes."""
    bits = struct.unpack("<I", struct.pack("<f", number))[0] ^ 1 << bit
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def unit(*numbers: float) -> list[float]:
    """As Qdrant stores it for Cosine."""
    row = np.array(numbers, dtype=np.float32)
    return [float(each) for each in row / np.linalg.norm(row)]


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(each, chance) for each in value]
    if isinstance(value, dict):
        pairs = [(name, shuffled(each, chance)) for name, each in value.items()]
        return dict(chance.sample(pairs, len(pairs)))
    return value


@given(
    st.dictionaries(IDS, st.tuples(st.lists(FLOATS, max_size=4), VALUES), max_size=4),
    st.randoms(use_true_random=False),
)
def test_the_same_points_are_the_same_in_whatever_order_their_keys_come(
    points: dict[PointId, tuple[list[float], Any]], chance: random.Random
) -> None:
    found = [
        {"id": each, "vector": vector, "payload": {"a": value, "b": [value], "c": 1}}
        for each, (vector, value) in sorted(points.items(), key=lambda item: order(item[0]))
    ]
    tally = compared(page(found), page(shuffled(found, chance)))
    assert tally.found == [] and tally.rounded == 0
    assert tally.compared == tally.source == tally.target == len(points)


@given(VALUES, VALUES)
def test_a_payload_is_the_same_only_where_its_json_is(one: Any, other: Any) -> None:
    tally = compared(
        page([{"id": 1, "vector": [1.0], "payload": {"a": one}}]),
        page([{"id": 1, "vector": [1.0], "payload": {"a": other}}]),
    )
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert tally.found == ([] if same else [Found(1, ("payload",))])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (0, None),
        ("1", 1),
        (0.0, -0.0),
        ([1], 1),
        ([], None),
        ([], {}),
        ([1, 2], [2, 1]),
        ("[1,2]", "[1,3]"),
        ("[1,2]", [1, 2]),
        (2**53 + 1, 2**53),
        (2**64 - 1, float(2**64)),
        (0.1, np.nextafter(0.1, 1)),
        ("é", "e\u0301"),
    ],
)
def test_what_only_looks_the_same_differs(one: Any, other: Any) -> None:
    tally = compared(
        page([{"id": 1, "vector": {}, "payload": {"a": one}}]),
        page([{"id": 1, "vector": {}, "payload": {"a": other}}]),
    )
    assert tally.kinds["payload"] == 1 and tally.different == 1


def test_one_number_written_in_two_ways_is_one_number() -> None:
    one = Page(b'{"id":1,"vector":[1e-45,100.0,0.1],"payload":{"a":[1e2,2]}}', 1, None)
    other = Page(
        b'{"id":1,"vector":[1.4012984643248171e-45,1E2,0.10000000149011612],'
        b'"payload":{"a":[100.0,2]}}',
        1,
        None,
    )
    assert compared(one, other).found == []


def test_no_payload_and_an_empty_one_are_the_same() -> None:
    points = [
        {"id": 1, "vector": {}, "payload": None},
        {"id": 1, "vector": {}, "payload": {}},
        {"id": 1, "vector": {}},
    ]
    assert all(compared(page([a]), page([b])).found == [] for a in points for b in points)


def test_an_array_of_one_number_differs_from_another() -> None:
    tally = compared(
        page([{"id": 1, "vector": [0]}, {"id": 2, "vector": [5]}]),
        page([{"id": 1, "vector": [0]}, {"id": 2, "vector": [1]}]),
    )
    assert [each.id for each in tally.found] == [2]


def test_every_bit_of_a_vector_counts() -> None:
    vector = [0.3, -0.0, 1e-40, 3e38]
    row = [float(each) for each in np.array(vector, dtype=np.float32)]
    for place in range(4):
        for bit in range(32):
            other = list(row)
            other[place] = flipped(row[place], bit)
            if np.isfinite(other[place]):
                assert not same_vector(row, other, DOT).same, (place, bit)


@pytest.mark.parametrize("multi", [False, True])
def test_every_bit_counts_where_qdrant_had_normalized_the_source(multi: bool) -> None:
    row = unit(0.3, -0.4, 1e-4, 2.0)
    for place in range(4):
        for bit in range(32):
            other = list(row)
            other[place] = flipped(row[place], bit)
            if np.isfinite(other[place]):
                pair = ([row, row], [row, other]) if multi else (row, other)
                assert not same_vector(*pair, COSINE).same, (place, bit)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=64))
def test_a_raw_vector_is_the_same_as_its_normalized_one(vector: list[float]) -> None:
    length = float(np.linalg.norm(np.array(vector)))
    stored = unit(*vector) if length > 3.5e-4 else vector
    verdict = same_vector(vector, stored, COSINE)
    assert verdict.same
    if length > 3.5e-4 and not 0.999 < length < 1.6:
        assert not same_vector(vector, [-each for each in stored], COSINE).same
        # the length is part of it: nothing that Qdrant stores for Cosine is longer
        assert not same_vector(vector, [1.5 * each for each in stored], COSINE).same


def test_a_changed_component_shows_through_normalization() -> None:
    vector = [3.0, -4.0, 0.001, 20.0]
    stored = unit(*vector)
    for place in range(4):
        for bit in range(3, 31):  # below that it is no more than rounding
            other = list(stored)
            other[place] = flipped(stored[place], bit)
            assert not same_vector(vector, other, COSINE).same, (place, bit)


def test_a_short_vector_stays_as_it_is_and_a_zero_one_is_no_other() -> None:
    short = [1e-5, 0.0, 0.0, 0.0]
    assert same_vector(short, short, COSINE).same
    assert not same_vector(short, [1.0, 0.0, 0.0, 0.0], COSINE).same
    assert not same_vector([1e20, 1e20, 0.0, 0.0], [0.0] * 4, COSINE).same  # Qdrant's overflow
    assert not same_vector([0.0] * 4, short, COSINE).same


def test_half_precision_is_the_nearest_one() -> None:
    half = VectorSpec(4, "Dot", "float16")
    vector = [0.1, -1.7291, 6e-8, 1000.3]
    stored = [float(each) for each in np.array(vector, dtype=np.float16)]
    verdict = same_vector(vector, stored, half)
    assert verdict.same and verdict.rounding > 0
    assert not same_vector(vector, [*stored[:3], 1001.0], half).same
    assert not same_vector(vector, [*vector[:3], 1000.2], half).same
    assert same_vector(stored, stored, half).same
    assert not same_vector([70000.0, 0, 0, 0], [None, 0, 0, 0], half).same  # lost by overflow


def test_half_precision_after_normalizing() -> None:
    half = VectorSpec(3, "Cosine", "float16")
    vector = [0.3, -1.7, 2.5]
    stored = [float(each) for each in np.array(unit(*vector), dtype=np.float16)]
    assert same_vector(vector, stored, half).same
    assert same_vector(stored, stored, half).same
    assert not same_vector(vector, [*stored[:2], stored[2] * 1.01], half).same


def test_bytes_are_cut_off_and_never_normalized() -> None:
    small = VectorSpec(4, "Cosine", "uint8")
    assert same_vector([3.7, 300.0, -1.0, 5.0], [3.0, 255.0, 0.0, 5.0], small).same
    assert not same_vector([3.7, 300.0, -1.0, 5.0], [4.0, 255.0, 0.0, 5.0], small).same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"indices": [7, 1], "values": [0.5, 2]}, {"indices": [1, 7], "values": [2.0, 0.5]}, True),
        ({"indices": [1, 7], "values": [0.5, 2]}, {"indices": [1, 7], "values": [2, 0.5]}, False),
        ({"indices": [1], "values": [0.5]}, {"indices": [1, 2], "values": [0.5, 0]}, False),
        ({"indices": [], "values": []}, {"indices": [], "values": []}, True),
        ({"indices": [1], "values": [0.5]}, [0.5], False),
        (
            {"indices": [1], "values": [0.5]},
            {"indices": [1], "values": [flipped(0.5, 0)]},
            False,
        ),
    ],
)
def test_sparse_vectors_are_the_same_whatever_the_order_of_their_indices(
    one: Any, other: Any, same: bool
) -> None:
    assert same_vector(one, other, None).same is same


@pytest.mark.parametrize("other", [[1.0, 2.0], [[1.0], [2.0]], [], [[1.0, 2.0], [3.0, 4.0]], {}])
def test_another_shape_differs(other: Any) -> None:
    tally = Tally(listed=9)
    compare_records(Record(1, [[1.0, 2.0]] * 2, {}), Record(1, other, {}), {"": DOT}, tally)
    assert tally.kinds["vector"] == 1


def test_a_vector_that_is_not_there_is_named() -> None:
    tally = Tally(listed=9)
    specs = {"a": COSINE, "b": COSINE}
    one, other = {"a": unit(1, 2), "b": unit(3, 4)}, {"a": unit(1, 2), "c": unit(3, 4)}
    compare_records(Record(1, one, {"p": 1}), Record(1, other, {"p": 2}), specs, tally)
    assert tally.found == [Found(1, ("vector", "payload"), ("b", "c"))]
    assert tally.different == 1 and tally.kinds["vector"] == tally.kinds["payload"] == 1


@given(st.sets(IDS, max_size=12), st.sets(IDS, max_size=12), st.integers(1, 5), st.integers(1, 5))
def test_missing_and_extra_points_are_found_whatever_the_pages_are(
    one: set[PointId], other: set[PointId], many: int, few: int
) -> None:
    """Pages of different sizes, each cut where its own side has it."""

    def cut(ids: set[PointId], start: PointId | None, limit: int) -> Page:
        left = sorted(ids, key=order)
        left = [each for each in left if start is None or order(each) >= order(start)]
        points = [{"id": each, "vector": [1.0]} for each in left[:limit]]
        return page(points, left[limit] if len(left) > limit else None)

    shared = {1, 2, 3, "ffffffff-ffff-ffff-ffff-ffffffffffff"}
    one, other = one | shared, other | shared
    tally, start, turns = Tally(listed=100), None, 0
    both: list[PointId] = []
    while turns == 0 or start is not None:
        turns += 1
        had, start = compare_pages(cut(one, start, many), cut(other, start, few), {"": DOT}, tally)
        both += had
    assert both == sorted(one & other, key=order)
    expected = [(each, ("missing",)) for each in one - other]
    expected += [(each, ("extra",)) for each in other - one]
    assert [(each.id, each.kinds) for each in tally.found] == sorted(
        expected, key=lambda found: order(found[0])
    )
    assert (tally.source, tally.target) == (len(one), len(other))


def test_a_tally_keeps_the_first_and_counts_all() -> None:
    first, second = Tally(listed=3), Tally(listed=3)
    for number in range(2):
        first.add(Found(number, ("missing",)))
        second.add(Found(9 + number, ("vector", "payload")))
    first.merge(second)
    assert [each.id for each in first.found] == [0, 1, 9]
    assert first.different == 4
    assert first.kinds == {"missing": 2, "extra": 0, "vector": 2, "payload": 2}
