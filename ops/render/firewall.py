"""Who may reach what, as rules: UFW commands for the host, one DOCKER-USER block for containers.

Docker's published ports are forwarded, so UFW never sees them; the block guards them by the port
the client asked for and by its address. Rules are written the way `iptables -S` prints them, so
that what is live can be compared as text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Literal

from ops.settings import Settings
from ops.settings.addresses import short

Family = Literal["v4", "v6"]
FAMILIES: tuple[Family, ...] = ("v4", "v6")
CONTAINER_CHAIN = "STACKROOM-IN"
JUMP = "-A FORWARD -j DOCKER-USER"
BLOCK_BEGIN = "# BEGIN stackroom: containers are closed but to listed addresses"
BLOCK_END = "# END stackroom"

# replies, and what containers send out or to each other, pass; what comes in is judged
_DOCKER_USER = [
    "-A DOCKER-USER -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
    "-A DOCKER-USER -i br-+ -j RETURN",
    "-A DOCKER-USER -i docker0 -j RETURN",
    # what is published, whatever its bridge is called
    f"-A DOCKER-USER -m conntrack --ctstate DNAT -j {CONTAINER_CHAIN}",
    f"-A DOCKER-USER -o br-+ -j {CONTAINER_CHAIN}",
    f"-A DOCKER-USER -o docker0 -j {CONTAINER_CHAIN}",
    # Docker before 28 adds this line itself where it is missing
    "-A DOCKER-USER -j RETURN",
]


def family_of(network: str) -> Family:
    """The address family of a canonical address range."""
    return "v4" if ipaddress.ip_network(network).version == 4 else "v6"


def ufw_rules(settings: Settings, ssh_port: int) -> list[str]:
    """The rules as `ufw show added` prints them, without `ufw`; the host itself opens SSH only."""
    if settings.ssh.open_to_world:
        return [f"allow {ssh_port}/tcp comment 'stackroom'"]
    rest = f"to any port {ssh_port} proto tcp comment 'stackroom'"
    return [f"allow from {short(address)} {rest}" for address in settings.ssh_addresses()]


def container_rules(settings: Settings, family: Family) -> list[str]:
    """The rules of the STACKROOM-IN chain: (source, original port) pairs, then the drop."""
    rules = []
    for address in settings.addresses():
        if family_of(address) == family:
            # iptables prints no source where it is the whole internet
            source = "" if address.endswith("/0") else f"-s {address} "
            rules += [
                f"-A {CONTAINER_CHAIN} {source}-p tcp -m conntrack"
                f" --ctorigdstport {port} --ctdir ORIGINAL -j RETURN"
                for port in settings.edge_ports()
            ]
    rules += [
        f"-A {CONTAINER_CHAIN} -p tcp -m conntrack"
        f" --ctorigdstport {port} --ctdir ORIGINAL -j RETURN"
        for port in settings.world_ports()
    ]
    return [*rules, f"-A {CONTAINER_CHAIN} -j DROP"]


def container_block(settings: Settings, family: Family) -> str:
    """The block for `iptables-restore -n`: naming a chain empties just that chain, at once."""
    lines = [
        "*filter",
        ":DOCKER-USER - [0:0]",
        f":{CONTAINER_CHAIN} - [0:0]",
        *_DOCKER_USER,
        *container_rules(settings, family),
        "COMMIT",
    ]
    return "\n".join(lines) + "\n"


def with_block(rules_file: str, block: str) -> str:
    """`rules_file` (UFW's after.rules) with our block at its end, in place of an older one.

    Every other line stays as it is, also behind a mark whose counterpart somebody took away.
    """
    older = re.compile(
        rf"^{re.escape(BLOCK_BEGIN)}\n(?:(?!{re.escape(BLOCK_BEGIN)}).*\n)*?"
        rf"{re.escape(BLOCK_END)}(?:\n|\Z)",
        re.MULTILINE,
    )
    kept = rules_file
    while older.search(kept):  # taking one away may close another
        kept = older.sub("", kept)
    if kept and not kept.endswith("\n"):
        kept += "\n"
    return f"{kept}{BLOCK_BEGIN}\n{block}{BLOCK_END}\n"


def expected_chains(settings: Settings, ssh_port: int) -> dict[Family, dict[str, list[str]]]:
    """The live rules by family and chain, exactly as `iptables -S <chain>` prints its -A lines.

    The order within DOCKER-USER and STACKROOM-IN matters; UFW keeps its own in the order in which
    rules were added, so its chain is to be compared as a set.
    """
    chains: dict[Family, dict[str, list[str]]] = {}
    for family in FAMILIES:
        host_chain = "ufw-user-input" if family == "v4" else "ufw6-user-input"
        sources = [f"-s {a} " for a in settings.ssh_addresses() if family_of(a) == family]
        if settings.ssh.open_to_world:
            sources = [""]
        chains[family] = {
            host_chain: [
                f"-A {host_chain} {source}-p tcp -m tcp --dport {ssh_port} -j ACCEPT"
                for source in sources
            ],
            "DOCKER-USER": list(_DOCKER_USER),
            CONTAINER_CHAIN: container_rules(settings, family),
        }
    return chains


def is_guarded(forward: Sequence[str]) -> bool:
    """Whether the FORWARD chain asks DOCKER-USER before anything in it can let a packet through.

    Docker's isolation chain comes first after some of its restarts; it only ever drops.
    """
    for rule in forward:
        if rule == JUMP:
            return True
        if not rule.startswith("-A FORWARD -j DOCKER-ISOLATION-"):
            return False
    return False
