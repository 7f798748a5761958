"""Proof that two sides hold the same: every point or a sample, settings, indexes, aliases.

Only reads. Both sides are read in order of their ids, range by range, by several workers, and held
against each other page by page, so memory is bounded whatever the size. A side that goes away
leaves a report of what was seen, which says that it is not all.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b

from ops.backup.source import Event, Tell, silent
from ops.errors import ServiceError, UnreachableError
from ops.migrate.compare import Found, Tally, compare_pages, compare_records
from ops.migrate.load import WORKERS, Patience, Sizer, each_piece
from ops.migrate.ranges import Piece, Range, size_for, split
from ops.migrate.report import (
    CONFIDENCES,
    Bound,
    CollectionReport,
    End,
    PointDifference,
    RangeReport,
    Report,
    Sample,
    at_most,
    made,
)
from ops.migrate.shape import Unequal, compare_aliases, compare_indexes, compare_settings
from ops.migrate.side import CollectionInfo, MigrationError, Page, PointId, Side, order

IDS = 8192  # of a page without content
FEW = 4  # points that tell how large one is
TOGETHER = 16  # points of a sample that are asked for at once: each may be large
LISTED = 100
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Wish:
    """How to compare. `sample`: the content of so many points, chosen by `seed`, instead of all;
    every id is compared in any case. `led`: further aliases of the target, by the source's name of
    what they have to lead to. `listed` points that differ are in the report, of each collection.
    `patience`: seconds that a side may be away or busy."""

    sample: int | None = None
    seed: int = 1
    aliases: bool = True
    led: Mapping[str, str] = field(default_factory=dict)
    listed: int = LISTED
    workers: int = WORKERS
    patience: float = PATIENCE_SECONDS


def verify(
    source: Side,
    target: Side,
    names: Mapping[str, str] | None = None,
    wish: Wish | None = None,
    *,
    ranges: Mapping[str, Sequence[Range]] | None = None,
    tell: Tell = silent,
) -> Report:
    """Compare collections of the source with the target's of the names that `names` gives them.

    All of the source's, under their own names, unless told. `ranges` by the source's names are
    taken where given, else they are cut anew. Raises MigrationError for a collection that the
    source has not, and what the sides raise as long as nothing was compared.
    """
    wish = wish or Wish()
    started, clock = datetime.now(UTC), time.monotonic()
    ends = (
        End(name=source.name, version=source.version()),
        End(name=target.name, version=target.version()),
    )
    names = dict(names) if names is not None else {name: name for name in source.collections()}
    if absent := sorted(names.keys() - set(source.collections())):
        raise MigrationError(f"{source.name} has no collection {absent[0]}")
    if not names:  # nothing was compared, which is no proof
        raise MigrationError(f"{source.name} has no collection to compare")
    there = set(target.collections())
    found: list[CollectionReport] = []
    for name, other in names.items():
        if other not in there:
            found.append(
                CollectionReport(source=name, target=other, way="every point", absent=True)
            )
            continue
        one = _Comparison(source, target, name, other, wish, tell)
        stopped = bool(found) and bool(found[-1].unknown)
        report = one.unseen(found[-1].unknown) if stopped else one.run((ranges or {}).get(name))
        found.append(report)
    aliases: list[Unequal] | None = None
    if wish.aliases and not (found and found[-1].unknown):
        aliases = compare_aliases({**source.aliases(), **wish.led}, target.aliases(), names)
    return made(ends, started, time.monotonic() - clock, found, aliases)


class Chosen:
    """A sample of the ids that are offered, in whatever order and by whatever threads.

    Those with the least digests are kept: chance as good as drawing, and the same every time.
    """

    def __init__(self, points: int, seed: int) -> None:
        self._points = points
        self._key = str(seed).encode()
        self._kept: list[tuple[int, PointId]] = []  # the largest digest first
        self._lock = threading.Lock()

    def offer(self, ids: Iterable[PointId]) -> None:
        drawn = [(-self._digest(each), each) for each in ids]
        with self._lock:
            for each in drawn:
                if len(self._kept) < self._points:
                    heapq.heappush(self._kept, each)
                elif self._kept and each[0] > self._kept[0][0]:
                    heapq.heapreplace(self._kept, each)

    def ids(self) -> list[PointId]:
        """In order."""
        return sorted((each for _, each in self._kept), key=order)

    def _digest(self, point: PointId) -> int:
        text = repr(point).encode()  # 1 is not "1"
        return int.from_bytes(blake2b(text, digest_size=8, key=self._key).digest())


@dataclass
class _Comparison:
    """One collection."""

    source: Side
    target: Side
    name: str
    other: str
    wish: Wish
    tell: Tell
    tallies: dict[int, Tally] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: int = 0

    def run(self, ranges: Sequence[Range] | None) -> CollectionReport:
        """What was found, also where a side went away."""
        report = self.unseen("")
        content = Tally(self.wish.listed)
        chosen = Chosen(self.wish.sample or 0, self.wish.seed)
        unknown = ""
        infos = None
        try:
            infos = self.source.info(self.name), self.target.info(self.other)
            report = report.model_copy(update=self._shape(*infos))
            if ranges is None:
                ranges = split(self.source.ids(self.name), size_for(infos[0].points))
            self._points(ranges, infos, chosen)
            if self.wish.sample is not None:
                content = self._sampled(chosen.ids(), infos[1])
            unknown = self._moved()
        except (UnreachableError, ServiceError, MigrationError) as error:
            unknown = error.message
        return report.model_copy(update=self._counted(ranges or [], content) | {"unknown": unknown})

    def unseen(self, why: str) -> CollectionReport:
        """A report of nothing."""
        way = "every point" if self.wish.sample is None else "sample"
        return CollectionReport(source=self.name, target=self.other, way=way, unknown=why)

    def _shape(self, one: CollectionInfo, other: CollectionInfo) -> dict[str, list[Unequal]]:
        whole = self.source.is_server
        settings = compare_settings(one, other, whole=whole)
        alike = _minor(self.source.version()) == _minor(self.target.version())
        noted = [each for each in settings if each.source is None and not alike]
        return {
            "settings": [each for each in settings if each not in noted],
            "indexes": compare_indexes(one, other, whole=whole),
            "noted": noted,
        }

    def _points(
        self,
        ranges: Sequence[Range],
        infos: tuple[CollectionInfo, CollectionInfo],
        chosen: Chosen,
    ) -> None:
        """Fills `tallies` by number of the range."""
        sizer = Sizer()
        specs = infos[1].vectors
        total = max(infos[0].points, infos[1].points)
        whole = self.wish.sample is None
        if whole:  # not before all workers have taken pages of large points at once
            sizer.saw(self._patience().call(self.source.page, self.name, limit=FEW))

        def pages(
            start: PointId | None, piece: Piece, left: int, patience: Patience
        ) -> tuple[Page, Page]:
            limit = sizer.limit() if whole else IDS
            # up to the border and no further: what came along from behind it would be cut off
            limit = min(limit, left) if left > 0 else limit
            options = {"vectors": whole, "payload": whole}
            page = patience.call(
                self.source.page, self.name, start, piece.end, limit=limit, **options
            )
            sizer.saw(page)
            return page, patience.call(
                self.target.page, self.other, start, piece.end, limit=page.count or limit, **options
            )

        def work(piece: Piece, patience: Patience) -> None:
            with self.lock:
                tally = self.tallies.setdefault(piece.number, Tally(self.wish.listed))
            start, left = piece.start, piece.points
            while not patience.stop.is_set():
                one, other = pages(start, piece, left, patience)
                both, start = compare_pages(one, other, specs, tally)
                if not whole:
                    chosen.offer(both)
                self._progress(len(both), total)
                left -= one.count
                if start is None:
                    return

        pieces = [Piece(n, each.start, each.end, each.points) for n, each in enumerate(ranges)]
        each_piece(pieces, work, self._patience(), workers=self.wish.workers)

    def _sampled(self, ids: Sequence[PointId], info: CollectionInfo) -> Tally:
        """Compare the content of these."""
        batches = [ids[first : first + TOGETHER] for first in range(0, len(ids), TOGETHER)]
        tallies = [Tally(self.wish.listed) for _ in batches]

        def work(piece: Piece, patience: Patience) -> None:
            batch, tally = batches[piece.number], tallies[piece.number]
            one = patience.call(self.source.fetch, self.name, batch)
            other = patience.call(self.target.fetch, self.other, batch)
            theirs = {record.id: record for record in other}
            for record in one:
                tally.compared += 1
                if record.id in theirs:
                    compare_records(record, theirs[record.id], info.vectors, tally)
                else:  # it was there when the ids were read
                    tally.add(Found(record.id, ("missing",)))

        pieces = [Piece(n, None, None, len(batch)) for n, batch in enumerate(batches)]
        each_piece(pieces, work, self._patience(), workers=self.wish.workers)
        return _sum(tallies, self.wish.listed)

    def _moved(self) -> str:
        """Why what was read is not what the sides say they hold now; "" where it is."""
        seen = _sum(self.tallies.values(), 0)
        for side, name, read in (
            (self.source, self.name, seen.source),
            (self.target, self.other, seen.target),
        ):
            if (now := side.count(name)) != read:
                return f"{side.name} counts {now} points in {name} and gave {read}: it is changing"
        return ""

    def _counted(self, ranges: Sequence[Range], content: Tally) -> dict[str, object]:
        """The fields of a report that come of points."""
        seen = [self.tallies.get(number, Tally(0)) for number in range(len(ranges))]
        total = _sum(seen, self.wish.listed)
        if self.wish.sample is not None:
            total.compared = 0
            source, target = total.source, total.target
            total.merge(content)
            total.source, total.target = source, target
        return {
            "source_points": total.source,
            "target_points": total.target,
            "compared": total.compared,
            "rounded": total.rounded,
            "rounding": total.rounding,
            "different": total.different,
            "kinds": {kind: count for kind, count in total.kinds.items() if count},
            "points": [PointDifference.of(found) for found in total.found],
            "sample": self._sample(total, content),
            "ranges": [
                RangeReport(
                    start=each.start,
                    end=each.end,
                    source=tally.source,
                    target=tally.target,
                    different=tally.different,
                )
                for each, tally in zip(ranges, seen, strict=True)
            ],
        }

    def _sample(self, total: Tally, content: Tally) -> Sample | None:
        if self.wish.sample is None:
            return None
        bounds = [
            Bound(confidence=each, points=at_most(total.source, content.compared, each))
            for each in CONFIDENCES
        ]
        return Sample(
            seed=self.wish.seed,
            points=content.compared,
            bounds=[] if content.different else bounds,
        )

    def _progress(self, points: int, total: int) -> None:
        with self.lock:
            self.done += points
            self.tell(Event("verify", self.other, min(self.done, total), total))

    def _patience(self) -> Patience:
        def waits(why: str) -> None:
            self.tell(Event("wait", f"{self.other}: {why}"))

        return Patience(self.wish.patience, tell=waits)


def _sum(tallies: Iterable[Tally], listed: int) -> Tally:
    total = Tally(listed)
    for each in tallies:
        total.merge(each)
    return total


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
