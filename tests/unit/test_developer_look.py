# ruff: noqa: E501 - what tools print
"""The look at the host: runs on old Pythons, reads what tools really print, takes no secret along."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import sent_lab
from hypothesis import given
from hypothesis import strategies as st

from ops.clients import on_host
from ops.developers import look, look_common, look_logins, look_r2r, look_tokens
from ops.developers.reality import Seen, login_fingerprints, program, reality_of
from ops.settings import Environment, Machine

PARTS = (look, on_host, look_common, look_logins, look_tokens, look_r2r)


@pytest.fixture(autouse=True)
def _own_question(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in PARTS:
        if hasattr(module, "QUESTION"):
            monkeypatch.setattr(module, "QUESTION", dict(look_common.QUESTION))


@pytest.mark.parametrize("module", PARTS)
def test_is_python_3_10_and_the_standard_library(module: Any) -> None:
    assert sent_lab.foreign(module, (3, 10), PARTS) == set()


def test_sent_over_standard_input_it_tells_of_every_part_why_it_could_not_be_read(
    tmp_path: Path,
) -> None:
    """On a machine with no tool and no file at all."""
    question = json.dumps({"root": str(tmp_path), "edge_ports": [443]})
    facts = sent_lab.on_a_bare_machine(program(), tmp_path, question)
    assert facts["values"] == {}
    assert set(facts["errors"]) == set(look.SECTIONS["qdrant"])
    assert facts["errors"]["firewall"] == "iptables is not installed"
    assert facts["errors"]["connections"] == "ss is not installed"
    assert "passwd" in facts["errors"]["keys"]
    found = reality_of(facts)
    assert set(found.unknown) == set(look.SECTIONS["qdrant"])
    assert found.tables is found.keys is found.tokens is found.accounts is None


# --- keys

LINES = {
    "plain": "{key}",
    "comment of several words": "{key} bob at work",
    "one option": "restrict {key}",
    "ours": 'restrict,port-forwarding,permitopen="127.0.0.1:6333",from="198.51.100.7,2001:db8::/48",expiry-time="202702200000Z" {key} bob',
    "a quoted command with spaces, commas and quotes": 'command="echo \\"a, b\\" ssh-rsa",no-pty {key}',
    "spaces": '  from="10.0.0.0/8"  {key}  ',
}


@pytest.fixture(scope="module", params=["ed25519", "rsa", "ecdsa"])
def made_key(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / f"id_{request.param}"
    make = ["ssh-keygen", "-q", "-t", request.param, "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(make, check=True)
    return path


@pytest.mark.parametrize("kind", LINES)
def test_a_line_of_keys_is_read_as_openssh_reads_it(kind: str, made_key: Path) -> None:
    public = made_key.with_suffix(".pub").read_text().strip()
    line = LINES[kind].format(key=public)
    found = look_logins.key_of(line)
    listed = subprocess.run(
        ["ssh-keygen", "-l", "-f", "-"],
        input=" ".join(line.split()),  # unlike sshd, it minds how many spaces there are
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert found
    assert found["fingerprint"] == listed[1]
    assert found["type"] == public.split()[0]
    expected = {
        "plain": [],
        "comment of several words": [],
        "one option": ["restrict"],
        "ours": [
            *("restrict", "port-forwarding", 'permitopen="127.0.0.1:6333"'),
            *('from="198.51.100.7,2001:db8::/48"', 'expiry-time="202702200000Z"'),
        ],
        "a quoted command with spaces, commas and quotes": [
            'command="echo \\"a, b\\" ssh-rsa"',
            "no-pty",
        ],
        "spaces": ['from="10.0.0.0/8"'],
    }
    assert found["options"] == expected[kind]
    # sshd takes a tab for a space
    assert look_logins.key_of(line.replace(public, f"\t{public}")) == found


@pytest.mark.parametrize("line", ["", "# ssh-ed25519 AAAA", "ssh-ed25519", "ssh-ed25519 AAAA", "x"])
def test_what_is_no_key_is_none(line: str) -> None:
    assert look_logins.key_of(line) is None


def test_the_login_key_of_hosts_py_is_known_with_and_without_its_public_half(
    made_key: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "key"
    bare.write_bytes(made_key.read_bytes())
    bare.chmod(0o600)
    shown = look_logins.key_of(made_key.with_suffix(".pub").read_text())
    assert shown
    for path in (made_key, bare):
        lab = Environment(tmp_path, None, Machine("h", key=str(path)))  # type: ignore[arg-type]
        assert login_fingerprints(lab) == {shown["fingerprint"]}


def test_where_sshd_looks_for_keys() -> None:
    account = {"name": "bob", "uid": 1001, "home": "/home/you"}
    patterns = ".ssh/authorized_keys /etc/ssh/keys/%u %h/more /k/%U%% none"
    assert list(look_logins.key_files(patterns, account)) == [
        "/home/you/.ssh/authorized_keys",
        "/etc/ssh/keys/bob",
        "/home/you/more",
        "/k/1001%",
    ]


# --- accounts


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("root:*:20000:0:99999:7:::", (False, False, None)),
        ("a:!:20000::::::", (False, True, None)),
        ("a:!$y$j9T$hash:20000:0:99999:7:::", (False, True, None)),
        ("a:$y$j9T$hash:20000:0:99999:7::20503:", (True, False, 20503)),
        ("a::20000:0:99999:7:::", (True, False, None)),  # none is asked for
    ],
)
def test_of_a_password_only_that_it_is_there(line: str, expected: Any) -> None:
    found = look_logins.state(line.split(":"))
    assert (found["password"], found["locked"], found["ends_on_day"]) == expected
    assert "hash" not in json.dumps(found)


def test_sessions_are_found_by_their_title_whatever_became_of_the_account() -> None:
    titles = ["sshd: dev-gone [priv]", "sshd-session: dev-gone@notty", "sshd: dev-gone-too"]
    running = [subprocess.Popen([title, "30"], executable="/bin/sleep") for title in titles]
    try:
        _, sessions = look_logins.processes()
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert sessions["dev-gone"] == 2
    assert sessions["dev-gone-too"] == 1


# --- connections, recorded

SS = """\
0      0              198.51.100.10:22       198.51.100.1:52092
0      0              198.51.100.10:22       198.51.100.1:52094
0      36             198.51.100.10:22       198.51.100.7:2200
0      0                  127.0.0.1:41508        127.0.0.1:22
0      0      [::ffff:198.51.100.10]:22   [::ffff:198.51.100.8]:40000
0      0             [2001:db8::10]:22      [2001:db8::21]:51000
0      0             [fe80::1%eth0]:22      [fe80::2%eth0]:51000
"""
TRACKED = """\
tcp      6 431999 ESTABLISHED src=198.51.100.21 dst=198.51.100.10 sport=51318 dport=443 src=172.30.240.3 dst=198.51.100.21 sport=443 dport=51318 [ASSURED] mark=0 use=1
tcp      6 88 TIME_WAIT src=198.51.100.66 dst=198.51.100.10 sport=37756 dport=443 src=172.30.240.3 dst=198.51.100.66 sport=443 dport=37756 [ASSURED] mark=0 use=1
tcp      6 300 ESTABLISHED src=172.30.240.3 dst=192.0.2.80 sport=40000 dport=443 src=192.0.2.80 dst=198.51.100.10 sport=443 dport=40000 [ASSURED] mark=0 use=1
tcp      6 431998 ESTABLISHED src=198.51.100.1 dst=198.51.100.10 sport=51318 dport=22 src=198.51.100.10 dst=198.51.100.1 sport=22 dport=51318 [ASSURED] mark=0 use=1
tcp      6 118 SYN_SENT src=198.51.100.67 dst=198.51.100.10 sport=51318 dport=443 [UNREPLIED] src=172.30.240.3 dst=198.51.100.67 sport=443 dport=51318 mark=0 use=1
tcp      6 431999 ESTABLISHED src=2001:db8::21 dst=2001:db8::10 sport=51318 dport=443 src=fd5a:7ac4:4003::3 dst=2001:db8::21 sport=443 dport=51318 [ASSURED] mark=0 use=1
unknown  2 482 src=172.20.0.1 dst=224.0.0.22 [UNREPLIED] src=224.0.0.22 dst=172.20.0.1 mark=0 use=1
"""


def test_who_is_connected_over_ssh() -> None:
    assert look.ssh_peers(SS, 22) == [
        ("198.51.100.1", 22),
        ("198.51.100.1", 22),
        ("198.51.100.7", 22),
        ("198.51.100.8", 22),
        ("2001:db8::21", 22),
        ("fe80::2", 22),
    ]


def test_who_is_connected_to_the_edge_and_not_what_a_container_sends_out() -> None:
    assert look.tracked_peers(TRACKED, [443]) == [("198.51.100.21", 443), ("2001:db8::21", 443)]


# --- networks


def test_networks_of_the_host_without_dockers(monkeypatch: pytest.MonkeyPatch) -> None:
    def address(local: str, length: int) -> dict[str, Any]:
        return {"local": local, "prefixlen": length, "scope": "global"}

    links = [
        {"ifname": "lo", "addr_info": [address("127.0.0.1", 8)]},
        {"ifname": "eth0", "addr_info": [address("192.0.2.2", 24), address("fe80::1", 64)]},
        {"ifname": "enp7s0", "addr_info": [address("10.0.0.2", 32)]},
        {"ifname": "wg0", "addr_info": [address("fd00:5::1", 64)]},
        {"ifname": "br-stackroom", "addr_info": [address("172.30.240.1", 24)]},
        {"ifname": "docker0", "addr_info": [address("172.17.0.1", 16)]},
    ]
    # a provider's private network hangs on a /32 and a route
    routes = {
        "-4": [
            {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
            {"dst": "10.0.0.0/16", "gateway": "10.0.0.1", "dev": "enp7s0"},
            {"dst": "10.0.0.1", "dev": "enp7s0"},
            {"dst": "172.30.240.0/24", "dev": "br-stackroom"},
            {"type": "blackhole", "dst": "192.168.0.0/16", "dev": "eth0"},
        ],
        "-6": [{"dst": "fe80::/64", "dev": "eth0"}, {"dst": "ff00::/8", "dev": "eth0"}],
    }

    def ip(*command: str) -> str:
        return json.dumps(links if "addr" in command else routes[command[1]])

    monkeypatch.setattr(look, "run", ip)
    assert look.networks() == [
        "10.0.0.0/16",
        "10.0.0.1/32",
        "10.0.0.2/32",
        "192.0.2.0/24",
        "fd00:5::/64",
    ]


# --- the audit log


def entry(subject: str, second: int, *, spaced: bool = False, note: str = "") -> str:
    line = {
        "timestamp": f"2026-11-21T10:00:{second % 60:02}.123456789Z",
        "method": "query_points",
        "auth_type": "Jwt",
        "subject": subject,
        "remote": "198.51.100.21",
        "collection": note,
        "result": "ok",
    }
    return json.dumps(line, separators=None if spaced else (",", ":"))


subjects = st.sampled_from(["bob", "carol", 'o"neill', "bobby", ""])


@given(
    st.lists(st.tuples(subjects, st.booleans(), subjects), max_size=30),
    st.integers(1, 400),
    st.booleans(),
)
def test_backwards_in_blocks_finds_what_a_whole_reading_finds(
    lines: list[tuple[str, bool, str]], size: int, ended: bool
) -> None:
    """Whatever the size of a block, and with names of others in other fields."""
    texts = [
        entry(name, n, spaced=spaced, note=note) for n, (name, spaced, note) in enumerate(lines)
    ]
    content = "\n".join(texts) + ("\n" if ended and texts else "")
    expected = {
        name: json.loads(text)["timestamp"]
        for text in texts
        for name in [json.loads(text)["subject"]]
        if name
    }
    wanted = {"bob", "carol", 'o"neill', "nobody"}
    with pytest.MonkeyPatch.context() as patch, tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_text(content)
        patch.setattr(look_tokens, "BLOCK", size)
        found = look_tokens.last_lines([path], wanted, 10**9, 60)
        assert b"".join([*look_tokens.backwards(path)][::-1]) == content.encode()
    assert {name: line["timestamp"] for name, line in found["subjects"].items()} == {
        name: at for name, at in expected.items() if name in wanted
    }
    assert found["whole"]


def test_the_newest_file_counts_and_reading_stops_there(tmp_path: Path) -> None:
    old, new = tmp_path / "audit.2026-11-20.log", tmp_path / "audit.2026-11-21.log"
    old.write_text(entry("bob", 1) + "\n" + entry("carol", 2) + "\n")
    new.write_text(entry("bob", 30) + "\n" + '{"subject":"bob", half a li')
    found = look_tokens.last_lines([new, old], {"bob"}, 10**9, 60)
    assert found["subjects"]["bob"]["timestamp"].startswith("2026-11-21T10:00:30")
    assert look_tokens.last_lines([new, tmp_path / "never opened"], {"bob"}, 10**9, 60)["whole"]


@pytest.mark.parametrize(("cap", "seconds"), [(10, 60.0), (10**9, -1.0)])
def test_a_cap_that_is_reached_is_told(cap: int, seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_text("".join(entry("carol", n) + "\n" for n in range(500)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(look_tokens, "BLOCK", 4096)
        found = look_tokens.last_lines([path], {"bob", "carol"}, cap, seconds)
    assert not found["whole"]
    assert "bob" not in found["subjects"]
    facts = {"values": {"seen": found}}
    seen = reality_of(facts).seen
    assert seen is not None and not seen.whole
    assert isinstance(seen.subjects["carol"], Seen)


def test_a_large_log_is_read_in_little_time_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with path.open("w") as file:
        file.write(entry("carol", 0) + "\n")
        file.write((entry("bob", 1) + "\n") * 100_000)
    found = look_tokens.last_lines([path], {"bob", "carol"}, 10**9, 5)
    assert set(found["subjects"]) == {"bob", "carol"}


def test_rules_of_ufws_files_by_chain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "etc/ufw"
    folder.mkdir(parents=True)
    rule = "-A ufw-user-input -p tcp --dport 22 -s 198.51.100.7 -j ACCEPT"
    for six in ("", "6"):
        (folder / f"user{six}.rules").write_text(
            f"*filter\n:ufw{six}-user-input - [0:0]\n### tuple ###\n{rule}\nCOMMIT\n"
        )
        (folder / f"after{six}.rules").write_text("# BEGIN\n-A STACKROOM-IN -j DROP\nCOMMIT\n")
    look.QUESTION["root"] = look_common.QUESTION["root"] = str(tmp_path)
    found = look.stored()
    assert found["v4"] == {"ufw-user-input": [rule], "STACKROOM-IN": ["-A STACKROOM-IN -j DROP"]}
