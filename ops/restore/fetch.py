"""A backup out of a repository, into the scratch folder, and no further until it is verified.

What is truncated, altered, incomplete or of a newer schema is refused and removed.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ops.backup.job import SKEW, Job
from ops.backup.manifest import (
    FILE_NAME,
    Manifest,
    QdrantCollection,
    QdrantFacts,
    is_run,
    read_manifest,
    sha256_of,
    verify_items,
)
from ops.backup.records import Record, read_records
from ops.backup.source import Event
from ops.backup.store import repositories
from ops.clients.docker import docker
from ops.clients.restic import Restic, Snapshot
from ops.errors import BackupError, SettingsError, StackroomError, UnprovenError
from ops.restore.rehearsals import scratch_folder
from ops.settings.host import Credentials, HostConfig
from ops.settings.people import ACCESS_COLLECTION

LATEST = "latest"
SPARE = 64 * 1024**2  # bytes: what a file system needs besides the data


@dataclass(frozen=True)
class Chosen:
    """A backup, and the repository it comes from; `remarks` on what could not be asked."""

    repository: Restic
    snapshot: Snapshot
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fetched:
    """A verified backup below the scratch folder. `seconds` by step: fetch, verify.

    The manifest promises nothing of the access points, whoever has backed them up.
    """

    folder: Path
    manifest: Manifest
    seconds: dict[str, float]


def for_drill(config: HostConfig, credentials: Credentials, source: str, run: str) -> Chosen:
    """The backup that a drill is about, in the repository `source`.

    Raises UnprovenError where the repository cannot be asked, or has no such backup.
    """
    try:
        return choose(config, credentials, [source], run)
    except StackroomError as error:
        raise UnprovenError(error.message, error.hint) from None


def longest_ago(config: HostConfig, records: Sequence[Record]) -> str:
    """The repository that was drilled longest ago. A drill that failed had its turn too: else
    one repository that cannot be reached would keep the others from ever being drilled."""
    turns = {
        repository.name: datetime.min.replace(tzinfo=UTC) for repository in config.repositories
    }
    for record in records:
        name = record.details.get("repository")
        if record.kind == "drill" and name in turns:
            turns[name] = max(turns[name], record.started)
    if not turns:
        raise SettingsError("no repository is configured", "stackroom -e <env> deploy")
    return min(turns, key=turns.__getitem__)


def for_restore(config: HostConfig, credentials: Credentials, source: str, run: str) -> Chosen:
    """The backup to restore, out of `source`, or out of any repository that has it, local first.

    The latest is never one of what an earlier restore was about to replace: those are restored
    by their name. Raises BackupError where none has it, UnreachableError or ServiceError where
    the only one that was named cannot be asked.
    """
    names = [source] if source else [repository.name for repository in config.repositories]
    unwanted = safety_runs(read_records(config.base))
    return choose(config, credentials, names, run, unwanted=unwanted, safety=False)


def safety_runs(records: Sequence[Record]) -> set[str]:
    """The backups that restores made of what they were about to replace, however they ended.

    Their own record says so, also where the restore was killed before it had one. Those that a tag
    marks in the repository need none.
    """
    marked = {r.run for r in records if r.kind == "backup" and r.details.get("safety") is True}
    named = {str(r.details.get("safety", "")) for r in records if r.kind == "restore"}
    return marked | {run for run in named if is_run(run)}


def choose(
    config: HostConfig,
    credentials: Credentials,
    names: Sequence[str],
    run: str,
    *,
    unwanted: Collection[str] = (),
    safety: bool = True,
) -> Chosen:
    """The run out of the first of these repositories that has it.

    `latest` is the newest good one in all that answer, but for those `unwanted`, and for safety
    backups where `safety` is false; the others are told of in the remarks.
    """
    if run != LATEST and not is_run(run):
        raise SettingsError(f"{run!r} is no run of a backup", "stackroom backup list")
    there = [restic for restic in repositories(config, credentials) if restic.name in names]
    if not there:
        raise SettingsError(
            f"no repository {' or '.join(names)} is configured", "stackroom backup list"
        )
    records, now = read_records(config.base, "backup"), datetime.now(UTC)
    asked: list[tuple[Restic, list[Snapshot]]] = []
    errors: dict[str, StackroomError] = {}
    for restic in there:
        try:
            restic.open(create=False)
            asked.append((restic, restic.snapshots()))
        except StackroomError as error:
            errors[restic.name] = error
            continue
        if run != LATEST and pick(asked[-1][1], records, run, now):
            break  # it is found; the others need not be waited for
    named = run != LATEST
    everywhere = [s for _, found in asked for s in found if safety or named or not s.safety]
    if best := pick(everywhere, records, run, now, unwanted):
        for restic, found in asked:
            if snapshot := pick(found, records, best.run, now):
                return Chosen(restic, snapshot, _unasked(errors) if run == LATEST else [])
    if errors:
        raise next(iter(errors.values()))
    what = "no good backup" if run == LATEST else f"no backup {run}"
    raise BackupError(
        f"there is {what} in {' or '.join(restic.name for restic in there)}",
        "stackroom backup list",
    )


def _unasked(errors: Mapping[str, StackroomError]) -> list[str]:
    return [
        f"{name} could not be asked whether it has a newer backup: {error.message}"
        for name, error in errors.items()
    ]


def pick(
    snapshots: Sequence[Snapshot],
    records: Sequence[Record],
    run: str,
    now: datetime,
    unwanted: Collection[str] = (),
) -> Snapshot | None:
    """The snapshot of `run`, or the newest that is wanted and whose record says nothing bad of it.

    One without a record may come from a machine that is gone. One from the future comes from a
    clock that ran ahead: it is the latest only where there is no other.
    """
    if run != LATEST:
        return next((s for s in reversed(snapshots) if s.run == run), None)
    refused = {record.run for record in records if not record.good} | set(unwanted)
    good = [s for s in snapshots if is_run(s.run) and s.run not in refused]
    believed = [s for s in good if s.time <= now + SKEW]
    return max(believed or good, key=lambda s: s.time, default=None)


@contextlib.contextmanager
def fetched(job: Job, chosen: Chosen, *, collection: str = "") -> Iterator[Fetched]:
    """Fetch and verify; the folder is removed with the block, and where anything fails.

    With `collection` only its snapshot is fetched, and nothing else can be said of the backup.
    Raises BackupError for a backup that is not what was stored, UnprovenError where it could not
    be fetched: no space, no answer.
    """
    folder = scratch_folder(job.config) / chosen.snapshot.run
    folder.mkdir(parents=True, mode=0o700)
    try:
        yield _fetch(job, chosen, folder, collection)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(job: Job, chosen: Chosen, folder: Path, collection: str) -> Fetched:
    job.tell(Event("fetch"))
    begun = time.monotonic()
    # first what it is and how large: a newer schema or a full disk is known in a moment
    _restore(job, chosen, folder, [FILE_NAME])
    manifest = read_manifest(folder)
    if manifest.run != chosen.snapshot.run:
        raise BackupError(
            f"the snapshot {chosen.snapshot.id[:8]} says it is {chosen.snapshot.run} and holds"
            f" {manifest.run}",
            "stackroom backup check",
        )
    paths = [promised(manifest, collection)[2].item] if collection else []
    size = sum(manifest.item(path).size for path in paths) or manifest.size()
    assert_room(folder, size)
    _restore(job, chosen, folder, paths, size)
    verifying = time.monotonic()
    job.tell(Event("verify"))
    if paths:
        _verify(folder, manifest, paths)
    else:
        verify_items(folder, manifest)
    done = time.monotonic()
    seconds = {"fetch": verifying - begun, "verify": done - verifying}
    return Fetched(folder, without_access(manifest), seconds)


def without_access(manifest: Manifest) -> Manifest:
    """The manifest less what no restore brings back: who may come in is no matter of a backup."""
    sources = {
        name: facts.model_copy(
            update={
                "collections": [c for c in facts.collections if c.name != ACCESS_COLLECTION],
                "aliases": {a: c for a, c in facts.aliases.items() if c != ACCESS_COLLECTION},
            }
        )
        if isinstance(facts, QdrantFacts)
        else facts
        for name, facts in manifest.sources.items()
    }
    return manifest.model_copy(update={"sources": sources})


def _restore(job: Job, chosen: Chosen, folder: Path, include: Sequence[str], size: int = 0) -> None:
    def on_bytes(done: int, total: int) -> None:
        job.tell(Event("fetch", chosen.repository.name, done, total or size))

    what = f"{chosen.snapshot.run} in the repository {chosen.repository.name}"
    try:
        chosen.repository.restore(
            chosen.snapshot.id,
            folder,
            include=include,
            timeout=job.remaining(),
            on_bytes=on_bytes,
            more=True,
        )
    except BackupError:
        raise  # what is stored is damaged
    except StackroomError as error:
        raise UnprovenError(f"{what} was not fetched: {error.message}", error.hint) from None


def promised(manifest: Manifest, name: str) -> tuple[str, QdrantFacts, QdrantCollection]:
    """What a manifest says of a collection: its source, that one's facts, and its own.

    Raises BackupError where the backup has no such collection.
    """
    for source, facts in manifest.sources.items():
        if isinstance(facts, QdrantFacts):
            for collection in facts.collections:
                if collection.name == name:
                    return source, facts, collection
    raise BackupError(
        f"the backup {manifest.run} has no collection {name}",
        f"stackroom backup show {manifest.run}",
    )


def _verify(folder: Path, manifest: Manifest, paths: Sequence[str]) -> None:
    for path in paths:
        item, file = manifest.item(path), folder / path
        if not file.is_file() or file.stat().st_size != item.size or sha256_of(file) != item.sha256:
            raise BackupError(
                f"{path} of {manifest.run} is not what was backed up", "stackroom backup check"
            )


def assert_room(folder: Path, size: int) -> None:
    """Room for the files, and for the data that are built of them where Docker keeps its own.

    Raises UnprovenError.
    """
    engine = Path(docker("info", "--format", "{{.DockerRootDir}}").strip())
    apart = engine.stat().st_dev != folder.stat().st_dev
    for path, needed in (
        (folder, size if apart else 2 * size),
        *([(engine, size)] if apart else []),
    ):
        free = shutil.disk_usage(path).free
        if free < needed + SPARE:
            raise UnprovenError(
                f"{path} has {free // 1024**2} MiB free; {(needed + SPARE) // 1024**2} are needed",
                f"df -h {path}",
            )
