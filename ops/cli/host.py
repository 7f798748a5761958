"""The host's own verbs: `stackroom` as root on the machine, and what its timers call.

Imports nothing that the host is not given: no pyinfra, no templates, no client of Qdrant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ops.backup.notices import announce_unit
from ops.cli import backup, restore, snapshot
from ops.cli.common import new_app
from ops.cli.common import run as run_app
from ops.cli.place import Here, on_host
from ops.settings.host import CONFIG

app = new_app("This host's backups: made, checked, drilled and restored. Run it as root.")
app.add_typer(backup.app, name="backup")
app.add_typer(restore.app, name="restore")
app.add_typer(snapshot.app, name="snapshot")
app.command()(restore.drill)


@app.callback()
def choose_configuration(
    context: typer.Context,
    config: Annotated[Path, typer.Option(hidden=True)] = CONFIG,
) -> None:
    context.obj = Here(config)


@app.command(hidden=True)
def notify(context: typer.Context, unit: str) -> None:
    """Tell of a unit that failed without telling itself; systemd calls it (OnFailure=)."""
    here = on_host(context)
    announce_unit(here.config, here.credentials, unit)


def main() -> None:
    run_app(app)


if __name__ == "__main__":
    main()
