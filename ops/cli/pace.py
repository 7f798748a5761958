"""How fast points or bytes move, told while they do: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from ops.backup.source import Event, Tell, silent
from ops.cli.common import err

LINE_SECONDS = 10.0  # between lines of progress where there is no terminal


@dataclass
class Pace:
    """Points or bytes a second since a step began, and what that leaves."""

    step: str = ""
    begun: float = 0.0
    first: int = 0

    def words(self, event: Event) -> str:
        now, step = time.monotonic(), f"{event.step} {event.item}"
        if step != self.step:
            self.step, self.begun, self.first = step, now, event.done
        seconds, done = now - self.begun, event.done - self.first
        if not event.total or not done or seconds < 0.2:
            return ""
        rate = done / seconds
        left = (event.total - event.done) / rate
        unit = "B" if event.step in ("download", "upload", "copy") else "points"
        return f"{event.done} of {event.total}, {rate:.0f} {unit}/s, {left:.0f} s left"


@contextlib.contextmanager
def watched(*, quiet: bool) -> Iterator[Tell]:
    """What to hand to a run as its `tell`: a bar on a terminal, lines elsewhere, or nothing."""
    if quiet:
        yield silent
    elif err.is_terminal:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[pace]}", markup=False),
        )
        with Progress(*columns, console=err, transient=True) as progress:
            yield _bar(progress, progress.add_task("", total=None, pace=""))
    else:
        yield _lines()


def _bar(progress: Progress, task: TaskID) -> Callable[[Event], None]:
    pace = Pace()

    def tell(event: Event) -> None:
        words = pace.words(event)
        progress.update(
            task,
            description=f"{event.step} {event.item}",
            completed=event.done,
            total=event.total or None,
            pace=words,
        )

    return tell


def _lines() -> Callable[[Event], None]:
    pace = Pace()
    said = 0.0

    def tell(event: Event) -> None:
        nonlocal said
        fresh = pace.step != f"{event.step} {event.item}"
        words = pace.words(event)
        if fresh or time.monotonic() - said >= LINE_SECONDS:
            said = time.monotonic()
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more: go on
                err.print(f"  {event.step} {event.item}  {words}".rstrip(), markup=False)

    return tell
