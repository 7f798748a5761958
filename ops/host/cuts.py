"""The connections of sources that lose access: which they are, and the commands that end them.

New rules judge new connections only; what is established passes until it is cut.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ops.host.firewall import HOST_CHAINS, UNCUT, Firewall
from ops.render.firewall import CONTAINER_CHAIN, expected_chains
from ops.render.project import PROJECT
from ops.settings import Settings
from ops.settings.addresses import Network

_ANY = 0  # a rule that names no port opens them all
_LETS_IN = re.compile(r" -j (ACCEPT|RETURN|ufw-user-limit-accept)$")
_SOURCE = re.compile(r" -s (\S+)")
_PORTS = re.compile(r" --(?:dports?|ctorigdstport) (\S+)")
_PROTOCOL = re.compile(r" -p (\S+)")
# how a socket for both families shows IPv4; nobody comes from there, and IPv4 is judged as such
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_EVERYWHERE: dict[str, str] = {"v4": "0.0.0.0/0", "v6": "::/0"}

_Grants = defaultdict[int, set[Network]]
_Range = TypeVar("_Range", ipaddress.IPv4Network, ipaddress.IPv6Network)


def lost(live: Firewall, settings: Settings, ssh_port: int, spared: str = "") -> list[str]:
    """What the live rules let in and the settings do not: lines "198.51.100.7/32 22".

    Whoever is listed stays out of a wider range that goes, address by address, and so does
    `spared`, the address of whoever runs this.
    """
    wanted = _grants(
        {
            f"{family} {chain}": rules
            for family, chains in expected_chains(settings, ssh_port).items()
            for chain, rules in chains.items()
        }
    )
    had = _grants(live.chains)
    for line in live.uncut:
        source, _, number = line.partition(" ")
        had[int(number)].add(ipaddress.ip_network(source))
    spare: set[Network] = {_MAPPED}
    if spared:
        spare.add(ipaddress.ip_network(spared.partition("%")[0]))
    found = []
    for port in sorted({*had, *wanted} - {_ANY}):
        for network in _without(had[port] | had[_ANY], wanted[port] | spare):
            found.append(f"{network} {port}")
    return found


def cut(lines: Sequence[str]) -> str:
    """The command that ends the connections `lost` names, on the host and in the edge.

    The sockets go first: what the host still sends on one would have its connection tracked anew,
    as the host's own, and let the answers in.
    """
    if not lines:
        return f"rm -f {UNCUT}"
    by_port: dict[int, list[str]] = defaultdict(list)
    for line in lines:
        network, port = line.split(" ")
        by_port[int(port)].append(network)
    sockets = "; ".join(_sockets(networks, port) for port, networks in sorted(by_port.items()))
    tracked = "; ".join(
        _tracked(network, port)
        for port, networks in sorted(by_port.items())
        for network in networks
    )
    edge = (
        f"docker ps -q --filter label=com.docker.compose.project={PROJECT}"
        " --filter label=com.docker.compose.service=edge"
    )
    script = (
        'end() { ss -K -H -n -t "$1" >/dev/null || exit 1; for p in $edges; do'
        ' nsenter -t "$p" -n ss -K -H -n -t "$1" >/dev/null || [ ! -d "/proc/$p" ] || exit 1;'
        " done; };"
        # its exit code is 1 for none found as well as for a failure: the count tells them apart
        ' forget() { t=$(conntrack -D "$@" 2>&1 >/dev/null) || true;'
        ' case "$t" in *"have been deleted"*) ;; *) echo "$t" >&2; exit 1 ;; esac; };'
        f" edges=$({edge} 2>/dev/null | xargs -r docker inspect -f '{{{{.State.Pid}}}}');"
        # again for one that was let in between the two
        f" {sockets}; {tracked}; {sockets}; rm -f {UNCUT}"
    )
    return f"sh -c {shlex.quote(script)}"


def remember(lines: Sequence[str]) -> str:
    """The command that keeps what is to be cut, until it is."""
    text = shlex.quote("".join(f"{line}\n" for line in lines))
    return f"printf %s {text} >{UNCUT}.new && sync {UNCUT}.new && mv {UNCUT}.new {UNCUT}"


def _sockets(networks: Sequence[str], port: int) -> str:
    sources = " or ".join(f"dst {_for_ss(network)}" for network in networks)
    return f"end {shlex.quote(f'( {sources} ) and sport = :{port}')}"


def _for_ss(network: str) -> str:
    return f"[{network}]" if ":" in network else network


def _tracked(network: str, port: int) -> str:
    family = "ipv6" if ":" in network else "ipv4"
    return f"forget -f {family} -p tcp --orig-src {network} --orig-port-dst {port}"


def _grants(chains: Mapping[str, Iterable[str]]) -> _Grants:
    """Who is let in to which TCP port, by the chains that decide about sources."""
    grants: _Grants = defaultdict(set)
    for key, rules in chains.items():
        family, _, chain = key.partition(" ")
        if chain not in (CONTAINER_CHAIN, *HOST_CHAINS.values()):
            continue
        for rule in rules:
            protocol = _PROTOCOL.search(rule)
            if not _LETS_IN.search(rule) or (protocol and protocol[1] != "tcp"):
                continue
            source = _SOURCE.search(rule)
            network = ipaddress.ip_network(source[1] if source else _EVERYWHERE[family])
            for port in _ports(rule):
                grants[port].add(network)
    return grants


def _ports(rule: str) -> list[int]:
    found = _PORTS.search(rule)
    if not found:
        return [_ANY]
    ports = found[1].split(",")
    return [int(port) for port in ports] if all(port.isdigit() for port in ports) else [_ANY]


def _without(networks: set[Network], kept: set[Network]) -> list[Network]:
    """The addresses of `networks` that are in none of `kept`, as the fewest ranges."""
    left = list(networks)
    for keep in kept:
        left = [rest for network in left for rest in _minus(network, keep)]
    four = [network for network in left if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in left if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def _minus(network: Network, keep: Network) -> Iterable[Network]:
    if isinstance(network, ipaddress.IPv4Network) and isinstance(keep, ipaddress.IPv4Network):
        return _apart(network, keep)
    if isinstance(network, ipaddress.IPv6Network) and isinstance(keep, ipaddress.IPv6Network):
        return _apart(network, keep)
    return [network]


def _apart(network: _Range, keep: _Range) -> Iterable[_Range]:
    if network.subnet_of(keep):
        return []
    return network.address_exclude(keep) if keep.subnet_of(network) else [network]
