"""`stackroom migrate`: points from one Qdrant to another, compared before anybody is led there.

It runs on the operator's machine and moves into new collections only. What a run decided, and how
far it is, lies in a folder below .stackroom/migrations. Keys of servers named by URL come from the
variables STACKROOM_FROM_KEY and STACKROOM_TO_KEY. `cutover --undo` takes a switch back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ops import inventory
from ops.backup.source import Tell, silent
from ops.cli.common import Json, Yes, new_app, out, print_json, sure
from ops.cli.pace import watched
from ops.cli.place import Elsewhere
from ops.errors import SettingsError
from ops.migrate import cutover as switching
from ops.migrate import reindex
from ops.migrate import verify as comparing
from ops.migrate.load import WORKERS
from ops.migrate.places import Place, opened, place
from ops.migrate.plan import ModeWish, Plan, Wish, lines, make_plan
from ops.migrate.ranges import Range
from ops.migrate.report import Report
from ops.migrate.run import Job, carry_out
from ops.migrate.shelf import HostShelf
from ops.migrate.side import Side
from ops.migrate.state import BASE, Migration, Store, find, known

app = new_app("Moves collections from one Qdrant to another, and proves that nothing was lost.")

From = Annotated[
    str, typer.Option("--from", help="An environment, https://<host>:<port>, or a local folder.")
]
To = Annotated[
    str, typer.Option("--to", help="The same, without folders. Empty: the environment of -e.")
]
Names = Annotated[
    list[str] | None, typer.Option("--collection", help="Only this one; may be given again.")
]
NewName = Annotated[str, typer.Option("--as", help="The new collection's name.")]
Aliases = Annotated[
    list[str] | None, typer.Option("--alias", help="Lead this alias to it, at the cutover.")
]
ModeOption = Annotated[
    ModeWish,
    typer.Option(
        help="stream: any versions. snapshot: the same or the next minor. reindex: the api's files "
        "are copied, and its own index job makes the collections."
    ),
]
Still = Annotated[
    bool, typer.Option("--still", help="Nothing writes to the source: only count afterwards.")
]
Base = Annotated[Path, typer.Option("--state", help="Where migrations are remembered.")]
Workers = Annotated[int, typer.Option(min=1, max=16, help="Batches under way at once.")]
Id = Annotated[str, typer.Argument(help="The migration; empty: the newest.")]


@app.command()
def plan(
    context: typer.Context,
    source: From,
    to: To = "",
    collection: Names = None,
    new_name: NewName = "",
    alias: Aliases = None,
    mode: ModeOption = "auto",
    still: Still = False,
    json_output: Json = False,
) -> None:
    """Read both sides and say what would be moved, what would not, and what stands against it.

    Touches nothing. Exit code 0: it can be done, 2: it cannot, and why.
    """
    ends = _ends(context, source, to)
    wish = _wish(collection, new_name, alias, mode, still)
    with _planned(ends, wish) as (made, _, _):
        pass
    _show_plan(made, json_output=json_output)
    raise typer.Exit(2 if made.refusals else 0)


@app.command()
def run(
    context: typer.Context,
    source: From,
    to: To = "",
    collection: Names = None,
    new_name: NewName = "",
    alias: Aliases = None,
    mode: ModeOption = "auto",
    still: Still = False,
    workers: Workers = WORKERS,
    state: Base = BASE,
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Plan, ask, and move: into new collections, never over one that is there.

    Killed at any point, `migrate resume` goes on. No alias moves before `migrate cutover`.
    """
    ends = _ends(context, source, to)
    wish = _wish(collection, new_name, alias, mode, still)
    with _planned(ends, wish) as (made, one, other):
        if not json_output:
            _show_plan(made, json_output=False)
        migration = made.migration()
        what = f"Move {len(migration.moves)} collections"
        if migration.library:
            what = f"Copy {migration.library.files} files, and run the index job,"
        sure(f"{what} to {made.destination}?", yes=yes)
        store = Store(state / migration.id)
        store.create(migration)
        _carry_out(one, other, store, ends, workers, json_output=json_output)


@app.command()
def resume(
    migration_id: Id = "",
    workers: Workers = WORKERS,
    state: Base = BASE,
    json_output: Json = False,
) -> None:
    """Go on with a run that was killed, lost its network or was refused: from where it was."""
    store = find(state, migration_id)
    migration = store.load()
    ends = _remembered(migration)
    with _sides(ends, migration.mode) as (one, other):
        _carry_out(one, other, store, ends, workers, json_output=json_output)


