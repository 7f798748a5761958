"""`restore run|confirm|undo` and `drill`: from a backup back to data, for real or for proof.

A restore replaces what runs. It builds everything anew in a scratch, compares it with the backup,
takes a safety backup, and only then switches; what ran before stays until `restore confirm`, and
`restore undo` brings it back.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ops.cli.common import Json, Yes, err, new_app, out, print_json, sure
from ops.cli.place import on_host
from ops.cli.progress import telling
from ops.cli.runs import Timer, carried_out
from ops.errors import SettingsError
from ops.restore.collection import restore_collection
from ops.restore.drill import drill as drill_backup
from ops.restore.whole import confirm as confirm_restore
from ops.restore.whole import restore_stack
from ops.restore.whole import undo as undo_restore
from ops.settings.stacks import need_qdrant

app = new_app("Bring data back from a backup: the whole stack, or one collection.")


class From(StrEnum):
    """Which repository; by default the first that has the run."""

    LOCAL = "local"
    OFFSITE = "offsite"


Source = Annotated[
    From | None, typer.Option("--from", help="Only from there; else the first that has it.")
]
Run = Annotated[str, typer.Option("--run", help="A run's id, as `backup list` shows it.")]


@app.command()
def run(
    context: typer.Context,
    run: Run = "latest",
    source: Source = None,
    collection: Annotated[str, typer.Option(help="Only this collection of Qdrant.")] = "",
    new_name: Annotated[str, typer.Option("--as", help="Restore it under another name.")] = "",
    alias: Annotated[str, typer.Option(help="Switch this alias to it, once it is right.")] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="What is there may be replaced.")
    ] = False,
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Restore the whole stack, or with --collection one collection into a new name.

    Refuses data that are in the way without --replace. Undo: stackroom restore undo.
    """
    if (new_name or alias) and not collection:
        raise SettingsError("--as and --alias are about one collection", "add --collection <name>")
    here = on_host(context)
    if collection:
        need_qdrant("restore run --collection", here.config.environment, here.config.stack)
    what = f"the collection {collection}" if collection else "the whole stack"
    into = f" as {new_name}" if new_name else ""
    origin = f"from {source.value}" if source else "from the newest that any repository has"
    err.print(f"restore {what}{into} of run {run}, {origin}", markup=False)
    if collection:
        told = f"the alias {alias} is switched to it" if alias else "no alias is switched"
        err.print(f"  verified in a scratch first; then {told}", markup=False)
    else:
        err.print("  verified in a scratch first; then the services stop, and switch to it")
        err.print("  what runs now is kept until `stackroom restore confirm`")
    sure("Restore?", yes=yes)
    carried_out(
        here,
        "restore",
        lambda trigger, tell: (
            restore_collection(
                here.config,
                here.credentials,
                collection,
                new_name=new_name,
                alias=alias,
                source=source.value if source else "",
                run=run,
                replace=replace,
                tell=tell,
            )
            if collection
            else restore_stack(
                here.config,
                here.credentials,
                source=source.value if source else "",
                run=run,
                replace=replace,
                tell=tell,
            )
        ),
        json_output=json_output,
    )


@app.command()
def confirm(context: typer.Context, yes: Yes = False, json_output: Json = False) -> None:
    """What runs now is right: delete what the restore, or its undoing, has kept. No undo."""
    here = on_host(context)
    sure("Delete the other data, those that do not run now, for good?", yes=yes)
    told = confirm_restore(here.config)
    if json_output:
        return print_json({"schema_version": 1, "done": told})
    return out.print(told, markup=False)


@app.command()
def undo(context: typer.Context, yes: Yes = False, json_output: Json = False) -> None:
    """Serve the data from before the restore again. The restored ones stay until `confirm`."""
    here = on_host(context)
    sure(
        "Stop the services and switch back? What was written since is not in the old data.", yes=yes
    )
    with telling(quiet=json_output) as tell:
        told = undo_restore(here.config, here.credentials, tell)
    if json_output:
        return print_json({"schema_version": 1, "done": told})
    return out.print(told, markup=False)


def drill(
    context: typer.Context,
    run: Run = "latest",
    source: Source = None,
    json_output: Json = False,
    timer: Timer = False,
) -> None:
    """Prove a backup: restore it into throw-away services, compare everything, tear down.

    Exit code 0 proven, 2 it is not what was backed up, 3 it could not be proven. Nothing that runs
    is touched.
    """
    here = on_host(context)
    carried_out(
        here,
        "drill",
        lambda trigger, tell: drill_backup(
            here.config,
            here.credentials,
            trigger=trigger,
            tell=tell,
            source=source.value if source else "",
            run=run,
        ),
        timer=timer,
        json_output=json_output,
    )
