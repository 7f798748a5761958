"""What `iptables -S` prints on a Debian host with UFW and Docker, and an inventory's rules in it.

UFW's are recorded (recorded/), output chains left out. `live(...)` puts in what the settings ask
for, and what a test adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ops.clients.on_host import chains
from ops.render.firewall import FAMILIES, expected_chains
from ops.settings import Settings

_RECORDED = Path(__file__).with_name("recorded")
_UFW = {family: (_RECORDED / f"ufw.{family}.rules").read_text() for family in FAMILIES}
_DOCKER = """\
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i br-stackroom -j ACCEPT
-A DOCKER-BRIDGE -o br-stackroom -j DOCKER
-A DOCKER-CT -o br-stackroom -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER -d {edge} ! -i br-stackroom -o br-stackroom -p tcp -m tcp --dport 443 -j ACCEPT
-A DOCKER ! -i br-stackroom -o br-stackroom -j DROP
"""
_EDGE = {"v4": "172.30.240.3/32", "v6": "fd5a:7ac4:4003::3/128"}


def live(
    settings: Settings, first: Sequence[str] = (), last: Sequence[str] = (), port: int = 22
) -> dict[str, Any]:
    """What look.py reads: policies and rules by family. `first` and `last` are further rules of
    IPv4 or, with an IPv6 address in them, of IPv6, before and behind those of the settings."""
    expected = expected_chains(settings, port)
    return {
        family: chains(
            "\n".join(
                [
                    *_of(first, family),
                    *_DOCKER.format(edge=_EDGE[family]).splitlines(),
                    *_UFW[family].splitlines(),
                    *(rule for rules in expected[family].values() for rule in rules),
                    *_of(last, family),
                ]
            )
        )
        for family in FAMILIES
    }


def stored(settings: Settings, more: Sequence[str] = (), port: int = 22) -> dict[str, Any]:
    """What look.py reads of UFW's files, where the order of words is another."""
    expected: Mapping[str, Mapping[str, Sequence[str]]] = expected_chains(settings, port)
    return {
        family: chains(
            "\n".join(
                [
                    *(_as_ufw(rule) for rules in expected[family].values() for rule in rules),
                    *_of(more, family),
                ]
            )
        )["rules"]
        for family in FAMILIES
    }


def _of(rules: Sequence[str], family: str) -> list[str]:
    return [rule for rule in rules if ("::" in rule or "ufw6" in rule) == (family == "v6")]


def _as_ufw(rule: str) -> str:
    words = rule.split()
    if words[1].startswith("ufw") and "-s" in words:
        port = words[words.index("--dport") + 1]
        return f"-A {words[1]} -p tcp --dport {port} -s {words[3]} -j ACCEPT"
    return rule
