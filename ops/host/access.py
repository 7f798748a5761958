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

from ops.host.facts import FileTexts, Lines
from ops.host.operations import Commands, differing, show_diff, unit, upload
from ops.render.files import RenderedFile
from ops.render.firewall import (
    CONTAINER_CHAIN,
    FAMILIES,
    JUMP,
    Family,
    container_block,
    expected_chains,
    is_guarded,
    ufw_rules,
    with_block,
)
from ops.render.host import GUARD, SSH_DROP_IN, ssh_files
from ops.settings import Settings

_TOOLS: dict[Family, str] = {"v4": "iptables", "v6": "ip6tables"}
_RULES_FILES: dict[Family, str] = {"v4": "/etc/ufw/after.rules", "v6": "/etc/ufw/after6.rules"}
_UFW_DEFAULTS = [
    "ufw default deny incoming",
    "ufw default allow outgoing",
    "ufw default deny routed",
]


@deploy("Access")
def access(settings: Settings, *, force: bool = False) -> None:
    """The firewall and sshd as the inventory says, and the guard that undoes a mistake."""
    unit(name="guard at boot", unit_name="stackroom-guard.service", running=False)
    shut_out_all_but_listed(
        name="firewall and SSH", settings=settings, ssh_port=host.data.ssh_port, force=force
    )
    # enabled only: starting it would restart UFW, which opens the host for a moment
    unit(name="firewall at boot", unit_name="ufw.service", running=False)


@operation()
def shut_out_all_but_listed(settings: Settings, ssh_port: int, force: bool) -> Commands:
    """Make the live and the stored rules, and sshd's drop-in, what the settings say."""
    files = [*ssh_files(settings), *_rules_files(settings)]
    changed = differing(files)
    live = _live()
    added, removed = _ufw_difference(settings, ssh_port, live)
    same_chains = all(
        live[f"{family} {chain}"] == rules
        if chain != _host_chain(family)
        else sorted(live[f"{family} {chain}"]) == sorted(rules)
        for family, chains in expected_chains(settings, ssh_port).items()
        for chain, rules in chains.items()
    )
    stands = same_chains and live["ufw"] == ["active"] and live["policy"] == ["DROP", "DROP"]
    stands = stands and not live["ipv6"]
    stands = stands and all(is_guarded(live[f"{family} FORWARD"]) for family in FAMILIES)
    if stands and not (changed or added or removed or live["pending"]):
        host.noop("the firewall and sshd are as the inventory says")
        return
    if not force:
        _refuse_lockout(settings)
    show_diff(changed)
    yield f"{GUARD} arm {settings.firewall.rollback_seconds}"
    for file in changed:
        if file.path == SSH_DROP_IN:
            yield _validated_by_sshd(file)
        yield upload(file)
    for family in FAMILIES:
        yield StringCommand(
            f"{_TOOLS[family]}-restore -n", _stdin=container_block(settings, family)
        )
        yield from _ask_docker_user_first(family)
    if live["ufw"] != ["active"]:
        # the defaults first: they name no address; then SSH for the listed, then the switch
        yield from _UFW_DEFAULTS
    for rule in added:
        yield f"ufw {rule}"
    for rule in removed:
        yield f"ufw --force delete {rule}"
    if live["ufw"] != ["active"] or live["ipv6"]:
        yield "sed -i 's/^IPV6=.*/IPV6=yes/' /etc/default/ufw"
        yield "ufw --force enable"
    elif not stands:
        yield from _reload_without_gap()
    if any(file.path == SSH_DROP_IN for file in changed):
        yield "systemctl try-restart ssh.service"
    yield FunctionCommand(_confirm_by_fresh_connection, [], {})


def _host_chain(family: Family) -> str:
    return "ufw-user-input" if family == "v4" else "ufw6-user-input"


def _chains(family: Family) -> tuple[str, ...]:
    return (_host_chain(family), "DOCKER-USER", CONTAINER_CHAIN, "FORWARD")


