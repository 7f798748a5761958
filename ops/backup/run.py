"""A backup from its preflight to its record: collect, publish, store. Removes no backup."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from datetime import timedelta

from ops.backup import staging
from ops.backup.job import SKEW, Clock, Job, Trigger, carry_out, utc_now
from ops.backup.manifest import FilesFacts, Item, Manifest
from ops.backup.records import Record, read_records
from ops.backup.source import Event, Source, Tell, silent
from ops.backup.sources import sources
from ops.backup.store import addresses, is_new, judge, repositories, store
from ops.clients.docker import docker
from ops.clients.restic import Restic
from ops.errors import BackupError, ServiceError, SettingsError, StackroomError
from ops.settings.host import Credentials, HostConfig

# the largest source lies on the service's side once more while it is fetched, and some may grow
LARGEST_TIMES = 2.2
DOCKER_SECONDS = 10.0


def back_up(
    config: HostConfig,
    credentials: Credentials,
    *,
    trigger: Trigger = "hand",
    tell: Tell = silent,
    now: Clock = utc_now,
    safety: bool = False,
) -> Record:
    """Back every source up into every repository; the record says how it went.

    `tell` hears of each step before it is done: start, preflight, collect:<source>,
    publish:<sync|manifest|retire|replace|clear>, store:<repository>, record, done.
    `safety` marks the record, details["safety"], as made of what a restore is about to replace.
    Raises what `carry_out` does. Whatever fails, the last good backup stays as it was.
    """

    def work(job: Job) -> Record:
        if safety:
            job.record = job.record.model_copy(update={"details": {"safety": True}})
        return _work(job)

    return carry_out("backup", config, credentials, work, trigger=trigger, tell=tell, now=now)


def _work(job: Job) -> Record:
    base = job.config.base
    earlier = [record for record in read_records(base, "backup") if record.run != job.run]
    job.tell(Event("preflight"))
    staging.tidy(base)
    collectors = sources(job.config, job.credentials)
    remarks = _preflight(job, collectors, earlier)
    try:
        manifest = _collect(job, collectors)
        folder = staging.publish(base, manifest, job.tell)
    finally:
        staging.tidy(base)
    if found := remarks_on(manifest):
        details = job.record.details | {"remarks": found}
        job.record = job.record.model_copy(update={"details": details})
    results = store(job, folder, earlier)
    period = timedelta(hours=job.config.period_hours)
    outcome, code, sentence = judge(results, earlier, job.now(), period)
    if remarks and outcome == "ok":
        outcome, code = "warning", 1
    return job.record.model_copy(
        update={
            "outcome": outcome,
            "exit_code": code,
            "error": "; ".join([*filter(None, [sentence]), *remarks]),
            "bytes": manifest.size(),
            "items": len(manifest.items),
            "repositories": results,
            "details": job.record.details | {"addresses": addresses(job.config)},
        }
    )


def _preflight(job: Job, collectors: Sequence[Source], earlier: Sequence[Record]) -> list[str]:
    """What is worth a warning. Raises StackroomError for what makes the run pointless."""
    if not collectors:
        raise SettingsError("there is nothing to back up", "stackroom -e <env> deploy")
    _assert_room(job, collectors)
    return _clock_remarks(job, earlier, _first_open(job, earlier))


def _first_open(job: Job, earlier: Sequence[Record]) -> Restic:
    """The first repository that can be opened. Raises the first one's error where none can.

    The others show when it is their turn: whether they take the backup is their own result.
    """
    errors: list[StackroomError] = []
    for restic in repositories(job.config, job.credentials):
        try:
            restic.version()
            restic.open(create=is_new(restic.name, job.config, earlier))
        except StackroomError as error:
            errors.append(error)
        else:
            return restic
    raise errors[0] if errors else SettingsError("no repository is configured")


def _assert_room(job: Job, collectors: Sequence[Source]) -> None:
    """Ask every source how much it will be; that asserts that it is there, and its credential."""
    sizes = {source.name: source.expected_bytes() for source in collectors}
    largest = max(sizes, key=sizes.__getitem__)
    needed = int(LARGEST_TIMES * sizes[largest]) + sum(sizes.values()) - sizes[largest]
    free = shutil.disk_usage(job.config.base).free
    if free < needed:
        raise ServiceError(
            f"{job.config.base} has {_gigabytes(free)} free and the backup needs"
            f" {_gigabytes(needed)}; the largest source is {largest}",
            f"df -h {job.config.base}; stackroom snapshot list",
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _clock_remarks(job: Job, earlier: Sequence[Record], restic: Restic) -> list[str]:
    """A clock that ran ahead once, or lags now, spoils ages; the data are backed up anyway."""
    times = [record.started for record in earlier]
    with contextlib.suppress(StackroomError):  # its own result will say so
        times += [snapshot.time for snapshot in restic.snapshots()]
    newest = max(times, default=job.now())
    if job.now() >= newest - SKEW:
        return []
    said, dated = f"{job.now():%Y-%m-%d %H:%M}", f"{newest:%Y-%m-%d %H:%M}"
    return [f"the clock says {said} and the newest backup is of {dated}: one of the two is wrong"]


def _collect(job: Job, collectors: Sequence[Source]) -> Manifest:
    """Every source into the run's own folder; the manifest of it, not yet written."""
    partial = staging.make(job.config.base, job.run)
    items: list[Item] = []
    facts = {}
    for source in collectors:
        job.tell(Event(f"collect:{source.name}"))
        if source.name in facts:
            raise BackupError(f"two sources are called {source.name}")
        collected = source.collect(partial, job.tell)
        items += collected.items
        facts[source.name] = collected.facts
    return Manifest(
        run=job.run,
        environment=job.config.environment,
        stack=job.config.stack,
        stackroom=job.config.stackroom,
        started=job.record.started,
        published=job.now(),
        tools=_tools(job),
        items=items,
        sources=facts,
    )


def remarks_on(manifest: Manifest) -> list[str]:
    """What a record says of a good backup. Logs shrink when they are rotated: no warning."""
    return [
        f"{name}: shrank while it was read and ends in zeros: {', '.join(facts.shrunk)}"
        for name, facts in manifest.sources.items()
        if isinstance(facts, FilesFacts) and facts.shrunk
    ]


def _tools(job: Job) -> dict[str, str]:
    tools = {"restic": repositories(job.config, job.credentials)[0].version()}
    try:
        found = docker("version", "--format", "{{.Server.Version}}", timeout=DOCKER_SECONDS)
    except StackroomError:
        return tools  # a stack of files alone needs no Docker
    return tools | {"docker": found.strip()}
