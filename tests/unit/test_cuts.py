"""Whose connections are cut: who was let in and no longer is, and nobody else, to the address."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from settings_lab import settings_with

from ops.host import cuts
from ops.host.cuts import cut, lost, remember
from ops.host.firewall import Firewall, FirewallState
from ops.render.firewall import expected_chains
from ops.settings import Settings


def settings_of(*addresses: str, **more: Any) -> Settings:
    """Anna's environment, with a developer for each address."""
    developers = {
        f"dev{number}": {"addresses": [address], "shares_address": True, "anywhere": True}
        for number, address in enumerate(addresses)
    }
    return settings_with(**{"developers": developers} | more)


def firewall(chains: dict[str, tuple[str, ...]], uncut: tuple[str, ...] = ()) -> Firewall:
    return Firewall(True, True, False, True, ("DROP", "DROP"), (), chains, uncut)


def live(settings: Settings, ssh_port: int = 22, uncut: tuple[str, ...] = ()) -> Firewall:
    """The firewall of a host on which the settings have been applied."""
    return firewall(
        {
            f"{family} {chain}": tuple(rules)
            for family, chains in expected_chains(settings, ssh_port).items()
            for chain, rules in chains.items()
        },
        uncut,
    )


def test_nothing_is_lost_where_nothing_changes() -> None:
    settings = settings_of("198.51.100.7", "2001:db8:b0b::/48")
    assert lost(live(settings), settings, 22) == []


def test_who_is_removed_loses_ssh_and_the_edge_in_both_families() -> None:
    before = settings_of("198.51.100.7", "2001:db8:b0b::/48")
    assert lost(live(before), settings_of(), 22) == [
        "198.51.100.7/32 22",
        "2001:db8:b0b::/48 22",
        "198.51.100.7/32 443",
        "2001:db8:b0b::/48 443",
    ]


def test_an_address_that_another_one_still_has_stays() -> None:
    before = settings_of("198.51.100.7", "198.51.100.0/24")
    assert lost(live(before), settings_of("198.51.100.0/24"), 22) == []
    shared = settings_of("198.51.100.7", "198.51.100.7")
    assert lost(live(shared), settings_of("198.51.100.7"), 22) == []


def test_one_who_stays_is_left_out_of_a_range_that_goes() -> None:
    lines = lost(live(settings_of("198.51.100.0/30")), settings_of("198.51.100.2"), 22)
    assert lines == [
        "198.51.100.0/31 22",
        "198.51.100.3/32 22",
        "198.51.100.0/31 443",
        "198.51.100.3/32 443",
    ]


def test_ports_that_close_and_an_ssh_that_was_open_to_the_world() -> None:
    world = settings_of(ssh={"open_to_world": True})
    lines = lost(live(world), settings_of(), 22)
    assert {line.split(" ")[1] for line in lines} == {"22"}
    ranges = [ipaddress.ip_network(line.split(" ")[0]) for line in lines]
    assert sum(each.num_addresses for each in ranges if each.version == 4) == 2**32 - 1
    # a socket for both families shows everybody's IPv4 there
    six = [each for each in ranges if each.version == 6]
    assert sum(each.num_addresses for each in six) == 2**128 - 2**32
    assert not any(each.overlaps(ipaddress.ip_network("::ffff:0:0/96")) for each in six)
    elsewhere = settings_of(edge={"port": 8444})
    assert lost(live(settings_of()), elsewhere, 22) == ["203.0.113.20/32 443"]


def test_anywhere_that_ends_keeps_ssh_as_it_is() -> None:
    before = settings_of("0.0.0.0/0", "::/0")
    ports = {line.split(" ")[1] for line in lost(live(before), settings_of(), 22)}
    assert ports == {"443"}


def test_the_one_who_runs_this_is_spared() -> None:
    before = settings_of("198.51.100.6/31", "2001:db8::/127")
    lines = lost(live(before), settings_of(), 22, "198.51.100.7")
    assert "198.51.100.6/32 22" in lines
    assert not [line for line in lines if line.startswith("198.51.100.7/")]
    lines = lost(live(before), settings_of(), 22, "2001:db8::1%eth0")
    assert "2001:db8::/128 22" in lines


def test_what_somebody_let_in_by_hand_is_lost_too() -> None:
    by_hand = (
        "-A ufw-user-input -s 192.0.2.1/32 -p tcp -m tcp --dport 22 -j ACCEPT",
        "-A ufw-user-input -s 192.0.2.2/32 -j ACCEPT",
        "-A ufw-user-input -s 192.0.2.3/32 -p tcp -m multiport --dports 22,443 -j ACCEPT",
        "-A ufw-user-input -s 192.0.2.4/32 -p udp -m udp --dport 22 -j ACCEPT",
        "-A ufw-user-input -s 192.0.2.5/32 -p tcp -m tcp --dport 22 -j DROP",
        "-A ufw-user-input -p tcp -m multiport --dports 8000:8010 -s 192.0.2.6/32 -j ACCEPT",
        "-A ufw-user-input -s 192.0.2.7/32 -p tcp -m tcp --dport 9999 -j ACCEPT",
    )
    found = firewall({"v4 ufw-user-input": by_hand, "v4 FORWARD": ("-A FORWARD -j ACCEPT",)})
    by_port: dict[str, set[str]] = {}
    for line in lost(found, settings_of(), 22):
        network, port = line.split(" ")
        inside = ipaddress.ip_network(network)
        by_port.setdefault(port, set()).update(str(address) for address in inside)
    ssh = {"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.6"}
    assert by_port == {
        "22": ssh,
        "443": {"192.0.2.2", "192.0.2.3", "192.0.2.6"},
        "9999": {"192.0.2.2", "192.0.2.6", "192.0.2.7"},
    }


