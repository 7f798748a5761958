"""A whole stack back from a backup: rebuilt and compared in a scratch, then switched in.

It replaces what runs. A live service that holds data is refused without `replace`, and is backed
up first; where that fails nothing is touched, but for a service that does not answer any more: of
it no backup can be made, and its old data stay anyway. The cost is the pause between the stop and
the start of the services. The old data stay on the machine until `restore confirm`; the undo is
`restore undo`. What a deploy renders (folders that no container uses) is proven and left as it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ops.backup.job import Job, carry_out
from ops.backup.lock import hold
from ops.backup.manifest import Facts, FilesFacts, Manifest, PostgresFacts, QdrantFacts
from ops.backup.records import Record
from ops.backup.run import back_up
from ops.backup.source import Tell, silent
from ops.clients import docker
from ops.clients.docker import Scratch
from ops.errors import BackupError, StackroomError
from ops.restore import switch
from ops.restore.access import Access
from ops.restore.answers import readable
from ops.restore.evidence import Stopwatch, differences, note, note_choice
from ops.restore.fetch import LATEST, Chosen, Fetched, fetched, for_restore
from ops.restore.files import holds_files
from ops.restore.handover import Handover, PostgresHandover, RabbitmqHandover
from ops.restore.journal import CONFIRM, UNDO, Journal, pending, place
from ops.restore.live import MADE_BY_A_DEPLOY, Live, LiveQdrant, runs, somebodys, survey
from ops.restore.rehearsals import Rebuilt, clear, rehearse_all
from ops.restore.switch import confirm, undo
from ops.settings.host import (
    Credentials,
    FilesSource,
    HostConfig,
    PostgresSource,
    QdrantSource,
    RabbitmqSource,
)

__all__ = ["confirm", "restore_stack", "undo"]

# R2R keeps them among its data
_ACCOUNTS = "those of the backup: who was removed since is back until `stackroom -e {} deploy`"


def restore_stack(
    config: HostConfig,
    credentials: Credentials,
    *,
    source: str = "",
    run: str = LATEST,
    replace: bool = False,
    tell: Tell = silent,
) -> Record:
    """Restore the backup `run` out of `source` ("": any repository, local first).

    The record's subject is the backup; its details are a drill's, and {"safety": run of the
    safety backup or why there is none, "switched": [sources], "left": [sources], "kept": [folders
    with the old data]}. Raises BackupError for a target that is not empty, a latest backup that
    is, a version that cannot read the data, a failed comparison or a switch that was taken back;
    UnprovenError for what could not be rebuilt; LockedError.
    """
    with hold(config.base, "restore"):
        settled = switch.settle(config, credentials, tell)
        _refuse_unconfirmed(config)
        # before anything else is made: what cannot be chosen costs no safety backup
        chosen = for_restore(config, credentials, source, run)
        live = survey(config, credentials)
    _refuse_holding(live, replace=replace)
    safety = _safety_backup(config, credentials, live, tell)

    def work(job: Job) -> Record:
        note_choice(job, chosen)
        note(job, {"safety": safety} | ({"settled": settled} if settled else {}))
        return _work(job, chosen, replace=replace, named=run != LATEST)

    return carry_out("restore", config, credentials, work, tell=tell)


def _refuse_unconfirmed(config: HostConfig) -> None:
    if journal := pending(config):
        raise BackupError(
            f"the restore {journal.run} is not confirmed: what it replaced is still kept",
            f"{CONFIRM}  or  {UNDO}",
        )


def _refuse_holding(live: Sequence[Live], *, replace: bool) -> None:
    if not replace and (full := [found.holds for found in live if found.holds]):
        raise BackupError(
            f"the live stack is not empty: {'; '.join(full)}; nothing was touched",
            "with --replace it is backed up, replaced, and kept until you confirm",
        )


def _safety_backup(
    config: HostConfig, credentials: Credentials, live: Sequence[Live], tell: Tell
) -> str:
    if not any(found.holds for found in live):
        return "none: there was nothing to lose"
    try:
        return back_up(config, credentials, tell=tell, safety=True).run
    except StackroomError as error:
        silent_ones = [found.source.name for found in live if not found.answers]
        if silent_ones:
            return f"none: {', '.join(silent_ones)} did not answer: {error.message}"
        raise BackupError(
            f"the safety backup failed: {error.message}; nothing was touched",
            f"{error.hint or 'stackroom backup run'}; where the live service itself is broken,"
            " docker stop it and restore again: its data are kept",
        ) from None


def _work(job: Job, chosen: Chosen, *, replace: bool, named: bool) -> Record:
    begun = time.monotonic()
    clear(job.config)
    watch = Stopwatch(job.tell)
    with (
        fetched(job, chosen) as backup,
        Scratch("restore", owner=job.config.environment) as scratch,
    ):
        manifest = backup.manifest
        note(job, {"size": manifest.size()})
        # again, and now under the lock: whoever wrote in between is not overwritten unasked
        live = {found.source.name: found for found in survey(job.config, job.credentials)}
        _refuse_holding(list(live.values()), replace=replace)
        if not named:
            _refuse_empty(backup, live)
        _refuse_versions(manifest, live)
        rebuilt = rehearse_all(
            *(backup.folder, manifest, job.config, scratch, watch),
            images={name: found.image for name, found in live.items() if found.image},
            versions={name: found.version for name, found in live.items()},
        )
        comparisons = [comparison for source in rebuilt for comparison in source.comparisons]
        note(job, {"comparisons": [asdict(comparison) for comparison in comparisons]})
        if wrong := differences(comparisons):
            raise BackupError(
                f"the rebuilt data differ: {wrong}; nothing was touched",
                "--run <another>: stackroom backup list",
            )
        journal = _plan(job, manifest, rebuilt, live)
        switching = time.monotonic()
        told = switch.switch(job.config, job.credentials, journal, job.tell)
    done = time.monotonic()
    seconds = backup.seconds | watch.seconds()
    seconds |= {"switch": done - switching, "total": done - begun}
    switched = [found.source for found in journal.places]
    note(
        job,
        {
            "seconds": {step: round(value, 3) for step, value in seconds.items()},
            "rto_seconds": round(seconds["total"], 3),
            "switched": switched,
            "left": [name for name in manifest.sources if name not in switched],
            "kept": [str(found.old) for found in journal.places],
        },
    )
    if job.config.stack == "r2r":
        note(job, {"accounts": _ACCOUNTS.format(job.config.environment)})
    return job.record.model_copy(
        update={
            "outcome": "warning" if told else "ok",
            "error": told,
            "bytes": manifest.size(),
            "items": len(manifest.items),
        }
    )


def _refuse_empty(backup: Fetched, live: Mapping[str, Live]) -> None:
    """A backup of a stack that had lost its data is good as a backup, and seldom what is meant."""
    manifest = backup.manifest
    for name, facts in manifest.sources.items():
        if isinstance(facts, QdrantFacts):
            holds = any(max(collection.count) for collection in facts.collections)
        elif isinstance(facts, FilesFacts):
            # else a deploy renders it, or makes it
            taken = name in live and live[name].folder is not None and not _deployed(live[name])
            holds = taken and holds_files(backup.folder / facts.item, MADE_BY_A_DEPLOY)
        else:
            holds = isinstance(facts, PostgresFacts) and _holds_rows(name, facts, live)
        if holds:
            return
    raise BackupError(
        f"the backup {manifest.run} holds no point, no row and no file; nothing was touched",
        f"--run {manifest.run} restores it anyway; another one: stackroom backup list",
    )


def _deployed(found: Live) -> bool:
    return isinstance(found.source, FilesSource) and found.source.deployed


def _holds_rows(name: str, facts: PostgresFacts, live: Mapping[str, Live]) -> bool:
    source = live[name].source if name in live else None
    today = (
        source if isinstance(source, PostgresSource) else PostgresSource(name=name, container="")
    )
    return any(
        somebodys(today, [table for table, count in database.rows.items() if max(count)])
        for database in facts.databases
    )


def _refuse_versions(manifest: Manifest, live: Mapping[str, Live]) -> None:
    """A service that nobody reaches is judged by the rehearsal, which runs its image."""
    for name, facts in manifest.sources.items():
        there = live[name].version if name in live else ""
        if not there or not isinstance(facts, QdrantFacts | PostgresFacts):
            continue
        older = _major(there) < _major(facts.version)
        if older if isinstance(facts, PostgresFacts) else not readable(facts.version, there):
            raise BackupError(
                f"{name} {there} cannot read what {facts.version} gave out; nothing was touched",
                f"deploy the version of the backup first: stackroom backup show {manifest.run}",
            )


def _major(version: str) -> int:
    digits = version.split(".")[0].split(" ")[0]
    return int(digits) if digits.isdigit() else 0


def _plan(
    job: Job, manifest: Manifest, rebuilt: Sequence[Rebuilt], live: Mapping[str, Live]
) -> Journal:
    places, containers, qdrants, accesses, handovers = [], [], [], [], []
    for source in rebuilt:
        found = live.get(source.source)
        if found is None or found.folder is None:
            continue
        new = docker.mountpoint(source.volume)
        _assert_switchable(found, new)
        before = found.folder.stat()
        os.chown(new, before.st_uid, before.st_gid)
        new.chmod(before.st_mode & 0o7777)
        places.append(place(source.source, found.folder, new, job.run))
        containers += [name for name in found.containers if name not in containers]
        if isinstance(found.source, QdrantSource) and isinstance(source.facts, QdrantFacts):
            counts = {c.name: (min(c.count), max(c.count)) for c in source.facts.collections}
            url = found.source.url
            qdrants.append(LiveQdrant(url=url, counts=counts))
            own = found.containers[0]
            accesses.append(Access(source=source.source, container=own, url=url))
        if handover := _handover(found, source.facts):
            handovers.append(handover)
    containers = in_order(containers, job.config.start_order)
    if not places:
        raise BackupError(
            f"the backup {manifest.run} holds nothing that this stack could take",
            f"stackroom backup show {manifest.run}",
        )
    return Journal(
        run=job.run,
        backup=manifest.run,
        state="switching",
        places=places,
        containers=containers,
        ran=[name for name in containers if runs(name)],
        qdrants=qdrants,
        access=accesses,
        handovers=handovers,
    )


def in_order(containers: Sequence[str], order: Sequence[str]) -> list[str]:
    """Those that `order` names in that order, the others behind them as they come."""
    named = [name for name in order if name in containers]
    return [*named, *(name for name in containers if name not in named)]


def _handover(found: Live, facts: Facts) -> Handover | None:
    """What the service needs before others write to it."""
    if isinstance(found.source, PostgresSource) and isinstance(facts, PostgresFacts):
        return PostgresHandover(
            container=found.source.container,
            user=found.source.user,
            rows={
                database.name: {table: min(count) for table, count in database.rows.items()}
                for database in facts.databases
            },
            large_objects={each.name: min(each.large_objects) for each in facts.databases},
        )
    if isinstance(found.source, RabbitmqSource):
        return RabbitmqHandover(container=found.source.container)
    return None


def _assert_switchable(found: Live, new: Path) -> None:
    """A rename has to do: it is done at once, whatever the size, and can be taken back."""
    folder = found.folder
    assert folder is not None  # noqa: S101 - the caller's condition
    if folder.is_mount() or folder.parent.stat().st_dev != new.parent.stat().st_dev:
        raise BackupError(
            f"{found.source.name}: {folder} is on another file system than Docker's volumes,"
            " so it cannot be switched by a rename; nothing was touched",
            f"findmnt --target {folder}",
        )
