# ruff: noqa: S104 - addresses to be judged, not to be bound
"""What keeps others out, judged against literal `iptables -S`, `sshd -T` and `ss` facts."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ops.health import walls
from ops.health.model import Status

OK, WARNING, CRITICAL = Status.OK, Status.WARNING, Status.CRITICAL

SSHD = {
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "permitemptypasswords": "no",
    "permitrootlogin": "without-password",
    "pubkeyauthentication": "yes",
    "x11forwarding": "no",
    "allowagentforwarding": "no",
}
HOST_RULE = "-A ufw-user-input -s 198.51.100.7/32 -p tcp -m tcp --dport 22 -j ACCEPT"
RETURN = "-A STACKROOM-IN -s 198.51.100.7/32 -p tcp -m conntrack --ctorigdstport 443 -j RETURN"
DROP = "-A STACKROOM-IN -j DROP"
GUARDED = ["-A DOCKER-USER -i docker0 -j RETURN", "-A DOCKER-USER -o docker0 -j STACKROOM-IN"]
EXPECTED: Any = {
    "v4": {"ufw-user-input": [HOST_RULE], "DOCKER-USER": GUARDED, "STACKROOM-IN": [RETURN, DROP]},
    "v6": {"ufw6-user-input": [], "DOCKER-USER": GUARDED, "STACKROOM-IN": [DROP]},
}


def live() -> Any:
    """The facts of a host whose firewall is as it should be."""
    forward = ["-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD"]
    return {
        "ufw": True,
        **{
            family: {
                "policies": {"INPUT": "DROP", "FORWARD": "DROP"},
                "rules": {"FORWARD": list(forward), "INPUT": [], **copy.deepcopy(chains)},
            }
            for family, chains in EXPECTED.items()
        },
    }


@pytest.mark.parametrize(
    ("changes", "root_login", "status", "words"),
    [
        ({}, "keys", OK, "keys only"),
        ({"permitrootlogin": "prohibit-password"}, "keys", OK, ""),
        ({"permitrootlogin": "no"}, "no", OK, ""),
        ({}, "no", CRITICAL, "permitrootlogin without-password"),
        ({"permitrootlogin": "yes"}, "keys", CRITICAL, "permitrootlogin yes"),
        ({"passwordauthentication": "yes"}, "keys", CRITICAL, "passwordauthentication yes"),
        ({"kbdinteractiveauthentication": "yes"}, "keys", CRITICAL, "kbdinteractive"),
        ({"permitemptypasswords": "yes"}, "keys", CRITICAL, "permitemptypasswords"),
        ({"x11forwarding": "yes"}, "keys", WARNING, "x11forwarding yes"),
    ],
)
def test_ssh(changes: dict[str, str], root_login: str, status: Status, words: str) -> None:
    verdict = walls.ssh_hardened(SSHD | changes, root_login)
    assert verdict.status is status
    assert words in verdict.summary


def test_an_empty_answer_of_sshd_is_not_taken_for_hardened() -> None:
    assert walls.ssh_hardened({}, "keys").status is CRITICAL


@pytest.mark.parametrize(
    ("address", "port", "status"),
    [
        ("127.0.0.1", 6333, OK),
        ("::1", 6333, OK),
        ("127.0.0.53", 53, OK),
        ("0.0.0.0", 22, OK),
        ("*", 443, OK),
        ("*", 6333, WARNING),
        ("0.0.0.0", 5432, WARNING),
        ("::", 5432, WARNING),
        ("198.51.100.9", 8080, WARNING),
    ],
)
def test_listeners_and_published_ports(address: str, port: int, status: Status) -> None:
    found = [{"address": address, "port": port, "program": "postgres"}]
    verdict = walls.listeners(found, {22, 443})
    assert verdict.status is status
    assert status is OK or ("postgres" in verdict.summary and str(port) in verdict.summary)
    container = {"name": "stray", "ports": [{"address": address, "port": port}]}
    verdict = walls.published([container], {22, 443})
    assert verdict.status is status
    assert status is OK or "stray" in verdict.summary


def test_a_firewall_as_configured() -> None:
    assert walls.firewall_active(live()).status is OK
    assert walls.firewall_host(live(), EXPECTED).status is OK
    assert walls.firewall_containers(live(), EXPECTED).status is OK


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_an_open_policy_is_critical(family: str) -> None:
    found = live()
    found[family]["policies"]["INPUT"] = "ACCEPT"
    verdict = walls.firewall_active(found)
    assert verdict.status is CRITICAL
    assert f"INPUT policy ACCEPT ({family})" in verdict.summary


def test_an_inactive_ufw_is_critical() -> None:
    assert walls.firewall_active(live() | {"ufw": False}).status is CRITICAL


def test_the_hosts_chain_is_a_set() -> None:
    found, other = live(), HOST_RULE.replace("100.7", "100.8")
    expected = copy.deepcopy(EXPECTED)
    expected["v4"]["ufw-user-input"] = [HOST_RULE, other]
    found["v4"]["rules"]["ufw-user-input"] = [other, HOST_RULE]
    assert walls.firewall_host(found, expected).status is OK


def test_a_rule_too_many_on_the_host_is_critical_even_over_ipv6() -> None:
    found = live()
    stray = "-A ufw6-user-input -p tcp -m tcp --dport 22 -j ACCEPT"
    found["v6"]["rules"]["ufw6-user-input"] = [stray]
    verdict = walls.firewall_host(found, EXPECTED)
    assert verdict.status is CRITICAL
    assert stray in verdict.summary


def test_a_rule_too_few_on_the_host_is_a_warning() -> None:
    found = live()
    found["v4"]["rules"]["ufw-user-input"] = []
    assert walls.firewall_host(found, EXPECTED).status is WARNING


def test_a_chain_that_is_gone_is_critical() -> None:
    found = live()
    del found["v6"]["rules"]["ufw6-user-input"]
    assert walls.firewall_host(found, EXPECTED).status is CRITICAL


@pytest.mark.parametrize(
    ("chain", "rules", "status"),
    [
        ("FORWARD", ["-A FORWARD -j DOCKER-FORWARD", "-A FORWARD -j DOCKER-USER"], CRITICAL),
        ("FORWARD", [], CRITICAL),
        ("DOCKER-USER", [], CRITICAL),
        ("DOCKER-USER", GUARDED[:1], CRITICAL),  # the jump to our chain is missing
        ("DOCKER-USER", GUARDED[::-1], CRITICAL),
        ("DOCKER-USER", ["-A DOCKER-USER -j RETURN", *GUARDED], CRITICAL),
        ("STACKROOM-IN", [RETURN], CRITICAL),  # the drop is missing
        ("STACKROOM-IN", [DROP, RETURN], CRITICAL),
        ("STACKROOM-IN", [RETURN, RETURN.replace("100.7", "100.9"), DROP], CRITICAL),
        ("STACKROOM-IN", [DROP], WARNING),  # somebody listed is shut out
    ],
)
def test_the_containers_block(chain: str, rules: list[str], status: Status) -> None:
    found = live()
    found["v4"]["rules"][chain] = rules
    assert walls.firewall_containers(found, EXPECTED).status is status


@pytest.mark.parametrize("chain", ["FORWARD", "DOCKER-USER", "STACKROOM-IN"])
def test_the_containers_block_holds_over_ipv6_too(chain: str) -> None:
    found = live()
    del found["v6"]["rules"][chain]
    assert walls.firewall_containers(found, EXPECTED).status is CRITICAL