def test_what_an_earlier_deploy_left_uncut_is_cut_unless_it_is_listed_again() -> None:
    settings = settings_of("198.51.100.7")
    uncut = ("198.51.100.7/32 22", "192.0.2.9/32 443", "2001:db8::/64 22")
    assert lost(live(settings, uncut=uncut), settings, 22) == [
        "2001:db8::/64 22",
        "192.0.2.9/32 443",
    ]


NETWORKS = st.tuples(st.integers(0, 255), st.integers(24, 32)).map(
    lambda pair: str(ipaddress.ip_network(f"198.51.100.{pair[0]}/{pair[1]}", strict=False))
)


@trying(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(NETWORKS, max_size=4), st.lists(NETWORKS, max_size=4))
def test_exactly_the_addresses_that_were_let_in_and_are_not(
    before: list[str], after: list[str]
) -> None:
    lines = lost(live(settings_of(*before)), settings_of(*after), 22)
    gone = [ipaddress.ip_network(line.split(" ")[0]) for line in lines if line.endswith(" 22")]
    for last in range(256):
        address = ipaddress.ip_address(f"198.51.100.{last}")
        had, has = (
            any(address in ipaddress.ip_network(each) for each in networks)
            for networks in (before, after)
        )
        assert any(address in each for each in gone) == (had and not has)


# the command, with stand-ins for the programs: what they are told, and in which order

FAKE = """\
#!/bin/sh
echo "$(basename "$0") $*" >>"$LOG"
case "$(basename "$0") $*" in
"docker ps"*) echo c0ffee ;;
"docker inspect"*) echo $$ ;;
ss*) exit "${SS_CODE:-0}" ;;
conntrack*) echo "$SAYS" >&2; exit "$CODE" ;;
esac
"""


def carry_out(
    command: str, folder: Path, says: str, code: int, **more: str
) -> tuple[int, str, list[str]]:
    for name in ("ss", "nsenter", "docker", "conntrack"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    log = folder / "log"
    log.write_text("")
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(log)}
    done = subprocess.run(
        ["sh", "-c", command],
        env=environment | {"SAYS": says, "CODE": str(code)} | more,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.returncode, done.stderr, log.read_text().splitlines()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of what is still to be cut, here instead of below /var/lib."""
    path = tmp_path / "uncut"
    monkeypatch.setattr(cuts, "UNCUT", str(path))
    return path


NONE_FOUND = "conntrack v1.4.8 (conntrack-tools): 0 flow entries have been deleted."
LINES = ["198.51.100.7/32 22", "2001:db8::/64 22", "198.51.100.7/32 443"]


def test_sockets_end_before_and_after_their_tracking(tmp_path: Path, kept: Path) -> None:
    kept.write_text("x\n")
    code, errors, log = carry_out(cut(LINES), tmp_path, NONE_FOUND, 1)
    assert (code, errors) == (0, "")
    ssh = "ss -K -H -n -t ( dst 198.51.100.7/32 or dst [2001:db8::/64] ) and sport = :22"
    https = "ss -K -H -n -t ( dst 198.51.100.7/32 ) and sport = :443"
    ended = [ssh, f"nsenter -t 0 -n {ssh}", https, f"nsenter -t 0 -n {https}"]
    assert [re.sub(r"-t \d+ -n ss", "-t 0 -n ss", line) for line in log[2:]] == [
        *ended,
        "conntrack -D -f ipv4 -p tcp --orig-src 198.51.100.7/32 --orig-port-dst 22",
        "conntrack -D -f ipv6 -p tcp --orig-src 2001:db8::/64 --orig-port-dst 22",
        "conntrack -D -f ipv4 -p tcp --orig-src 198.51.100.7/32 --orig-port-dst 443",
        *ended,
    ]
    assert not kept.exists()


@pytest.mark.parametrize("code", [1, 2, 127])
def test_a_cut_that_fails_says_so_and_is_due_again(tmp_path: Path, kept: Path, code: int) -> None:
    kept.write_text("x\n")
    done, errors, _ = carry_out(cut(LINES), tmp_path, "Operation failed: no permission", code)
    assert done == 1
    assert "no permission" in errors
    assert kept.exists()


def test_sockets_that_cannot_be_ended_are_no_success(tmp_path: Path, kept: Path) -> None:
    kept.write_text("x\n")
    assert carry_out(cut(LINES), tmp_path, NONE_FOUND, 1, SS_CODE="1")[0] == 1
    assert kept.exists()


def test_nothing_left_to_cut_only_forgets(tmp_path: Path, kept: Path) -> None:
    kept.write_text("x\n")
    assert carry_out(cut([]), tmp_path, "", 1) == (0, "", [])
    assert not kept.exists()


def test_what_is_to_be_cut_is_read_back_as_it_was_kept(kept: Path) -> None:
    subprocess.run(["sh", "-c", remember(LINES)], check=True)
    assert kept.read_text().splitlines() == LINES
    # the first of the fact's commands, which runs on a host without UFW, too
    question = FirewallState().command().split(";")[0].replace("/var/lib/stackroom/uncut", "$1")
    answer = subprocess.run(
        ["sh", "-c", question, "-", shlex.quote(str(kept))], capture_output=True, text=True
    )
    assert FirewallState().process(answer.stdout.splitlines()).uncut == tuple(LINES)
