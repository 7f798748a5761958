"""Who gets in: UFW, the DOCKER-USER block and sshd, changed together under a rollback timer.

The change is armed to undo itself, applied, and confirmed over a fresh connection. A change that
would shut out the machine this runs on is refused unless forced.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable
from typing import Any

from pyinfra import host
from pyinfra.api import FunctionCommand, OperationError, StringCommand, deploy, operation

from ops.host.cuts import cut, lost, remember
from ops.host.facts import FileTexts, Lines
from ops.host.firewall import Firewall, FirewallState, changes, difference, in_force
from ops.host.operations import Commands, differing, show_diff, unit, upload
from ops.render.files import RenderedFile
from ops.render.firewall import Family, container_block, with_block
from ops.render.host import GUARD, SSH_DROP_IN, ssh_files
from ops.settings import Settings

_RULES_FILES: dict[Family, str] = {"v4": "/etc/ufw/after.rules", "v6": "/etc/ufw/after6.rules"}


@deploy("Access")
def access(settings: Settings, *, force: bool = False) -> None:
    """The firewall and sshd as the inventory says, and the guard that undoes a mistake."""
    unit(name="guard at boot", unit_name="stackroom-guard.service", running=False)
    shut_out_all_but_listed(
        name="firewall and SSH", settings=settings, ssh_port=host.data.ssh_port, force=force
    )
    # enabled only: starting it would restart UFW, which opens the host for a moment
    unit(name="firewall at boot", unit_name="ufw.service", running=False)


def refuse_lockout(settings: Settings, *, force: bool = False) -> None:
    """Looks only: for a run to end before anything is changed. `access` looks again.

    Raises OperationError when the address this connection comes from is not listed.
    """
    source = _own_source()
    # through the machine itself, where only a change of the firewall is refused
    if source and not force and not ipaddress.ip_address(source).is_loopback:
        _refuse_lockout(settings, source)


@operation()
def shut_out_all_but_listed(settings: Settings, ssh_port: int, force: bool) -> Commands:
    """Make the live and the stored rules, and who may log in, what the settings say."""
    changed = differing([*ssh_files(settings), *_rules_files(settings)])
    live = host.get_fact(FirewallState)
    right = in_force(live, settings, ssh_port) and not any(difference(live, settings, ssh_port))
    right = right and not changed and not live.unconfirmed
    # what is named there and listed again was undone by the guard: nobody is to be cut off
    if right and not lost(live, settings, ssh_port):
        host.noop("the firewall and sshd are as the inventory says")
        return
    source = _own_source()
    if not force:
        _refuse_lockout(settings, source)
    losing = lost(live, settings, ssh_port, source)
    if not right:
        yield from _change_under_guard(live, changed, losing, settings, ssh_port)
    # last: a change that is undone must have cut nobody off
    if losing or live.uncut:
        yield cut(losing)


def _change_under_guard(
    live: Firewall,
    changed: list[RenderedFile],
    losing: list[str],
    settings: Settings,
    ssh_port: int,
) -> Commands:
    show_diff(changed)
    yield f"{GUARD} arm {settings.firewall.rollback_seconds}"
    if losing:
        yield remember(losing)
    for file in changed:
        if file.path == SSH_DROP_IN:
            yield _while_armed(_validated_by_sshd(file))
        yield _while_armed(upload(file))
    for command in changes(live, settings, ssh_port):
        yield _while_armed(command)
    # an unconfirmed change may have written the drop-in and not come to the restart
    if live.unconfirmed or any(file.path == SSH_DROP_IN for file in changed):
        yield _while_armed("systemctl try-restart ssh.service")
    yield FunctionCommand(_confirm_by_fresh_connection, [], {})


def _rules_files(settings: Settings) -> list[RenderedFile]:
    """UFW's after files with our block, so that the rules stand before Docker starts at boot."""
    texts = host.get_fact(FileTexts, paths=list(_RULES_FILES.values()))
    return [
        RenderedFile(
            path, with_block(texts.get(path, ""), container_block(settings, family)), mode=0o640
        )
        for family, path in _RULES_FILES.items()
    ]


def _validated_by_sshd(file: RenderedFile) -> StringCommand:
    """Fails, with sshd's own message, where sshd would not start with this drop-in."""
    # included, as on the host: the block at its end must not swallow what follows
    script = (
        "set -e; t=$(mktemp -d); trap 'rm -rf $t' EXIT; mkdir -p /run/sshd; cat >$t/drop-in;"
        ' { echo "Include $t/drop-in"; cat /etc/ssh/sshd_config; } >$t/config;'
        " sshd -t -f $t/config"
    )
    return StringCommand(f"sh -c {shlex.quote(script)}", _stdin=file.content)


def _while_armed(command: str | StringCommand) -> StringCommand:
    """The command, unless the guard has undone the change meanwhile: then nothing more of it."""
    armed = "test -e /var/lib/stackroom/guard/pending"
    undone = "{ echo 'the change took too long and has been undone' >&2; exit 1; }"
    arguments = command.connector_arguments if isinstance(command, StringCommand) else {}
    return StringCommand(f"{armed} || {undone};", command, **arguments)


def _own_source() -> str:
    """The address this connection comes from; empty where it is none of SSH's."""
    found = host.get_fact(Lines, script="echo ${SSH_CONNECTION:-}", _sudo=False)
    return found[0].split(" ")[0] if found and found[0] else ""


def _refuse_lockout(settings: Settings, source: str) -> None:
    """Raises OperationError when the address this connection comes from is not listed."""
    if not source or settings.ssh.open_to_world:
        return
    address = ipaddress.ip_address(source)
    if any(address in ipaddress.ip_network(listed) for listed in settings.ssh_addresses()):
        return
    raise OperationError(
        f"you come from {source}, which is listed neither for an operator nor for a developer:"
        " the firewall would shut you out. Add it to developers.toml, or force it with"
        " --force-lockout (it then undoes itself unless a listed machine confirms)"
    )


def _confirm_by_fresh_connection() -> None:
    """Log in anew, past every established connection, and only there call off the rollback."""
    connector: Any = type(host.connector)(host.state, host)
    connector.connect()
    try:
        ok, output = connector.run_shell_command(StringCommand(f"{GUARD} confirm"), **_as_root())
    finally:
        close: Callable[[], None] | None = getattr(
            getattr(connector, "client", None), "close", None
        )
        if close:
            close()
    if not ok:
        raise OperationError(f"the fresh connection could not confirm: {output.stderr}")


def _as_root() -> dict[str, Any]:
    return {"_sudo": True} if host.data.get("_sudo") else {}
