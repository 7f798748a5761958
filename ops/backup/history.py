"""The history of backups as rows: what each was, where it lies, and what has proven it since.

Pure: records in, and what the repositories say they hold where somebody asked; rows out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Protocol

from ops.backup.manifest import is_run
from ops.backup.records import Outcome, Record
from ops.errors import SettingsError


class Held(Protocol):
    """A snapshot in a repository: ops.clients.restic.Snapshot, or anything like it."""

    @property
    def run(self) -> str: ...
    @property
    def time(self) -> datetime: ...


@dataclass(frozen=True)
class Row:
    """One backup. Times are UTC.

    `verified` is when checks had read every byte of a repository that holds it, or a drill had
    restored it, whichever was last; `read` is the share that checks have read since it was made.
    `outcome` is None for a backup that a repository holds and this machine has no record of.
    """

    run: str
    when: datetime
    outcome: Outcome | None
    bytes: int = 0
    items: int = 0
    seconds: float = 0.0
    verified: datetime | None = None
    read: Fraction = Fraction(0)
    drilled: datetime | None = None
    where: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()  # repositories that held it and no longer do
    trigger: str = ""
    error: str = ""
    failed_in: tuple[str, ...] = field(default=())

    @property
    def good(self) -> bool:
        """It can be restored, as far as is known."""
        return bool(self.where)


def rows(records: Sequence[Record], held: Mapping[str, Sequence[Held]] | None = None) -> list[Row]:
    """Every backup, newest first.

    `held` is what repositories hold, by name; one that did not answer is left out of it, and is
    believed to hold what the records say.
    """
    held = held or {}
    known = [_row(record, records, held) for record in records if record.kind == "backup"]
    runs = {row.run for row in known}
    strange = {
        snapshot.run: snapshot
        for snapshots in held.values()
        for snapshot in snapshots
        if snapshot.run and snapshot.run not in runs
    }
    known += [
        Row(
            run=run,
            when=snapshot.time,
            outcome=None,
            where=tuple(name for name in held if _holds(held[name], run)),
            drilled=_drilled(records, run),
            verified=_drilled(records, run),
        )
        for run, snapshot in strange.items()
    ]
    return sorted(known, key=lambda row: (row.when, row.run), reverse=True)


def _row(record: Record, records: Sequence[Record], held: Mapping[str, Sequence[Held]]) -> Row:
    stored = [result.name for result in record.repositories if result.ok]
    gone = {
        name
        for name in stored
        if (not _holds(held[name], record.run) if name in held else _removed(records, name, record))
    }
    where = tuple(name for name in stored if name not in gone)
    shares = [_read(records, name, record) for name in where]
    drilled = _drilled(records, record.run)
    proofs = [when for _, when in shares if when] + ([drilled] if drilled else [])
    return Row(
        run=record.run,
        when=record.started,
        outcome=record.outcome,
        bytes=record.bytes,
        items=record.items,
        seconds=record.seconds,
        verified=max(proofs, default=None),
        read=max((share for share, _ in shares), default=Fraction(0)),
        drilled=drilled,
        where=where,
        gone=tuple(sorted(gone)),
        trigger=record.trigger,
        error=record.error,
        failed_in=tuple(result.name for result in record.repositories if not result.ok),
    )


def _holds(snapshots: Iterable[Held], run: str) -> bool:
    return any(snapshot.run == run for snapshot in snapshots)


def _removed(records: Sequence[Record], repository: str, backup: Record) -> bool:
    """A prune says that it removed this backup from there."""
    for record in records:
        found = record.details.get(repository)
        if record.kind != "prune" or record.dry_run or not isinstance(found, dict):
            continue
        if found.get("ok") and backup.run in found.get("removed", []):
            return True
    return False


def _read(
    records: Sequence[Record], repository: str, backup: Record
) -> tuple[Fraction, datetime | None]:
    """The share of the repository that good checks have read since the backup; and when all was.

    A check reads part k of n; parts of different n cannot be added up, so the best n counts.
    """
    parts: dict[int, set[int]] = {}
    complete = None
    for record in sorted(records, key=lambda record: record.started):
        found = record.details.get(repository)
        if record.kind != "check" or record.started < (backup.finished or backup.started):
            continue
        if not isinstance(found, dict) or not found.get("ok"):
            continue
        part, of = found.get("subset", (0, 0))
        if not 0 < part <= of:
            continue
        seen = parts.setdefault(of, set())
        seen.add(part)
        if len(seen) == of:
            complete = record.finished or record.started
            parts[of] = set()  # the next round
    if complete:
        return Fraction(1), complete
    return max((Fraction(len(seen), of) for of, seen in parts.items()), default=Fraction(0)), None


def _drilled(records: Sequence[Record], run: str) -> datetime | None:
    """When a drill last restored this backup and found it right."""
    drills = [r for r in records if r.kind == "drill" and r.outcome == "ok" and r.subject == run]
    return max((r.finished or r.started for r in drills), default=None)


def find(records: Sequence[Record], text: str) -> Record:
    """The record that people mean: a whole run id, its beginning, its last six letters, or
    "latest" for the newest. Raises SettingsError where that is none or more than one run."""
    if text == "latest" and records:
        return max(records, key=lambda record: record.started)
    if is_run(text):
        found = [record for record in records if record.run == text]
    else:
        found = [r for r in records if text and (r.run.startswith(text) or r.run.endswith(text))]
    if not found:
        raise SettingsError(f"there is no run {text} in the records", "stackroom backup list --all")
    if len({record.run for record in found}) > 1:
        raise SettingsError(
            f"{text} could be any of {len(found)} runs", f"such as {found[-1].run}: give it whole"
        )
    return found[-1]
