"""One collection back from a backup: under a new name on the live server, then an alias to it.

It never writes into a collection that exists, and deletes none but the one it has just made. What
it restores was verified and rebuilt in a scratch first. `replace` lets it move an alias that leads
elsewhere; what that led to stays. To undo it, lead the alias back, or delete the new collection.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ops.backup.job import Job, carry_out
from ops.backup.manifest import Facts, QdrantCollection
from ops.backup.records import Record
from ops.backup.source import Event, Tell, silent
from ops.clients import docker
from ops.clients.docker import Scratch
from ops.clients.rest import QdrantRest
from ops.clients.snapshots import Snapshots
from ops.errors import BackupError, SettingsError, StackroomError
from ops.restore import access, answers, switch, unfinished
from ops.restore.answers import Ask
from ops.restore.evidence import Stopwatch, differences, note, note_choice
from ops.restore.fetch import LATEST, Fetched, fetched, for_restore, promised
from ops.restore.qdrant import patience
from ops.restore.rehearsal import Comparison
from ops.restore.rehearsals import clear, rehearse_all
from ops.restore.unfinished import Unfinished
from ops.settings.host import QDRANT_API_KEY, Credentials, HostConfig, QdrantSource


@dataclass(frozen=True)
class Wanted:
    """Which collection, under which new name ("": one with the run's date), behind which alias."""

    name: str
    new_name: str
    alias: str
    replace: bool


def restore_collection(
    config: HostConfig,
    credentials: Credentials,
    name: str,
    *,
    new_name: str = "",
    alias: str = "",
    source: str = "",
    run: str = LATEST,
    replace: bool = False,
    tell: Tell = silent,
) -> Record:
    """Restore the collection `name` of the backup `run` as `new_name`, <name>-restored-<date>.

    `alias`, where given, leads to it once it is right: at one moment, from wherever it led, which
    needs `replace`. The record's details are a drill's, and {"collection": the new name, "alias":
    str, "led_to": what the alias led to before}. Raises BackupError where a collection has the new
    name or the alias's, where the backup is not what was stored, or where what was restored
    differs: the new collection is then removed again; and for what says whose tokens are in force.
    Raises UnprovenError, LockedError.
    """
    wanted = Wanted(name, new_name, alias, replace)
    for each in (name, new_name, alias):
        access.refuse(each)

    def work(job: Job) -> Record:
        if settled := switch.settle(config, credentials, tell):
            note(job, {"settled": settled})
        clear(config)
        chosen = for_restore(config, credentials, source, run)
        note_choice(job, chosen)
        begun = time.monotonic()
        with fetched(job, chosen, collection=name) as backup:
            record = _work(job, backup, wanted)
        seconds = record.details["seconds"] | {"total": round(time.monotonic() - begun, 3)}
        return record.model_copy(update={"details": record.details | {"seconds": seconds}})

    return carry_out("restore", config, credentials, work, tell=tell)


def _work(job: Job, backup: Fetched, wanted: Wanted) -> Record:
    live = _live(job.config)
    source, facts, collection = promised(backup.manifest, wanted.name)
    item = backup.manifest.item(collection.item)
    target = wanted.new_name or f"{wanted.name}-restored-{backup.manifest.run[:8]}"
    with _asking(live, job.credentials) as rest:
        version = rest.version()
        if not answers.readable(facts.version, version):
            raise BackupError(
                f"Qdrant {version} cannot read what {facts.version} gave out; nothing was touched",
                f"deploy Qdrant {facts.version} first: qdrant.version in settings.toml",
            )
        left = _left(job, rest.request, target, collection)
        _refuse_target(rest.request, target, wanted, there=left is not None)
        watch = Stopwatch(job.tell)
        only = facts.model_copy(update={"collections": [collection], "aliases": {}})
        comparisons = _rehearse(job, backup, {source: only}, live, watch)
        note(job, {"comparisons": [asdict(comparison) for comparison in comparisons]})
        _refuse(comparisons, "nothing was touched")
        uploading = time.monotonic()
        if left is None:
            comparisons += _upload(job, backup, live, rest.request, collection, target)
        else:
            answers.wait_until_green(rest.request, target, seconds=patience(item.size))
            found = answers.compare_collection(rest.request, live.name, collection, target)
            unfinished.refuse(left, found)
            comparisons += found
        note(job, {"comparisons": [asdict(comparison) for comparison in comparisons]})
        led_to = answers.aliases(rest.request).get(wanted.alias, "")
        if wanted.alias:
            job.tell(Event("alias", wanted.alias))
            answers.point_aliases(rest.request, {wanted.alias: target})
        unfinished.end(job.config.base)
    steps = backup.seconds | watch.seconds() | {"upload": time.monotonic() - uploading}
    note(
        job,
        {
            "size": item.size,
            "seconds": {step: round(value, 3) for step, value in steps.items()},
            "collection": target,
            "alias": wanted.alias,
            "led_to": led_to,
        },
    )
    return job.record.model_copy(update={"outcome": "ok", "bytes": item.size, "items": 1})


def _live(config: HostConfig) -> QdrantSource:
    for source in config.sources:
        if isinstance(source, QdrantSource):
            return source
    raise SettingsError("this stack has no Qdrant", "stackroom restore run")


def _asking(live: QdrantSource, credentials: Credentials) -> QdrantRest:
    return QdrantRest(live.url, credentials.get(QDRANT_API_KEY))


def _upload(
    job: Job,
    backup: Fetched,
    live: QdrantSource,
    ask: Ask,
    collection: QdrantCollection,
    target: str,
) -> list[Comparison]:
    """Make the new collection, and hold it to what the backup promises."""
    item = backup.manifest.item(collection.item)
    making = Unfinished(backup=backup.manifest.run, collection=collection.name, target=target)
    unfinished.begin(job.config.base, making)
    with _unless_it_fails(ask, target, job.config.base):
        job.tell(Event("upload", target))
        with Snapshots(live.url, job.credentials.get(QDRANT_API_KEY)) as snapshots:
            snapshots.upload(
                target,
                backup.folder / item.path,
                checksum=item.sha256,
                timeout=min(patience(item.size), job.remaining()),
                on_bytes=lambda done, total: job.tell(Event("upload", target, done, total)),
            )
        answers.wait_until_green(ask, target, seconds=patience(item.size))
        job.tell(Event("verify", target))
        found = answers.compare_collection(ask, live.name, collection, target)
        # also where it differs: what was found is the evidence
        earlier = job.record.details.get("comparisons", [])
        note(job, {"comparisons": [*earlier, *(asdict(comparison) for comparison in found)]})
        _refuse(found, f"{target} is removed again")
    return found


def _left(job: Job, ask: Ask, target: str, collection: QdrantCollection) -> Unfinished | None:
    """What this very restore had made before it was killed; of others' it tells."""
    found = unfinished.left(job.config.base, ask)
    if found is None:
        return None
    if (found.backup, found.collection, found.target) != (
        *(job.record.subject, collection.name),
        target,
    ):
        remarks = [*job.record.details.get("remarks", []), found.told]
        note(job, {"remarks": remarks})
        return None
    if unfinished.clear(found, ask):
        note(job, {"cleared": f"{target}, which a killed restore had left empty"})
        return None
    note(job, {"taken_over": f"{target}, which a killed restore had made"})
    return found


def _refuse_target(ask: Ask, target: str, wanted: Wanted, *, there: bool) -> None:
    """An alias cannot take a collection's name, nor a collection an alias's or another's.

    `there`: this restore has made the collection already, before it was killed.
    """
    collections, aliases = answers.collections(ask), answers.aliases(ask)
    if (target in collections and not there) or target in aliases:
        what = "a collection" if target in collections else "an alias"
        raise BackupError(
            f"{what} is already called {target}, and is never overwritten",
            "--as <another name> --alias <the alias that your programs use>",
        )
    if wanted.alias in collections or wanted.alias == target:
        raise BackupError(
            f"a collection is called {wanted.alias}: an alias cannot take its name",
            "--alias <another>; your programs then use that",
        )
    led_to = aliases.get(wanted.alias, "")
    if led_to not in ("", target) and not wanted.replace:
        raise BackupError(
            f"the alias {wanted.alias} leads to {led_to}",
            f"with --replace it will lead to {target}; {led_to} stays",
        )


def _rehearse(
    job: Job, backup: Fetched, only: dict[str, Facts], live: QdrantSource, watch: Tell
) -> list[Comparison]:
    """In a scratch first, on the live server's version: a bad file has broken servers before."""
    found = docker.inspect("container", live.container)
    image = str(found["Config"]["Image"]) if found else live.image
    with Scratch("restore", owner=job.config.environment) as scratch:
        rebuilt = rehearse_all(
            backup.folder,
            backup.manifest.model_copy(update={"sources": only}),
            job.config,
            scratch,
            watch,
            images=dict.fromkeys(only, image),
        )
    return [comparison for source in rebuilt for comparison in source.comparisons]


def _refuse(comparisons: list[Comparison], consequence: str) -> None:
    if wrong := differences(comparisons):
        raise BackupError(
            f"what was restored differs: {wrong}; {consequence}",
            "--run <another>: stackroom backup list",
        )


@contextlib.contextmanager
def _unless_it_fails(ask: Ask, target: str, base: Path) -> Iterator[None]:
    """Remove the new collection again where anything goes wrong with it, a signal too."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(StackroomError):
            ask("DELETE", answers.path_of(target), None)
        left = False
        with contextlib.suppress(StackroomError):
            left = target in answers.collections(ask)
        if left and isinstance(error, StackroomError):
            raise type(error)(
                f"{error.message}; the half-made collection {target} is still there",
                f"delete it: DELETE {answers.path_of(target)}",
            ) from None
        if not left:
            unfinished.end(base)
        raise
