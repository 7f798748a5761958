"""Keep the repositories sound and small: check what is stored, forget what is too old.

Prune removes backups for good; there is no undo. So it asks restic first what would go, compares
that with its own plan, and stops where a guard objects. What is proven newest and drilled stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ops.backup.job import SKEW, Clock, Job, Trigger, believable, carry_out, utc_now
from ops.backup.manifest import is_run
from ops.backup.records import Record, RepositoryResult, read_records
from ops.backup.retention import Kept, plan_removal
from ops.backup.source import Event, Tell, silent
from ops.backup.store import repositories
from ops.clients.restic import Restic, Snapshot
from ops.errors import BackupError, StackroomError
from ops.settings.host import Credentials, HostConfig

PARTS = 4  # weekly checks, a quarter each: every byte is read in 28 days
CHECK_DAYS = 8  # a check a week ago, and a day for a timer that was late
_NEVER = datetime.min.replace(tzinfo=UTC)


def check(
    config: HostConfig,
    credentials: Credentials,
    *,
    trigger: Trigger = "hand",
    tell: Tell = silent,
    full: bool = False,
    now: Clock = utc_now,
) -> Record:
    """Check each repository's structure and read a quarter of its data, or with `full` all.

    Which quarter follows the records: the one that was read longest ago. `details` is by
    repository {"subset": [k, n], "ok": bool, "error": str}. What could not be checked has failed.
    """

    def work(job: Job) -> Record:
        records = believable(read_records(config.base, "check"), now())

        def one(restic: Restic, seconds: float) -> dict[str, Any]:
            subset = (1, 1) if full else (_next_part(records, restic.name), PARTS)
            restic.open(create=False)
            restic.unlock()
            restic.check(subset, timeout=seconds)
            return {"subset": list(subset)}

        return _each(job, "check", one)

    return carry_out("check", config, credentials, work, trigger=trigger, tell=tell, now=now)


def _next_part(records: Sequence[Record], repository: str) -> int:
    """The part of PARTS that was read longest ago, or never, counted from 1."""
    read = dict.fromkeys(range(1, PARTS + 1), _NEVER)
    for record in records:
        found = record.details.get(repository, {})
        if not found.get("ok"):
            continue
        part, parts = found.get("subset", [0, 0])
        for number in read if parts == 1 else [part] if parts == PARTS else []:
            read[number] = max(read[number], record.started)
    return min(read, key=read.__getitem__)


def prune(
    config: HostConfig,
    credentials: Credentials,
    *,
    trigger: Trigger = "hand",
    tell: Tell = silent,
    dry_run: bool = False,
    now: Clock = utc_now,
) -> Record:
    """Forget what the windows of `config.keep` no longer hold, and free its space.

    Only where the newest backup is good and stored there, and the last check of the repository
    was good and is no older than 8 days; else nothing is removed and the record warns. With
    `dry_run` nothing is removed at all. `details` is by repository {"removed": [run ids], "kept":
    number, "note": str, "ok": bool, "error": str}; with `dry_run` "removed" is what would go.
    """

    def work(job: Job) -> Record:
        def one(restic: Restic, seconds: float) -> dict[str, Any]:
            repository = next(r for r in config.repositories if r.name == restic.name)
            if repository.append_only:
                return _left("append-only: its far side prunes")
            return _prune(job, restic, now(), seconds, dry_run=dry_run)

        return _each(job, "prune", one).model_copy(update={"dry_run": dry_run})

    return carry_out("prune", config, credentials, work, trigger=trigger, tell=tell, now=now)


def _prune(
    job: Job, restic: Restic, now: datetime, seconds: float, *, dry_run: bool
) -> dict[str, Any]:
    restic.open(create=False)
    if not dry_run:
        restic.unlock()
    records = read_records(job.config.base)
    history = join(restic.snapshots(), records, restic.name)
    ids = plan_removal(history, job.config.keep, now)
    guard(history, ids, job.config.keep.remove_at_most, now)
    told = {"removed": [k.run or k.id for k in history if k.id in ids], "kept": len(history)}
    objection = _objection(records, restic.name, now)
    if objection and ids:
        return told | {"removed": [], "note": f"nothing was removed: {objection}", "warn": True}
    if ids and set(would_go := restic.forget(ids, dry_run=True)) != set(ids):
        raise BackupError(
            f"restic would remove {len(would_go)} backups and the plan says {len(ids)}:"
            " nothing was removed",
            "stackroom backup list; stackroom backup check",
        )
    if dry_run or objection:
        return told
    if ids:
        restic.forget(ids, dry_run=False)
    restic.prune(timeout=seconds / 2)
    restic.check(None, timeout=seconds / 2)
    return told | {"kept": len(history) - len(ids)}


def join(snapshots: Sequence[Snapshot], records: Sequence[Record], repository: str) -> list[Kept]:
    """What restic has and what the records know of it.

    A snapshot whose record is of a run that did not go well is not good: it counts for nothing,
    and is not removed either. One without a record comes from a machine that is gone, or from
    long ago; it is whole, for only published backups are stored, and restic lists no half ones. It
    is never removed.
    """
    backups = {record.run: record for record in records if record.kind == "backup"}
    drilled = {r.subject for r in records if r.kind == "drill" and r.outcome == "ok"}
    return [
        Kept(
            id=snapshot.id,
            time=snapshot.time,
            run=snapshot.run,
            good=is_run(snapshot.run) and _is_good(backups.get(snapshot.run), repository, snapshot),
            drilled=snapshot.run in drilled,
            recorded=snapshot.run in backups,
        )
        for snapshot in snapshots
    ]


def _is_good(record: Record | None, repository: str, snapshot: Snapshot) -> bool:
    if record is None:
        return True
    stored = record.stored_in(repository)
    return record.good and stored is not None and stored.snapshot == snapshot.id


def guard(history: Sequence[Kept], ids: Sequence[str], cap: int, now: datetime) -> None:
    """The last word before a removal, whoever planned it. Raises BackupError."""
    going = set(ids)
    newest_first = sorted(history, key=lambda kept: kept.time, reverse=True)
    dated = [kept for kept in newest_first if kept.time <= now + SKEW]  # no clock that ran ahead
    protected = {
        "the newest": [*newest_first[:1], *dated[:1]],
        "the newest good": [kept for kept in dated if kept.good][:1],
        "the last drilled": [kept for kept in dated if kept.drilled][:1],
    }
    for what, found in protected.items():
        if any(kept.id in going for kept in found):
            raise BackupError(f"{what} backup would be removed: nothing was", "stackroom doctor")
    if any(kept.id in going and not kept.recorded for kept in history):
        raise BackupError(
            "a backup that this machine has no record of would be removed: nothing was",
            "stackroom backup list",
        )
    if len(going) > cap:
        raise BackupError(f"{len(going)} backups would be removed at once, {cap} at most may be")
    if going - {kept.id for kept in history}:
        raise BackupError("a backup would be removed that is not in the repository")


def _objection(records: Sequence[Record], repository: str, now: datetime) -> str:
    """Why this repository must not be pruned now; empty where it may."""
    seen = [r for r in believable(list(records), now) if r.outcome != "running"]
    checks = [r for r in seen if r.kind == "check" and repository in r.details]
    if not checks:
        return "it was never checked"
    if not checks[-1].details[repository].get("ok"):
        return "its last check has failed"
    if now - checks[-1].started > timedelta(days=CHECK_DAYS):
        return f"its last check is older than {CHECK_DAYS} days"
    backups = [r for r in seen if r.kind == "backup"]
    if not backups or not backups[-1].good or not backups[-1].stored_in(repository):
        return "the newest backup did not reach it"
    return ""


def unlock(config: HostConfig, credentials: Credentials) -> list[str]:
    """Remove stale locks, those whose holder is gone, from every repository; their names.

    Raises the first repository's StackroomError, once all were tried.
    """
    names, errors = [], []
    for restic in repositories(config, credentials):
        try:
            restic.open(create=False)
            restic.unlock()
            names.append(restic.name)
        except StackroomError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return names


def _left(note: str) -> dict[str, Any]:
    return {"removed": [], "note": note}


def _each(job: Job, doing: str, one: Callable[[Restic, float], dict[str, Any]]) -> Record:
    """`one` for every repository, with its seconds; what one fails never stops the others."""
    details: dict[str, dict[str, Any]] = {}
    results = []
    waiting = repositories(job.config, job.credentials)
    while waiting:
        restic = waiting.pop(0)
        job.tell(Event(f"{doing}:{restic.name}"))
        begun = time.monotonic()
        try:
            found = {"ok": True, "error": ""} | one(restic, job.share(len(waiting)))
        except StackroomError as error:
            found = {"ok": False, "error": error.message}
        details[restic.name] = found
        seconds = time.monotonic() - begun
        results.append(
            RepositoryResult(
                name=restic.name, ok=found["ok"], seconds=seconds, error=found["error"]
            )
        )
    wrong = [f"{name}: {found['error']}" for name, found in details.items() if not found["ok"]]
    warned = [f"{name}: {found['note']}" for name, found in details.items() if found.get("warn")]
    return job.record.model_copy(
        update={
            "outcome": "failed" if wrong else "warning" if warned else "ok",
            "error": "; ".join(wrong + warned),
            "details": details,
            "repositories": results,
        }
    )
