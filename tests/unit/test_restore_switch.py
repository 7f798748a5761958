"""A switch is whole at every moment: killed anywhere, the next call finishes or undoes it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ops.backup.source import Event
from ops.errors import BackupError
from ops.restore import live, switch
from ops.restore.journal import JOURNAL, Journal, State, pending, place, write
from ops.settings.host import Credentials, HostConfig

RUN = "20261121T023000Z-1a2b3c"
NAMES = ("storage", "library")


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    base = tmp_path / "base"
    base.mkdir()
    return HostConfig(
        environment="team", stack="qdrant", stackroom="1", base=base, repositories=[], sources=[]
    )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    for name in NAMES:
        for kind in ("live", "new"):
            folder = tmp_path / name / kind
            folder.mkdir(parents=True)
            (folder / "which").write_text(kind)
    return Journal(
        run=RUN,
        backup=RUN,
        state="switching",
        places=[
            place(name, tmp_path / name / "live", tmp_path / name / "new", RUN) for name in NAMES
        ],
        containers=[],
        ran=[],
    )


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path)


def served(journal: Journal) -> set[str]:
    return {(each.live / "which").read_text() for each in journal.places}


def others(tmp_path: Path) -> list[str]:
    """Every folder beside the live ones."""
    return sorted(p.name for name in NAMES for p in (tmp_path / name).iterdir() if p.name != "live")


def kill_at(number: int, work: Callable[[switch.Tell], object]) -> bool:
    """Do it in a child that is killed before its n-th step; whether it came that far."""
    child = os.fork()
    if child == 0:
        steps = 0

        def tell(_: Event) -> None:
            nonlocal steps
            steps += 1
            if steps == number:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            work(tell)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_the_new_data_are_served_and_the_old_kept_until_confirmed(
    config: HostConfig, credentials: Credentials, journal: Journal, tmp_path: Path
) -> None:
    switch.switch(config, credentials, journal)
    assert served(journal) == {"new"}
    assert others(tmp_path) == [f"live.before-{RUN}"] * 2
    assert switch.settle(config, credentials) == ""
    switch.confirm(config)
    assert served(journal) == {"new"} and others(tmp_path) == []
    with pytest.raises(BackupError, match="no restore waits"):
        switch.undo(config, credentials)


def test_an_undo_serves_the_old_data_and_keeps_the_new(
    config: HostConfig, credentials: Credentials, journal: Journal, tmp_path: Path
) -> None:
    switch.switch(config, credentials, journal)
    switch.undo(config, credentials)
    assert served(journal) == {"live"}
    assert others(tmp_path) == [f"live.undone-{RUN}"] * 2
    with pytest.raises(BackupError, match="already undone"):
        switch.undo(config, credentials)
    switch.confirm(config)
    assert served(journal) == {"live"} and others(tmp_path) == []


def test_killed_at_any_step_of_a_switch_the_data_are_all_new_or_all_old(
    config: HostConfig, credentials: Credentials, journal: Journal, tmp_path: Path
) -> None:
    outcomes = set()
    for number in range(1, 100):
        if not kill_at(number, lambda t: switch.switch(config, credentials, journal, t)):
            break
        told = switch.settle(config, credentials)
        found = served(journal)
        outcomes.add((*found, "finished" in told))
        if found == {"new"}:
            switch.undo(config, credentials)
            switch.confirm(config)
        assert served(journal) == {"live"}
        assert pending(config) is None
        for name in NAMES:  # a restore that was undone leaves the rebuilt data to nobody
            folder = tmp_path / name / "new"
            folder.mkdir(exist_ok=True)
            (folder / "which").write_text("new")
        assert others(tmp_path) == ["new"] * 2, number
    assert number == 8  # journal, twice two renames, check, done: and one that is not killed
    assert outcomes == {("live", False), ("new", True)}


def test_killed_at_any_step_of_an_undo_it_is_undone_by_the_next(
    config: HostConfig, credentials: Credentials, journal: Journal, tmp_path: Path
) -> None:
    for number in range(1, 100):
        switch.switch(config, credentials, journal)
        if not kill_at(number, lambda t: switch.undo(config, credentials, t)):
            break
        assert "undone" in switch.settle(config, credentials)
        assert served(journal) == {"live"}
        assert others(tmp_path) == [f"live.undone-{RUN}"] * 2
        for each in journal.places:
            each.aside.rename(each.new)
        switch.confirm(config)
    assert number == 5  # twice two renames, and one that is not killed


def test_killed_while_undoing_what_a_kill_had_interrupted(
    config: HostConfig, credentials: Credentials, journal: Journal
) -> None:
    assert kill_at(5, lambda t: switch.switch(config, credentials, journal, t))
    for number in range(1, 6):
        kill_at(number, lambda t: switch.settle(config, credentials, t))
    switch.settle(config, credentials)
    assert served(journal) == {"live"}
    assert pending(config) is None


def test_an_unreadable_journal_stops_everything(
    config: HostConfig, credentials: Credentials, journal: Journal
) -> None:
    switch.switch(config, credentials, journal)
    (config.base / JOURNAL).write_text("{")
    for call in (
        lambda: switch.settle(config, credentials),
        lambda: switch.confirm(config),
        lambda: switch.undo(config, credentials),
    ):
        with pytest.raises(BackupError, match=r"cannot be read.*"):
            call()
    assert all(each.old.exists() for each in journal.places)


@pytest.fixture
def looping(
    monkeypatch: pytest.MonkeyPatch, journal: Journal, config: HostConfig
) -> tuple[Journal, list[tuple[str, str]]]:
    """The journal of a stack whose first container never becomes healthy, neither on the old data
    nor on the new, and what was started on which data, told what the journal said then."""
    started: list[tuple[str, str]] = []

    def start(containers: Sequence[str], _: object = None) -> None:
        for container in containers:
            there = pending(config)
            started.append((container, there.state if there else "none"))
            if container == "loops":
                raise BackupError("the container loops does not become healthy")

    monkeypatch.setattr(switch, "start", start)
    monkeypatch.setattr(switch, "stop", lambda *_: None)
    names = ["loops", "runs"]
    return journal.model_copy(update={"containers": names, "ran": names}), started


def test_an_old_stack_that_cannot_start_locks_nothing_after_a_failed_switch(
    config: HostConfig,
    credentials: Credentials,
    looping: tuple[Journal, list[tuple[str, str]]],
    tmp_path: Path,
) -> None:
    journal, started = looping
    with pytest.raises(BackupError, match=r"are back, but do not serve: the container loops"):
        switch.switch(config, credentials, journal)
    assert started == [("loops", "switching"), ("loops", "reverted"), ("runs", "reverted")]
    assert served(journal) == {"live"} and others(tmp_path) == []
    assert pending(config) is None
    assert switch.settle(config, credentials) == ""


@pytest.mark.parametrize("state", ["switching", "reverting", "reverted"])
def test_an_old_stack_that_cannot_start_locks_nothing_after_an_interruption(
    config: HostConfig,
    credentials: Credentials,
    looping: tuple[Journal, list[tuple[str, str]]],
    state: State,
) -> None:
    journal, started = looping
    write(config, journal, state)
    assert "back, but do not serve: the container loops" in switch.settle(config, credentials)
    assert started[-2:] == [("loops", "reverted"), ("runs", "reverted")]
    assert pending(config) is None and served(journal) == {"live"}


def test_an_undo_to_a_stack_that_cannot_start_is_an_undo_and_says_so(
    config: HostConfig,
    credentials: Credentials,
    looping: tuple[Journal, list[tuple[str, str]]],
) -> None:
    journal, started = looping
    for each in journal.places:
        switch._exchange(journal, each, lambda _: None)
    write(config, journal, "switched")
    with pytest.raises(BackupError, match="are back, but do not serve: the container loops"):
        switch.undo(config, credentials)
    assert started == [("loops", "undone"), ("runs", "undone")]
    assert served(journal) == {"live"}
    assert switch.settle(config, credentials) == ""
    with pytest.raises(BackupError, match="already undone"):
        switch.undo(config, credentials)
    switch.confirm(config)
    assert pending(config) is None


def test_killed_before_the_old_services_are_started_the_next_starts_them(
    config: HostConfig,
    credentials: Credentials,
    looping: tuple[Journal, list[tuple[str, str]]],
) -> None:
    journal, started = looping
    write(config, journal.model_copy(update={"unstarted": True}), "undone")
    assert "is undone, but the container loops" in switch.settle(config, credentials)
    assert [name for name, _ in started] == ["loops", "runs"]
    assert switch.settle(config, credentials) == ""
    assert len(started) == 2


def test_what_docker_restarts_over_and_over_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"Running": True, "Restarting": False}
    monkeypatch.setattr(live.docker, "inspect", lambda *_: {"State": state})
    assert live.runs("qdrant")
    state["Restarting"] = True
    assert not live.runs("qdrant")
