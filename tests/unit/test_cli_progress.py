"""Nobody has to be looking: a reader that goes away ends the telling, never the work."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ops.backup.job import Job, Stopped, carry_out
from ops.backup.records import Record, read_records
from ops.backup.source import Event
from ops.cli import progress
from ops.settings.host import Credentials, HostConfig

SCRIPT = """
from ops.backup.source import Event
from ops.cli.common import err
from ops.cli.progress import telling
with telling(quiet=False) as tell:
    for number in range(5):
        tell(Event("step", f"item {number}", number, 5))
err.print("and the record")
raise SystemExit(3)
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_broken_pipe_ends_nothing(terminal: bool) -> None:
    reading, writing = pty.openpty() if terminal else os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], stderr=writing, stdout=writing, timeout=30, check=False
        )
    finally:
        os.close(writing)
    assert done.returncode == 3


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("error", [SystemExit(1), BrokenPipeError(), ValueError("closed file")])
def test_telling_raises_nothing_and_falls_silent(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, error: BaseException
) -> None:
    console = _console(monkeypatch, terminal, error)
    with progress.telling(quiet=False) as tell:
        tell(Event("one"))
        tell(Event("two"))
    assert console.quiet


@pytest.mark.parametrize("terminal", [False, True])
def test_a_signal_goes_through(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    _console(monkeypatch, terminal, Stopped(15))

    def tell_twice() -> None:
        with progress.telling(quiet=False) as tell:
            tell(Event("one"))
            tell(Event("two"))

    with pytest.raises(Stopped):
        tell_twice()


def _console(monkeypatch: pytest.MonkeyPatch, terminal: bool, error: BaseException) -> Any:
    """A console whose printing fails, and that leaves this process' stderr alone."""
    from rich.console import Console

    class Broken(Console):
        def print(self, *_: Any, **__: Any) -> None:
            if not self.quiet:
                raise error

    def hush() -> None:
        console.quiet = True

    console = Broken(stderr=True, force_terminal=terminal)
    monkeypatch.setattr(progress, "err", console)
    monkeypatch.setattr(progress, "_hush", hush)
    return console


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_no_record_stays_running_whatever_ends_the_work(
    tmp_path: Path, error: BaseException
) -> None:
    config = HostConfig(
        environment="team",
        stack="qdrant",
        stackroom="abc",
        base=tmp_path / "base",
        metrics=None,
        repositories=[],
        sources=[],
    )

    def work(_: Job) -> Record:
        raise error

    with pytest.raises(type(error)):
        carry_out("backup", config, Credentials(tmp_path), work)
    (record,) = read_records(config.base)
    assert (record.outcome, record.exit_code) == ("failed", 2)
    assert type(error).__name__ in record.error
