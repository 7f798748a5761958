"""Runs on the machine: looks at who can really reach it and prints that as one JSON line.

Sent over SSH with its parts, see ops/clients/script.py: standard library only, Python 3.10
or newer. It changes nothing, judges nothing and prints no secret. The argument is JSON, see
QUESTION in look_common.py; what cannot be read is told under "errors" with the reason, and never
passes for empty.
"""

from __future__ import annotations

import ipaddress
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from ops.clients.on_host import answer, chains
from ops.developers.look_common import QUESTION, at, run
from ops.developers.look_logins import accounts, keys
from ops.developers.look_r2r import users
from ops.developers.look_tokens import keys_of_qdrant, seen, tokens

SECTION_SECONDS = 20.0


def firewall() -> dict[str, Any]:
    """Policies and rules of the filter table by family and chain, as `iptables -S` prints them."""
    return {
        family: chains(run(tool, "-w", "5", "-S"))
        for family, tool in (("v4", "iptables"), ("v6", "ip6tables"))
    }


def stored() -> dict[str, dict[str, list[str]]]:
    """The rules that open the machine at the next boot, by family and chain."""
    return {
        family: chains("\n".join([*lines(f"user{six}.rules"), *lines(f"after{six}.rules")]))[
            "rules"
        ]
        for family, six in (("v4", ""), ("v6", "6"))
    }


def lines(name: str) -> list[str]:
    return at(f"/etc/ufw/{name}").read_text(encoding="utf-8", errors="replace").splitlines()


def connections() -> list[dict[str, Any]]:
    """Established ones, of SSH and through the edge: source, port as the client asked, number."""
    found = ssh_peers(run("ss", "-Htn", "state", "established"), QUESTION["ssh_port"])
    if QUESTION["edge_ports"]:
        for family in ("ipv4", "ipv6"):
            tracked = run("conntrack", "-L", "-f", family, "-p", "tcp")
            found += tracked_peers(tracked, QUESTION["edge_ports"])
    return [
        {"source": source, "port": port, "count": count}
        for (source, port), count in sorted(Counter(found).items())
    ]


def ssh_peers(listing: str, port: int) -> list[tuple[str, int]]:
    peers = []
    for line in listing.splitlines():
        local, peer = line.split()[2:4]
        if local.rpartition(":")[2] == str(port):
            source = peer.rpartition(":")[0].strip("[]").partition("%")[0]
            peers.append((source.removeprefix("::ffff:"), port))
    return peers


def tracked_peers(listing: str, ports: list[int]) -> list[tuple[str, int]]:
    """Those that were led on to a container; one that only passes through answers from where it
    was sent to."""
    peers = []
    for line in listing.splitlines():
        pairs = re.findall(r"(src|dst|sport|dport)=(\S+)", line)
        if " ESTABLISHED " not in line or len(pairs) < 8:
            continue
        asked, answered = dict(pairs[:4]), dict(pairs[4:8])
        if int(asked["dport"]) in ports and asked["dst"] != answered["src"]:
            peers.append((asked["src"], int(asked["dport"])))
    return peers


def networks() -> list[str]:
    """What the machine itself is part of or knows a way to, Docker's own networks left out."""
    found = set()
    for link in json.loads(run("ip", "-j", "addr")):
        if not is_docker(link.get("ifname", "")):
            for each in link.get("addr_info", []):
                found.add(f"{each['local']}/{each['prefixlen']}")
    for family in ("-4", "-6"):
        for route in json.loads(run("ip", family, "-j", "route") or "[]"):
            # a way to nowhere is none
            if not is_docker(route.get("dev", "")) and route.get("type", "unicast") == "unicast":
                found.add(route["dst"])
    told = [ipaddress.ip_network(each, strict=False) for each in found - {"default"}]
    return sorted({str(each) for each in told if not (each.is_link_local or each.is_multicast)})


def is_docker(interface: str) -> bool:
    return interface == "lo" or interface.startswith(("docker", "br-", "veth"))


Section = Callable[[], Any]
_HOST: dict[str, Section] = {
    "firewall": firewall,
    "stored": stored,
    "connections": connections,
    "accounts": accounts,
    "keys": keys,
    "networks": networks,
}
SECTIONS: dict[str, dict[str, Section]] = {
    "qdrant": {**_HOST, "tokens": tokens, "qdrant_keys": keys_of_qdrant, "seen": seen},
    "r2r": {**_HOST, "users": users},
}


def main() -> None:
    if len(sys.argv) > 1:
        QUESTION.update(json.loads(sys.argv[1]))
    answer(SECTIONS[QUESTION["stack"]], SECTION_SECONDS)


if __name__ == "__main__":
    main()
