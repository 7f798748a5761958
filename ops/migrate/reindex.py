"""A knowledge base made anew on another machine: its files are copied, then the team's own api
indexes them there. For what no Qdrant can hand on: another model, other collections.

Nothing of the source is changed. Points, aliases and settings of its collections do not come along.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from ops.backup.source import Event, Tell, silent
from ops.errors import MissingToolError, StackroomError
from ops.migrate.copying import compare, copy, printable, refused
from ops.migrate.indexjob import LOST, IndexJob
from ops.migrate.load import Patience
from ops.migrate.places import Place
from ops.migrate.plan import Plan, Wish, counted, size
from ops.migrate.run import refuse_once_over
from ops.migrate.shelf import KINDS, FolderShelf, HostShelf, Listing, Shelf
from ops.migrate.side import MigrationError, Side
from ops.migrate.state import Library, Migration, Store, new_id

LISTED = 100
ROOM = 1.05  # of the files: folders and what a file system adds


@dataclass
class FilesPlan:
    """As Plan, for mode reindex. `files` and `bytes` by library, sessions and configs; `copy` and
    `there`: files that have to be copied, and that the target has already."""

    source: str
    destination: str
    why: str
    job: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    copy: int = 0
    there: int = 0
    collections: dict[str, int] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    needed: int = 0
    free: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": 1, "mode": "reindex"} | asdict(self)

    def migration(self) -> Migration:
        """Raises MigrationError with every refusal."""
        if self.refusals:
            raise MigrationError(f"nothing was touched: {'; '.join(self.refusals)}")
        library = Library(files=sum(self.files.values()), bytes=sum(self.bytes.values()))
        return Migration(
            id=new_id(),
            source=self.source,
            destination=self.destination,
            mode="reindex",
            created=datetime.now(UTC),
            moves=[],
            library=library,
        )

    def lines(self) -> list[str]:
        """For a person: what it comes to first."""
        files, total = sum(self.files.values()), size(sum(self.bytes.values()))
        reason = self.why if self.why == "as asked" else f"because {self.why}"
        verdict = "cannot be done" if self.refusals else f"reindex, {reason}"
        text = [
            f"{counted(files, 'file')}, {total}: {verdict}",
            f"  from  {self.source}",
            f"  to    {self.destination}",
        ]
        text += [
            f"  {kind}: {counted(self.files[kind], 'file')}, {size(self.bytes[kind])}"
            for kind in self.files
        ]
        if self.files:
            text.append(f"  to be copied: {self.copy}; there already: {self.there}")
        if self.job:
            text.append(f"  then the api's own job, as long as it takes: {' '.join(self.job)}")
        free = "unknown" if self.free is None else size(self.free)
        text.append(f"  disk for the files: needed {size(self.needed)}, free {free}")
        text += [f"  note: {note}" for note in self.notes]
        return text + [f"  refused: {refusal}" for refusal in self.refusals]


def shelf_of(where: Place) -> Shelf | None:
    """None where there are no files of an api."""
    if where.environment is not None:
        return HostShelf(where.environment) if where.environment.settings.api else None
    if where.kind == "folder":
        folder = FolderShelf(where.text)
        return folder if folder.exists() else None
    return None


def make_plan(
    shelves: tuple[Shelf | None, Shelf | None],
    side: Side,
    ends: tuple[Place, Place],
    wish: Wish,
    *,
    why: str = "as asked",
) -> FilesPlan:
    """Read both ends; nothing is written. Raises UnreachableError, ServiceError."""
    source, target = shelves
    plan = FilesPlan(ends[0].text, ends[1].text, why)
    if wish.names or wish.new_name or wish.aliases:
        plan.refusals.append(
            "mode reindex takes no --collection, --as and --alias: the job makes the collections"
        )
    if source is None:
        kinds = ", ".join(f"{kind}/" for kind in KINDS)
        plan.refusals.append(
            f"{ends[0].text} has no files of an api: name an environment with [api], or a folder "
            f"with {kinds}"
        )
    if not isinstance(target, HostShelf):
        plan.refusals.append(f"{ends[1].text} is no environment with an [api] to copy files to")
        return plan
    plan.job = _command(target)
    if not plan.job:
        plan.refusals.append(
            f"{target.environment.folder.name}/settings.toml names no index job: set [api] index, "
            'such as index = ["python", "-m", "library.index"]'
        )
    if source is not None:
        _read(plan, source, target)
    plan.collections = counts(side)
    _note(plan)
    return plan


def _read(plan: FilesPlan, source: Shelf, target: HostShelf) -> None:
    if source.name == target.name:
        plan.refusals.append("both ends are one environment")
        return
    try:
        for shelf in (source, target):
            if isinstance(shelf, HostShelf):
                shelf.ready(running=shelf is target)
    except MissingToolError as error:
        plan.refusals.append(f"{error.message} ({error.hint})")
        return
    here, there = source.entries(), target.entries()
    found = compare(here, there, {})
    for kind in KINDS:
        files = [each for path, each in _files(here).items() if path.startswith(f"{kind}/")]
        plan.files[kind] = len(files)
        plan.bytes[kind] = sum(each.size for each in files)
    plan.copy = sum(1 for path in found.copy if path in _files(here))
    plan.there = sum(1 for path, each in _files(here).items() if there.get(path) == each)
    plan.needed = round(sum(here[path].size for path in found.copy) * ROOM)
    plan.free = target.free_bytes()
    if plan.free < plan.needed:
        plan.refusals.append(
            f"{target.name} has {size(plan.free)} free, and {size(plan.needed)} are needed"
        )
    if found.taken:
        plan.refusals.append(refused(target.name, found.taken).message)
    if found.extra:
        only = counted(len(found.extra), "path")
        plan.notes.append(f"{only} of {target.name} alone stay, and are indexed with the rest")
    plan.notes += [f"{printable(path)} is no file, and is left out" for path in found.left_out]


def _note(plan: FilesPlan) -> None:
    held = ", ".join(f"{name} ({points})" for name, points in plan.collections.items())
    plan.notes += [
        "no point, alias or setting of the source's collections comes along: the job makes them",
        f"the job writes as it was made to; collections that are there: {held or 'none'}",
        "keys, tokens of developers, snapshots and logs stay where they are",
    ]


def instead(plan: Plan, ends: tuple[Place, Place], side: Side, wish: Wish) -> FilesPlan | None:
    """What `auto` comes to where points cannot be moved at all; None where this cannot either."""
    if wish.mode != "auto" or not plan.unmovable or wish.names or wish.new_name or wish.aliases:
        return None
    source, target = shelf_of(ends[0]), shelf_of(ends[1])
    if source is None or not isinstance(target, HostShelf) or not _command(target):
        return None
    why = f"nothing else works: {'; '.join(plan.unmovable)}"
    made = make_plan((source, target), side, ends, wish, why=why)
    return None if made.refusals else made


@dataclass
class Reindex:
    """One run: both ends, the target's Qdrant, the state, and who is told."""

    source: Shelf
    target: HostShelf
    side: Side
    store: Store
    migration: Migration
    tell: Tell = silent
    patience_seconds: float = 120.0
    job_folder: str = ""  # on the target

    @property
    def library(self) -> Library:
        assert self.migration.library is not None  # noqa: S101 - of this mode
        return self.migration.library

    def note(self) -> None:
        self.store.save(self.migration)

    def patience(self) -> Patience:
        return Patience(self.patience_seconds, tell=lambda why: self.tell(Event("wait", why)))


