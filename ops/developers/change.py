"""One person's change: developers.toml edited, compared with the host, written and applied.

All of it happens under the host's lock, and it changes nobody but the person it names: where the
host differs from the file in anybody else, it refuses, for applying the file would cut them off.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ops.clients.ssh import Remote
from ops.deploy import carry_out
from ops.developers import inputs, roster, traces
from ops.developers.accounts import accounts_of
from ops.developers.audit import Difference, audit
from ops.developers.reality import Reality, look
from ops.errors import SettingsError, StackroomError
from ops.render.people import account_of, with_accounts
from ops.settings import Environment, load_environment
from ops.settings.addresses import is_wide, short
from ops.settings.people import Developer

# what applying the people changes; the rest of the host may be unknown and nobody is cut off
NEEDED = ("firewall", "accounts", "keys")


@dataclass(frozen=True)
class Draft:
    """What developers.toml would be: `before` and `after` are the environment with each text.

    `removes`: the person goes, so that nothing may stand in the way of it.
    """

    name: str
    before: Environment
    after: Environment
    old: str
    new: str
    removes: bool = False

    @property
    def path(self) -> Path:
        return file_of(self.before)

    @property
    def takes_away(self) -> bool:
        """Whether somebody can do less afterwards: a failure never puts such a thing back."""
        was = self.before.settings.current_developers().get(self.name)
        becomes = self.after.settings.current_developers().get(self.name)
        return self.removes or bool(_held(was) - _held(becomes))

    def diff(self) -> str:
        """What changes in the file, as `diff -u` prints it."""
        return roster.diff(self.old, self.new)


def file_of(environment: Environment) -> Path:
    return environment.folder / roster.FILE


def draft(
    environment: Environment, name: str, edit: Callable[[str], str], *, removes: bool = False
) -> Draft:
    """An edit of developers.toml, validated and not written.

    Raises SettingsError for a text that the settings refuse, with each reason.
    """
    old = _read(file_of(environment))
    new = edit(old)
    before = load_environment(environment.folder, old)
    return Draft(name, before, load_environment(environment.folder, new), old, new, removes)


def sweep(environment: Environment, name: str) -> Draft:
    """The removal of somebody who is not in the file, and of whom the host has something left."""
    text = _read(file_of(environment))
    return Draft(name, environment, environment, text, text, removes=True)


def effects(change: Draft) -> list[str]:
    """What the change does to the host, in sentences; empty for one that does nothing there."""
    name = change.name
    was = change.before.settings.current_developers().get(name)
    becomes = change.after.settings.current_developers().get(name)
    return [
        *_of_addresses(change, was, becomes),
        *_of_logins(change, was, becomes),
        *accounts_of(change.after.settings).effects(change.before, change.after, name),
    ]


def _of_addresses(change: Draft, was: Developer | None, becomes: Developer | None) -> Iterator[str]:
    had, has = _addresses(was), _addresses(becomes)
    for verb, addresses, ends in (
        ("opens", [each for each in has if each not in had], ""),
        ("closes", [each for each in had if each not in has], ", and cuts what is open from there"),
    ):
        for address in addresses:
            ports = ", ".join(map(str, _ports(change.after, address)))
            if ports:
                yield f"{verb} port {ports} to {short(address)}{ends}"
    kept = set(change.after.settings.addresses())
    for address in had:
        if address not in has and address in kept:
            yield f"{short(address)} stays open: somebody else is listed with it"


def _ports(environment: Environment, address: str) -> list[int]:
    """The ports that an address is let to; one of the whole internet never reaches SSH."""
    ssh = [] if is_wide(address) else [environment.machine.port]
    return [*environment.settings.edge_ports(), *ssh]


def _addresses(developer: Developer | None) -> list[str]:
    return developer.addresses if developer else []


def _held(developer: Developer | None) -> set[str]:
    """Each thing that opens something to them."""
    keys = developer.keys if developer else []
    return {*_addresses(developer), *keys, *_tokens(developer)}


def _of_logins(change: Draft, was: Developer | None, becomes: Developer | None) -> Iterator[str]:
    account = account_of(change.name)
    had = change.name in with_accounts(change.before.settings)
    has = change.name in with_accounts(change.after.settings)
    if has and not had:
        yield f"makes the account {account}, for SSH tunnels and nothing else"
    if had and not has:
        yield f"ends the account {account}, its sessions and its keys"
    if has and had and was and becomes and was.keys != becomes.keys:
        yield f"changes the keys of {account}"


def _tokens(developer: Developer | None) -> set[str]:
    if developer is None or not developer.collections:
        return set()
    return {developer.token, developer.retiring} - {""}


def refuse(change: Draft, reality: Reality) -> list[str]:
    """Raise SettingsError where the change must not be made on a host like that.

    Nothing stands in the way of a removal: what would refuse another change is returned, a
    sentence each, to be told.
    """
    try:
        refuse_for_others(change.before, reality, [change.name])
    except SettingsError as error:
        if not change.removes:
            raise
        return [error.message.replace("; nothing was changed", "")]
    _refuse_for_the_removed(change, reality)
    added = set(_addresses(change.after.settings.developers.get(change.name)))
    added -= set(_addresses(change.before.settings.developers.get(change.name)))
    reasons = inputs.unreachable(sorted(added), reality.networks or ())
    if reasons:
        raise SettingsError("\n".join(reasons))
    return []


def _refuse_for_the_removed(change: Draft, reality: Reality) -> None:
    """Another operator's removal must not come undone by a change made from an old checkout."""
    before, name = change.before, change.name
    current = before.settings.current_developers()
    if change.removes or name not in current:
        return
    if traces.is_wholly_absent(before, reality, name):
        raise SettingsError(
            f"{name} is in {file_of(before)}, but the host has nothing of them: somebody removed"
            " them, perhaps; nothing was changed",
            f"git pull, where another operator removed them; else stackroom -e {before.name}"
            " deploy lets them in",
        )


