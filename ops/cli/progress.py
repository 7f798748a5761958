"""Long work, told: a bar on a terminal, a line for each step elsewhere, nothing beside JSON."""

from __future__ import annotations

import contextlib
import os
import sys
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


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Nobody reads any more: silence from here on, and the work goes on."""
    try:
        yield
    except (OSError, ValueError):
        _hush()
    except SystemExit as gone:
        if type(gone) is not SystemExit:  # a signal's; rich's own is for a broken pipe
            raise
        _hush()


def _hush() -> None:
    """What is left in the buffer would otherwise fail at the exit, with a code of its own."""
    err.quiet = True
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.__stderr__.fileno() if sys.__stderr__ else 2)
        os.close(nowhere)


def _words(event: Event) -> str:
    return " ".join(filter(None, [event.step.replace(":", " "), event.item]))


def _lines() -> Tell:
    told = ""

    def tell(event: Event) -> None:
        nonlocal told
        if (words := _words(event)) != told:
            told = words
            with _unheard():
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
    progress = Progress(*columns, console=err, transient=True)
    task = progress.add_task("", total=None)
    told = ""

    def tell(event: Event) -> None:
        nonlocal told
        words = _words(event)
        with _unheard():
            if words != told:
                if told:
                    progress.print(f"  {told}", markup=False)
                told = words
                progress.reset(task, description=words, total=event.total or None)
            progress.update(task, completed=event.done, total=event.total or None)

    with _unheard():
        progress.start()
    try:
        yield tell
        if told:
            with _unheard():
                progress.print(f"  {told}", markup=False)
    finally:
        with _unheard():
            progress.stop()
