"""Further passes over a source that lives: whatever differs is written again or deleted.

Both ends are read in step, range by range, and judged by `compare`: what only was rounded stays.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ops.migrate.compare import Tally, compare_pages
from ops.migrate.load import BATCH_BYTES, WORKERS, OnPoints, Patience, Sizer, each_piece
from ops.migrate.ranges import Piece, Range
from ops.migrate.server import encoded
from ops.migrate.side import Page, PointId, Record, Side, VectorSpec


@dataclass
class Put:
    """What one pass found and put right, in points. `written` were missing or changed."""

    compared: int = 0
    written: int = 0
    deleted: int = 0

    @property
    def differences(self) -> int:
        return self.written + self.deleted


def one_pass(
    source: Side,
    target: Side,
    names: tuple[str, str],
    ranges: Sequence[Range],
    specs: Mapping[str, VectorSpec],
    *,
    patience: Patience,
    on_points: OnPoints = lambda _: None,
    workers: int = WORKERS,
) -> Put:
    """Make `names[1]` what `names[0]` is at this moment. Raises StackroomError."""
    put = Put()
    sizer = Sizer()
    lock = threading.Lock()

    def work(piece: Piece, patient: Patience) -> None:
        start, left = piece.start, piece.points
        while not patient.stop.is_set():
            limit = min(sizer.limit(), left) if left > 0 else sizer.limit()
            page = patient.call(source.page, names[0], start, piece.end, limit=limit)
            sizer.saw(page)
            # where the source has none left, what is too much goes in whole pages
            other = patient.call(target.page, names[1], start, piece.end, limit=page.count or limit)
            here, start = _put_right(target, names[1], page, other, specs, patient)
            with lock:
                put.compared += here.compared
                put.written += here.written
                put.deleted += here.deleted
                on_points(here.compared)
            left -= here.compared
            if start is None:
                return

    pieces = [Piece(n, each.start, each.end, each.points) for n, each in enumerate(ranges)]
    each_piece(pieces, work, patience, workers=workers)
    return put


def _put_right(
    target: Side,
    name: str,
    page: Page,
    other: Page,
    specs: Mapping[str, VectorSpec],
    patience: Patience,
) -> tuple[Put, PointId | None]:
    """What was done up to where the nearer page ends, and where to go on."""
    if page == other:  # the same text to the byte: not even read
        return Put(page.count), page.following
    tally = Tally(listed=page.count + other.count)
    _, following = compare_pages(page, other, specs, tally)
    wrong = {found.id for found in tally.found if "extra" not in found.kinds}
    extra = [found.id for found in tally.found if "extra" in found.kinds]
    if wrong:
        for batch in batches([record for record in page.records() if record.id in wrong]):
            patience.call(target.upsert, name, batch)
    if extra:
        patience.call(target.delete, name, extra)
    return Put(tally.source, len(wrong), len(extra)), following


def batches(records: Sequence[Record]) -> Iterator[bytes]:
    """Records as `Page.points`, in pieces of about BATCH_BYTES."""
    texts: list[bytes] = []
    size = 0
    for record in records:
        text = encoded([{"id": record.id, "vector": record.vector, "payload": record.payload}])
        if texts and size + len(text) > BATCH_BYTES:
            yield b",".join(texts)
            texts, size = [], 0
        texts.append(text)
        size += len(text)
    if texts:
        yield b",".join(texts)
