"""Whether two points are one and the same: id, every vector, payload. Asks no server for anything.

A page is split at its arrays of numbers, which are compared as text; what is left is small, and is
compared as JSON, for Qdrant writes the keys of a payload in another order each time. Only where
that finds a difference, numbers are read: the same float may be written in two ways.

What Qdrant changes in a vector when it is written (observed with 1.19, tests hold it to that):
- Cosine: a vector whose squared length is within 1e-6 of 1 stays as it is, to the bit, and so does
  one shorter than 3.45e-4; any other is divided by its length. So what a server gives out comes
  back bit by bit, and only what never was in one may differ, by the rounding of that division.
- float16: the nearest half-precision number. uint8: the fraction cut off, 0 to 255; for Cosine too,
  which is then not normalized.
Without these a vector has to be equal bit by bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ops.migrate.side import Json, Page, PointId, Record, VectorSpec, order

Kind = Literal["missing", "extra", "vector", "payload"]
KINDS: tuple[Kind, ...] = ("missing", "extra", "vector", "payload")
Floats = NDArray[np.float64]

NUMBERS = re.compile(rb"(\[[-+.,0-9eE]+\])")

# from 1, of a squared length: Qdrant keeps up to 1e-6, by a sum of float32 that is itself rounded
KEPT = 0.5e-6
SHORT = 0.9 * 2**-23  # a squared length that Qdrant takes for zero; it says 2**-23
# of each component: dividing rounds to half a unit in the last place (2**-24 of a float32, 2**-11
# of a float16), the length it divides by is off by as much, and the source was rounded once too
ROUNDING = {"float32": 2.0**-22, "float16": 2.0**-10}
LEAST = {"float32": 2.0**-148, "float16": 2.0**-24}  # where a unit is no share any more
LENGTH = 1.1e-6  # from 1, of a length that was normalized


@dataclass(frozen=True)
class Found:
    """One point that is not the same on both sides. `vectors` are the names of those that differ;
    `largest` is the largest difference of a component, None where they cannot be subtracted."""

    id: PointId
    kinds: tuple[Kind, ...]
    vectors: tuple[str, ...] = ()
    largest: float | None = None


@dataclass
class Tally:
    """What a comparison came to, up to now. `rounded` points are the same but for rounding, the
    largest of which is `rounding`, as a share of a component. Of what is found `listed` are kept.
    """

    listed: int
    source: int = 0
    target: int = 0
    compared: int = 0
    rounded: int = 0
    rounding: float = 0.0
    different: int = 0

    def __post_init__(self) -> None:
        self.kinds: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.found: list[Found] = []

    def add(self, found: Found) -> None:
        self.different += 1
        for kind in found.kinds:
            self.kinds[kind] += 1
        if len(self.found) < self.listed:
            self.found.append(found)

    def merge(self, other: Tally) -> None:
        """Take in what was found behind what is here."""
        self.source += other.source
        self.target += other.target
        self.compared += other.compared
        self.rounded += other.rounded
        self.rounding = max(self.rounding, other.rounding)
        self.different += other.different
        for kind, count in other.kinds.items():
            self.kinds[kind] += count
        self.found += other.found[: self.listed - len(self.found)]


@dataclass(frozen=True)
class Verdict:
    """Of one vector: the same, the same but for rounding (a share), or different."""

    same: bool
    rounding: float = 0.0
    largest: float | None = None


class Points:
    """The points of one page, split as far as comparing needs it; `arrays` is shared by both."""

    def __init__(self, page: Page, arrays: dict[bytes, int]) -> None:
        self._page = page
        self._records: list[Record] = []
        self.split: list[Json] = _split(page.points, arrays)
        self.ids: list[PointId] = [_id(point["id"]) for point in self.split]

    def record(self, place: int) -> Record:
        """The whole point; all of the page is read the first time."""
        self._records = self._records or self._page.records()
        return self._records[place]


def compare_pages(
    source: Page, target: Page, specs: Mapping[str, VectorSpec], tally: Tally
) -> tuple[list[PointId], PointId | None]:
    """Compare what both pages cover: the points before the nearer of their followings.

    Adds to `tally`. The ids that both have, and where to go on; None at the end of both.
    """
    arrays: dict[bytes, int] = {}
    one, other = Points(source, arrays), Points(target, arrays)
    horizon = nearer(source.following, target.following)
    left, right = _covered(one.ids, horizon), _covered(other.ids, horizon)
    tally.source += left
    tally.target += right
    both: list[PointId] = []
    for point, mine, theirs in _joined(one.ids[:left], other.ids[:right]):
        if theirs is None:
            tally.add(Found(point, ("missing",)))
        elif mine is None:
            tally.add(Found(point, ("extra",)))
        else:
            both.append(point)
            if one.split[mine] != other.split[theirs]:
                compare_records(one.record(mine), other.record(theirs), specs, tally)
    tally.compared += len(both)
    return both, horizon


def compare_records(
    source: Record, target: Record, specs: Mapping[str, VectorSpec], tally: Tally
) -> None:
    """Compare two points of one id to the last bit. `specs` are those of the target's vectors."""
    verdicts = dict(_vectors(source.vector, target.vector, specs))
    wrong = {name: verdict for name, verdict in verdicts.items() if not verdict.same}
    kinds: tuple[Kind, ...] = ("vector",) if wrong else ()
    if not same_json(source.payload, target.payload):
        kinds = (*kinds, "payload")
    if kinds:
        sizes = [verdict.largest for verdict in wrong.values() if verdict.largest is not None]
        tally.add(Found(source.id, kinds, tuple(sorted(wrong)), max(sizes, default=None)))
        return
    rounding = max((verdict.rounding for verdict in verdicts.values()), default=0.0)
    if rounding:
        tally.rounded += 1
        tally.rounding = max(tally.rounding, rounding)


