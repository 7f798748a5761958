"""The operator's verbs. A verb is a function, its docstring its help; the rooms do the work.

What is about the host's data runs on the host: `ops/cli/place.py` relays it over SSH.
"""

from __future__ import annotations

import getpass
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ops import deploy as deploying
from ops import inventory
from ops import sandbox as throw_away
from ops.cli.common import Json, Yes, err, new_app, out, print_json, sure
from ops.cli.later import later
from ops.cli.place import Elsewhere, environment_of
from ops.clients.edge import edge_ca, fingerprint
from ops.clients.ssh import Remote
from ops.errors import SettingsError, StackroomError
from ops.render.stack import pinned_images
from ops.settings import Environment, check_host_address

DRIFT = 2  # the exit code of `plan` when the machine is not as the inventory says

app = new_app(
    "Turns a bare machine into a team's knowledge server, closed to everyone else.",
    later(
        drill="ops.cli.restore:drill",
        developer="ops.cli.developer:app",
        backup="ops.cli.backup:app",
        restore="ops.cli.restore:app",
        snapshot="ops.cli.snapshot:app",
        escrow="ops.cli.escrow:app",
        migrate="ops.cli.migrate:app",
        sandbox="ops.cli.operator:sandbox",
    ),
)
sandbox = new_app("A throw-away machine for trying things out.")


@app.callback()
def choose_environment(
    context: typer.Context,
    environment: Annotated[
        str, typer.Option("-e", "--environment", help="A folder below inventory/.")
    ] = "",
) -> None:
    context.obj = Elsewhere(environment, inventory.INVENTORY)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The environment, for example: production.")],
    host: Annotated[str, typer.Option("--host", help="Address of the machine.")],
    user: Annotated[str, typer.Option(help="Login on the machine.")] = "root",
    key: Annotated[str, typer.Option(help="Private SSH key file; empty: agent or defaults.")] = "",
    operator: Annotated[str, typer.Option(help="Your name in developers.toml.")] = "",
    public_key: Annotated[str, typer.Option(help="Your SSH public key line.")] = "",
    source: Annotated[str, typer.Option("--from", help="Address you come from.")] = "",
) -> None:
    """Write inventory/NAME/ from the example and generate its secrets. Overwrites nothing."""
    check_host_address(host, "--host")
    key_file = Path(key).expanduser().with_suffix(Path(key).suffix + ".pub") if key else None
    if not public_key and key_file and key_file.is_file():
        public_key = key_file.read_text(encoding="utf-8").strip()
    public_key = public_key or inventory.default_public_key()
    if not public_key:
        raise SettingsError("no SSH public key found", "ssh-keygen -t ed25519, or --public-key")
    source = source or inventory.source_address(host, user, key)
    if not source:
        raise SettingsError(
            f"no SSH login as {user}@{host}, so your own address is unknown",
            f"stackroom init {name} --host {host} --from <the address you come from>",
        )
    created = inventory.create(
        name,
        address=host,
        user=user,
        key=key,
        operator=operator or getpass.getuser(),
        public_key=public_key,
        source=source,
    )
    for file_name in created.written:
        out.print(f"wrote     {created.folder / file_name}")
    for file_name in created.kept:
        out.print(f"kept      {created.folder / file_name}")
    for secret in created.generated:
        out.print(f"generated {secret} in {created.folder / 'secrets.toml'}")
    out.print(f"You come from {source}. Next: stackroom -e {name} plan")


