"""`developer ...`: who may use an environment. Runs on the operator's machine.

No token is printed but by `kit --print`.
"""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from ops.cli import removal, rotation
from ops.cli import server_key as server_key_verb
from ops.cli.common import Json, Yes, new_app, out, print_json
from ops.cli.people import agreed, apply, kit_for, pasted, remind
from ops.cli.person import document, key_name, listed, may, token_state, until
from ops.cli.place import environment_of
from ops.clients.ssh import Remote
from ops.developers import change as changing
from ops.developers import inputs, roster, show
from ops.developers.accounts import accounts_of
from ops.developers.audit import audit as audit_of
from ops.developers.kit import write_kit
from ops.developers.reality import look
from ops.developers.tokens import new_token_id
from ops.errors import SettingsError
from ops.settings import Developer, Environment
from ops.settings.addresses import short
from ops.settings.explain import words

app = new_app("Who may use an environment: add, change, prove, remove.")
ip = new_app("The addresses that a developer comes from.")
app.add_typer(ip, name="ip")

NOT_PROVEN = 2
DAYS = 365  # how long a token lives where nobody says
ALL = "all"

Name = Annotated[str, typer.Argument(help="The developer, as in developers.toml.")]
To = Annotated[Path | None, typer.Option("--to", help="Folder of the kit.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show it; change nothing.")]
Anywhere = Annotated[
    bool, typer.Option("--anywhere", help="Take 0.0.0.0/0 or ::/0: the edge only, never SSH.")
]
Shared = Annotated[
    bool, typer.Option("--shared", help="Somebody else comes from one of the addresses, too.")
]


