"""Store a published backup in each repository, each with a result of its own. Removes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from ops.backup.job import Job, last_good
from ops.backup.records import Outcome, Record, RepositoryResult
from ops.backup.source import Event
from ops.clients.restic import Restic
from ops.errors import StackroomError
from ops.settings.host import Credentials, HostConfig

ANSWER_SECONDS = 60.0


def repositories(config: HostConfig, credentials: Credentials) -> list[Restic]:
    """A client for each repository, in order: the local one first. Touches nothing."""
    return [
        Restic(
            repository,
            credentials,
            host=config.environment,
            cache=config.base / "cache",
            timeout=ANSWER_SECONDS,
        )
        for repository in sorted(config.repositories, key=lambda found: found.name != "local")
    ]


def addresses(config: HostConfig) -> dict[str, str]:
    """Where each repository is, by name: part of a backup's record, for `is_new`."""
    return {repository.name: repository.url for repository in config.repositories}


def is_new(repository: str, config: HostConfig, records: Sequence[Record]) -> bool:
    """Whether nothing was ever stored at this address: only then it may be made.

    One that held backups and is gone, such as a disk that is not mounted, must not be replaced by
    an empty one that looks well.
    """
    url = addresses(config)[repository]
    return not any(
        record.stored_in(repository) and record.details.get("addresses", {}).get(repository) == url
        for record in records
    )


def store(job: Job, folder: Path, earlier: Sequence[Record]) -> list[RepositoryResult]:
    """Store `folder` in every repository. What one of them refuses never stops the others.

    `earlier` are the records of backups before this one.
    """
    waiting = repositories(job.config, job.credentials)
    results: list[RepositoryResult] = []
    while waiting:
        restic = waiting.pop(0)
        new = is_new(restic.name, job.config, earlier)
        results.append(_store_in(restic, job, folder, len(waiting), create=new))
        # whatever ends the run from here on, its record tells of this
        job.record = job.record.model_copy(update={"repositories": [*results]})
    return results


def _store_in(
    restic: Restic, job: Job, folder: Path, others: int, *, create: bool
) -> RepositoryResult:
    step = f"store:{restic.name}"
    job.tell(Event(step))
    try:
        restic.open(create=create)
        stored = restic.backup(
            folder,
            job.run,
            timeout=job.share(others),
            # also in the repository: a machine that is lost has lost its records too
            safety=job.record.details.get("safety") is True,
            on_bytes=lambda done, total: job.tell(Event(step, restic.name, done, total)),
        )
    except StackroomError as error:
        return RepositoryResult(name=restic.name, ok=False, error=error.message)
    return RepositoryResult(
        name=restic.name,
        ok=True,
        snapshot=stored.snapshot,
        added_bytes=stored.added_bytes,
        seconds=stored.seconds,
    )


def judge(
    results: Sequence[RepositoryResult], records: Sequence[Record], now: datetime, period: timedelta
) -> tuple[Outcome, int, str]:
    """Outcome, exit code and a sentence.

    A repository that failed beside a good one is a warning (1); it turns critical (2) once its
    last good backup, or else the first attempt at one, is older than two periods. `records` are
    those of earlier runs.
    """
    failed = [result for result in results if not result.ok]
    if not failed:
        return "ok", 0, ""
    sentence = "; ".join(f"{result.name} failed: {result.error}" for result in failed)
    if len(failed) == len(results):
        return "failed", 2, f"stored nowhere: {sentence}"
    since = [_since(list(records), result.name, now) for result in failed]
    overdue = [at for at in since if now - at > 2 * period]
    if overdue:
        days = (now - min(overdue)).total_seconds() / 86400
        return "warning", 2, f"{sentence}; without a good one for {days:.1f} days"
    return "warning", 1, sentence


def _since(records: list[Record], repository: str, now: datetime) -> datetime:
    """Since when this repository lacks a backup."""
    if good := last_good(records, repository, now):
        return good.started
    tried = [r.started for r in records if any(x.name == repository for x in r.repositories)]
    return min([*tried, now])
