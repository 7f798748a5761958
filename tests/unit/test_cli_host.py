"""The host's own verbs: what they print, how they end, and that they ask before they destroy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from ops.backup.lock import hold
from ops.backup.records import Record, RepositoryResult, write_record
from ops.backup.source import Event
from ops.cli import runs
from ops.cli.place import Here
from ops.cli.progress import telling
from ops.errors import BackupError, ServiceError
from ops.render.files import ROOT
from ops.settings.host import FilesSource, HostConfig, Repository

NOW = datetime(2026, 11, 21, 2, 30, tzinfo=UTC)
RUN = "20261121T023000Z-1a2b3c"


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    return HostConfig(
        environment="team",
        stack="qdrant",
        stackroom="0123456789ab",
        base=tmp_path / "base",
        repositories=[Repository(name="local", url=str(tmp_path / "repository"))],
        sources=[FilesSource(name="settings", path=str(tmp_path / "settings"))],
    )


@pytest.fixture
def here(config: HostConfig, tmp_path: Path) -> Here:
    path = tmp_path / "backup.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    return Here(path)


def verb(here: Here, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """One verb, as the host runs it."""
    credentials = here.config_file.parent / "credentials"
    credentials.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "ops.cli.host", "--config", str(here.config_file), *words],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "CREDENTIALS_DIRECTORY": str(credentials), "COLUMNS": "200"},
    )


def ended(kind: Any = "backup", run: str = RUN, **more: Any) -> Record:
    given: dict[str, Any] = {
        "started": NOW,
        "finished": NOW + timedelta(seconds=12),
        "outcome": "ok",
        "exit_code": 0,
        "repositories": [RepositoryResult(name="local", ok=True, snapshot="ab" * 32)],
    }
    return Record(kind=kind, run=run, **(given | more))


def test_the_history_as_json_and_as_a_table(here: Here) -> None:
    write_record(here.config.base, ended(bytes=12_300_000, items=4))
    document = json.loads(verb(here, "backup", "list", "--json").stdout)
    assert document["schema_version"] == 1
    done = verb(here, "backup", "list")
    assert done.returncode == 0, done.stderr
    assert "12.3 MB" in done.stdout
    assert len(done.stdout.splitlines()[0]) < 80


def test_one_run_in_full(here: Here) -> None:
    write_record(here.config.base, ended())
    write_record(here.config.base, ended("drill", "20261121T053000Z-00ff00", subject=RUN))
    assert json.loads(verb(here, "backup", "show", RUN, "--json").stdout)["kind"] == "backup"
    assert json.loads(verb(here, "backup", "show", "00ff00", "--json").stdout)["subject"] == RUN
    absent = verb(here, "backup", "show", "20261121T053000Z-ffffff")
    assert absent.returncode == 3
    assert "next: stackroom backup list" in absent.stderr


def test_before_a_deploy_and_as_another_user(tmp_path: Path) -> None:
    done = verb(Here(tmp_path / "absent.json"), "backup", "list")
    assert done.returncode == 3
    assert "absent.json cannot be read" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_what_is_destroyed_is_asked_for(here: Here) -> None:
    for words in (["restore", "confirm"], ["restore", "undo"], ["restore", "run"]):
        refused = verb(here, *words, stdin="n\n")
        assert refused.returncode == 1, refused.stderr
        assert "nothing was changed" in refused.stderr
        nobody = verb(here, *words)
        assert nobody.returncode == 1
        assert "next: add --yes" in nobody.stderr


def test_json_is_alone_on_standard_output(here: Here) -> None:
    """Questions, progress and announcements are on standard error."""
    asked = verb(here, "restore", "run", "--json", stdin="n\n")
    assert asked.stdout == ""
    assert "Restore?" in asked.stderr


# how a run ends


Work = Callable[[Any, Any], Record]


def carried_out(here: Here, work: Work, **more: Any) -> int:
    with pytest.raises(typer.Exit) as ended:
        runs.carried_out(here, "backup", work, **more)
    return ended.value.exit_code


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_exit_code_is_the_records(here: Here, code: int) -> None:
    outcome = ["ok", "warning", "failed", "unproven"][code]

    def work(trigger: Any, tell: Any) -> Record:
        assert trigger == "hand"
        return ended(outcome=outcome, exit_code=code)

    assert carried_out(here, work) == code


def test_a_warning_does_not_fail_the_unit_of_a_timer(here: Here) -> None:
    def work(trigger: Any, tell: Any) -> Record:
        assert trigger == "timer"
        return ended(outcome="warning", exit_code=1)

    assert carried_out(here, work, timer=True) == 0


def test_an_error_that_is_on_record_ends_with_the_records_code(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(trigger: Any, tell: Any) -> Record:
        write_record(here.config.base, ended(outcome="failed", exit_code=2, error="no Qdrant"))
        raise ServiceError("no Qdrant", "do this")

    assert carried_out(here, work, json_output=True) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["error"] == "no Qdrant"
    assert "next: do this" in told.err


def test_an_error_without_a_record_is_its_own(here: Here) -> None:
    write_record(here.config.base, ended())

    def work(trigger: Any, tell: Any) -> Record:
        raise BackupError("no room")

    with pytest.raises(BackupError, match="no room"):
        runs.carried_out(here, "backup", work)


def test_a_fault_of_ours_is_no_warning(here: Here) -> None:
    broken = here.config_file.with_name("broken.json")
    broken.write_text(here.config_file.read_text())
    (here.config.base / "records").mkdir(parents=True)
    script = (
        "import ops.cli.backup as b; b.read_records = lambda base: 1 / 0;"
        "import sys; sys.argv[0] = 'stackroom';"
        "from ops.cli.host import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--config", str(broken), "backup", "list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr


def test_a_timer_waits_for_its_turn(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LOOK_SECONDS", 0.05)
    free = threading.Event()
    held = threading.Event()

    def other() -> None:
        with hold(here.config.base, "drill"):
            held.set()
            free.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(30)
    threading.Timer(0.5, free.set).start()
    began = time.monotonic()

    def work(trigger: Any, tell: Any) -> Record:
        assert free.is_set()
        return ended()

    assert carried_out(here, work, timer=True) == 0
    assert time.monotonic() - began >= 0.4
    thread.join()


def test_it_does_not_wait_for_ever(config: HostConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LOOK_SECONDS", 0.05)
    with hold(config.base, "drill"):
        runs.wait_for_turn(config, 0.2)


# progress


def test_a_line_for_each_step_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with telling(quiet=False) as tell:
        for event in (
            Event("preflight"),
            Event("collect:qdrant"),
            Event("download", "a", 1, 10),
            Event("download", "a", 10, 10),
            Event("download", "b [x]", 1, 10),
        ):
            tell(event)
    told = capsys.readouterr()
    assert told.out == ""
    lines = [line.strip() for line in told.err.splitlines()]
    assert lines == ["preflight", "collect qdrant", "download a", "download b [x]"]


def test_nothing_is_told_beside_json(capsys: pytest.CaptureFixture[str]) -> None:
    with telling(quiet=True) as tell:
        tell(Event("preflight"))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_that_went_away_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ops.cli.progress.err.print", broken)
    with telling(quiet=False) as tell:
        tell(Event("preflight"))
