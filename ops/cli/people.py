"""What the verbs about developers share: show a change, ask, apply it step by step, make a kit."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from ops import escrow
from ops.cli.common import err, out, sure
from ops.clients.edge import edge_ca
from ops.clients.ssh import Remote
from ops.developers import change as changing
from ops.developers.accounts import accounts_of
from ops.developers.change import Draft
from ops.developers.kit import Kit, check_folder, make_kit, unserved
from ops.developers.reality import look
from ops.settings import Environment
from ops.settings.model import EdgeMode


def kit_for(
    environment: Environment,
    name: str,
    to: Path | None,
    *,
    check: bool = True,
    present: bool = False,
) -> tuple[Kit, Path]:
    """A kit, and the folder for it, which may be written. `present`: its secret works already.

    Raises SettingsError, also for a secret that the stack would refuse, ServiceError, and
    UnreachableError.
    """
    one, accounts = environment.settings.developers[name], accounts_of(environment.settings)
    secret = accounts.secret(environment.settings, name) if one.collections else None
    if secret is not None:
        accounts.ready(environment, name, Remote(environment), present=present)
    made = make_kit(
        environment,
        name,
        ca_pem=ca_of(environment),
        host_keys=host_keys(environment),
        secret=secret,
    )
    folder = to or Path(f"stackroom-{environment.name}-{name}")
    if check:
        check_folder(made, folder)
    return made, folder


def ca_of(environment: Environment) -> str:
    """The edge's own CA, as PEM; "" where it is another one's."""
    internal = environment.settings.edge.mode is EdgeMode.INTERNAL
    return edge_ca(Remote(environment)) if internal else ""


def host_keys(environment: Environment) -> str:
    """The lines of known_hosts that the first login wrote; "" before it."""
    path = environment.known_hosts
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def agreed(
    draft: Draft, question: str, *, dry_run: bool, yes: bool, found: Sequence[str] = ()
) -> bool:
    """Show what would change and ask; False for a dry run, which compares with the host, too.

    `found`: what the host has and the change takes away, where no line of the file tells it.
    """
    out.print(draft.diff(), markup=False, end="")
    told = [*(f"takes away {each}" for each in found), *changing.effects(draft)]
    where = draft.before.machine.address
    for each in told or ["changes nothing there"]:
        out.print(f"on {where}: {each}", markup=False)
    stays = draft.name in draft.after.settings.current_developers()
    if stays and (lost := unserved(draft.after, draft.name)):
        out.print(f"CAREFUL: {lost}", markup=False)
    if dry_run:
        for each in changing.refuse(draft, look(draft.before, Remote(draft.before))):
            warn(each)
        out.print("dry run: nothing was changed")
        return False
    sure(question, yes=yes)
    return True


def apply(draft: Draft, *words: str) -> None:
    doing = shlex.join(["stackroom", "-e", draft.before.name, "developer", *words])
    with_steps(lambda on_step: changing.carry(draft, doing, on_step=on_step, on_warning=warn))


def warn(text: str) -> None:
    """What would have refused any other change, and does not stop a removal."""
    out.print(f"CAREFUL: {text}", markup=False)
    out.print("  the removal goes on, and makes the host what the file says there, too")


def with_steps(work: Callable[[Callable[[str, str], None]], list[str]]) -> list[str]:
    """Show each step of an apply as it goes."""
    with err.status("comparing") as status:

        def on_step(name: str, result: str) -> None:
            status.update(name)
            if result:
                out.print(f"  {'changed' if result == 'Success' else result.lower():10} {name}")

        return work(on_step)


def remind(environment: Environment) -> None:
    """What is left to a person: the team's git, and the recovery file."""
    out.print(f"commit {changing.file_of(environment)}: it is what the others apply", markup=False)
    state = escrow.inspect(environment)
    if state.made and not state.is_current:
        out.print(
            f"the recovery file is out of date: stackroom -e {environment.name} escrow create",
            markup=False,
        )


def pasted(made: Kit) -> str:
    """The kit as one page, with the lines that make its folder where they are pasted."""
    folder = f"stackroom-{made.environment}-{made.name}"
    lines = [f"umask 077 && mkdir {folder} && cd {folder}"]
    for name, text in made.files.items():
        end = f"END-OF-{name.upper().replace('.', '-')}"
        lines += [f"cat >{name} <<'{end}'", text.removesuffix("\n"), end]
    return "\n".join(["Paste this into a shell; then go on with README.md in it.", "", *lines, ""])