@app.command()
def cutover(
    migration_id: Id = "",
    undo: Annotated[bool, typer.Option("--undo", help="Lead every alias back.")] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="It is right: there will be no undo.")
    ] = False,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="With --confirm: delete what they led to before.")
    ] = False,
    state: Base = BASE,
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Lead the aliases to the new collections, all at one moment. Pause what writes first.

    It moves the last differences, waits for the index and switches. The old collections stay.
    Undo: migrate cutover --undo, until --confirm.
    """
    if (undo and confirm) or (drop_old and not confirm):
        raise SettingsError("--undo and --confirm are two things; --drop-old goes with --confirm")
    store = find(state, migration_id)
    migration = store.load()
    ends = _remembered(migration)
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.held("cutover"))
        migration = store.load()
        target = stack.enter_context(opened(ends[1]))
        if undo or confirm:
            job = Job(target, target, store, migration)
            says = _undo(job, yes) if undo else _confirm(job, yes, drop_old=drop_old)
        elif migration.library:
            sure(f"Does nothing write to the files of {migration.source} now?", yes=yes)
            with watched(quiet=json_output) as tell:
                reindex.cut_over(_reindex(target, store, ends, tell))
            migration = store.load()
            says = f"cut over: {migration.destination} has every file, and its job has seen them"
        else:
            job = Job(stack.enter_context(opened(ends[0])), target, store, migration)
            led = ", ".join(each.alias for each in migration.switches) or "no alias"
            new = ", ".join(move.target for move in migration.moves)
            # which one, for a clock that was put back makes another the newest
            sure(
                f"{migration.id}: does nothing write to {migration.source} now, and nothing yet to "
                f"{new}? What only {new} holds is removed. It leads {led}.",
                yes=yes,
            )
            with watched(quiet=json_output) as job.tell:
                switching.cut_over(job)
            says = f"cut over: {led}; did nobody write? stackroom migrate verify {migration.id}"
            if migration.switches:
                says += f"; back: stackroom migrate cutover {migration.id} --undo"
    if json_output:
        print_json(_document(store, migration))
    else:
        out.print(says, markup=False)


@app.command()
def verify(
    context: typer.Context,
    migration_id: Id = "",
    source: Annotated[str, typer.Option("--from", help="Instead of a migration: one side.")] = "",
    to: Annotated[str, typer.Option("--to", help="The other; empty: the environment of -e.")] = "",
    collection: Names = None,
    new_name: NewName = "",
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only the content of so many points; every id.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which points a sample is made of.")] = 1,
    workers: Workers = WORKERS,
    state: Base = BASE,
    json_output: Json = False,
) -> None:
    """Compare what was moved: each id, vector and payload, settings, indexes and aliases.

    Only reads, and can be run at any time. Exit code 0: 0 differences, 2: some, 3: not known.
    """
    ranges: dict[str, list[Range]] = {}
    led: dict[str, str] = {}
    if source:
        ends = _ends(context, source, to)
        names = _pairs(collection, new_name)
        aliases = not new_name
    else:
        store = find(state, migration_id)
        migration = store.load()
        ends = _remembered(migration)
        if migration.library:
            with opened(ends[1]) as other:
                _report(reindex.verify(_reindex(other, store, ends)), json_output)
        names = {move.name: move.target for move in migration.moves}
        aliases = migration.phase in ("cut over", "confirmed")  # until then they lead elsewhere
        moved = {move.target: move.name for move in migration.moves}
        led = {each.alias: moved[each.target] for each in migration.switches}
        for number, move in enumerate(migration.moves):
            if kept := store.ranges(number):
                ranges[move.name] = kept
    wanted = comparing.Wish(sample=sample, seed=seed, aliases=aliases, led=led, workers=workers)
    with (
        opened(ends[0]) as one,
        opened(ends[1]) as other,
        watched(quiet=json_output) as tell,
    ):
        report = comparing.verify(one, other, names, wanted, ranges=ranges, tell=tell)
    _report(report, json_output)


def _report(report: Report | reindex.FilesReport, json_output: bool) -> NoReturn:
    if json_output:
        print_json(report.model_dump(mode="json"))
    else:
        out.print("\n".join(report.lines()), markup=False)
    raise typer.Exit(report.exit_code)


def _pairs(names: list[str] | None, new_name: str) -> dict[str, str] | None:
    if new_name and len(names or ()) != 1:
        raise SettingsError("--as names one collection", "--collection <the one>")
    return {name: new_name or name for name in names} if names else None


@app.command()
def status(migration_id: Id = "", state: Base = BASE, json_output: Json = False) -> None:
    """What is known of a migration, or of all of them, newest first. Asks no server."""
    stores = [find(state, migration_id)] if migration_id else known(state)[::-1]
    found = [(store, store.load()) for store in stores]
    if json_output:
        documents = [_document(store, migration) for store, migration in found]
        return print_json({"schema_version": 1, "migrations": documents})
    if not found:
        return out.print(f"no migration in {state}", markup=False)
    for store, migration in found:
        out.print(
            f"{migration.id}  {migration.phase}  {migration.source} to {migration.destination}",
            markup=False,
        )
        if library := migration.library:
            done = f"{library.put} put right, job tried {library.tries} times"
            out.print(f"  {library.files} files: {library.step}, {done}", markup=False)
        for number, move in enumerate(migration.moves):
            moved = store.checkpoint(number).moved
            left = "" if move.left is None else f", {move.left} differed in pass {move.passes}"
            words = f"  {move.name} as {move.target}: {move.step}, {moved} of {move.points} points"
            out.print(words + left, markup=False)
    return None


def _ends(context: typer.Context, source: str, to: str) -> tuple[Place, Place]:
    elsewhere: Elsewhere = context.obj
    to = to or elsewhere.environment
    if not to:
        raise SettingsError("where to?", "--to <environment, or https://<host>:<port>>")
    return place("from", source, elsewhere.inventory), place("to", to, elsewhere.inventory)


def _remembered(migration: Migration) -> tuple[Place, Place]:
    return (
        place("from", migration.source, inventory.INVENTORY),
        place("to", migration.destination, inventory.INVENTORY),
    )


def _wish(
    names: list[str] | None,
    new_name: str,
    aliases: list[str] | None,
    mode: ModeWish,
    still: bool,
) -> Wish:
    return Wish(tuple(names or ()), new_name, tuple(aliases or ()), mode, live=not still)


@contextlib.contextmanager
def _sides(ends: tuple[Place, Place], mode: str) -> Iterator[tuple[Side | None, Side]]:
    """Both, opened; the source's Qdrant only where points are read from it."""
    with contextlib.ExitStack() as stack:
        one = None if mode == "reindex" else stack.enter_context(opened(ends[0]))
        yield one, stack.enter_context(opened(ends[1]))