def carry_out(run: Reindex) -> None:
    """Copy what differs, and index where anything was copied, up to "ready". Run it again after any
    error or crash; on a migration that is ready it brings what has changed since.

    Raises StackroomError; MigrationError with the job's exit code where it failed.
    """
    refuse_once_over(run.migration)
    try:
        run.target.ready(running=True)
        _copy(run)
        _index(run)
    except StackroomError as error:
        again = f"stackroom migrate resume {run.migration.id}"
        error.hint = "; then ".join(filter(None, [error.hint, again]))
        raise
    run.migration.phase = "ready"
    run.note()


def cut_over(run: Reindex) -> None:
    """A last pass, and the job again where it found something. No alias is led anywhere."""
    if run.migration.phase != "ready":
        raise MigrationError(
            f"migration {run.migration.id} is {run.migration.phase}, not ready",
            f"stackroom migrate resume {run.migration.id}",
        )
    carry_out(run)
    run.migration.phase = "cut over"
    run.note()


def _copy(run: Reindex) -> None:
    def save(ours: dict[str, list[str]]) -> None:
        run.library.step = "copying"  # what a job has indexed before is not all any more
        run.note()
        run.store.save_files(ours)

    put = copy(
        run.source,
        run.target,
        run.store.files(),
        save,
        patience=run.patience(),
        tell=run.tell,
    )
    run.library.put += put


