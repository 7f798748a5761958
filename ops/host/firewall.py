"""The firewall in force, what it lacks, and the commands that change it without opening a gap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand

from ops.render.firewall import (
    CONTAINER_CHAIN,
    FAMILIES,
    JUMP,
    Family,
    container_block,
    expected_chains,
    is_guarded,
    ufw_rules,
)
from ops.settings import Settings

TOOLS: dict[Family, str] = {"v4": "iptables", "v6": "ip6tables"}
# what UFW applies when it starts, at boot
_STORED = (
    "IPV6=yes",
    'DEFAULT_INPUT_POLICY="DROP"',
    'DEFAULT_OUTPUT_POLICY="ACCEPT"',
    'DEFAULT_FORWARD_POLICY="DROP"',
    "MANAGE_BUILTINS=no",
)
# what is still to be cut, kept until it is: a deploy may break off between the rules and the cut
UNCUT = "/var/lib/stackroom/uncut"
HOST_CHAINS: dict[Family, str] = {"v4": "ufw-user-input", "v6": "ufw6-user-input"}


@dataclass(frozen=True)
class Firewall:
    """What is in force: UFW's word, INPUT's policies, stored rules, and live rules by chain.

    `unconfirmed`: a change is armed to undo itself. `stored`: UFW's own defaults for the next boot
    shut the host and leave Docker's chains alone. `uncut`: sources, "198.51.100.7/32 22", that lost
    their access and may still have connections.
    """

    active: bool
    ipv6: bool
    unconfirmed: bool
    stored: bool
    policies: tuple[str, ...]
    added: tuple[str, ...]
    chains: dict[str, tuple[str, ...]]
    uncut: tuple[str, ...] = ()


class FirewallState(FactBase[Firewall]):
    """The firewall in one round trip; on a host without UFW, nothing is in force."""

    @staticmethod
    def default() -> Firewall:
        return Firewall(False, True, False, False, (), (), {})

    def command(self) -> str:
        script = [
            f"sed 's/^/uncut=/' {UNCUT} 2>/dev/null",
            "command -v ufw >/dev/null || exit 0",
        ]
        for family, tool in TOOLS.items():
            for chain in (HOST_CHAINS[family], "DOCKER-USER", CONTAINER_CHAIN, "FORWARD"):
                key = f"{family} {chain}"
                script.append(f"{tool} -S {chain} 2>/dev/null | sed -n 's/^-A /{key}=-A /p'")
            script.append(f"{tool} -S INPUT | sed -n 's/^-P INPUT /policy=/p'")
        script += [
            "ufw status | sed -n 's/^Status: /status=/p'",
            "ufw show added | sed -n 's/^ufw /added=/p'",
            "[ ! -e /var/lib/stackroom/guard/pending ] || echo unconfirmed=yes",
            # without it UFW wipes Docker's IPv6 chains
            "grep -q '^IPV6=yes' /etc/default/ufw || echo ipv6=off",
            f"[ $(grep -cxE '{'|'.join(_STORED)}' /etc/default/ufw) -eq {len(_STORED)} ]"
            " && echo stored=yes || true",
        ]
        return "; ".join(script)

    def process(self, output: list[str]) -> Firewall:
        found: dict[str, list[str]] = defaultdict(list)
        for line in output:
            key, _, value = line.partition("=")
            found[key].append(value)
        return Firewall(
            active=found["status"] == ["active"],
            ipv6=not found["ipv6"],
            unconfirmed=bool(found["unconfirmed"]),
            stored=bool(found["stored"]),
            policies=tuple(found["policy"]),
            added=tuple(found["added"]),
            chains={key: tuple(rules) for key, rules in found.items() if " " in key},
            uncut=tuple(found["uncut"]),
        )


def in_force(live: Firewall, settings: Settings, ssh_port: int) -> bool:
    """Whether the live rules are those of the settings, in both families."""
    return (
        live.active
        and live.ipv6
        and live.stored
        and live.policies == ("DROP", "DROP")
        and all(is_guarded(list(live.chains.get(f"{family} FORWARD", ()))) for family in FAMILIES)
        and all(
            _same(chain, live.chains.get(f"{family} {chain}", ()), rules)
            for family, chains in expected_chains(settings, ssh_port).items()
            for chain, rules in chains.items()
        )
    )


def difference(live: Firewall, settings: Settings, ssh_port: int) -> tuple[list[str], list[str]]:
    """UFW's stored rules: those to add, and those to delete (without their comments)."""
    wanted = ufw_rules(settings, ssh_port)
    added = [rule for rule in wanted if rule not in live.added]
    removed = [rule for rule in live.added if rule not in wanted]
    return added, [rule.split(" comment ")[0] for rule in removed]


def changes(live: Firewall, settings: Settings, ssh_port: int) -> Iterator[str | StringCommand]:
    """The commands from what is in force to what the settings say; never open in between."""
    for family in FAMILIES:
        block = container_block(settings, family)
        yield StringCommand(f"{TOOLS[family]}-restore -n", _stdin=block)
        yield from _ask_docker_user_first(TOOLS[family])
    added, removed = difference(live, settings, ssh_port)
    # in the file: `ufw default` would stop and start an active firewall
    for line in _STORED:
        name = line.split("=")[0]
        yield f"sed -i 's/^{name}=.*/{line}/' /etc/default/ufw"
    for rule in added:
        yield f"ufw {rule}"
    for rule in removed:
        yield f"ufw --force delete {rule}"
    if not live.active:
        yield "ufw --force enable"
    elif not live.ipv6:
        # an active UFW makes its IPv6 chains at a start only; without them nothing guards IPv6
        yield "echo 'UFW runs without IPv6: ufw disable && ufw enable, then deploy' >&2; exit 1"
    elif not in_force(live, settings, ssh_port):
        # UFW's stored rules into its live chains: `ufw reload` would open the host meanwhile
        yield "iptables-restore -n </etc/ufw/user.rules && iptables -P INPUT DROP"
        yield "ip6tables-restore -n </etc/ufw/user6.rules && ip6tables -P INPUT DROP"


def _ask_docker_user_first(tool: str) -> Iterator[str]:
    """Put the jump first, then take away what is left of it further below."""
    second = f"{tool} -S FORWARD | grep '^-A' | grep -nxe '{JUMP}' | sed -n '2s/:.*//p'"
    yield f"{tool} -I FORWARD -j DOCKER-USER"
    yield f'n=$({second}); [ -z "$n" ] || {tool} -D FORWARD "$n"'


def _same(chain: str, live: tuple[str, ...], wanted: list[str]) -> bool:
    """UFW keeps its rules in the order of their adding; in the other chains order matters."""
    if chain in HOST_CHAINS.values():
        return sorted(live) == sorted(wanted)
    return list(live) == wanted
