"""What `backup list` is made of: where each backup lies, and what has proven it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from ops.backup.history import Row, find, rows
from ops.backup.records import Kind, Record, RepositoryResult
from ops.errors import SettingsError

NOW = datetime(2026, 11, 21, 10, 45, tzinfo=UTC)
RUN = "20261101T000000Z-00000{:x}"


@dataclass(frozen=True)
class Snapshot:
    run: str
    time: datetime = NOW


def made(kind: Kind, days: float, number: int = 0, **facts: Any) -> Record:
    at = NOW - timedelta(days=days)
    facts = {"outcome": "ok", "finished": at + timedelta(minutes=2), **facts}
    return Record(kind=kind, run=RUN.format(number), started=at, **facts)


def backup(days: float, number: int = 0, local: bool = True, offsite: bool = True) -> Record:
    results = [
        RepositoryResult(name="local", ok=local, snapshot="a" * 64 if local else ""),
        RepositoryResult(name="offsite", ok=offsite, snapshot="b" * 64 if offsite else ""),
    ]
    outcome = "ok" if local and offsite else "warning" if local or offsite else "failed"
    return made("backup", days, number, repositories=results, outcome=outcome, bytes=5, items=2)


def check(days: float, part: int, of: int = 4, ok: bool = True, name: str = "local") -> Record:
    details = {name: {"ok": ok, "subset": [part, of], "error": ""}}
    return made("check", days, 15, details=details)


def only(records: list[Record], **more: Any) -> Row:
    found = rows(records, **more)
    assert len(found) == 1
    return found[0]


def test_a_backup_of_the_records() -> None:
    row = only([backup(3, offsite=False)])
    assert (row.bytes, row.items, row.seconds, row.outcome) == (5, 2, 120, "warning")
    assert (row.where, row.failed_in, row.verified, row.drilled) == (
        ("local",),
        ("offsite",),
        None,
        None,
    )


def test_newest_first() -> None:
    assert [row.when for row in rows([backup(2, 1), backup(1, 2), backup(3, 3)])] == [
        NOW - timedelta(days=days) for days in (1, 2, 3)
    ]


def test_it_is_verified_once_every_part_was_read_after_it() -> None:
    records = [backup(10), *(check(9 - part, part) for part in (1, 2, 3))]
    assert (only(records).read, only(records).verified) == (Fraction(3, 4), None)
    row = only([*records, check(1, 4)])
    assert row.read == 1
    assert row.verified == NOW - timedelta(days=1) + timedelta(minutes=2)


@pytest.mark.parametrize(
    "checks",
    [
        [check(11, 1, 1)],  # before the backup
        [check(9, 1, 1, ok=False)],
        [check(9, 1, 1, name="offsite")],  # of a repository that does not hold it
        [check(9, 0, 0)],  # read no data
        [made("check", 9, details={"local": "?"})],
    ],
)
def test_a_check_that_says_nothing_of_it_verifies_nothing(checks: list[Record]) -> None:
    row = only([backup(10, offsite=False), *checks])
    assert (row.verified, row.read) == (None, 0)


def test_parts_of_different_wholes_are_not_added_up() -> None:
    assert only([backup(10), check(9, 1, 2), check(8, 2, 4)]).read == Fraction(1, 2)


def test_a_good_drill_verifies_the_backup_that_it_was_of() -> None:
    drill = made("drill", 1, 9, subject=RUN.format(1))
    failed = made("drill", 0.5, 8, subject=RUN.format(1), outcome="failed")
    unproven = made("drill", 0.4, 7, subject=RUN.format(2), outcome="unproven")
    second, first = rows([backup(3, 1), backup(2, 2), drill, failed, unproven])
    assert first.drilled == first.verified == drill.finished
    assert (second.drilled, second.verified) == (None, None)


def test_what_a_prune_removed_is_gone_and_what_it_only_would_have_is_not() -> None:
    gone = {"ok": True, "removed": [RUN.format(0)], "error": ""}
    pruned = made("prune", 1, 3, details={"local": gone})
    tried = made("prune", 1, 3, details={"local": gone}, dry_run=True)
    failed = made("prune", 1, 3, details={"local": gone | {"ok": False}})
    assert only([backup(9), pruned]).where == ("offsite",)
    assert only([backup(9), pruned]).gone == ("local",)
    assert only([backup(9), tried]).where == ("local", "offsite")
    assert only([backup(9), failed]).where == ("local", "offsite")


def test_a_repository_that_was_asked_is_believed_over_the_records() -> None:
    row = only([backup(9)], held={"local": []})
    assert (row.where, row.gone, row.good) == (("offsite",), ("local",), True)
    row = only([backup(9)], held={"local": [], "offsite": []})
    assert (row.where, row.good) == ((), False)


def test_a_backup_without_a_record_is_listed_too() -> None:
    """On a machine that was set up anew, the repository alone knows the history."""
    held = {"offsite": [Snapshot(RUN.format(4)), Snapshot("")], "local": []}
    row = only([], held=held)
    assert (row.run, row.outcome, row.where, row.good) == (RUN.format(4), None, ("offsite",), True)


def test_a_run_is_found_by_what_people_type() -> None:
    records = [backup(3, 1), backup(2, 2), made("check", 1, 3)]
    assert find(records, RUN.format(2)) == records[1]
    assert find(records, "000003") == records[2]
    assert find(records, "latest") == records[2]
    with pytest.raises(SettingsError, match="any of 3 runs"):
        find(records, "20261101")
    for nothing in ("", "20251101", RUN.format(9)):
        with pytest.raises(SettingsError, match="no run"):
            find(records, nothing)
    with pytest.raises(SettingsError):
        find([], "latest")