@app.command()
def add(
    context: typer.Context,
    name: Name,
    address: Annotated[list[str], typer.Option("--ip", help="Address or CIDR range; repeat.")],
    key: Annotated[
        list[str] | None, typer.Option("--key", help="SSH public key, or its file; repeat.")
    ] = None,
    access: Annotated[str, typer.Option(help="read or write, to points (Qdrant).")] = "read",
    collections: Annotated[
        str, typer.Option(help="Names, with commas between; all: every declared one.")
    ] = "",
    expires: Annotated[str, typer.Option(help="90d, 12w, or the last day; else a year.")] = "",
    anywhere: Anywhere = False,
    shared: Shared = False,
    to: To = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Let somebody in: addresses, SSH tunnels, a token or R2R account; and write the kit for them.

    Nothing else of the host is touched. Undo: stackroom -e ENV developer remove NAME.
    """
    environment = environment_of(context)
    name = inputs.read_name(name)
    if access not in ("read", "write"):
        raise SettingsError(f"--access {access!r} is neither read nor write")
    named = _collections(environment, collections)
    fields = _typed(
        addresses=inputs.addresses(address, anywhere=anywhere),
        keys=[inputs.read_key(each) for each in key or ()],
        access=access,
        collections=named,
        expires=_last_day(expires, bool(named)),
        token=new_token_id() if named else "",
        anywhere=anywhere,
        shares_address=shared,
    )
    draft = changing.draft(environment, name, lambda text: roster.add(text, name, fields))
    kit, folder = kit_for(draft.after, name, to)
    if not agreed(draft, f"Let {name} in?", dry_run=dry_run, yes=yes):
        return
    apply(draft, "add", name)
    write_kit(kit, folder)
    out.print(f"added: {name} is in, and the kit is in {folder}", markup=False)
    if not named:
        noun = accounts_of(environment.settings).noun
        out.print(f"no {noun}: nobody named --collections for it")
    out.print("hand the folder over by a way that only they can read, then remove it here")
    remind(draft.after)


@app.command("list")
def list_(context: typer.Context, json_output: Json = False) -> None:
    """Everybody in developers.toml, from the file alone."""
    settings = environment_of(context).settings
    if json_output:
        people = {name: document(one) for name, one in settings.developers.items()}
        return print_json({"schema_version": 1, "developers": people})
    if not settings.developers:
        return out.print("nobody yet: stackroom -e <env> developer add --help")
    return out.print(listed(settings), soft_wrap=False)


@app.command("show")
def show_(context: typer.Context, name: Name, json_output: Json = False) -> None:
    """One person: what the file says, and what the host has of it."""
    environment = environment_of(context)
    one = _developer(environment, name)
    found = audit_of(environment, look(environment, Remote(environment)), datetime.now(UTC))
    told = show.to_json(found)
    rows = [row for row in told["rows"] if row["who"] == name]
    differences = [each for each in told["differences"] if each["person"] == name]
    if json_output:
        about = {"schema_version": 1, "name": name, **document(one)}
        return print_json(about | {"rows": rows, "differences": differences})
    wide = max(10, len(accounts_of(environment.settings).noun))
    for label, value in {
        "addresses": ", ".join(short(each) for each in one.addresses),
        "keys": ", ".join(key_name(each) for each in one.keys) or "none",
        "may": may(environment, one),
        "until": until(one),
        accounts_of(environment.settings).noun: token_state(one),
        "last seen": str(rows[0]["last_seen"] or "") if rows else "?",
    }.items():
        out.print(f"{label:{wide}} {value}", markup=False)
    for each in differences:
        out.print(f"{'on the host':{wide}} {each['text']}", markup=False)
    if not differences:
        out.print("on the host as the file says" if not found.unknown else "not all could be read")
    return None


@ip.command("add")
def ip_add(
    context: typer.Context,
    name: Name,
    address: Annotated[list[str], typer.Argument(help="Address or CIDR range; more than one.")],
    anywhere: Anywhere = False,
    shared: Shared = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Let somebody come from another address, too."""
    environment = environment_of(context)
    one = _developer(environment, name)
    added = inputs.addresses(address, anywhere=anywhere or one.anywhere)
    fields: dict[str, Any] = {"addresses": list(dict.fromkeys([*one.addresses, *added]))}
    fields |= {"anywhere": True} if anywhere else {}
    fields |= {"shares_address": True} if shared else {}
    _change(environment, "ip add", name, fields, dry_run=dry_run, yes=yes)


@ip.command("remove")
def ip_remove(
    context: typer.Context,
    name: Name,
    address: Annotated[list[str], typer.Argument(help="Address or CIDR range; more than one.")],
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Close an address, and cut what is open from there."""
    environment = environment_of(context)
    one = _developer(environment, name)
    gone = inputs.addresses(address, anywhere=True)
    for each in gone:
        if each not in one.addresses:
            listed = ", ".join(short(known) for known in one.addresses)
            raise SettingsError(f"{short(each)} is no address of {name} (listed: {listed})")
    kept = [each for each in one.addresses if each not in gone]
    if not kept:
        raise SettingsError(
            f"{name} would have no address left", f"stackroom developer remove {name}"
        )
    _change(environment, "ip remove", name, {"addresses": kept}, dry_run=dry_run, yes=yes)


@app.command()
def rotate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose token; none with --server-key.")] = "",
    finish: Annotated[bool, typer.Option("--finish", help="End the old one.")] = False,
    now: Annotated[
        bool, typer.Option("--now", help="It leaked: the old token dies first.")
    ] = False,
    server_key: Annotated[
        bool, typer.Option("--server-key", help="Qdrant's own API key, and so every token.")
    ] = False,
    to: To = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """A new token, or a new key of the server. The old one works on until --finish.

    Without an outage: rotate, hand the new kit over, then the same with --finish. A token that
    leaked dies at once with --now. Of an R2R account, password, tokens and API keys always end at
    once.
    """
    environment = environment_of(context)
    accounts = accounts_of(environment.settings)
    if server_key:
        if not accounts.two_at_once:
            raise SettingsError(
                "--server-key is about Qdrant's API key, and this stack is R2R: nobody shares a key"
                " with it, each developer has a password of their own; nothing was changed",
                f"stackroom -e {environment.name} developer rotate <name>, for each of them",
            )
        if name or now:
            raise SettingsError("--server-key is about everybody: without a name, and not --now")
        return server_key_verb.rotate(environment, finish=finish, to=to, dry_run=dry_run, yes=yes)
    if not name:
        raise SettingsError("whose token?", "stackroom -e <env> developer rotate <name>")
    if finish and now:
        raise SettingsError("--finish ends the old token, --now makes a new one: one of them")
    one = _developer(environment, name)
    if finish:
        return rotation.finish(environment, name, one, dry_run=dry_run, yes=yes)
    now = now or not accounts.two_at_once
    return rotation.rotate(environment, name, one, now=now, to=to, dry_run=dry_run, yes=yes)


@app.command()
def remove(context: typer.Context, name: Name, dry_run: DryRun = False, yes: Yes = False) -> None:
    """Shut somebody out: address, connections, account, keys, token; and prove each of it.

    Exit code 2 where a probe does not find them gone. Somebody who is no longer in the file, and
    of whom the host has something left, is removed all the same. Undo: add, with a new token.
    """
    if not removal.remove(environment_of(context), name, dry_run=dry_run, yes=yes):
        raise typer.Exit(NOT_PROVEN)


@app.command()
def kit(
    context: typer.Context,
    name: Name,
    to: To = None,
    print_: Annotated[
        bool, typer.Option("--print", help="Print it, secret and all, and write nothing.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Write the kit anew, with what works now; or print it as one page to paste."""
    environment = environment_of(context)
    _developer(environment, name)
    made, folder = kit_for(environment, name, to, check=not print_, present=True)
    if dry_run:
        where = "on this page" if print_ else f"in {folder}"
        return out.print(f"would be {where}: {', '.join(made.files)}", markup=False)
    if print_:
        sys.stdout.write(pasted(made))
        return None
    write_kit(made, folder)
    return out.print(f"the kit of {name} is in {folder}", markup=False)


@app.command()
def audit(context: typer.Context, json_output: Json = False) -> None:
    """Who can really reach what, on the host. Exit code 2 where developers.toml says otherwise."""
    environment = environment_of(context)
    found = audit_of(environment, look(environment, Remote(environment)), datetime.now(UTC))
    if json_output:
        print_json(show.to_json(found))
    else:
        show.show(found, out)
    raise typer.Exit(found.exit_code)


def _developer(environment: Environment, name: str) -> Developer:
    one = environment.settings.developers.get(name)
    if one is None:
        listed = ", ".join(environment.settings.developers) or "nobody"
        raise SettingsError(f"there is no developer {name!r} (listed: {listed})")
    return one


def _typed(**fields: Any) -> Developer:
    """Raises SettingsError naming the field; what was typed for a key was checked before."""
    try:
        return Developer(**fields)
    except ValidationError as error:
        item = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in item["loc"])
        raise SettingsError(f"{where} {words(item)}".strip()) from None


def _collections(environment: Environment, text: str) -> list[str]:
    if text == ALL:
        if environment.settings.stack == "r2r":
            raise SettingsError("--collections all: R2R's are not in the file; name them")
        return list(environment.settings.collections)
    return list(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))


def _last_day(text: str, needed: bool) -> date | None:
    today = datetime.now(UTC).date()
    if text:
        return inputs.expiry(text, today)
    return today + timedelta(days=DAYS) if needed else None


def _change(
    environment: Environment,
    verb: str,
    name: str,
    fields: dict[str, Any],
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    draft = changing.draft(environment, name, lambda text: roster.change(text, name, **fields))
    if draft.old == draft.new:
        out.print(f"{name} is listed like that already: nothing to change", markup=False)
        return
    if not agreed(draft, f"Change {name}?", dry_run=dry_run, yes=yes):
        return
    apply(draft, verb, name)
    out.print(f"changed: {name}", markup=False)
    remind(draft.after)
