"""A team on the machine: let in, at work, moved, rotated, shut out; each seen from their machines.

Everything happens from a copy of the inventory, so that the keys and people that other tests use
are those of before when this room ends.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hands import (
    CHANGED,
    ENVIRONMENT,
    HOST,
    HOST_IPV6,
    INVENTORY,
    QDRANT,
    Done,
    changed_environment,
    deploy,
    healthy,
    on_host,
    plan,
    qdrant,
    stackroom,
    until,
)

from ops.clients.ssh import Completed
from ops.sandbox import Client, client
from ops.sandbox.layout import ipv4, ipv6
from ops.sandbox.visit import open_ports
from ops.settings import Environment, load_environment

pytestmark = pytest.mark.sandbox

TALK = (Path(__file__).parent / "team_talk.py").read_text(encoding="utf-8")
LIBRARY, NOTES = "knowledge_library", "team_memory"
SCROLL = f"/collections/{LIBRARY}/points/scroll"
READ = {"limit": 3}
LONG_AGO = "expires = 2026-01-31"
POINT = {"points": [{"id": 900_001, "vector": [0.5] * 1024, "payload": {"of": "the test"}}]}


PLAIN_REQUEST = "GET /collections HTTP/1.0\r\n\r\n"


@dataclass
class Member:
    """Somebody with a machine of their own and the kit they were given."""

    name: str
    machine: Client
    kit: Path

    @property
    def token(self) -> str:
        return (self.kit / "token").read_text().strip()

    @property
    def ca(self) -> str:
        return (self.kit / "ca.pem").read_text()

    def ask(self, method: str, path: str, body: Any = None, *, family: str = "v4") -> int:
        """The status of one request, as their program makes it."""
        task = json.dumps(self.task("once", method, path, body, family)) + "\n"
        done = self.machine.run(["python3", "-c", TALK], stdin=task)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def task(
        self,
        do: str,
        method: str = "POST",
        path: str = SCROLL,
        body: Any = READ,
        family: str = "v4",
    ) -> dict[str, Any]:
        to = HOST if family == "v4" else HOST_IPV6
        given = {"do": do, "name": HOST, "to": to, "ca": self.ca, "token": self.token}
        return {**given, "method": method, "path": path, "body": body}

    def holding(self, token: str) -> Member:
        """Themselves, with a token that they were given before, or that is another's."""
        folder = self.kit.with_name(f"{self.kit.name}-other")
        shutil.copytree(self.kit, folder, dirs_exist_ok=True)
        (folder / "token").write_text(token)
        return Member(self.name, self.machine, folder)


def developer(*words: str, environment: str = CHANGED) -> Done:
    started = time.monotonic()
    done = stackroom("developer", *words, environment=environment)
    print(f"developer {' '.join(words[:2])}: {time.monotonic() - started:.1f} s")
    return done


def good(done: Done) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def at_work(member: Member, do: str) -> Iterator[dict[str, Any]]:
    """Their program runs on their machine while the block does; then its answer is in the dict."""
    process = subprocess.Popen(
        ["docker", "exec", "-i", member.machine.container, "python3", "-c", TALK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps(member.task(do)) + "\n")
    process.stdin.flush()
    answer: dict[str, Any] = {}
    try:
        time.sleep(1)
        yield answer
        time.sleep(1)
    finally:
        said = process.communicate(timeout=120)[0]
        answer |= json.loads(said or "{}")


def ssh_key(machine: Client, path: str = "/tmp/key") -> str:
    """A key made on their machine; its public line."""
    make = f"ssh-keygen -q -t ed25519 -N '' -f {path}; cat {path}.pub"
    made = machine.run(["sh", "-c", make])
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="module")
def changed(deployed: Environment) -> Iterator[str]:
    """A copy of the inventory for this room; afterwards the machine is as the original says."""
    try:
        with changed_environment() as name:
            yield name
    finally:
        again = deploy()
    assert again.returncode == 0, again.stdout + again.stderr
    assert plan() == set()


@pytest.fixture(scope="module")
def machines(changed: str) -> Iterator[list[Client]]:
    with (
        client("reader", ipv4(41), ipv6(41)) as reader,
        client("writer", ipv4(42), ipv6(42)) as writer,
        client("ranger", ipv4(43), ipv6(43)) as ranger,
    ):
        yield [reader, writer, ranger]


