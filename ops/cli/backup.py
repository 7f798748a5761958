"""`backup run|list|show|check|prune|unlock`: thin verbs over the backup room."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer

from ops.backup.history import find, rows
from ops.backup.records import Record, read_records
from ops.backup.run import back_up
from ops.backup.show import LIMIT, list_json, show_list, show_record
from ops.backup.store import is_new, repositories
from ops.backup.upkeep import check as check_repositories
from ops.backup.upkeep import prune as prune_repositories
from ops.backup.upkeep import unlock as unlock_repositories
from ops.cli.common import Json, Yes, err, new_app, out, print_json, sure
from ops.cli.place import Here, on_host
from ops.cli.progress import telling
from ops.cli.runs import Timer, carried_out
from ops.clients.restic import NoRepositoryError, Restic, Snapshot
from ops.errors import StackroomError
from ops.settings.host import Repository

app = new_app("Proven copies of the data: make, list, check and thin them out.")
REACH_SECONDS = 18.0  # the doctor waits for 24


@app.command()
def run(context: typer.Context, json_output: Json = False, timer: Timer = False) -> None:
    """Back everything up now, into every repository.

    Exit code 0 ok, 1 warning (a repository failed, another has it), 2 failed.
    """
    here = on_host(context)
    carried_out(
        here,
        "backup",
        lambda trigger, tell: back_up(here.config, here.credentials, trigger=trigger, tell=tell),
        timer=timer,
        json_output=json_output,
    )


@app.command("list")
def list_(
    context: typer.Context,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask the repositories what they hold by now.")
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="Not only the newest.")] = False,
    json_output: Json = False,
) -> None:
    """The history: when, size, seconds, where it is, verified and drilled. Newest first.

    A machine that has no records, a new one say, asks its repositories in any case.
    """
    here = on_host(context)
    records = read_records(here.config.base)
    known = any(record.kind == "backup" for record in records)
    found = rows(records, _held(here) if ask or not known else None)
    if json_output:
        return print_json(list_json(found))
    return show_list(found, out, limit=None if all_ else LIMIT)


def _held(here: Here) -> dict[str, list[Snapshot]]:
    """What each repository holds; one that does not answer is said and left out."""
    held = {}
    for restic in repositories(here.config, here.credentials):
        try:
            restic.open(create=False)
            held[restic.name] = restic.snapshots()
        except StackroomError as error:
            err.print(f"stackroom: {restic.name}: {error.message}", markup=False)
    return held


@app.command()
def show(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(help='A run, as `backup list` shows it, or "latest".')
    ] = "latest",
    json_output: Json = False,
) -> None:
    """One run in full: of a backup, a check, a prune, a drill or a restore."""
    here = on_host(context)
    record = find(read_records(here.config.base), run)
    if json_output:
        return print_json(record.model_dump(mode="json"))
    return show_record(record, out)


@app.command()
def check(
    context: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Read every byte, not a part.")] = False,
    json_output: Json = False,
    timer: Timer = False,
) -> None:
    """Check every repository: its structure, and a part of the data that differs each week."""
    here = on_host(context)
    carried_out(
        here,
        "check",
        lambda trigger, tell: check_repositories(
            here.config, here.credentials, trigger=trigger, tell=tell, full=full
        ),
        timer=timer,
        json_output=json_output,
    )


@app.command()
def prune(
    context: typer.Context,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show only.")] = False,
    json_output: Json = False,
    timer: Timer = False,
) -> None:
    """Remove the backups that no window of backup.keep holds any more. There is no undo.

    The newest backup and the last one drilled always stay; so does everything while the last
    check or the newest backup is not good.
    """
    here = on_host(context)
    if not (yes or dry_run or timer):
        with telling(quiet=json_output) as tell:
            planned = prune_repositories(here.config, here.credentials, tell=tell, dry_run=True)
        removed = _removals(planned)
        if not removed:
            err.print("nothing is old enough to be removed")
            raise typer.Exit(planned.exit_code or 0)
        for line in removed:
            err.print(line, markup=False)
        sure(f"Remove these {len(removed)} for good?", yes=False)
    carried_out(
        here,
        "prune",
        lambda trigger, tell: prune_repositories(
            here.config, here.credentials, trigger=trigger, tell=tell, dry_run=dry_run
        ),
        timer=timer,
        json_output=json_output,
    )


def _removals(record: Record) -> list[str]:
    """One line a backup that a prune would remove."""
    return [
        f"  would remove {run} from {repository}"
        for repository, told in record.details.items()
        for run in told.get("removed", [])
    ]


@app.command()
def unlock(context: typer.Context, json_output: Json = False) -> None:
    """Remove stale locks from the repositories; one whose holder lives is left."""
    here = on_host(context)
    names = unlock_repositories(here.config, here.credentials)
    if json_output:
        return print_json({"schema_version": 1, "unlocked": names})
    return out.print(f"no stale lock is left in: {', '.join(names)}")


@app.command(hidden=True)
def reach(context: typer.Context, json_output: Json = False) -> None:
    """Whether each repository opens with its password, or is yet to be made; the doctor asks."""
    here = on_host(context)
    records = read_records(here.config.base, "backup")
    asked = here.config.repositories

    def answer(repository: Repository) -> str:
        return _reached(here, repository, new=is_new(repository.name, here.config, records))

    with ThreadPoolExecutor(len(asked)) as pool:
        told = dict(zip((each.name for each in asked), pool.map(answer, asked), strict=True))
    if json_output:
        return print_json({"schema_version": 1, "repositories": told})
    for name, error in told.items():
        out.print(f"{name}: {error or 'opens'}", markup=False)
    return None


def _reached(here: Here, repository: Repository, *, new: bool) -> str:
    """What keeps the repository from being opened; empty where nothing does."""
    cache = here.config.base / "cache"
    restic = Restic(
        repository,
        here.credentials,
        host=here.config.environment,
        cache=cache,
        timeout=REACH_SECONDS,
    )
    try:
        restic.open(create=False)
    except NoRepositoryError as error:
        return "" if new else error.message
    except StackroomError as error:
        return error.message
    return ""
