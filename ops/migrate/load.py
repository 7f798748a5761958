"""Points, range by range, by several workers: read a page, write it, wait, remember.

Memory is bounded by the workers times the bytes of a page. A worker that is refused for a while
(429, 507, a server that restarts) waits and tries again; the first one that gives up stops all,
and what they had in place stays remembered.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import httpx

from ops.clients.rest import RefusedError
from ops.errors import StackroomError, UnreachableError
from ops.migrate.ranges import Piece
from ops.migrate.server import BusyError
from ops.migrate.side import MigrationError, Page, PointId, Side
from ops.migrate.state import Saver

WORKERS = 4
BATCH_BYTES = 1024 * 1024  # aimed at; more made nothing faster and takes memory
MOST_POINTS = 1000  # of a batch
FIRST_POINTS = 8  # of a batch, before anything is known of their size: some have 1 MB
PATIENCE_SECONDS = 120.0  # how long an end may be away or refuse for the time being
LONGEST_PAUSE = 15.0
PAUSE_STEP = 0.25

Answer = TypeVar("Answer")
Given = ParamSpec("Given")
OnPoints = Callable[[int], None]  # so many more are done


class Stopped(Exception):
    """Another worker gave up."""


@dataclass
class Patience:
    """Tries again what may pass, until `seconds` have gone by since it first failed.

    `tell` hears why it waits. Raises what it was refused with in the end; Stopped when `stop` is
    set meanwhile.
    """

    seconds: float = PATIENCE_SECONDS
    stop: threading.Event = field(default_factory=threading.Event)
    tell: Callable[[str], None] = lambda _: None

    def call(
        self, work: Callable[Given, Answer], *args: Given.args, **options: Given.kwargs
    ) -> Answer:
        attempt, limit = 0, 0.0
        while True:
            try:
                return work(*args, **options)
            except (BusyError, UnreachableError) as error:
                # a large batch may have gone well for longer than that before its line broke
                limit = limit or time.monotonic() + self.seconds
                if time.monotonic() >= limit:
                    raise
                attempt += 1
                pause = min(LONGEST_PAUSE, PAUSE_STEP * 2**attempt)
                asked = error.after if isinstance(error, BusyError) else 0
                self.tell(error.message)
                # several workers that were refused together must not come back together
                if self.stop.wait(max(asked, pause * random.uniform(0.5, 1))):  # noqa: S311
                    raise Stopped from None


class Sizer:
    """How many points make a batch of BATCH_BYTES, by those that went before."""

    def __init__(self) -> None:
        self._each = 0.0

    def limit(self) -> int:
        if not self._each:
            return FIRST_POINTS
        return max(1, min(MOST_POINTS, int(BATCH_BYTES / self._each)))

    def saw(self, page: Page) -> None:
        if page.count:
            now = len(page.points) / page.count
            self._each = now if not self._each else 0.5 * self._each + 0.5 * now


def each_piece(
    pieces: Sequence[Piece],
    work: Callable[[Piece, Patience], None],
    patience: Patience,
    *,
    workers: int = WORKERS,
) -> None:
    """Do `work` for every piece, several at a time. Raises what the first to fail raised.

    When this returns or raises, no worker is at it any more.
    """
    queue = deque(pieces)
    failed: list[BaseException] = []

    def worker() -> None:
        while not patience.stop.is_set():
            try:
                piece = queue.popleft()
            except IndexError:
                return
            try:
                work(piece, patience)
            except Stopped:
                return
            except BaseException as error:
                failed.append(error)
                patience.stop.set()

    with ThreadPoolExecutor(max(1, min(workers, len(queue)))) as pool:
        try:
            wait([pool.submit(worker) for _ in range(workers)])
        except BaseException:  # Ctrl-C: the workers end with the batch they are at
            patience.stop.set()
            raise
    if failed:
        raise failed[0]


def load(
    source: Side,
    target: Side,
    names: tuple[str, str],
    pieces: Sequence[Piece],
    saver: Saver,
    *,
    patience: Patience,
    on_points: OnPoints = lambda _: None,
    workers: int = WORKERS,
) -> None:
    """Move the points of `pieces` from `names[0]` into `names[1]`, each batch waited for.

    The checkpoint is saved now and then, and whatever happens at the end. Raises StackroomError.
    """
    sizer = Sizer()
    lock = threading.Lock()

    def remember(number: int, following: PointId | None, points: int) -> None:
        with lock:
            saver.advance(number, following, points)
            on_points(points)

    def work(piece: Piece, patient: Patience) -> None:
        start, left = piece.start, piece.points
        while True:
            # up to the border and no further: what came along from behind it would be cut off
            limit = min(sizer.limit(), left) if left > 0 else sizer.limit()
            page = _moved(source, target, names, start, piece.end, limit, patient)
            sizer.saw(page)
            remember(piece.number, page.following, page.count)
            if page.following is None:
                return
            if patient.stop.is_set():
                raise Stopped
            start, left = page.following, left - page.count

    try:
        each_piece(pieces, work, patience, workers=workers)
    finally:
        saver.save()


def _moved(
    source: Side,
    target: Side,
    names: tuple[str, str],
    start: PointId | None,
    end: PointId | None,
    limit: int,
    patience: Patience,
) -> Page:
    """A page that is in place. Smaller where the target finds it too big."""
    while True:
        page = patience.call(source.page, names[0], start, end, limit=limit)
        try:
            patience.call(target.upsert, names[1], page.points)
            return page
        except RefusedError as error:
            if not too_big(error) or page.count <= 1:
                raise _explained(error, page) from None
            limit = max(1, page.count // 4)


def too_big(error: RefusedError) -> bool:
    words = error.message.lower()
    large = error.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    return large or "payload reached size limit" in words or "larger than allowed" in words


def _explained(error: RefusedError, page: Page) -> StackroomError:
    if page.count == 1 and too_big(error):
        size = len(page.points) / 1024 / 1024
        return MigrationError(
            f"point {page.records()[0].id} has {size:.0f} MiB, more than the target takes at once",
            "raise service.max_request_size_mb of the target; then stackroom migrate resume",
        )
    return error
