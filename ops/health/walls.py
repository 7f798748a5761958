"""Judges of what keeps others out: SSH, listeners, the live firewall. Pure: facts in, verdict out.

The firewall is compared rule by rule with what ops/render/firewall.py would write today.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ops.health.model import Verdict, critical, ok, warning
from ops.render.firewall import CONTAINER_CHAIN, FAMILIES, Family, is_guarded

Facts = Any  # one section of the collected facts, as JSON gave it
Chains = Mapping[Family, Mapping[str, Sequence[str]]]  # family -> chain -> rules

DEPLOY = "stackroom -e {environment} deploy"
_ROOT = {"keys": ("without-password", "prohibit-password"), "no": ("no",)}
# what lets a person in without a key is critical; the rest is care
_NO_PASSWORDS = ("passwordauthentication", "kbdinteractiveauthentication", "permitemptypasswords")
_CARE = {"x11forwarding": "no", "allowagentforwarding": "no", "pubkeyauthentication": "yes"}


def ssh_hardened(found: Facts, root_login: str) -> Verdict:
    """`sshd -T` against the drop-in; `root_login` is the setting ssh.root_login."""
    open_doors = [f"{key} {found.get(key)}" for key in _NO_PASSWORDS if found.get(key) != "no"]
    if found.get("permitrootlogin") not in _ROOT[root_login]:
        open_doors.append(f"permitrootlogin {found.get('permitrootlogin')}")
    if open_doors:
        return critical(f"sshd runs with {', '.join(open_doors)}", DEPLOY)
    loose = [f"{key} {found.get(key)}" for key, wish in _CARE.items() if found.get(key) != wish]
    if loose:
        return warning(f"sshd runs with {', '.join(loose)}", DEPLOY)
    return ok("keys only")


def listeners(found: Facts, expected: Collection[int]) -> Verdict:
    """Host programs that listen beyond loopback on a port that is neither SSH's nor the edge's."""
    strange = [
        f"{each['program'] or 'a program'} on {_socket(each)}"
        for each in found
        if each["port"] not in expected and not _is_loopback(each["address"])
    ]
    return _strange(strange, "nothing but SSH and the edge listens beyond loopback")


def published(containers: Facts, expected: Collection[int]) -> Verdict:
    """Container ports, of whatever project, published beyond loopback that are not the edge's."""
    strange = [
        f"{each['name']} on {_socket(port)}"
        for each in containers
        for port in each["ports"]
        if port["port"] not in expected and not _is_loopback(port["address"])
    ]
    return _strange(strange, "no container but the edge is published beyond loopback")


def firewall_active(found: Facts) -> Verdict:
    wrong = [] if found["ufw"] else ["UFW is not active"]
    for family in FAMILIES:
        policy = found[family]["policies"].get("INPUT")
        if policy != "DROP":
            wrong.append(f"INPUT policy {policy} ({family})")
    if wrong:
        return critical(", ".join(wrong), DEPLOY)
    return ok("UFW is active and drops what is not listed, IPv4 and IPv6")


def firewall_host(found: Facts, expected: Chains) -> Verdict:
    """UFW's own chain of each family, as a set: UFW keeps the order in which rules were added."""
    extra, missing = [], []
    for family, chains in expected.items():
        chain = next(name for name in chains if name.startswith("ufw"))
        live = found[family]["rules"].get(chain)
        if live is None:
            return critical(f"the chain {chain} is gone", DEPLOY)
        extra += [rule for rule in live if rule not in chains[chain]]
        missing += [rule for rule in chains[chain] if rule not in live]
    return _rules("SSH is open to the listed addresses and to nobody else", extra, missing)


def firewall_containers(found: Facts, expected: Chains) -> Verdict:
    """The DOCKER-USER block of each family, in order, reached before any rule of Docker's."""
    extra, missing, wrong = [], [], []
    for family, chains in expected.items():
        rules = found[family]["rules"]
        if not is_guarded(rules.get("FORWARD", [])):
            wrong.append(f"FORWARD does not begin with DOCKER-USER ({family})")
        for chain in ("DOCKER-USER", CONTAINER_CHAIN):
            live = list(rules.get(chain, []))
            wanted = list(chains[chain])
            extra += [rule for rule in live if rule not in wanted]
            missing += [rule for rule in wanted if rule not in live]
            if sorted(live) == sorted(wanted) and live != wanted:
                wrong.append(f"{chain} has another order ({family})")
    drops = [rule for rule in missing if not rule.endswith("-j RETURN")]
    if wrong or drops:
        what = wrong[0] if wrong else f"missing {_first(drops)}"
        return critical(f"containers are not closed: {what}", DEPLOY)
    return _rules("containers are closed but to the listed addresses", extra, missing)


def _rules(fine: str, extra: Sequence[str], missing: Sequence[str]) -> Verdict:
    """A rule too many may let somebody in; one too few shuts somebody out."""
    if extra:
        return critical(f"a rule that is not ours: {_first(extra)}", DEPLOY)
    if missing:
        return warning(f"a rule is missing: {_first(missing)}", DEPLOY)
    return ok(fine)


def _first(rules: Sequence[str]) -> str:
    return rules[0] + (f" (and {len(rules) - 1} more)" if len(rules) > 1 else "")


def _strange(strange: Sequence[str], fine: str) -> Verdict:
    if not strange:
        return ok(fine)
    return warning(
        f"beyond loopback: {', '.join(strange)}",
        "the firewall still shuts it; bind it to 127.0.0.1 or stop it",
    )


def _is_loopback(address: str) -> bool:
    if address == "*":
        return False
    return ipaddress.ip_address(address or "0.0.0.0").is_loopback  # noqa: S104 - Docker's "any"


def _socket(each: Mapping[str, Any]) -> str:
    address = each["address"]
    return f"[{address}]:{each['port']}" if ":" in address else f"{address}:{each['port']}"
