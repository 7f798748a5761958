"""What is judged of repositories and guarded before a removal, from plain histories."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ops.backup import job
from ops.backup.job import believable, last_good, report_unheard
from ops.backup.manifest import new_run
from ops.backup.records import Record, RepositoryResult, write_record
from ops.backup.retention import Kept
from ops.backup.store import is_new, judge
from ops.backup.upkeep import _next_part, guard, join
from ops.clients.restic import Snapshot
from ops.errors import BackupError
from ops.settings.host import Credentials, HostConfig, Repository

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
DAY = timedelta(days=1)
OK = RepositoryResult(name="local", ok=True, snapshot="a" * 64)
FAR_OK = RepositoryResult(name="offsite", ok=True, snapshot="b" * 64)
FAR_FAILED = RepositoryResult(name="offsite", ok=False, error="no answer")


def ago(days: float) -> datetime:
    return NOW - days * DAY


def backup(days: float, *results: RepositoryResult, **more: Any) -> Record:
    at = ago(days)
    given = {"outcome": "ok", "repositories": [*results]} | more
    return Record(kind="backup", run=new_run(at), started=at, finished=at, **given)


# one repository fails -------------------------------------------------------------------------


def test_all_well() -> None:
    assert judge([OK, FAR_OK], [], NOW, DAY) == ("ok", 0, "")


@pytest.mark.parametrize(
    ("earlier", "code"),
    [
        ([], 1),  # the very first run
        ([backup(1, OK, FAR_OK)], 1),
        ([backup(1.9, OK, FAR_OK), backup(0.9, OK, FAR_FAILED)], 1),
        ([backup(2.1, OK, FAR_OK), backup(1.1, OK, FAR_FAILED)], 2),
        # never well, and tried for so long
        ([backup(1.5, OK, FAR_FAILED)], 1),
        ([backup(2.5, OK, FAR_FAILED), backup(1.5, OK, FAR_FAILED)], 2),
        # it was not asked for before
        ([backup(9, OK)], 1),
        # a clock that ran ahead makes nothing younger
        ([backup(3, OK, FAR_OK), backup(-1826, OK, FAR_OK)], 2),
        # nor does a run that failed
        ([backup(3, OK, FAR_OK), backup(1, FAR_OK, outcome="failed")], 2),
    ],
)
def test_one_of_two_fails(earlier: list[Record], code: int) -> None:
    outcome, found, sentence = judge([OK, FAR_FAILED], earlier, NOW, DAY)
    assert (outcome, found) == ("warning", code)
    assert "offsite failed: no answer" in sentence


def test_the_local_one_is_judged_alike() -> None:
    failed = RepositoryResult(name="local", ok=False, error="full")
    assert judge([failed, FAR_OK], [backup(1, OK, FAR_OK)], NOW, DAY)[:2] == ("warning", 1)
    assert judge([failed, FAR_OK], [backup(3, OK, FAR_OK)], NOW, DAY)[:2] == ("warning", 2)


def test_both_fail() -> None:
    failed = RepositoryResult(name="local", ok=False, error="full")
    outcome, code, sentence = judge([failed, FAR_FAILED], [], NOW, DAY)
    assert (outcome, code) == ("failed", 2)
    assert "full" in sentence and "no answer" in sentence


def test_the_last_good_one_is_of_a_clock_that_is_believed() -> None:
    records = [backup(3, OK), backup(1, FAR_OK), backup(-30, OK)]
    assert last_good(records, "local", NOW) == records[0]
    assert last_good(records, "offsite", NOW) == records[1]
    assert believable(records, NOW) == records[:2]


@pytest.mark.parametrize("ahead", ["ok", "failed"])
def test_a_run_of_a_clock_that_ran_ahead_hides_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: Any
) -> None:
    monkeypatch.setattr(job, "finished", lambda *_: True)
    config = HostConfig(
        environment="team",
        stack="qdrant",
        stackroom="a",
        base=tmp_path,
        repositories=[],
        sources=[],
    )
    failed = backup(1, outcome="failed")
    for record in (failed, backup(-30, outcome=ahead)):
        write_record(tmp_path, record)
    told = report_unheard(config, Credentials(tmp_path), NOW)
    assert [record.run for record in told] == [failed.run]
    assert report_unheard(config, Credentials(tmp_path), NOW) == []


# whether a repository may be made -------------------------------------------------------------


def test_only_an_address_that_never_held_a_backup_is_new(tmp_path: Path) -> None:
    config = HostConfig(
        environment="team",
        stack="qdrant",
        stackroom="abc",
        base=tmp_path,
        repositories=[Repository(name="local", url="/var/backups/one")],
        sources=[],
    )
    here = {"addresses": {"local": "/var/backups/one"}}
    assert is_new("local", config, [])
    assert is_new("local", config, [backup(1, FAR_OK, details=here)])
    assert is_new("local", config, [backup(1, OK, details={"addresses": {"local": "/other"}})])
    assert not is_new("local", config, [backup(1, OK, details=here), backup(0.5)])


# which part is read ---------------------------------------------------------------------------


def checked(days: float, part: int, parts: int = 4, *, ok: bool = True) -> Record:
    details = {"local": {"subset": [part, parts], "ok": ok}}
    return Record(kind="check", run=new_run(ago(days)), started=ago(days), details=details)


@pytest.mark.parametrize(
    ("records", "part"),
    [
        ([], 1),
        ([checked(7, 1)], 2),
        ([checked(28, 1), checked(21, 2), checked(14, 3), checked(7, 4)], 1),
        ([checked(21, 2), checked(14, 3), checked(7, 4)], 1),
        # one that failed has read nothing
        ([checked(28, 1), checked(21, 2), checked(14, 3), checked(7, 4, ok=False)], 4),
        # a full one has read everything
        ([checked(9, 1), checked(8, 2), checked(7, 1, 1), checked(1, 1)], 2),
        # of another time, when there were ten parts
        ([checked(7, 9, 10)], 1),
    ],
)
def test_the_part_that_was_read_longest_ago_is_next(records: list[Record], part: int) -> None:
    assert _next_part(records, "local") == part
    assert _next_part(records, "offsite") == 1


# what is known of each snapshot ---------------------------------------------------------------


def snapshot(record: Record, identity: str) -> Snapshot:
    return Snapshot(id=identity, time=record.started, run=record.run, path="/c", host="team")


def test_a_snapshot_is_good_by_its_own_record() -> None:
    good = backup(5, OK)
    failed = backup(4, OK, outcome="failed")
    another = backup(3, RepositoryResult(name="local", ok=True, snapshot="c" * 64))
    drill = Record(kind="drill", run=new_run(NOW), started=NOW, outcome="ok", subject=good.run)
    unproven = drill.model_copy(update={"outcome": "unproven", "subject": another.run})
    foreign = Snapshot(id="e" * 64, time=NOW, run="", path="/home", host="elsewhere")
    gone = Snapshot(id="d" * 64, time=ago(9), run=new_run(ago(9)), path="/c", host="team")
    found = join(
        [gone, *(snapshot(each, "a" * 64) for each in (good, failed, another)), foreign],
        [good, failed, another, drill, unproven],
        "local",
    )
    assert [kept.good for kept in found] == [True, True, False, False, False]
    assert [kept.drilled for kept in found] == [False, True, False, False, False]
    assert [kept.recorded for kept in found] == [False, True, True, True, False]


# the guard ------------------------------------------------------------------------------------


def kept(name: str, days: float, *, good: bool = True, drilled: bool = False) -> Kept:
    return Kept(id=name, time=ago(days), run=name, good=good, drilled=drilled)


HISTORY = [
    kept("first", 9),
    kept("drilled", 8, drilled=True),
    kept("middle", 5),
    kept("good", 2),
    kept("failed", 1, good=False),
    kept("future", -1826),
]


@pytest.mark.parametrize(
    ("going", "words"),
    [
        (["drilled"], "the last drilled"),
        (["good"], "the newest good"),
        (["failed"], "the newest"),
        (["future"], "the newest"),
        (["first", "middle"], "1 at most"),
        (["nobody"], "not in the repository"),
    ],
)
def test_the_guard_objects(going: list[str], words: str) -> None:
    with pytest.raises(BackupError, match=words):
        guard(HISTORY, going, 1, NOW)


def test_the_guard_lets_nothing_go_that_has_no_record() -> None:
    stranger = dataclasses.replace(kept("stranger", 700), recorded=False)
    with pytest.raises(BackupError, match="no record"):
        guard([stranger, *HISTORY], ["stranger"], 1, NOW)


def test_the_guard_lets_old_ones_go() -> None:
    guard(HISTORY, ["first"], 1, NOW)
    guard(HISTORY, ["first", "middle"], 2, NOW)
    guard(HISTORY, [], 1, NOW)
