"""What the doctor says of backups, from the records of their runs."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ops.backup.records import Record, RepositoryResult, write_record
from ops.clients.ssh import Completed
from ops.errors import ServiceError
from ops.escrow import EscrowState
from ops.health import backups, collect
from ops.health.model import Status

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
JOBS = ("backup", "check", "drill", "prune")


def record(kind: str, hours: float, outcome: str = "ok", **more: Any) -> dict[str, Any]:
    started = NOW - timedelta(hours=hours)
    told = {
        "run": f"{started:%Y%m%dT%H%M%SZ}-abcdef",
        "started": started.isoformat(),
        "finished": (started + timedelta(minutes=3)).isoformat(),
        "outcome": outcome,
        "error": "" if outcome == "ok" else "the reason",
        "bytes": 1000,
        "subject": "",
        "stored": ["local", "offsite"] if outcome == "ok" else [],
        "rto_seconds": 93.0 if kind == "drill" else None,
        "repository": "local" if kind == "drill" else None,
    }
    return told | more


def found(records: list[tuple[str, dict[str, Any]]] | None = None, **more: Any) -> dict[str, Any]:
    by_kind: dict[str, list[dict[str, Any]]] = {job: [] for job in JOBS}
    for kind, each in records or []:
        by_kind[kind].append(each)
    timer = {"enabled": True, "active": True, "since": NOW.timestamp() - 3600}
    return {
        "now": NOW.timestamp(),
        "period_hours": 24.0,
        "repositories": ["local", "offsite"],
        "records": by_kind,
        "timers": {job: dict(timer) for job in JOBS},
    } | more


@pytest.mark.parametrize(
    ("hours", "status"),
    [(5, Status.OK), (35, Status.OK), (37, Status.WARNING), (49, Status.CRITICAL)],
)
def test_the_last_good_backup_ages_against_its_period(hours: float, status: Status) -> None:
    facts = found([("backup", record("backup", hours)), ("backup", record("backup", 1, "failed"))])
    assert backups.age(facts).status is status
    assert backups.last(facts).status is Status.CRITICAL
    assert "the reason" in backups.last(facts).summary


def test_a_new_machine_has_time_for_its_first_backup_and_no_longer() -> None:
    assert backups.age(found()).status is Status.OK
    facts = found()
    facts["timers"]["backup"]["since"] = NOW.timestamp() - 37 * 3600
    assert backups.age(facts).status is Status.CRITICAL
    facts["timers"]["backup"]["since"] = 0.0
    assert backups.age(facts).status is Status.UNKNOWN
    assert backups.age(found([("backup", record("backup", 1, "failed"))])).status is Status.CRITICAL


def test_the_offsite_copy_has_an_age_of_its_own() -> None:
    here_only = record("backup", 2, "warning", stored=["local"])
    facts = found([("backup", record("backup", 26)), ("backup", here_only)])
    assert backups.age(facts).value == 2
    assert backups.offsite(facts, local_only=False).value == 26
    assert backups.last(facts).status is Status.WARNING
    facts = found([("backup", record("backup", 50)), ("backup", here_only)])
    assert backups.age(facts).status is Status.OK
    assert backups.offsite(facts, local_only=False).status is Status.CRITICAL


def test_no_offsite_copy_warns_until_it_is_accepted() -> None:
    facts = found([("backup", record("backup", 2))], repositories=["local"])
    assert backups.offsite(facts, local_only=False).status is Status.WARNING
    assert backups.offsite(facts, local_only=True).status is Status.OK


@pytest.mark.parametrize(("last", "status"), [(900, Status.OK), (499, Status.WARNING)])
def test_a_shrunken_backup_is_seen(last: int, status: Status) -> None:
    sizes = [1000, 1100, 900, 1000, last]
    runs = [record("backup", 100 - 24 * n, bytes=size) for n, size in enumerate(sizes)]
    assert backups.size(found([("backup", run) for run in runs])).status is status


def test_a_run_from_the_future_counts_for_nothing() -> None:
    facts = found([("backup", record("backup", 60)), ("backup", record("backup", -5 * 365 * 24))])
    assert backups.clock(facts).status is Status.WARNING
    assert backups.age(facts).status is Status.CRITICAL
    assert backups.clock(found([("backup", record("backup", 1))])).status is Status.OK


def test_nor_does_it_hide_what_came_after_it_or_prove_anything() -> None:
    ahead = record("check", -5 * 365 * 24)
    facts = found([("check", record("check", 24 * 22, "failed")), ("check", ahead)])
    assert backups.last(facts).status is Status.CRITICAL
    assert backups.proof(facts, "check").status is Status.CRITICAL
    ahead = record("check", -5 * 365 * 24, "failed")
    facts = found([("check", record("check", 2)), ("check", ahead)])
    assert backups.last(facts).status is Status.OK
    assert backups.proof(facts, "check").status is Status.OK


@pytest.mark.parametrize("kind", ["check", "drill"])
def test_proofs_age_and_only_good_ones_count(kind: str) -> None:
    def facts(*records: dict[str, Any]) -> dict[str, Any]:
        return found([(kind, each) for each in records], repositories=["local"])

    passed, unproven = record(kind, 24 * 9), record(kind, 1, "unproven")
    verdict = backups.proof(facts(passed, unproven), kind)
    assert verdict.status is Status.OK and ("93 s" in verdict.summary) == (kind == "drill")
    assert backups.proof(facts(record(kind, 24 * 11)), kind).status is Status.WARNING
    assert backups.proof(facts(record(kind, 24 * 22)), kind).status is Status.CRITICAL
    assert backups.proof(facts(unproven), kind).status is Status.CRITICAL
    assert backups.proof(facts(), kind).status is Status.OK
    assert backups.proof(found(), kind).status is Status.OK


def drilled(days: float, repository: str | None, outcome: str = "ok") -> tuple[str, Any]:
    return "drill", record("drill", 24 * days, outcome, repository=repository)


@pytest.mark.parametrize(
    ("offsite", "status"),
    [(19, Status.OK), (21, Status.WARNING), (41, Status.WARNING), (43, Status.CRITICAL)],
)
def test_of_two_repositories_the_one_that_was_drilled_longer_ago_counts(
    offsite: float, status: Status
) -> None:
    verdict = backups.proof(found([drilled(offsite, "offsite"), drilled(1, "local")]), "drill")
    assert verdict.status is status and verdict.value == pytest.approx(offsite, abs=0.1)
    assert "offsite" in verdict.summary
    assert (verdict.warn, verdict.crit) == (20, 42)


def test_a_repository_that_was_never_drilled_well_is_not_hidden_by_the_other() -> None:
    tried = found([drilled(2, "offsite", "unproven"), drilled(1, "local")])
    assert backups.proof(tried, "drill").status is Status.CRITICAL
    for days, status in ((3, Status.OK), (16, Status.WARNING), (22, Status.CRITICAL)):
        waiting = found([("backup", record("backup", 24 * days)), drilled(1, "local")])
        assert backups.proof(waiting, "drill").status is status
    # one that is no longer configured is nobody's concern
    gone = found([drilled(2, "offsite", "failed"), drilled(1, "local")], repositories=["local"])
    assert backups.proof(gone, "drill").status is Status.OK
    assert backups.last(gone).status is Status.OK


def test_a_failed_drill_stays_until_its_own_repository_is_drilled_well() -> None:
    runs = [drilled(9, "offsite", "failed"), drilled(2, "local")]
    assert backups.last(found(runs)).status is Status.CRITICAL
    assert backups.last(found([*runs, drilled(1, "offsite")])).status is Status.OK
    # one that never got as far as a repository, until the next one
    runs = [drilled(9, "local"), drilled(2, None, "died")]
    assert backups.last(found(runs)).status is Status.CRITICAL
    assert backups.last(found([*runs, drilled(1, "local")])).status is Status.OK


def test_timers_are_enabled_and_have_run() -> None:
    assert backups.timers(found()).status is Status.OK
    for field, value in {
        "enabled": False,
        "active": False,
        "since": NOW.timestamp() - 49 * 3600,
    }.items():
        facts = found()
        facts["timers"]["backup"][field] = value
        verdict = backups.timers(facts)
        assert verdict.status is Status.CRITICAL and "backup" in verdict.summary
    assert backups.timers({}).status is Status.WARNING


@pytest.mark.parametrize(
    ("state", "status"),
    [("switched", Status.WARNING), ("undone", Status.WARNING), ("switching", Status.CRITICAL)],
)
def test_a_restore_that_waits_is_seen(tmp_path: Path, state: str, status: Status) -> None:
    journal = tmp_path / "restore.json"
    assert backups.restore(found(restore=collect.restore(journal))).status is Status.OK
    journal.write_text(json.dumps({"run": "r", "state": state, "places": []}))
    assert backups.restore(found(restore=collect.restore(journal))).status is status


class Host:
    """A host that answers one command."""

    def __init__(self, stdout: str, stderr: str = "") -> None:
        self.answer = Completed(0, stdout, stderr)

    def run(self, command: str, **_: Any) -> Completed:
        assert command == "/usr/local/bin/stackroom backup reach --json"
        return self.answer


def test_a_repository_that_does_not_open_is_critical() -> None:
    def host(**repositories: str) -> Any:
        return Host(json.dumps({"schema_version": 1, "repositories": repositories}))

    assert backups.reach(host(local="", offsite="")).status is Status.OK
    verdict = backups.reach(host(local="", offsite="wrong password"))
    assert verdict.status is Status.CRITICAL and verdict.summary == "offsite: wrong password"
    with pytest.raises(ServiceError, match="not found"):
        backups.reach(Host("", "sh: stackroom: not found"))  # type: ignore[arg-type]


def test_the_recovery_file_is_there_whole_and_of_today() -> None:
    path = Path("recovery.age")
    assert backups.escrow(EscrowState(path, NOW, 2, (), ())).status is Status.OK
    assert backups.escrow(EscrowState(path, None, 0, (), ())).status is Status.WARNING
    stale = backups.escrow(EscrowState(path, NOW, 2, ("secrets.toml",), ()))
    assert stale.status is Status.WARNING and "secrets.toml" in stale.summary
    assert backups.escrow(EscrowState(path, NOW, 2, (), ("bert",))).status is Status.WARNING
    assert backups.escrow(EscrowState(path, NOW, 2, (), (), True)).status is Status.CRITICAL


def test_the_collector_reads_what_runs_write(tmp_path: Path) -> None:
    """The two sides share no code: what one writes, the other has to find."""
    stored = [RepositoryResult(name="local", ok=True), RepositoryResult(name="offsite", ok=False)]
    for number, kind in enumerate(("backup", "drill")):
        write_record(
            tmp_path,
            Record(
                kind=kind,  # type: ignore[arg-type]
                run=f"2026112{number}T023000Z-abcdef",
                started=NOW - timedelta(hours=2),
                finished=NOW - timedelta(hours=1),
                outcome="ok",
                bytes=77,
                repositories=stored,
                details={"rto_seconds": 12.5, "repository": "local"},
            ),
        )
    write_record(
        tmp_path,
        Record(kind="prune", run="20261122T023000Z-abcdef", started=NOW, dry_run=True),
    )
    (tmp_path / "records" / "20261121T000000Z-broken.backup.json").write_text("{")
    os.utime(tmp_path)
    kinds = {kind: collect.records(tmp_path / "records", kind) for kind in JOBS}
    facts = found(records=None) | {"records": kinds}
    assert [run["repository"] for run in kinds["drill"]] == ["local"]
    assert kinds["backup"][0]["stored"] == ["local"]
    assert kinds["prune"] == [], "a dry run is no prune"
    assert backups.age(facts).value == 2
    assert backups.offsite(facts, local_only=False).status is Status.CRITICAL
    facts["repositories"] = ["local"]
    assert "12 s" in backups.proof(facts, "drill").summary
