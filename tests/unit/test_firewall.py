"""The rules: nothing but listed sources, drop last, and `iptables` prints them as we expect.

The blocks are loaded into network namespaces of their own, never into this machine's firewall.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import shutil
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from settings_lab import KEY, SECRETS

from ops.render.firewall import (
    BLOCK_BEGIN,
    BLOCK_END,
    FAMILIES,
    Family,
    container_block,
    container_rules,
    expected_chains,
    family_of,
    ufw_rules,
    with_block,
)
from ops.settings.model import Edge, Settings

TOOLS: dict[Family, str] = {"v4": "iptables", "v6": "ip6tables"}
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MODES: list[dict[str, Any]] = [
    {"mode": "tunnel"},
    {"mode": "internal"},
    {"mode": "acme", "domain": "a.example.com", "email": "a@example.com"},
    {"mode": "external", "domain": "a.example.com", "certificate": "/a", "private_key": "/b"},
]


# ports the settings refuse to the edge: the ACME challenge, Qdrant's two, the API's own
TAKEN = {80, 6333, 6334, 8000}

# each example starts processes: no search for a smaller one
FEW = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


def is_listable(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    as_ipv4 = network.version == 6 and int(network.network_address) < 2**48
    wide = network.prefixlen < (8 if network.version == 4 else 16)
    return not (wide or network.is_multicast or as_ipv4)


def ranges(version: int) -> st.SearchStrategy[str]:
    bits = 32 if version == 4 else 128
    return (
        st.tuples(
            st.ip_addresses(v=version), st.integers(8 if version == 4 else 16, bits) | st.just(bits)
        )
        .map(lambda pair: ipaddress.ip_network(pair, strict=False))
        .filter(is_listable)
        .map(str)
    )


@st.composite
def many_settings(draw: st.DrawFn) -> Settings:
    people = st.lists(ranges(4) | ranges(6), min_size=1, max_size=4)
    ports = st.integers(1, 65535).filter(lambda port: port not in TAKEN)
    port, api_port = draw(st.lists(ports, min_size=2, max_size=2, unique=True))
    document: dict[str, Any] = {
        "operators": {"anna": {"addresses": draw(people), "keys": [KEY]}},
        "developers": {
            f"dev{number}": {"addresses": draw(people), "shares_address": True}
            for number in range(draw(st.integers(0, 2)))
        },
        "edge": {**draw(st.sampled_from(MODES)), "port": port, "api_port": api_port},
        "ssh": {"open_to_world": draw(st.booleans())},
        "secrets": SECRETS,
    }
    if draw(st.booleans()):
        document["api"] = {"image": "a:1"}
    return Settings(**document)


def listed(some: Settings, version: int) -> set[str]:
    """What a person wrote, read from the settings by another way than the code under test."""
    texts = [t for p in (*some.operators.values(), *some.developers.values()) for t in p.addresses]
    networks = {ipaddress.ip_network(text) for text in texts}
    return {str(network) for network in networks if network.version == version}


@given(many_settings())
def test_only_listed_sources_pass_and_the_drop_is_last(some: Settings) -> None:
    for version, family in ((4, "v4"), (6, "v6")):
        *passing, last = container_rules(some, family)
        assert last == "-A STACKROOM-IN -j DROP"
        sourced: set[tuple[str, int]] = set()
        for rule in passing:
            found = re.fullmatch(
                r"-A STACKROOM-IN (?:-s (\S+) )?-p tcp -m conntrack --ctorigdstport (\d+)"
                r" --ctdir ORIGINAL -j RETURN",
                rule,
            )
            assert found, rule
            if found[1] is None:
                assert (some.edge.mode, found[2]) == ("acme", "80")
            else:
                sourced.add((found[1], int(found[2])))
        ports = set() if some.edge.mode == "tunnel" else {some.edge.port}
        if ports and some.api:
            ports.add(some.edge.api_port)
        assert sourced == {(source, port) for source in listed(some, version) for port in ports}
        to_the_world = [rule for rule in passing if " -s " not in rule]
        assert len(to_the_world) == (1 if some.edge.mode == "acme" else 0)


@given(many_settings())
def test_the_block_is_the_expected_chains_line_by_line(some: Settings) -> None:
    expected = expected_chains(some, 22)
    for family in FAMILIES:
        chains = expected[family]
        assert container_block(some, family).splitlines() == [
            "*filter",
            ":DOCKER-USER - [0:0]",
            ":STACKROOM-IN - [0:0]",
            *chains["DOCKER-USER"],
            *chains["STACKROOM-IN"],
            "COMMIT",
        ]


def test_what_comes_into_a_container_is_judged_and_nothing_else() -> None:
    some = Settings(
        operators={"anna": {"addresses": ["198.51.100.7"], "keys": [KEY]}}, secrets=SECRETS
    )
    for chains in expected_chains(some, 22).values():
        assert chains["DOCKER-USER"] == [
            "-A DOCKER-USER -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
            "-A DOCKER-USER -i br-+ -j RETURN",
            "-A DOCKER-USER -i docker0 -j RETURN",
            "-A DOCKER-USER -m conntrack --ctstate DNAT -j STACKROOM-IN",
            "-A DOCKER-USER -o br-+ -j STACKROOM-IN",
            "-A DOCKER-USER -o docker0 -j STACKROOM-IN",
            "-A DOCKER-USER -j RETURN",
        ]


@given(many_settings(), st.integers(1, 65535))
def test_the_host_opens_ssh_to_each_listed_range_and_nothing_else(
    some: Settings, port: int
) -> None:
    rules = ufw_rules(some, port)
    expected = expected_chains(some, port)
    if some.ssh.open_to_world:
        assert rules == [f"allow {port}/tcp comment 'stackroom'"]
        for family, chain in (("v4", "ufw-user-input"), ("v6", "ufw6-user-input")):
            assert expected[family][chain] == [f"-A {chain} -p tcp -m tcp --dport {port} -j ACCEPT"]
        return
    both = listed(some, 4) | listed(some, 6)
    assert len(rules) == len(both)
    sources = [
        re.fullmatch(rf"allow from (\S+) to any port {port} proto tcp comment 'stackroom'", rule)
        for rule in rules
    ]
    assert {str(ipaddress.ip_network(found[1])) for found in sources if found} == both
    for version, family, chain in ((4, "v4", "ufw-user-input"), (6, "v6", "ufw6-user-input")):
        assert sorted(expected[family][chain]) == sorted(
            f"-A {chain} -s {source} -p tcp -m tcp --dport {port} -j ACCEPT"
            for source in listed(some, version)
        )


@pytest.mark.parametrize(
    ("network", "family"), [("198.51.100.7/32", "v4"), ("2001:db8::/64", "v6")]
)
def test_family(network: str, family: str) -> None:
    assert family_of(network) == family


# foreign text, marks that lost their counterpart, and a block of ours, in any order
LINES = st.sampled_from([BLOCK_BEGIN, BLOCK_END, "COMMIT", "*filter", "# by hand", "", "\x0b", "é"])
TEXTS = st.lists(LINES | st.text(alphabet=st.characters(exclude_characters="\r"), max_size=9)).map(
    "\n".join
)
BLOCK = "*filter\n:STACKROOM-IN - [0:0]\nCOMMIT\n"
FRAMED = f"{BLOCK_BEGIN}\n{BLOCK}{BLOCK_END}\n"


@given(TEXTS)
@example("\n".join([BLOCK_BEGIN, BLOCK_BEGIN, "x", BLOCK_END, "y", BLOCK_END, "z"]))
def test_the_block_in_a_file_is_set_once(text: str) -> None:
    once = with_block(text, "*filter\nCOMMIT\n")
    again = with_block(once, BLOCK)
    assert again.endswith(FRAMED)
    assert with_block(again, BLOCK) == again
    # the older one is gone: what was there before is all that is left beside the new one
    assert again == with_block(text, BLOCK)


@given(TEXTS.filter(lambda text: BLOCK_BEGIN not in text or BLOCK_END not in text), TEXTS)
def test_foreign_text_is_kept(before: str, after: str) -> None:
    kept = with_block(before, BLOCK).removesuffix(FRAMED)
    assert kept == (before if before.endswith("\n") or not before else before + "\n")
    if BLOCK_BEGIN not in after and BLOCK_END not in after:
        start = before + "\n" if before and not before.endswith("\n") else before
        assert with_block(start + FRAMED + after, BLOCK).removesuffix(FRAMED) == (
            start + after + ("" if not start + after or (start + after).endswith("\n") else "\n")
        )


def in_a_network_of_its_own(script: str, stdin: str) -> subprocess.CompletedProcess[str]:
    missing = [t for t in ("unshare", *TOOLS.values()) if not shutil.which(t, path=PATH)]
    assert not missing, f"not on PATH: {missing}; apt-get install iptables util-linux"
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    return subprocess.run(
        ["unshare", *rights, "--net", "sh", "-c", script],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": PATH},
        timeout=30,
        check=False,
    )


@settings(FEW, max_examples=8)
@given(many_settings())
def test_iptables_takes_the_block_and_prints_the_expected_chains(some: Settings) -> None:
    for family, tool in TOOLS.items():
        script = f"{tool}-restore -n && {tool} -S DOCKER-USER && {tool} -S STACKROOM-IN"
        done = in_a_network_of_its_own(script, container_block(some, family))
        assert done.returncode == 0, done.stderr
        chains = expected_chains(some, 22)[family]
        assert done.stdout.splitlines() == [
            "-N DOCKER-USER",
            *chains["DOCKER-USER"],
            "-N STACKROOM-IN",
            *chains["STACKROOM-IN"],
        ]


@settings(FEW, max_examples=4)
@given(st.lists(ranges(4), min_size=6, max_size=9), st.lists(ranges(6), min_size=6, max_size=9))
def test_ufws_rules_are_expected_as_iptables_prints_them(v4: list[str], v6: list[str]) -> None:
    """UFW hands its sources to iptables as they are: their printed form must be ours."""
    some = Settings(
        operators={"anna": {"addresses": [*v4, *v6], "keys": [KEY]}}, secrets=SECRETS, edge=Edge()
    )
    for family, chains in expected_chains(some, 2222).items():
        chain, rules = next(iter(chains.items()))
        block = "\n".join(["*filter", f":{chain} - [0:0]", *rules, "COMMIT", ""])
        script = f"{TOOLS[family]}-restore -n && {TOOLS[family]} -S {chain}"
        done = in_a_network_of_its_own(script, block)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"-N {chain}", *rules]


WORLDS = [["0.0.0.0/0"], ["::/0"], ["0.0.0.0/0", "::/0"], ["0.0.0.0/1", "128.0.0.0/1", "8000::/1"]]


@pytest.mark.parametrize("worlds", WORLDS)
def test_anywhere_opens_the_edge_and_never_ssh(worlds: list[str]) -> None:
    some = Settings(
        operators={"anna": {"addresses": ["198.51.100.7", "2001:db8::7"], "keys": [KEY]}},
        developers={"bob": {"addresses": worlds, "anywhere": True}},
        secrets=SECRETS,
    )
    closed = Settings(operators=some.operators, secrets=SECRETS)
    assert ufw_rules(some, 22) == ufw_rules(closed, 22)
    for family, tool in TOOLS.items():
        chains, before = expected_chains(some, 22)[family], expected_chains(closed, 22)[family]
        host_chain = next(iter(chains))
        assert chains[host_chain] == before[host_chain]
        opened = [rule for rule in chains["STACKROOM-IN"] if rule not in before["STACKROOM-IN"]]
        assert len(opened) == len([world for world in worlds if family_of(world) == family])
        assert all("--ctorigdstport 443 " in rule for rule in opened)
        script = f"{tool}-restore -n && {tool} -S STACKROOM-IN"
        done = in_a_network_of_its_own(script, container_block(some, family))
        assert done.stdout.splitlines()[1:] == chains["STACKROOM-IN"], done.stderr


def test_whoever_has_expired_is_not_let_in() -> None:
    some = Settings(
        operators={"anna": {"addresses": ["198.51.100.7"], "keys": [KEY]}},
        developers={
            "bob": {"addresses": ["198.51.100.8"], "expires": date(2020, 1, 1)},
            "carl": {"addresses": ["198.51.100.9"], "expires": date(9998, 1, 1)},
        },
        secrets=SECRETS,
    )
    texts = [*ufw_rules(some, 22), container_block(some, "v4")]
    assert not any("198.51.100.8" in text for text in texts)
    assert all("198.51.100.9" in text for text in (texts[1], texts[-1]))


def test_loading_the_block_anew_leaves_other_chains_alone(tmp_path: Path) -> None:
    some = Settings(
        operators={"anna": {"addresses": ["198.51.100.7"], "keys": [KEY]}}, secrets=SECRETS
    )
    file = shlex.quote(str(tmp_path / "block"))
    script = (
        f"cat >{file}; iptables -N OTHER; iptables -A OTHER -j ACCEPT; iptables -A FORWARD -j OTHER"
        f" && iptables-restore -n <{file} && iptables -A STACKROOM-IN -j ACCEPT"
        f" && iptables-restore -n <{file} && iptables -S"
    )
    done = in_a_network_of_its_own(script, container_block(some, "v4"))
    assert done.returncode == 0, done.stderr
    chains = expected_chains(some, 22)["v4"]
    lines = done.stdout.splitlines()
    assert [line for line in lines if "-A OTHER" in line] == ["-A OTHER -j ACCEPT"]
    assert "-A FORWARD -j OTHER" in lines
    ours = [line for line in lines if line.startswith(("-A DOCKER-USER", "-A STACKROOM-IN"))]
    assert ours == [*chains["DOCKER-USER"], *chains["STACKROOM-IN"]]
