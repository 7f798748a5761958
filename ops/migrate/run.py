"""A migration carried out, from wherever it stands: made, loaded, caught up, given its index.

Every step is noted before the next begins and may be done twice, so a kill at any point costs
nothing but the time to do the last moment again. Nothing here writes to the source, but for a
snapshot that is taken away again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ops.backup.source import Event, Tell, silent
from ops.errors import StackroomError
from ops.migrate import target as making
from ops.migrate.load import WORKERS, Patience, load
from ops.migrate.passes import one_pass
from ops.migrate.ranges import Range, size_for, split
from ops.migrate.side import CollectionInfo, MigrationError, Side
from ops.migrate.snapshot import carry
from ops.migrate.state import Migration, Move, Saver, Store

MOST_PASSES = 10
SMALL = 100  # differences that a last pass, with writes paused, catches in moments
GREEN_SECONDS = 3600.0


@dataclass
class Job:
    """One run of a migration: both ends, its state, and who is told."""

    source: Side
    target: Side
    store: Store
    migration: Migration
    tell: Tell = silent
    workers: int = WORKERS
    patience_seconds: float = 120.0
    waits: list[str] = field(default_factory=list)

    def note(self) -> None:
        self.store.save(self.migration)

    def patience(self, item: str) -> Patience:
        def waits(why: str) -> None:
            self.tell(Event("wait", f"{item}: {why}"))

        return Patience(self.patience_seconds, tell=waits)


def carry_out(job: Job) -> None:
    """Do what is left of the migration, up to "ready". Raises StackroomError; run it again then.

    Refuses one that was cut over: programs may have written to the target since.
    """
    migration = job.migration
    refuse_once_over(migration)
    for number, move in enumerate(migration.moves):
        with _named(move, migration.id):
            _move(job, number, move)
    migration.phase = "ready"
    job.note()


def refuse_once_over(migration: Migration) -> None:
    if migration.phase not in ("running", "ready"):
        raise MigrationError(
            f"migration {migration.id} is {migration.phase}: moving its points again would undo "
            "what was written since",
            "stackroom migrate plan ... for another one",
        )


def _move(job: Job, number: int, move: Move) -> None:
    # cut up only once per run: what a collection is does not change, only its points do
    info = job.source.info(move.name)
    if move.step in ("planned", "creating"):
        again = move.step == "creating"
        _step(job, move, "creating")
        if job.migration.mode == "snapshot":
            carry(job.source, job.target, job.store, job.migration, move, tell=job.tell)
            _step(job, move, "settling")
        else:
            job.tell(Event("create", move.target))
            move.deferred = making.create(job.target, move.target, info, again=again)
            _step(job, move, "loading")
    if move.step == "loading":
        making.defer(job.target, move.target)
        _load(job, number, move)
        _step(job, move, "settling")
    if move.step == "settling":
        _settle(job, number, move, info)
        _step(job, move, "finishing")
    if move.step == "finishing":
        if move.deferred:
            making.restore(job.target, move.target, move.deferred)
        _step(job, move, "ready")


def _load(job: Job, number: int, move: Move) -> None:
    ranges = cut(job, number, move)
    checkpoint = job.store.checkpoint(number)
    total = sum(each.points for each in ranges)
    tell = _progress(job, "load", move, min(checkpoint.moved, total), total)
    load(
        job.source,
        job.target,
        (move.name, move.target),
        checkpoint.left(ranges),
        Saver(job.store, number, checkpoint),
        patience=job.patience(move.target),
        on_points=tell,
        workers=job.workers,
    )


def cut(job: Job, number: int, move: Move) -> list[Range]:
    """The ranges of a collection: as they are kept, or cut now and kept from now on."""
    ranges = job.store.ranges(number)
    if ranges is None:
        job.tell(Event("ranges", move.name))
        ranges = split(job.source.ids(move.name), size_for(job.source.count(move.name)))
        job.store.save_ranges(number, ranges)
    return ranges


def _settle(job: Job, number: int, move: Move, info: CollectionInfo) -> None:
    """Passes until few points differ; none for a source that stands still and counts the same."""
    if not job.migration.live and job.source.count(move.name) == job.target.count(move.target):
        move.left = None  # not looked for
        return
    before = None
    while move.left is None or move.left > SMALL:
        if move.passes >= MOST_PASSES or (before is not None and (move.left or 0) >= before):
            break  # it changes as fast as it is caught up with: only a pause of writes helps
        before = move.left
        move.left = catch_up(job, number, move, info)
        move.passes += 1
        job.note()


def catch_up(job: Job, number: int, move: Move, info: CollectionInfo) -> int:
    """One pass; how many points differed and were put right. Raises MigrationError before it
    would take most of the points away: then the source has lost them, and this is the only copy."""
    patience = job.patience(move.target)
    here = patience.call(job.source.count, move.name)
    there = patience.call(job.target.count, move.target)
    if here < there and (not here or there - here > max(SMALL, there // 2)):
        raise MigrationError(
            f"the source has {here} points and {move.target} {there}: nothing was removed from it",
            "look why; where it is meant, make another migration",
        )
    tell = _progress(job, f"pass {move.passes + 1}", move, 0, info.points)
    put = one_pass(
        job.source,
        job.target,
        (move.name, move.target),
        cut(job, number, move),
        info.vectors,
        patience=patience,
        on_points=tell,
        workers=job.workers,
    )
    return put.differences


def _progress(job: Job, step: str, move: Move, done: int, total: int) -> Callable[[int], None]:
    item = move.target if move.name == move.target else f"{move.name} as {move.target}"
    so_far = done
    job.tell(Event(step, item, so_far, total))

    def on_points(points: int) -> None:
        nonlocal so_far
        so_far += points
        job.tell(Event(step, item, min(so_far, total), total))

    return on_points


def _step(job: Job, move: Move, step: str) -> None:
    move.step = step  # type: ignore[assignment]
    job.note()


@contextmanager
def _named(move: Move, migration: str) -> Iterator[None]:
    """An error says which collection it is about, and that nothing is lost."""
    try:
        yield
    except StackroomError as error:
        error.message = f"{move.name}: {error.message}"
        error.hint = "; then ".join(
            filter(None, [error.hint, f"stackroom migrate resume {migration}"])
        )
        raise
