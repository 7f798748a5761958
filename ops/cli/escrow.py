"""`escrow create|open|check`: the recovery file, on the operator's machine. Prints no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ops import escrow
from ops.cli.common import Json, Yes, new_app, out, print_json, sure
from ops.cli.place import environment_of
from ops.escrow import EscrowState

app = new_app("The recovery file: secrets and settings, for two admins or more, each alone.")
WARNING = 1


@app.command()
def create(context: typer.Context, yes: Yes = False, json_output: Json = False) -> None:
    """Write the recovery file beside the inventory, for escrow.recipients or the operators."""
    environment = environment_of(context)
    keys = escrow.recipients(environment)
    before = escrow.inspect(environment)
    if before.made:
        sure(
            f"Replace the recovery file of {before.made:%Y-%m-%d} (for {len(keys)} keys)?", yes=yes
        )
    made = escrow.create(environment)
    if json_output:
        return print_json(_document(made))
    out.print(f"wrote {made.path}, which {made.keys} keys open, each alone", markup=False)
    return out.print("keep it where this machine and the host are not: it opens the backups")


@app.command("open")
def open_(
    file: Annotated[Path, typer.Argument(help="The recovery file.")],
    identity: Annotated[
        Path, typer.Option("--identity", "-i", help="Your private key: age or OpenSSH.")
    ],
    folder: Annotated[Path, typer.Option("--into", help="Where to; nothing is overwritten.")],
    json_output: Json = False,
) -> None:
    """Open a recovery file into a folder, such as inventory/production on a new machine."""
    names = escrow.open_file(file, identity, folder)
    if json_output:
        return print_json({"schema_version": 1, "written": [str(folder / n) for n in names]})
    for name in names:
        out.print(f"wrote {folder / name}", markup=False)
    return None


@app.command()
def check(context: typer.Context, json_output: Json = False) -> None:
    """Is there a recovery file, and of the inventory as it is now? Exit code 1 where not."""
    state = escrow.inspect(environment_of(context))
    if json_output:
        print_json(_document(state))
    else:
        out.print(_sentence(state), markup=False)
    raise typer.Exit(0 if state.is_current else WARNING)


def _document(state: EscrowState) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "path": str(state.path),
        "made": state.made.isoformat() if state.made else None,
        "keys": state.keys,
        "stale": list(state.stale),
        "strangers": list(state.strangers),
        "damaged": state.damaged,
        "current": state.is_current,
    }


def _sentence(state: EscrowState) -> str:
    if state.made is None:
        return f"there is no recovery file at {state.path}: stackroom -e <env> escrow create"
    reasons = ["the file is not as it was written"] if state.damaged else []
    reasons += [f"{name} has changed" for name in state.stale]
    reasons += [f"the keys have changed: {', '.join(state.strangers)}"] if state.strangers else []
    if reasons:
        return f"{state.path} is out of date: {'; '.join(reasons)}"
    return f"{state.path} of {state.made:%Y-%m-%d %H:%M} UTC is current; {state.keys} keys open it"