def _rules_files(settings: Settings) -> list[RenderedFile]:
    """UFW's after files with our block, so that the rules stand before Docker starts at boot."""
    texts = host.get_fact(FileTexts, paths=list(_RULES_FILES.values()))
    return [
        RenderedFile(
            path, with_block(texts.get(path, ""), container_block(settings, family)), mode=0o640
        )
        for family, path in _RULES_FILES.items()
    ]


def _live() -> dict[str, list[str]]:
    """The rules in force by `<family> <chain>`; and `ufw`, `policy`, `added`, `pending`, `ipv6`."""
    script = ["command -v ufw >/dev/null || exit 0"]
    for family, tool in _TOOLS.items():
        for chain in _chains(family):
            script.append(f"{tool} -S {chain} 2>/dev/null | sed -n 's/^-A /{family} {chain}=-A /p'")
        script.append(f"{tool} -S INPUT | sed -n 's/^-P INPUT /policy=/p'")
    script += [
        "ufw status | sed -n 's/^Status: /ufw=/p'",
        "ufw show added | sed -n 's/^ufw /added=/p'",
        "[ ! -e /var/lib/stackroom/guard/pending ] || echo pending=yes",
        # without it UFW wipes Docker's IPv6 chains
        "grep -q '^IPV6=yes' /etc/default/ufw || echo ipv6=off",
    ]
    keys = [f"{family} {chain}" for family in FAMILIES for chain in _chains(family)]
    live: dict[str, list[str]] = {
        key: [] for key in [*keys, "ufw", "policy", "added", "pending", "ipv6"]
    }
    for line in host.get_fact(Lines, script="; ".join(script)):
        key, _, value = line.partition("=")
        live[key].append(value)
    return live


def _ufw_difference(
    settings: Settings, ssh_port: int, live: dict[str, list[str]]
) -> tuple[list[str], list[str]]:
    """Rules to add, and rules to delete (as `ufw delete` wants them, without the comment)."""
    wanted = ufw_rules(settings, ssh_port)
    added = [rule for rule in wanted if rule not in live["added"]]
    removed = [rule for rule in live["added"] if rule not in wanted]
    return added, [rule.split(" comment ")[0] for rule in removed]


def _ask_docker_user_first(family: Family) -> list[str]:
    """Put the jump first, then take away what is left of it further below."""
    tool = _TOOLS[family]
    second = f"{tool} -S FORWARD | grep '^-A' | grep -nxe '{JUMP}' | sed -n '2s/:.*//p'"
    return [
        f"{tool} -I FORWARD -j DOCKER-USER",
        f'n=$({second}); [ -z "$n" ] || {tool} -D FORWARD "$n"',
    ]


def _reload_without_gap() -> list[str]:
    """Load UFW's stored rules into its live chains; `ufw reload` would open the host meanwhile."""
    return [
        "iptables-restore -n </etc/ufw/user.rules",
        "ip6tables-restore -n </etc/ufw/user6.rules",
        "iptables -P INPUT DROP",
        "ip6tables -P INPUT DROP",
    ]


def _validated_by_sshd(file: RenderedFile) -> StringCommand:
    """Fails, with sshd's own message, where sshd would not start with this drop-in."""
    script = (
        "set -e; t=$(mktemp); trap 'rm -f $t' EXIT; mkdir -p /run/sshd;"
        " cat - /etc/ssh/sshd_config >$t; sshd -t -f $t"
    )
    return StringCommand(f"sh -c {shlex.quote(script)}", _stdin=file.content)


def _refuse_lockout(settings: Settings) -> None:
    """Raises OperationError when the address this connection comes from is not listed."""
    found = host.get_fact(Lines, script="echo ${SSH_CONNECTION:-}", _sudo=False)
    source = found[0].split(" ")[0] if found and found[0] else ""
    if not source or settings.ssh.open_to_world:
        return
    address = ipaddress.ip_address(source)
    if any(address in ipaddress.ip_network(listed) for listed in settings.addresses()):
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
