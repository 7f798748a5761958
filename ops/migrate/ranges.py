"""Ranges of ids, fixed once, and how far each of them has come.

Pure. A border is the first id of a range, and belongs to no other: every id there is or will be
stands in exactly one. The cursor of a range only ever moves up, behind points that are in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ops.migrate.side import PointId, order, within

LEAST, MOST_RANGES = 2000, 1024  # points of a range, unless there are so many that it takes more


@dataclass(frozen=True)
class Range:
    """The ids from `start` up to, not with, `end`; None is no bound. `points`: so many were in it
    when it was cut, which is a measure and no promise."""

    start: PointId | None
    end: PointId | None
    points: int


@dataclass(frozen=True)
class Piece:
    """What is left of a range: its number, and from where to where."""

    number: int
    start: PointId | None
    end: PointId | None
    points: int


def size_for(points: int) -> int:
    """How many points a range has, so that a checkpoint stays small."""
    return max(LEAST, -(-points // MOST_RANGES))


def split(ids: Iterable[Sequence[PointId]], size: int) -> list[Range]:
    """Ranges of `size` ids each, from all ids in order. Together they hold every id there can be:
    the first has no start and the last no end. At least one, also without any id."""
    borders: list[PointId] = []
    seen = 0
    for batch in ids:
        first = -seen % size  # of this batch, that begins a range
        borders += batch[first::size]
        seen += len(batch)
    starts: list[PointId | None] = [None, *borders[1:]]
    ends: list[PointId | None] = [*borders[1:], None]
    whole = len(starts) - 1
    return [
        Range(start, end, size if number < whole else seen - whole * size)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


@dataclass
class Checkpoint:
    """How far each range is: `cursors` by number, the next id to move; `done` wholly moved.

    It may lag behind what is in place, never run ahead: moving a point twice changes nothing.
    """

    cursors: dict[int, PointId] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    moved: int = 0  # points, for who waits

    def advance(self, number: int, following: PointId | None, points: int) -> None:
        """Everything of the range before `following` is in place; None: all of it."""
        self.moved += points
        if following is None:
            self.done.add(number)
            self.cursors.pop(number, None)
        elif number not in self.done:
            old = self.cursors.get(number)
            if old is None or order(old) < order(following):
                self.cursors[number] = following

    def left(self, ranges: Sequence[Range]) -> list[Piece]:
        """What is still to be moved. Raises ValueError for a cursor outside its range."""
        pieces = []
        for number, each in enumerate(ranges):
            if number in self.done:
                continue
            start = self.cursors.get(number, each.start)
            if number in self.cursors and not within(self.cursors[number], each.start, each.end):
                raise ValueError(f"the cursor of range {number} stands outside it")
            pieces.append(Piece(number, start, each.end, each.points))
        return pieces

    def to_json(self) -> dict[str, Any]:
        return {
            "cursors": {str(number): cursor for number, cursor in self.cursors.items()},
            "done": sorted(self.done),
            "moved": self.moved,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Checkpoint:
        cursors = {int(number): cursor for number, cursor in document["cursors"].items()}
        return cls(cursors, set(document["done"]), int(document["moved"]))
