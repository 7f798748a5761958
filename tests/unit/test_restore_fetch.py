"""Which backup is the latest, and whose turn it is to be drilled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.backup.records import Kind, Outcome, Record
from ops.clients.restic import Snapshot
from ops.errors import SettingsError
from ops.restore.fetch import LATEST, choose, longest_ago, pick
from ops.settings.host import Credentials, HostConfig, Repository

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def run(days_ago: float) -> str:
    return f"{NOW - timedelta(days=days_ago):%Y%m%dT%H%M%SZ}-abcdef"


def snapshot(days_ago: float, name: str | None = None) -> Snapshot:
    at = NOW - timedelta(days=days_ago)
    name = run(days_ago) if name is None else name
    return Snapshot(id=f"{days_ago}", time=at, run=name, path="/current", host="team")


def record(kind: Kind, days_ago: float, outcome: Outcome, repository: str = "") -> Record:
    at = NOW - timedelta(days=days_ago)
    details = {"repository": repository} if repository else {}
    return Record(kind=kind, run=run(days_ago), started=at, outcome=outcome, details=details)


def config(*names: str) -> HostConfig:
    return HostConfig(
        environment="team",
        stack="qdrant",
        stackroom="1",
        base=Path("/nowhere"),
        repositories=[Repository.model_validate({"name": n, "url": f"/{n}"}) for n in names],
        sources=[],
    )


def test_the_latest_is_the_newest_that_did_not_fail() -> None:
    history = [snapshot(3), snapshot(2), snapshot(1)]
    records = [record("backup", 2, "warning"), record("backup", 1, "failed")]
    assert pick(history, records, LATEST, NOW) == history[1]
    assert pick(history, [record("backup", 1, "died")], LATEST, NOW) == history[1]


def test_without_records_as_on_a_new_machine_the_newest_counts() -> None:
    history = [snapshot(1), snapshot(2)]
    assert pick(history, [], LATEST, NOW) == history[0]


def test_a_snapshot_of_a_clock_that_ran_ahead_is_the_latest_only_without_another() -> None:
    ahead, good = snapshot(-5 * 365), snapshot(1)
    assert pick([good, ahead], [], LATEST, NOW) == good
    assert pick([ahead], [], LATEST, NOW) == ahead


def test_what_is_no_backup_of_ours_is_never_the_latest() -> None:
    assert pick([snapshot(1, ""), snapshot(2, "../../etc")], [], LATEST, NOW) is None


def test_a_run_is_found_by_its_name() -> None:
    history = [snapshot(2), snapshot(1)]
    assert pick(history, [record("backup", 2, "failed")], run(2), NOW) == history[0]
    assert pick(history, [], run(9), NOW) is None


def test_the_repository_drilled_longest_ago_has_its_turn() -> None:
    both = config("local", "offsite")
    assert longest_ago(both, []) == "local"
    first = [record("drill", 9, "ok", "local")]
    assert longest_ago(both, first) == "offsite"
    # one that cannot be reached does not keep the other from being drilled
    second = [*first, record("drill", 2, "unproven", "offsite")]
    assert longest_ago(both, second) == "local"
    assert longest_ago(config("local"), second) == "local"
    with pytest.raises(SettingsError):
        longest_ago(config(), [])


def test_what_is_no_run_is_refused_before_any_repository_is_asked() -> None:
    with pytest.raises(SettingsError, match="no run"):
        choose(config("local"), Credentials(Path("/nowhere")), ["local"], "yesterday")