@app.command()
def plan(
    context: typer.Context,
    diff: Annotated[
        bool, typer.Option(help="Show what files would change; never secrets.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Show what a deploy would change. Exit code 0: nothing, 2: something, 1 and up: an error."""
    environment = environment_of(context)
    made = _planned(environment, diff=diff)
    if json_output:
        print_json(made.to_json())
    else:
        _show_plan(environment, made)
    raise typer.Exit(0 if made.is_clean else DRIFT)


def _planned(
    environment: Environment, *, diff: bool = False, force_lockout: bool = False
) -> deploying.Plan:
    """What a deploy would change, in the stack's own accounts of people, too."""
    from ops.developers.accounts import accounts_of

    made = deploying.make_plan(environment, diff=diff, force_lockout=force_lockout)
    try:
        accounts = accounts_of(environment.settings).pending(environment, Remote(environment))
    except StackroomError as error:  # it may not be there yet, and the deploy makes it run
        err.print(f"the accounts of people are looked at later: {error.message}", markup=False)
        accounts = []
    return replace(made, changes=(*made.changes, *accounts))


@app.command()
def deploy(
    context: typer.Context,
    yes: Yes = False,
    images: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Images for a machine that cannot pull."),
    ] = None,
    force_lockout: Annotated[
        bool, typer.Option(help="Apply a firewall that shuts you out; it undoes itself.")
    ] = False,
) -> None:
    """Make the machine what the inventory says: plan, ask, lock, apply, examine, record.

    Interrupted or failed, nothing is lost: the old stack keeps running and the next run finishes.
    """
    from ops.health import Status, examine, show

    environment = environment_of(context)
    made = _planned(environment, force_lockout=force_lockout)
    _show_plan(environment, made)
    if not made.is_clean:
        sure(f"Change {environment.machine.address}?", yes=yes)
        _apply(environment, images, force_lockout)
    report = examine(environment)
    show(report, out)
    if report.status is Status.CRITICAL:
        raise typer.Exit(report.status.value)


def _apply(environment: Environment, images: Path | None, force_lockout: bool) -> None:
    from ops.developers.accounts import accounts_of

    accounts = accounts_of(environment.settings)
    with err.status("connecting") as status:

        def on_step(name: str, result: str) -> None:
            status.update(name)
            if result:
                out.print(f"  {'changed' if result == 'Success' else result.lower():10} {name}")

        changes = deploying.carry_out(
            environment,
            f"stackroom -e {environment.name} deploy",
            images=images,
            force_lockout=force_lockout,
            last=lambda: accounts.settle(environment, Remote(environment), on_step),
            on_step=on_step,
        )
    out.print(f"deployed: {len(changes)} steps changed {environment.machine.address}")


@app.command()
def doctor(
    context: typer.Context,
    only: Annotated[list[str] | None, typer.Option(help="Only these checks, or a prefix.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Not these checks, or a prefix.")] = None,
    paid: Annotated[
        bool, typer.Option("--paid", help="Call the models for real, too; their providers charge.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Examine the machine and its services. Exit code 0 OK, 1 warning, 2 critical, 3 unknown."""
    from ops.health import examine, show

    report = examine(environment_of(context), only=only or (), skip=skip or (), paid=paid)
    if json_output:
        print_json(report.to_json())
    else:
        show(report, out)
    raise typer.Exit(report.status.value)


@app.command()
def history(context: typer.Context, json_output: Json = False) -> None:
    """What was deployed to the machine, by whom and from which revision, newest first."""
    records = deploying.history(Remote(environment_of(context)))
    if json_output:
        return print_json({"schema_version": 1, "deploys": records})
    table = Table("when (UTC)", "who", "revision", "steps", "images", box=None)
    for record in records:
        images = ", ".join(sorted(image["image"] for image in record["images"].values()))
        table.add_row(
            record["at"][:19],
            record["who"],
            record["revision"],
            str(len(record["changes"])),
            images,
        )
    return out.print(table, soft_wrap=False)


@app.command()
def lock(context: typer.Context, json_output: Json = False) -> None:
    """Who is deploying to the machine right now."""
    holder = deploying.lock_holder(Remote(environment_of(context)))
    if json_output:
        return print_json({"schema_version": 1, "holder": holder})
    if holder is None:
        return out.print("free: nobody is deploying")
    return out.print(f"held by {holder.get('who', 'somebody')} since {holder.get('since', '?')}")


@app.command()
def images(context: typer.Context, json_output: Json = False) -> None:
    """The pinned images, one a line: docker save -o images.tar $(stackroom -e <env> images)."""
    names = pinned_images(environment_of(context).settings)
    if json_output:
        return print_json({"schema_version": 1, "images": names})
    return out.print("\n".join(names))


@app.command()
def ca(context: typer.Context, json_output: Json = False) -> None:
    """Print the edge's CA certificate (mode internal) and its SHA-256 fingerprint."""
    pem = edge_ca(Remote(environment_of(context)))
    if json_output:
        return print_json({"schema_version": 1, "pem": pem, "sha256": fingerprint(pem)})
    err.print(f"SHA-256 fingerprint: {fingerprint(pem)}")
    return out.print(pem, end="")


@sandbox.command()
def up() -> None:
    """Start the throw-away machine, or find it running; `-e sandbox` then names it."""
    throw_away.start_engine()
    throw_away.up(lambda line: out.print(line))


@sandbox.command()
def status(json_output: Json = False) -> None:
    """Whether it runs, where, and what its images are."""
    found = throw_away.status()
    if json_output:
        return print_json(asdict(found))
    state = f"{'running' if found.running else 'stopped'} at {found.address}"
    out.print(f"sandbox: {state if found.exists else 'there is none; stackroom sandbox up'}")
    for image, kind in found.images.items():
        out.print(f"  {image}: {kind}")
    return None


@sandbox.command()
def shell() -> None:
    """A root shell on it, past its SSH and firewall."""
    raise typer.Exit(throw_away.shell())


@sandbox.command()
def down(
    yes: Yes = False,
    purge: Annotated[bool, typer.Option(help="Its images and its key too.")] = False,
) -> None:
    """Remove it with everything on it; nothing is left on this machine."""
    sure("Remove the sandbox and all its data?", yes=yes)
    throw_away.down(purge=purge, say=lambda line: out.print(line))


@sandbox.command()
def engine() -> None:
    """Start an installed Docker engine where no systemd does; prints the pid it started."""
    pid = throw_away.start_engine()
    out.print(f"started dockerd, pid {pid}" if pid else "a Docker engine is there")


@app.command()
def demo() -> None:
    """A bare machine becomes a closed, running server, and each claim is checked on the screen."""
    from ops.demo.story import run as tell_story

    throw_away.start_engine()
    tell_story(out)


def _show_plan(environment: Environment, made: deploying.Plan) -> None:
    where = f"{environment.name} ({environment.machine.address})"
    if made.is_clean:
        out.print(f"{where} is as the inventory says: 0 of {made.unchanged} steps would change it")
        return
    total = made.unchanged + len(made.changes)
    out.print(f"{where}: {len(made.changes)} of {total} steps would change it")
    for change in made.changes:
        out.print(f"  would change  {change}")
    if made.diff:
        out.print(made.diff, markup=False)