def nearer(one: PointId | None, other: PointId | None) -> PointId | None:
    """The first of two followings; None is the end of everything."""
    return min((each for each in (one, other) if each is not None), key=order, default=None)


def same_json(one: Any, other: Any) -> bool:
    """Equal to the type: 1 is neither 1.0 nor true. The order of an object's keys says nothing."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def same_vector(source: Any, target: Any, spec: VectorSpec | None) -> Verdict:
    """Compare one vector in its JSON form; `spec` None is a sparse one."""
    if isinstance(source, dict) or isinstance(target, dict):
        return Verdict(_sparse(source) == _sparse(target) is not None)
    if spec is None:
        return Verdict(same_json(source, target))
    one, other = _matrix(source), _matrix(target)
    if one is None or other is None or one.shape != other.shape:
        return Verdict(same=False)
    if one.tobytes() == other.tobytes():
        return Verdict(same=True)
    with np.errstate(all="ignore"):  # what overflows is found by being different
        return _written(one.astype(np.float64), other.astype(np.float64), spec)


def _written(source: Floats, target: Floats, spec: VectorSpec) -> Verdict:
    """Whether Qdrant would have made `target`, rows of one vector, of `source`."""
    largest = _largest(source, target)
    if spec.datatype == "uint8":
        cut = np.clip(np.trunc(source), 0, 255)
        same = bool((cut == target).all())
        return Verdict(same=same, rounding=_share(source, target) if same else 0, largest=largest)
    if spec.distance != "Cosine":
        half = spec.datatype == "float16" and np.array_equal(
            source.astype(np.float16), target.astype(np.float16), equal_nan=True
        )
        exact = half and np.array_equal(target, target.astype(np.float16), equal_nan=True)
        return Verdict(same=exact, rounding=_share(source, target) if exact else 0, largest=largest)
    squared = (source**2).sum(axis=1, keepdims=True)
    kept = (squared < SHORT) | (abs(squared - 1) <= KEPT)
    wanted = np.where(kept, source, source / np.sqrt(squared))
    room = ROUNDING[spec.datatype] * abs(wanted) + LEAST[spec.datatype]
    if spec.datatype == "float32":
        room = np.where(kept, 0, room)
        # all components are off by one factor, or the direction is another
        length = np.where(kept, 1, np.sqrt((target**2).sum(axis=1, keepdims=True)))
        off = abs(target - wanted * length)
        same = bool((off <= room).all() and (abs(length - 1) <= LENGTH).all())
    else:
        same = bool((abs(target - wanted) <= room).all())
    return Verdict(same=same, rounding=_share(wanted, target) if same else 0, largest=largest)


def _vectors(
    source: Any, target: Any, specs: Mapping[str, VectorSpec]
) -> Iterator[tuple[str, Verdict]]:
    one, other = _named(source), _named(target)
    for name in one.keys() | other.keys():
        if name in one and name in other:
            yield name, same_vector(one[name], other[name], specs.get(name))
        else:
            yield name, Verdict(same=False)


def _named(vector: Any) -> Json:
    """By name. A sparse vector always has one, so that a map is always one of names."""
    if vector is None:
        return {}
    return vector if isinstance(vector, dict) else {"": vector}


def _matrix(vector: Any) -> NDArray[np.float32] | None:
    """A row, or one for each vector of a multivector; null is what a float16 overflowed to."""
    try:
        found = np.array(vector, dtype=np.float32)
    except (ValueError, TypeError):
        return None
    return found.reshape(1, -1) if found.ndim == 1 else found if found.ndim == 2 else None


def _sparse(vector: Any) -> list[tuple[int, bytes]] | None:
    """In order of the indices, as Qdrant keeps it; values to the bit. None for none."""
    try:
        values = np.array(vector["values"], dtype=np.float32)
        return sorted(
            (int(index), value.tobytes())
            for index, value in zip(vector["indices"], values, strict=True)
        )
    except (ValueError, TypeError, KeyError):
        return None


def _largest(one: Floats, other: Floats) -> float | None:
    found = float(np.max(abs(one - other), initial=0.0))
    return found if np.isfinite(found) else None


def _share(one: Floats, other: Floats) -> float:
    """The largest difference of a component, as a share of the larger; 0 where both are 0."""
    most = np.maximum(abs(one), abs(other))
    shares = np.divide(abs(one - other), most, out=np.zeros_like(most), where=most > 0)
    return float(np.nan_to_num(np.max(shares, initial=0.0), nan=0.0, posinf=1.0))


def _covered(ids: Sequence[PointId], horizon: PointId | None) -> int:
    """How many of them, which are in order, come before `horizon`."""
    if horizon is None or not ids or order(ids[-1]) < order(horizon):
        return len(ids)
    limit = order(horizon)
    return sum(1 for each in ids if order(each) < limit)


def _joined(
    one: Sequence[PointId], other: Sequence[PointId]
) -> Iterator[tuple[PointId, int | None, int | None]]:
    """Each id of either, in order, with its places; None where one has it not."""
    if one == other:
        yield from ((point, place, place) for place, point in enumerate(one))
        return
    mine = {point: place for place, point in enumerate(one)}
    theirs = {point: place for place, point in enumerate(other)}
    for point in sorted(mine.keys() | theirs.keys(), key=order):
        yield point, mine.get(point), theirs.get(point)


# numbers stay text, as bytes: nothing else in JSON is that, so that 1, 1.0, true and "1" differ
_DECODER = json.JSONDecoder(parse_int=str.encode, parse_float=str.encode)


def _split(points: bytes, arrays: dict[bytes, int]) -> list[Json]:
    """Points whose arrays of numbers are replaced by [number], the same one for the same text.

    What looks like such an array within a string is replaced too. No array of numbers is left as
    it was, so that two pages of the same `arrays` are equal by this where their texts are.
    """
    pieces = NUMBERS.split(points)
    for place in range(1, len(pieces), 2):
        pieces[place] = b"[%d]" % arrays.setdefault(pieces[place], len(arrays))
    found: list[Json] = _DECODER.decode(f"[{b''.join(pieces).decode()}]")
    return found


def _id(point: bytes | str) -> PointId:
    return point if isinstance(point, str) else int(point)