@contextlib.contextmanager
def _planned(
    ends: tuple[Place, Place], wish: Wish
) -> Iterator[tuple[Plan | reindex.FilesPlan, Side | None, Side]]:
    with _sides(ends, wish.mode) as (one, other):
        if one is None:
            shelves = reindex.shelf_of(ends[0]), reindex.shelf_of(ends[1])
            yield reindex.make_plan(shelves, other, ends, wish), one, other
            return
        made = make_plan(one, other, ends, wish)
        yield reindex.instead(made, ends, other, wish) or made, one, other


def _reindex(
    target: Side, store: Store, ends: tuple[Place, Place], tell: Tell = silent
) -> reindex.Reindex:
    source, host = (reindex.shelf_of(end) for end in ends)
    if source is None or not isinstance(host, HostShelf):
        raise SettingsError(f"{ends[0].text} or {ends[1].text} has no [api] any more")
    return reindex.Reindex(source, host, target, store, store.load(), tell)


def _show_plan(made: Plan | reindex.FilesPlan, *, json_output: bool) -> None:
    if json_output:
        print_json(made.to_json())
    else:
        told = made.lines() if isinstance(made, reindex.FilesPlan) else lines(made)
        out.print("\n".join(told), markup=False)


def _carry_out(
    source: Side | None,
    target: Side,
    store: Store,
    ends: tuple[Place, Place],
    workers: int,
    *,
    json_output: bool,
) -> None:
    with store.held("migrate"), watched(quiet=json_output) as tell:
        migration = store.load()  # as it is now that nobody else is at it
        if source is None or migration.library:
            reindex.carry_out(_reindex(target, store, ends, tell))
        else:
            carry_out(Job(source, target, store, migration, tell=tell, workers=workers))
    migration = store.load()
    if json_output:
        print_json(_document(store, migration))
        return
    points = sum(store.checkpoint(number).moved for number in range(len(migration.moves)))
    moved = f"{points} points moved; " if points else ""
    out.print(f"ready: {moved}stackroom migrate cutover {migration.id}", markup=False)


def _undo(job: Job, yes: bool) -> str:
    led = "Lead the aliases back? What was written to the new collections stays there."
    sure(f"{job.migration.id}: {led}", yes=yes)
    switching.undo(job)
    return "undone: every alias leads to where it led before"


def _confirm(job: Job, yes: bool, *, drop_old: bool) -> str:
    old = switching.old_collections(job) if drop_old else []
    extra = f" and delete {', '.join(old)} on {job.target.name}" if old else ""
    sure(f"{job.migration.id}: confirm{extra}? There is no undo behind it.", yes=yes)
    gone = switching.confirm(job, drop_old=drop_old)
    return f"confirmed{'; deleted ' + ', '.join(gone) if gone else ''}"


def _document(store: Store, migration: Migration) -> dict[str, object]:
    document = migration.model_dump(mode="json", exclude={"schema_version"})
    for number, move in enumerate(document["moves"]):
        move["moved"] = store.checkpoint(number).moved
    return {"schema_version": 1, "folder": str(store.folder)} | document