@pytest.fixture(scope="module")
def team(machines: list[Client], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Member]:
    """rita reads from an IPv4 address, wim writes from both, rolf reads notes from IPv6 alone."""
    kits = tmp_path_factory.mktemp("kits")
    rights = {
        "rita": ([ipv4(41)], "read", LIBRARY),
        "wim": ([f"{ipv4(42)}/32", ipv6(42)], "write", f"{LIBRARY},{NOTES}"),
        "rolf": ([f"{ipv6(43)}/128"], "read", NOTES),
    }
    members = {}
    for (name, (addresses, access, named)), machine in zip(rights.items(), machines, strict=True):
        given = [word for address in addresses for word in ("--ip", address)]
        given += ["--key", ssh_key(machine), "--access", access, "--collections", named]
        good(developer("add", name, *given, "--to", str(kits / name), "--yes"))
        members[name] = Member(name, machine, kits / name)
    return members


def reached(member: Member) -> set[tuple[str, int]]:
    return open_ports(member.machine)


def probe_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"  (ok|NOT OK)", line)]


# -- three developers with different rights --------------------------------------------------


def test_each_reaches_their_ports_from_their_addresses_and_no_other(
    team: dict[str, Member],
) -> None:
    assert reached(team["rita"]) == {("v4", 22), ("v4", 443)}
    assert reached(team["wim"]) == {(family, port) for family in ("v4", "v6") for port in (22, 443)}
    assert reached(team["rolf"]) == {("v6", 22), ("v6", 443)}


def test_each_may_what_was_written_for_them_and_no_more(team: dict[str, Member]) -> None:
    write = f"/collections/{LIBRARY}/points?wait=true"
    rita, wim, rolf = team["rita"], team["wim"], team["rolf"]
    assert rita.ask("POST", SCROLL, {"limit": 1}) == 200
    assert rita.ask("PUT", write, POINT) == 403
    assert rita.ask("POST", f"/collections/{NOTES}/points/scroll", {"limit": 1}) == 403
    assert wim.ask("PUT", write, POINT) == 200
    assert wim.ask("PUT", write, POINT, family="v6") == 200
    assert wim.ask("DELETE", f"/collections/{LIBRARY}") == 403
    assert wim.ask("POST", f"/collections/{LIBRARY}/snapshots") == 403
    made = {"vectors": {"size": 4, "distance": "Cosine"}}
    assert wim.ask("PUT", "/collections/another", made) == 403
    assert rolf.ask("POST", f"/collections/{NOTES}/points/scroll", {}, family="v6") == 200
    assert rolf.ask("POST", SCROLL, {"limit": 1}, family="v6") == 403
    for member, family in ((rita, "v4"), (wim, "v4"), (rolf, "v6")):
        path = "/collections/stackroom_access/points/scroll"
        assert member.ask("POST", path, {}, family=family) == 403
    gone = {"points": [900_001]}
    delete = f"/collections/{LIBRARY}/points/delete?wait=true"
    assert wim.ask("POST", delete, gone) == 200