def _index(run: Reindex) -> None:
    library = run.library
    command = _command(run.target)
    if not command:
        raise MigrationError(f"{run.target.name} names no index job: set [api] index")
    folder = {"folder": run.job_folder} if run.job_folder else {}
    job = IndexJob(run.target, command, **folder)
    if library.step == "copying":
        if library.tries and run.patience().call(job.state, _id(run))[0] == "running":
            job.run(_id(run), patience=run.patience(), tell=run.tell)  # it has not seen all files
        library.before = library.before or counts(run.side)
        library.job, library.code = command, None
        library.tries += 1
        library.step = "indexing"
        run.note()
    if library.step == "indexing":
        library.code = job.run(_id(run), patience=run.patience(), tell=run.tell)
        if library.code:
            library.step = "copying"  # the next try is another job
            log = job.log(_id(run))
            run.note()
            ended = "was cut off" if library.code == LOST else f"ended with {library.code}"
            raise MigrationError(
                f"the index job on {run.target.name} {ended}: {job.said or 'it said nothing'}",
                f"its log there is {log}",
            )
        library.after = counts(run.side)
        library.step = "ready"
        run.note()


def _id(run: Reindex) -> str:
    return f"{run.migration.id}-{run.library.tries}"


def _command(target: HostShelf) -> list[str]:
    api = target.environment.settings.api
    return list(api.index) if api else []


def counts(side: Side) -> dict[str, int]:
    """Exact, of each collection."""
    return {name: side.count(name) for name in side.collections()}


def _files(listing: Listing) -> Listing:
    return {path: entry for path, entry in listing.items() if entry.kind == "file"}


class FilesReport(BaseModel):
    """What a comparison of files found, by their sha256. `extra`: what only the target has, which
    is no difference: its api lives there. The lists name the first ones."""

    schema_version: Literal[1] = 1
    mode: Literal["reindex"] = "reindex"
    source: str
    target: str
    outcome: Literal["same", "different", "unknown"]
    files: int = 0
    bytes: int = 0
    differences: int = 0
    missing: list[str] = []
    different: list[str] = []
    extra: int = 0
    job_code: int | None = None
    collections: dict[str, int] = {}
    unknown: str = ""
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        return {"same": 0, "different": 2, "unknown": 3}[self.outcome]

    def lines(self) -> list[str]:
        if self.outcome == "unknown":
            return [f"could not be verified: {self.unknown}"]
        files = f"{counted(self.files, 'file')}, {size(self.bytes)}"
        text = [f"{self.differences} differences in {files}, {self.source} and {self.target}"]
        text += [f"  missing: {path}" for path in self.missing]
        text += [f"  differs: {path}" for path in self.different]
        code = "has not ended well yet" if self.job_code != 0 else "ended with 0"
        held = ", ".join(f"{name}: {points} points" for name, points in self.collections.items())
        return [*text, f"  the index job {code}; {held or 'there is no collection'}"]


def verify(run: Reindex) -> FilesReport:
    """Compare every file, folder and link. Only reads."""
    began = time.monotonic()
    report = FilesReport(
        source=run.source.name,
        target=run.target.name,
        outcome="unknown",
        job_code=run.library.code,
    )
    try:
        there = run.patience().call(run.source.entries)
        here = run.patience().call(run.target.entries)
        report.collections = counts(run.side)
    except StackroomError as error:
        report.unknown = error.message
        return report
    found = compare(there, here, {})
    report.files = len(_files(there))
    report.bytes = sum(entry.size for entry in _files(there).values())
    report.differences = len(found.copy) + len(found.taken)
    report.missing = [printable(path) for path in found.copy[:LISTED]]
    report.different = [printable(path) for path in found.taken[:LISTED]]
    report.extra = len(found.extra)
    report.outcome = "different" if report.differences else "same"
    report.seconds = round(time.monotonic() - began, 3)
    return report