def refuse_for_others(
    environment: Environment, reality: Reality, names: Sequence[str] = ()
) -> None:
    """Raise SettingsError where the host differs from the file in anybody but `names`.

    Who is past their last day is left out: the next apply takes away what they have, as the file
    has it, whoever it is made for. So is what no apply changes, which cuts nobody off.
    """
    now = datetime.now(UTC)
    needed = (*NEEDED, *accounts_of(environment.settings).parts)
    unknown = {part: reality.unknown[part] for part in needed if part in reality.unknown}
    if unknown:
        told = "; ".join(f"{part}: {reason}" for part, reason in unknown.items())
        raise SettingsError(
            f"it cannot be seen whom a change would cut off ({told}); nothing was changed",
            f"stackroom -e {environment.name} doctor",
        )
    over = {name for name, one in environment.settings.developers.items() if one.is_expired(now)}
    others = [
        each
        for each in audit(environment, reality, now).differences
        if each.applies and each.person not in {*names, *over}
    ]
    if others:
        raise SettingsError(
            "\n".join(
                [
                    f"the host is not as {file_of(environment)} says; nothing was changed:",
                    *(f"  {_told(each)}" for each in others),
                ]
            ),
            "git pull, where another operator changed it; else stackroom"
            f" -e {environment.name} deploy makes the host what the file says",
        )


def _told(difference: Difference) -> str:
    return f"{difference.person}: {difference.text}" if difference.person else difference.text


def carry(
    change: Draft,
    doing: str,
    *,
    on_step: Callable[[str, str], None] = lambda name, result: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Write the file and apply it to the host; the steps that changed something there.

    `doing` is the command, for the lock and the record. Where the apply fails the file is put
    back, unless the change takes something away. Raises LockedError, UnreachableError,
    SettingsError, and DeployError for an apply that failed.
    """
    remote = Remote(change.before)
    written = False

    def compare_and_write() -> None:
        nonlocal written
        for each in refuse(change, look(change.before, remote)):
            on_warning(each)
        replace_text(change.path, change.old, change.new)
        written = True

    def of_the_stack() -> list[str]:
        # the network was first: what the stack has for somebody who goes opens nothing any more
        return accounts_of(change.after.settings).settle(change.after, remote, on_step)

    try:
        return carry_out(
            change.after,
            doing,
            part="people",
            first=compare_and_write,
            last=of_the_stack,
            on_step=on_step,
        )
    except BaseException as error:
        if written:
            _after_failure(change, error)
        raise


def _after_failure(change: Draft, error: BaseException) -> None:
    """Put the file back, and say in the error how file and host stand now."""
    stackroom, file = f"stackroom -e {change.before.name}", change.path.name
    again = (
        f"once that is mended, run it again; or {stackroom} deploy makes the host as the file is"
    )
    if change.removes:
        said = f"{change.name} stays out of {file}, but may still reach the host"
        hint = f"{stackroom} developer remove {change.name}, again: it sweeps up what is left"
    elif change.takes_away:
        # what somebody wanted gone, a token that leaked perhaps, must not come back by a fault
        said = f"{file} stays changed, but what it takes from {change.name} may still work"
        hint = f"{stackroom} deploy, at once"
    else:
        said, hint = f"{file} is as it was before, but the host may have some of it", again
        try:
            replace_text(change.path, change.new, change.old)
        except (SettingsError, OSError):
            said = f"{file} stays changed: it could not be put back"
            hint = f"{stackroom} deploy"
    if isinstance(error, StackroomError):
        error.amend(said, hint)


def replace_text(path: Path, old: str, new: str) -> None:
    """Write a text in place of the one that was read, all of it or nothing; the mode stays.

    Raises SettingsError where somebody has edited the file meanwhile, OSError.
    """
    path = path.resolve()  # the file that a link names, not the link
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    mode = stat.S_IMODE(path.stat().st_mode)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(new.encode())
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(mode)
        if _read(path) != old:
            raise SettingsError(
                f"{path} was edited meanwhile; nothing was changed", "look at it, and run it again"
            )
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _read(path: Path) -> str:
    """The text as it is, ends of lines and all. Raises SettingsError."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