def ssh(member: Member, *words: str, account: str = "", stdin: str = "") -> Completed:
    """ssh on their machine with the key that they made there."""
    options = ["-i", "/tmp/key", "-F", "none", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    return member.machine.run(
        ["ssh", *options, "-l", account or f"dev-{member.name}", *words], 20, stdin=stdin
    )


def test_an_account_is_for_tunnels_and_nothing_else(team: dict[str, Member]) -> None:
    wim, rita = team["wim"], team["rita"]
    prohibited = "administratively prohibited"
    # -W opens what -L opens, without a port of its own
    assert "401" in ssh(wim, "-W", "127.0.0.1:6333", HOST, stdin=PLAIN_REQUEST).stdout
    for other in ("127.0.0.1:22", "127.0.0.1:2019", "[::1]:6333", f"{HOST}:443", f"{ipv4(1)}:22"):
        assert prohibited in ssh(wim, "-W", other, HOST).stderr, other

    for words in ((HOST, "id"), (HOST,), ("-s", HOST, "sftp")):
        done = ssh(wim, *words, stdin="id\n")
        assert (done.returncode, "not available" in done.stdout) == (1, True), words
        assert "uid=" not in done.stdout
    assert "PTY allocation request failed" in ssh(wim, "-tt", HOST).stderr
    remote = ("-N", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:9009:127.0.0.1:22", HOST)
    assert "remote port forwarding failed" in ssh(wim, *remote).stderr
    assert "9009" not in on_host("ss -tln")
    in_force = on_host(f"sshd -T -C user=dev-wim,host=wim,addr={wim.machine.ipv4}").splitlines()
    for line in ("allowagentforwarding no", "allowstreamlocalforwarding no", "x11forwarding no"):
        assert line in in_force

    # his key opens no other account, and hers not his
    assert "Permission denied" in ssh(wim, HOST, account="root").stderr
    assert "Permission denied" in ssh(wim, HOST, account="stackroom").stderr
    assert "Permission denied" in ssh(rita, HOST, account="dev-wim").stderr
    # nor from a machine that is let in, but is not his
    key = wim.machine.run(["cat", "/tmp/key"]).stdout
    rita.machine.run(["sh", "-c", "umask 077; cat >/tmp/stolen"], stdin=key)
    stolen = ssh(rita, "-i", "/tmp/stolen", "-N", HOST, account="dev-wim")
    assert "Permission denied" in stolen.stderr


def test_the_audit_knows_them_and_who_was_seen(team: dict[str, Member]) -> None:
    done = developer("audit", "--json")
    document = json.loads(good(done))
    rows = {(row["who"], row["source"]): row for row in document["rows"]}
    wim = rows["wim", f"{ipv6(42)}/128"]
    assert (wim["ports"], wim["account"], wim["rights"]) == ([22, 443], "dev-wim", "write")
    assert set(wim["collections"]) == {LIBRARY, NOTES}
    assert re.match(r"\d{4}-", str(wim["last_seen"]))
    assert document["differences"] == []


def test_the_same_file_edited_by_hand_and_deployed_does_the_same(
    team: dict[str, Member], changed: str
) -> None:
    """Also that rights which were lowered by hand end the token that was handed out with more."""
    wim, path = team["wim"], INVENTORY / changed / "developers.toml"
    before = path.read_text()
    lowered = before.replace('access = "write"', 'access = "read"')
    assert lowered != before
    path.write_text(lowered + f'\n[developers.hand]\naddresses = ["{ipv4(99)}"]\n')
    good(deploy(environment=changed))
    assert ipv4(99) in on_host("iptables -S")
    assert wim.ask("POST", SCROLL, READ) == 401
    wim.kit = wim.kit.with_name("lowered")
    good(developer("kit", "wim", "--to", str(wim.kit)))
    assert wim.ask("POST", SCROLL, READ) == 200
    assert wim.ask("PUT", f"/collections/{LIBRARY}/points?wait=true", POINT) == 403

    # what a verb leaves is what a deploy of the same file would
    assert "hand" in good(developer("remove", "hand", "--yes"))
    assert path.read_text() == lowered
    assert plan(changed) == set()


# -- moving, rotating ------------------------------------------------------------------------


def test_an_address_that_changes(team: dict[str, Member]) -> None:
    rolf = team["rolf"]
    good(developer("ip", "add", "rolf", ipv4(43), "--yes"))
    assert reached(rolf) == {(family, port) for family in ("v4", "v6") for port in (22, 443)}
    good(developer("ip", "remove", "rolf", ipv6(43), "--yes"))
    assert reached(rolf) == {("v4", 22), ("v4", 443)}


def test_a_token_is_rotated_under_load_and_nothing_fails(team: dict[str, Member]) -> None:
    rita = team["rita"]
    old = rita.token
    with at_work(rita, "loop") as loop:
        good(developer("rotate", "rita", "--to", str(rita.kit), "--yes"))
        assert rita.token != old
        assert rita.ask("POST", SCROLL, {"limit": 1}) == 200
    assert loop["failed"] == []
    assert loop["sent"] > 20
    again = developer("rotate", "rita", "--to", str(rita.kit), "--yes")
    assert again.returncode == 3
    assert "--finish" in again.stderr
    said = good(developer("rotate", "rita", "--finish", "--yes"))
    assert {line[:5] for line in probe_lines(said)} == {"  ok "}
    assert rita.ask("POST", SCROLL, {"limit": 1}) == 200
    assert rita.holding(old).ask("POST", SCROLL, {"limit": 1}) == 401


def test_a_token_that_leaked_dies_at_once(team: dict[str, Member]) -> None:
    rita = team["rita"]
    leaked = rita.token
    good(developer("rotate", "rita", "--now", "--to", str(rita.kit), "--yes"))
    assert rita.holding(leaked).ask("POST", SCROLL, {"limit": 1}) == 401
    assert rita.ask("POST", SCROLL, {"limit": 1}) == 200


def test_the_servers_own_key_is_rotated_under_load_and_nothing_fails(
    team: dict[str, Member], changed: str, tmp_path: Path
) -> None:
    rita = team["rita"]
    old_token = rita.token
    with at_work(rita, "loop") as loop:
        good(developer("rotate", "--server-key", "--to", str(tmp_path / "kits"), "--yes"))
    assert loop["failed"] == []
    assert loop["sent"] > 100
    assert {each.name for each in (tmp_path / "kits").iterdir()} == {"rita", "wim", "rolf"}
    for member in team.values():
        shutil.copytree(tmp_path / "kits" / member.name, member.kit, dirs_exist_ok=True)
    assert rita.token != old_token
    with at_work(rita, "loop") as loop:
        good(developer("rotate", "--server-key", "--finish", "--yes"))
    assert loop["failed"] == []
    assert loop["sent"] > 100
    secrets = load_environment(INVENTORY / changed).settings.secrets
    assert secrets.qdrant_alt_api_key is None
    assert rita.ask("POST", SCROLL, {"limit": 1}) == 200
    assert rita.holding(old_token).ask("POST", SCROLL, {"limit": 1}) in (401, 403)
    assert plan(changed) == set()


# -- mistakes, other operators, other hands --------------------------------------------------


def test_a_file_with_mistakes_is_told_line_by_line(team: dict[str, Member], changed: str) -> None:
    path = INVENTORY / changed / "developers.toml"
    before = path.read_text()
    wrong = (
        f'\n[developers.one]\naddresses = ["{ipv4(41)}", "0.0.0.0/0"]\n'
        f'\n[developers.two]\naddresses = ["{ipv4(98)}"]\n'
        'keys = ["-----BEGIN OPENSSH PRIVATE KEY-----"]\n'
        f'\n[developers.three]\naddresses = ["{ipv4(97)}/24"]\ncollection = ["x"]\n'
    )
    path.write_text(before + wrong)
    try:
        for words in (("list",), ("add", "four", "--ip", ipv4(96), "--yes"), ("audit",)):
            done = developer(*words)
            assert done.returncode == 3, done.stdout
            for told in ("anywhere = true", "private key", "host bits", "collections"):
                assert told in done.stderr, done.stderr
    finally:
        path.write_text(before)


@contextlib.contextmanager
def second_checkout(changed: str) -> Iterator[str]:
    """The inventory as another operator has it on their own machine."""
    folder = INVENTORY / f"{ENVIRONMENT}-changed-too"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(INVENTORY / changed, folder, ignore=shutil.ignore_patterns("__pycache__"))
    try:
        yield folder.name
    finally:
        shutil.rmtree(folder)


def test_two_operators_at_once(team: dict[str, Member], changed: str, tmp_path: Path) -> None:
    def add(environment: str, name: str, address: str) -> Done:
        words = ("add", name, "--ip", address, "--to", str(tmp_path / name), "--yes")
        return developer(*words, environment=environment)

    with second_checkout(changed) as other, ThreadPoolExecutor() as pool:
        first = pool.submit(add, changed, "first", ipv4(71))
        second = pool.submit(add, other, "second", ipv4(72))
        codes = {changed: first.result(), other: second.result()}
        winners = [name for name, done in codes.items() if done.returncode == 0]
        assert len(winners) == 1, {name: done.stderr for name, done in codes.items()}
        (loser,) = codes.keys() - set(winners)
        assert codes[loser].returncode in (3, 5), codes[loser].stderr
        # and later, from a checkout that does not know of it
        late = add(loser, "late", ipv4(73))
        assert late.returncode == 3
        assert "git pull" in late.stderr
        good(developer("audit", environment=winners[0]))
        name = "first" if winners[0] == changed else "second"
        good(developer("remove", name, "--yes", environment=winners[0]))
    assert plan(changed) == set()


def test_what_somebody_made_by_hand_is_seen_and_stops_the_verbs(
    team: dict[str, Member], changed: str, tmp_path: Path
) -> None:
    """A rule, a token in Qdrant's list, and a key of an account that nobody in the file has."""
    environment = load_environment(INVENTORY / changed)
    on_host(f"iptables -I DOCKER-USER -s {ipv4(66)} -j ACCEPT")
    strange = {"token": "of-nobody.0123456789abcdef", "developer": "mallory"}
    point = {"id": 77, "vector": {}, "payload": strange}
    path = "/collections/stackroom_access/points?wait=true"
    qdrant(environment, "PUT", path, {"points": [point]})
    key = ssh_key(team["rita"].machine, "/tmp/mallory")
    keys = "/root/.ssh/authorized_keys"
    on_host(f"cp -a {keys} /tmp/kept; echo '{key}' >>{keys}")
    try:
        done = developer("audit", "--json")
        assert done.returncode == 2
        told = [(each["person"], each["text"]) for each in json.loads(done.stdout)["differences"]]
        assert len(told) == 3, told
        assert any(ipv4(66) in text for _, text in told)
        assert any(name == "mallory" and "token" in text for name, text in told)
        assert any("SHA256:" in text and "root" in text for _, text in told)
        words = ("add", "eve", "--ip", ipv4(74), "--to", str(tmp_path / "eve"), "--yes")
        refused = developer(*words)
        assert refused.returncode == 3
        assert ipv4(66) in refused.stderr
        assert "[developers.eve]" not in (INVENTORY / changed / "developers.toml").read_text()
    finally:
        on_host(f"cp -a /tmp/kept {keys}; rm /tmp/kept")
        done = deploy(environment=changed)
    good(done)
    assert ipv4(66) not in on_host("iptables -S DOCKER-USER")
    good(developer("audit"))


def test_an_apply_that_cannot_end_leaves_the_file_as_it_was(
    team: dict[str, Member], changed: str, tmp_path: Path
) -> None:
    path = INVENTORY / changed / "developers.toml"
    before = path.read_text()
    on_host(f"docker stop {QDRANT}")
    try:
        words = ("add", "eve", "--ip", ipv4(74), "--collections", LIBRARY)
        done = developer(*words, "--to", str(tmp_path / "eve"), "--yes")
        assert done.returncode not in (0, 70), done.stdout + done.stderr
        assert path.read_text() == before
        assert not (tmp_path / "eve").exists()
    finally:
        on_host(f"docker start {QDRANT}")
        until(lambda: healthy(QDRANT), 120, "Qdrant is back")


# -- removal, last: the three go -------------------------------------------------------------


def test_a_removal_cuts_what_is_open_and_proves_it(team: dict[str, Member], changed: str) -> None:
    wim, rita = team["wim"], team["rita"]
    tunnel = [
        *("ssh", "-N", "-i", "/tmp/key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"),
        *("-o", "UserKnownHostsFile=/dev/null", "-o", "ServerAliveInterval=1"),
        *("-o", "ServerAliveCountMax=3", "-L", "127.0.0.1:16333:127.0.0.1:6333", f"dev-wim@{HOST}"),
    ]
    process = subprocess.Popen(["docker", "exec", wim.machine.container, *tunnel])
    until(lambda: "dev-wim" in on_host("ps -eo args"), 60, "the tunnel is open")
    with at_work(wim, "hold") as held, at_work(rita, "hold") as other:
        removed = time.time()
        said = good(developer("remove", "wim", "--yes"))
        process.wait(60)
    print(said)
    assert held["sent"] > 0
    assert held["broke"] is not None
    print(f"cut {held['broke'] - removed:.1f} s after the verb began")
    assert held["broke"] - removed < 60
    assert process.returncode == 255
    # nobody else lost anything
    assert other["broke"] is None
    assert re.search(r"^GONE: (\d+) of \1 probes", said, re.MULTILINE)
    assert {line[:5] for line in probe_lines(said)} == {"  ok "}
    for what in ("port 443", "port 22", "connection", "dev-wim", "key SHA256", "token"):
        assert what in said, what
    assert reached(wim) == set()
    assert "dev-wim" not in on_host("getent passwd; ls /etc/ssh/stackroom-keys; ps -eo user:32")
    assert rita.holding(wim.token).ask("POST", SCROLL, READ) == 401
    good(developer("audit"))
    assert "[developers.wim]" not in (INVENTORY / changed / "developers.toml").read_text()


def test_whoever_is_past_their_last_day_goes_with_the_next_change(
    team: dict[str, Member], changed: str
) -> None:
    path = INVENTORY / changed / "developers.toml"
    head, name, section = path.read_text().partition("[developers.rolf]")
    path.write_text(head + name + re.sub(r"expires = \S+", LONG_AGO, section, count=1))

    told = json.loads(stackroom("doctor", "--json", environment=changed).stdout)
    found = {check["id"]: check for check in told["checks"]}["developers.expiry"]
    assert (found["status"], "rolf" in found["summary"]) == ("CRITICAL", True), found
    assert developer("audit").returncode == 2
    good(developer("remove", "rita", "--yes"))
    assert reached(team["rolf"]) == set()
    assert "dev-" not in on_host("getent passwd; ls /etc/ssh/stackroom-keys")
    good(developer("remove", "rolf", "--yes"))


def test_nothing_is_left_of_those_who_went(team: dict[str, Member], changed: str) -> None:
    left = on_host("iptables -S; ip6tables -S; cat /etc/ufw/user*.rules /etc/ufw/after*.rules")
    for trace in (*(ipv4(last) for last in (41, 42, 43)), ipv6(42), ipv6(43)):
        assert trace not in left
    assert "dev-" not in on_host("getent passwd")
    assert plan(changed) == set()
