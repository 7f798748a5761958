"""Long work, told: a bar on a terminal, a line for each step elsewhere, nothing beside JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from ops.backup.source import Event, Tell, silent
from ops.cli.common import err


@contextlib.contextmanager
def telling(*, quiet: bool) -> Iterator[Tell]:
    """What to hand to long work as its `tell`. It raises nothing: nobody may be looking."""
    if quiet:
        yield silent
    elif err.is_terminal:
        with _bar() as tell:
            yield tell
    else:
        yield _lines()


def _words(event: Event) -> str:
    return " ".join(filter(None, [event.step.replace(":", " "), event.item]))


def _lines() -> Tell:
    told = ""

    def tell(event: Event) -> None:
        nonlocal told
        if (words := _words(event)) != told:
            told = words
            with contextlib.suppress(OSError):
                err.print(f"  {words}", markup=False)

    return tell


@contextlib.contextmanager
def _bar() -> Iterator[Tell]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=None)
        told = ""

        def tell(event: Event) -> None:
            nonlocal told
            words = _words(event)
            with contextlib.suppress(OSError):
                if words != told:
                    if told:
                        progress.print(f"  {told}", markup=False)
                    told = words
                    progress.reset(task, description=words, total=event.total or None)
                progress.update(task, completed=event.done, total=event.total or None)

        yield tell
        if told:
            progress.print(f"  {told}", markup=False)
