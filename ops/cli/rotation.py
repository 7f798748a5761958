"""`developer rotate <name>`: one person's token or R2R account, renewed; and the old one's end."""

from __future__ import annotations

from pathlib import Path

import typer

from ops.cli.common import out
from ops.cli.people import agreed, apply, kit_for, remind
from ops.clients.ssh import Remote
from ops.developers import change as changing
from ops.developers import roster
from ops.developers.accounts import accounts_of
from ops.developers.change import Draft
from ops.developers.kit import write_kit
from ops.developers.proof import prove_refused
from ops.developers.tokens import new_token_id
from ops.errors import SettingsError
from ops.settings import Developer, Environment

NOT_PROVEN = 2


def rotate(
    environment: Environment,
    name: str,
    one: Developer,
    *,
    now: bool,
    to: Path | None,
    dry_run: bool,
    yes: bool,
) -> None:
    noun = accounts_of(environment.settings).noun
    if not one.collections:
        raise SettingsError(
            f"{name} has no collections, and a {noun} is for collections",
            "name them in developers.toml (collections and expires)",
        )
    if one.retiring and not now:
        raise SettingsError(
            f"a token of {name} is retiring already",
            f"stackroom -e {environment.name} developer rotate {name} --finish",
        )
    fields = {"token": new_token_id(), "retiring": "" if now else one.token}
    draft = changing.draft(environment, name, lambda text: roster.change(text, name, **fields))
    kit, folder = kit_for(draft.after, name, to)
    question = f"End the {noun} of {name} as it is?" if now else f"A second {noun} for {name}?"
    if not agreed(draft, question, dry_run=dry_run, yes=yes):
        return
    apply(draft, "rotate", *(["--now"] if now else []), name)
    write_kit(kit, folder)
    file = accounts_of(environment.settings).file
    out.print(f"rotated: the kit with the new {file} is in {folder}", markup=False)
    ended = [each for each in (one.token, one.retiring) if each] if now else []
    if not now and one.token:
        out.print(
            "the old token works until: "
            f"stackroom -e {environment.name} developer rotate {name} --finish",
            markup=False,
        )
    remind(draft.after)
    _prove_refused(draft, ended)


def finish(
    environment: Environment, name: str, one: Developer, *, dry_run: bool, yes: bool
) -> None:
    if not one.retiring:
        noun = accounts_of(environment.settings).noun
        out.print(f"no {noun} of {name} is retiring: nothing to finish", markup=False)
        return
    draft = changing.draft(environment, name, lambda text: roster.change(text, name, retiring=""))
    if not agreed(draft, f"End the old token of {name}?", dry_run=dry_run, yes=yes):
        return
    apply(draft, "rotate", name, "--finish")
    out.print(f"finished: of {name} the newest token is left", markup=False)
    remind(draft.after)
    _prove_refused(draft, [one.retiring])


def _prove_refused(draft: Draft, ids: list[str]) -> None:
    """Show what has ended to the stack. Exit code 2 where one is not known to be refused."""
    if not ids:
        return
    probes = prove_refused(draft.after, draft.name, ids, Remote(draft.after))
    for probe in probes:
        mark = "ok" if probe.ok else "NOT OK"
        out.print(f"  {mark:7} {probe.what}: {probe.answer}", markup=False)
    if not all(probe.ok for probe in probes):
        raise typer.Exit(NOT_PROVEN)
