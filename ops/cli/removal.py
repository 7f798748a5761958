"""`developer remove`: somebody shut out, whatever else is wrong with the host, and the proof of it.

It works by name, too: of somebody whose line is gone already, what the host has left is swept up.
"""

from __future__ import annotations

from dataclasses import replace

from ops.cli.common import out
from ops.cli.people import agreed, apply, remind
from ops.clients.ssh import Remote
from ops.developers import change as changing
from ops.developers import inputs, roster, show, traces
from ops.developers.accounts import accounts_of
from ops.developers.change import Draft
from ops.developers.proof import prove_gone
from ops.developers.reality import look
from ops.errors import SettingsError
from ops.settings import Developer, Environment


def remove(environment: Environment, name: str, *, dry_run: bool, yes: bool) -> bool:
    """Whether nothing is left of them, as far as one knows; True for a dry run."""
    if name not in environment.settings.developers:
        return _sweep(environment, inputs.read_name(name), dry_run=dry_run, yes=yes)
    draft = changing.draft(environment, name, lambda text: roster.remove(text, name), removes=True)
    if not agreed(draft, f"Remove {name}?", dry_run=dry_run, yes=yes):
        return True
    return _carried(draft, draft.before)


def _sweep(environment: Environment, name: str, *, dry_run: bool, yes: bool) -> bool:
    """An earlier removal failed half way, or somebody took the line out by hand."""
    reality = look(environment, Remote(environment))
    settings = environment.settings
    found = traces.of_name(settings, reality, name)
    unread = traces.unread(settings, reality)
    if not found and not unread:
        listed = ", ".join(environment.settings.developers) or "nobody"
        raise SettingsError(
            f"there is no developer {name!r} (listed: {listed}), and the host has no account, no"
            f" key and no {accounts_of(settings).noun} of that name: nothing was changed",
            f"stackroom -e {environment.name} developer audit, for what goes by no name",
        )
    found += [f"{part} of {name}, unseen: {reason}" for part, reason in unread.items()]
    out.print(f"{name} is not in developers.toml; this is about what the host has left of them")
    draft = changing.sweep(environment, name)
    question = f"Sweep up what is left of {name}?"
    if not agreed(draft, question, dry_run=dry_run, yes=yes, found=found):
        return True
    return _carried(draft, _with(environment, name, traces.stand_in(reality, name)))


def _with(environment: Environment, name: str, person: Developer) -> Environment:
    settings = environment.settings
    people = {**settings.developers, name: person}
    return replace(environment, settings=settings.model_copy(update={"developers": people}))


def _carried(draft: Draft, before: Environment) -> bool:
    """Apply and prove. `before`: with the person in it."""
    apply(draft, "remove", draft.name)
    probes = prove_gone(before, draft.name, Remote(draft.before))
    show.show_proof(draft.name, probes, out)
    if before.settings.api:
        out.print(
            "the team's api has one token for all, which no kit holds: whoever was told it knows"
            " it still, until api_token in secrets.toml is another one",
            markup=False,
        )
    remind(draft.after)
    return all(probe.ok for probe in probes)
