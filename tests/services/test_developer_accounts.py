"""Developers' accounts, keys and connections on a Debian with its own sshd and netfilter.

What the operations say is run there as it is; ssh and plain sockets say what came of it.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from data_services import answers, container, run_in
from pyinfra.api import StringCommand

from ops.host.access import _validated_by_sshd
from ops.host.cuts import cut, lost
from ops.host.firewall import Firewall
from ops.host.people import HostPeople, People, steps
from ops.render.files import RenderedFile
from ops.render.host import SSH_DROP_IN, ssh_files
from ops.render.people import keys_path
from ops.sandbox import engine
from ops.settings import Edge, Settings

SECRETS = dict.fromkeys(("qdrant_api_key", "api_token", "restic_password"), "k" * 32)
LATER = date(2990, 2, 19)
QDRANT, OTHER, HTTP = 6333, 9999, 8080


@dataclass
class Key:
    """A key pair as files; `line` is the public half."""

    path: Path
    line: str


@dataclass
class Machine:
    """A host's part in a container. `peer` is the address that it sees this machine come from."""

    name: str
    address: str
    peer: str
    folder: Path
    anna: Key
    developers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, command: str, stdin: str = "") -> str:
        return run_in(self.name, "sh", "-c", command, stdin=stdin)

    def key(self, name: str) -> Key:
        path = self.folder / name
        if not path.exists():
            quiet = ("-q", "-t", "ed25519", "-N", "", "-C", name)
            subprocess.run(["ssh-keygen", *quiet, "-f", path], check=True)
        return Key(path, path.with_suffix(".pub").read_text().strip())

    def settings(self) -> Settings:
        """The people of `developers`; each without an address comes from here."""
        developers = {
            name: {"addresses": [self.peer], "shares_address": True, "expires": LATER} | who
            for name, who in self.developers.items()
        }
        return Settings.model_validate(
            {
                "operators": {"anna": {"addresses": [self.peer], "keys": [self.anna.line]}},
                "developers": developers,
                "secrets": SECRETS,
            }
        )

    def look(self) -> HostPeople:
        return People().process(self.run(People().command()).splitlines())

    def carry_out(self, commands: Sequence[str | StringCommand]) -> None:
        for command in commands:
            if isinstance(command, StringCommand):
                self.run(command.get_raw_value(), str(command.connector_arguments["_stdin"]))
            else:
                self.run(command)

    def apply(self, **developers: dict[str, Any]) -> int:
        """Bring the host to these developers; how many commands that took. Again, it takes none."""
        self.developers = developers
        commands = steps(self.look(), self.settings())
        self.carry_out(commands)
        assert steps(self.look(), self.settings()) == []
        return len(commands)

    def ssh(self, name: str, *arguments: str, key: Key | None = None) -> list[str]:
        """The command of a developer's ssh, as strict as any."""
        identity = (key or self.key(name)).path
        return [
            *("ssh", "-F", "none", "-i", str(identity), "-o", "IdentitiesOnly=yes"),
            *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"),
            *("-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=10"),
            *("-o", "ExitOnForwardFailure=yes", *arguments, f"dev-{name}@{self.address}"),
        ]

    def refusal(self, name: str, *arguments: str, command: Sequence[str] = ()) -> str:
        """What ssh is told; fails where it goes through."""
        done = subprocess.run(
            [*self.ssh(name, *arguments), *command],
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def tunnel(self, name: str, port: int, key: Key | None = None) -> Iterator[Tunnel]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            local = probe.getsockname()[1]
        opened = subprocess.Popen(
            self.ssh(name, "-N", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}", key=key),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Tunnel(opened, local)
        finally:
            opened.kill()
            opened.communicate()


@dataclass
class Tunnel:
    """An `ssh -N -L`, and the port of it here."""

    ssh: subprocess.Popen[str]
    port: int

    def opens(self) -> bool:
        """Whether what listens behind it is heard. Waits for ssh to log in."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.ssh.poll() is None:
            with (
                contextlib.suppress(ConnectionRefusedError),
                socket.create_connection(("127.0.0.1", self.port), 5) as connection,
            ):
                connection.settimeout(10)
                return connection.recv(1) == b"x"
            time.sleep(0.05)
        return False

    def ended(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.ssh.wait(10) != 0
        return False


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    options = ("--cap-add", "NET_ADMIN", "--network", "bridge", "--init")
    with container("people", lambda name: answers(name, "true"), *options) as name:
        found = engine.inspect("container", name) or {}
        network = found["NetworkSettings"]["Networks"]["bridge"]
        folder = tmp_path_factory.mktemp("keys")
        machine = Machine(name, network["IPAddress"], network["Gateway"], folder, Key(folder, ""))
        machine.anna = machine.key("anna")
        drop_in = ssh_files(machine.settings())[0]
        machine.run(f"cat >{SSH_DROP_IN} && ssh-keygen -A && /usr/sbin/sshd", drop_in.content)
        for port in (QDRANT, OTHER):
            talk(machine, "127.0.0.1", port)
        talk(machine, "::", HTTP)
        yield machine


def talk(machine: Machine, address: str, port: int) -> None:
    program = "/usr/local/lib/talk.py"
    engine.docker("exec", "--detach", machine.name, "python3", program, address, str(port))
    deadline = time.monotonic() + 20
    while not machine.run(f"ss -Hltn 'sport = :{port}'"):
        assert time.monotonic() < deadline, f"nothing talks on {port}"
        time.sleep(0.1)


@pytest.fixture
def machine(running: Machine) -> Iterator[Machine]:
    """Without a developer, before and after."""
    yield running
    running.apply()
    assert running.run("getent passwd | grep ^dev- || true") == ""
    assert running.run("ls -A /etc/ssh/stackroom-keys 2>/dev/null || true") == ""


# accounts


def test_accounts_come_and_go(machine: Machine) -> None:
    bob, eve = ({"keys": [machine.key(name).line]} for name in ("bob", "eve"))
    assert machine.apply(bob=bob) > 0
    passwd = machine.run("getent passwd dev-bob").split(":")
    assert passwd[5:] == ["/nonexistent", "/usr/sbin/nologin"]
    assert machine.run("id -Gn dev-bob") == "stackroom-developers"
    assert machine.run("getent shadow dev-bob").split(":")[1] == "*"
    assert machine.run("LC_ALL=C chage -l dev-bob | grep 'Account expires'").endswith("2990")
    assert machine.run(f"stat -c '%a %U' {keys_path('dev-bob')}") == "644 root"

    machine.apply(bob=bob, eve=eve)
    machine.apply(bob=bob | {"expires": None})
    assert machine.run("getent shadow dev-bob").split(":")[7] == ""
    assert not answers(machine.name, "getent", "passwd", "dev-eve")

    machine.apply(bob=bob | {"expires": date(2020, 1, 1)})
    for left in ("dev-bob", "dev-eve"):
        found = f"grep -rl {left} /etc/passwd /etc/shadow /etc/group /etc/gshadow /etc/sub?id"
        assert machine.run(f"{found} /etc/ssh || true") == ""


def test_what_somebody_did_by_hand_is_undone(machine: Machine) -> None:
    machine.apply(bob={"keys": [machine.key("bob").line]})
    eve = machine.key("eve").line
    machine.run("groupadd -f docker; usermod -aG docker -s /bin/bash -d /tmp -L dev-bob")
    machine.run(f"echo '{eve}' >>{keys_path('dev-bob')}; chmod 666 {keys_path('dev-bob')}")
    machine.run(f"echo '{eve}' >{keys_path('dev-eve')}; chmod 777 /etc/ssh/stackroom-keys")
    machine.run("useradd -M -g stackroom-developers dev-mallory")
    machine.run("useradd -M keeper && usermod -aG stackroom-developers keeper")
    assert machine.apply(bob={"keys": [machine.key("bob").line]}) > 0
    assert machine.run("id -Gn dev-bob") == "stackroom-developers"
    assert machine.run("getent passwd dev-bob").split(":")[6] == "/usr/sbin/nologin"
    assert eve not in machine.run("cat /etc/ssh/stackroom-keys/*")
    assert not answers(machine.name, "getent", "passwd", "dev-mallory")
    assert machine.run("id -Gn keeper") == "keeper"
    machine.run("userdel keeper")


# what a key opens


def test_a_key_opens_tunnels_to_the_stack_and_nothing_else(machine: Machine) -> None:
    machine.apply(bob={"keys": [machine.key("bob").line]})
    with machine.tunnel("bob", QDRANT) as tunnel:
        assert tunnel.opens()
    with machine.tunnel("bob", OTHER) as tunnel:
        assert not tunnel.opens()
    for command in ([], ["id"], ["-s", "sftp"]):
        told = machine.refusal("bob", command=command)
        assert "uid=" not in told
        assert "not available" in told or "closed" in told, told
    assert "forwarding failed" in machine.refusal("bob", "-N", "-R", "0:127.0.0.1:1")
    assert "forwarding failed" in machine.refusal("bob", "-N", "-R", "/tmp/s:127.0.0.1:1")


def test_a_key_is_its_persons_alone(machine: Machine) -> None:
    bob, eve = machine.key("bob"), machine.key("eve")
    machine.apply(bob={"keys": [bob.line]}, eve={"keys": [eve.line]})
    for name, key, opens in (("bob", eve, False), ("eve", bob, False), ("eve", eve, True)):
        with machine.tunnel(name, QDRANT, key) as tunnel:
            assert tunnel.opens() == opens


def test_a_key_works_from_listed_addresses_only(machine: Machine) -> None:
    key = {"keys": [machine.key("bob").line]}
    machine.apply(bob=key | {"addresses": ["198.51.100.7", "2001:db8:b0b::/48"]})
    assert "Permission denied" in machine.refusal("bob", "-N")
    around = f"{machine.peer.rsplit('.', 1)[0]}.0/24"
    machine.apply(bob=key | {"addresses": ["2001:db8:b0b::/48", around]})
    with machine.tunnel("bob", QDRANT) as tunnel:
        assert tunnel.opens()


def test_the_end_is_held_by_the_key_and_by_the_account(machine: Machine) -> None:
    """Each alone refuses: nobody has to deploy for a last day to pass."""
    machine.apply(bob={"keys": [machine.key("bob").line]})
    path = keys_path("dev-bob")
    machine.run(f"cp {path} /tmp/keys; sed -i 's/time=\"2990/time=\"2020/' {path}")
    assert "Permission denied" in machine.refusal("bob", "-N")
    machine.run(f"cat /tmp/keys >{path}")
    with machine.tunnel("bob", QDRANT) as tunnel:
        assert tunnel.opens()
    machine.run("chage --expiredate $(($(date +%s) / 86400)) dev-bob")
    machine.refusal("bob", "-N")
    # the whole of the last day is still theirs
    machine.run("chage --expiredate $(($(date +%s) / 86400 + 1)) dev-bob")
    with machine.tunnel("bob", QDRANT) as tunnel:
        assert tunnel.opens()


# removal


def test_whoever_is_removed_loses_the_open_tunnel_and_nobody_else_does(machine: Machine) -> None:
    bob, eve = ({"keys": [machine.key(name).line]} for name in ("bob", "eve"))
    machine.apply(bob=bob, eve=eve)
    with machine.tunnel("bob", QDRANT) as bobs, machine.tunnel("eve", QDRANT) as eves:
        assert bobs.opens()
        assert eves.opens()
        machine.apply(eve=eve)
        assert bobs.ended()
        assert eves.opens()
    assert "Permission denied" in machine.refusal("bob", "-N")
    assert not answers(machine.name, "getent", "passwd", "dev-bob")


def test_what_the_account_runs_ends_with_it(machine: Machine) -> None:
    machine.apply(bob={"keys": [machine.key("bob").line]})
    stubborn = "trap '' TERM HUP INT; while :; do sleep 60; done"
    uid = machine.run("id -u dev-bob")
    for _ in range(3):
        engine.docker("exec", "--detach", "--user", uid, machine.name, "sh", "-c", stubborn)
    assert len(machine.run("pgrep -u dev-bob").splitlines()) >= 3
    machine.apply()
    assert machine.run(f"pgrep -u {uid} || true") == ""


def test_a_key_that_goes_takes_its_tunnel_with_it_and_one_that_comes_does_not(
    machine: Machine,
) -> None:
    bob, laptop = machine.key("bob"), machine.key("laptop")
    machine.apply(bob={"keys": [bob.line]})
    with machine.tunnel("bob", QDRANT) as tunnel:
        assert tunnel.opens()
        machine.apply(bob={"keys": [bob.line, laptop.line]})
        assert tunnel.opens()
        machine.apply(bob={"keys": [laptop.line]})
        assert tunnel.ended()
    with machine.tunnel("bob", QDRANT, laptop) as tunnel:
        assert tunnel.opens()


# sshd's own judgement


def test_sshd_takes_the_drop_in_and_its_block_ends_there(machine: Machine) -> None:
    machine.apply(bob={"keys": [machine.key("bob").line]})
    drop_in = ssh_files(machine.settings())[0]
    machine.carry_out([_validated_by_sshd(drop_in)])
    wrong = RenderedFile(SSH_DROP_IN, f"{drop_in.content}    NoSuchKeyword yes\n")
    with pytest.raises(AssertionError, match=r"(?i)nosuchkeyword"):
        machine.carry_out([_validated_by_sshd(wrong)])

    def asked(user: str) -> dict[str, str]:
        said = machine.run(f"sshd -T -C user={user},host=h,addr=1.2.3.4,laddr=::1,lport=22")
        return dict(line.partition(" ")[::2] for line in said.splitlines())

    bob, root = asked("dev-bob"), asked("root")
    assert {
        "authorizedkeysfile": "/etc/ssh/stackroom-keys/%u",
        "allowtcpforwarding": "local",
        "permitopen": "127.0.0.1:6333 127.0.0.1:6334",
        "permitlisten": "none",
        "allowstreamlocalforwarding": "no",
        "allowagentforwarding": "no",
        "x11forwarding": "no",
        "permittunnel": "no",
        "permittty": "no",
        "permituserrc": "no",
        "forcecommand": "/usr/sbin/nologin",
        "passwordauthentication": "no",
    }.items() <= bob.items()
    assert root["forcecommand"] == "none"
    assert root["permittty"] == "yes"
    assert root["authorizedkeysfile"].startswith(".ssh/authorized_keys")


# connections

RULES = """\
*filter
:INPUT DROP [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
{lets_in}
COMMIT
"""


def let_in(machine: Machine, *sources: str) -> None:
    lets_in = "\n".join(f"-A INPUT -s {each} -p tcp --dport {HTTP} -j ACCEPT" for each in sources)
    machine.run("iptables-restore", RULES.format(lets_in=lets_in))


@pytest.fixture
def guarded(machine: Machine) -> Iterator[Machine]:
    """Shut but to this machine and to itself, as UFW shuts a host."""
    let_in(machine, machine.peer, machine.address)
    yield machine
    machine.run("iptables -P INPUT ACCEPT; iptables -F INPUT")


def is_talking(connection: socket.socket) -> bool:
    """Whether bytes still come, past those that came before and wait to be read."""
    until = time.monotonic() + 2
    try:
        while time.monotonic() < until:
            if not connection.recv(1000):
                return False
    except (TimeoutError, ConnectionResetError):
        return False
    return True


def test_a_connection_on_which_the_host_talks_is_cut(guarded: Machine) -> None:
    """The host's next word would bring a connection back of which only the tracking is gone."""
    inside = f"import socket; c = socket.create_connection(('{guarded.address}', {HTTP}));"
    stays = f"{inside}\nwhile c.recv(1): open('/tmp/heard', 'a').write('x')"
    guarded.run("rm -f /tmp/heard")
    engine.docker("exec", "--detach", guarded.name, "python3", "-c", stays)
    with socket.create_connection((guarded.address, HTTP), 10) as connection:
        connection.settimeout(3)
        assert is_talking(connection)
        let_in(guarded, guarded.address)
        assert is_talking(connection), "new rules alone judge new connections only"
        guarded.run(cut([f"{guarded.peer}/32 {HTTP}", f"2001:db8::/48 {HTTP}"]))
        assert not is_talking(connection)
    assert f"src={guarded.peer} " not in guarded.run("conntrack -L 2>/dev/null | grep -v CLOSE||:")
    with pytest.raises(TimeoutError):  # a new one is not let in
        socket.create_connection((guarded.address, HTTP), 2)
    before = int(guarded.run("wc -c </tmp/heard"))
    time.sleep(0.5)
    assert int(guarded.run("wc -c </tmp/heard")) > before, "the other one is cut off, too"


def test_all_but_one_of_each_family_are_few_enough_to_name(guarded: Machine) -> None:
    everywhere = "-A STACKROOM-IN -p tcp -m conntrack --ctorigdstport 8080 -j RETURN"
    chains: dict[str, tuple[str, ...]] = {
        f"{family} STACKROOM-IN": (everywhere,) for family in ("v4", "v6")
    }
    live = Firewall(True, True, False, True, (), (), chains)
    mine = guarded.settings().model_copy(update={"edge": Edge(port=HTTP)})
    assert guarded.peer in mine.addresses()[0]
    with socket.create_connection((guarded.address, HTTP), 10) as connection:
        connection.settimeout(3)
        guarded.run(cut(lost(live, mine, 22)))
        assert is_talking(connection)
        others = mine.model_copy(update={"operators": {}})
        guarded.run(cut(lost(live, others, 22)))
        assert not is_talking(connection)


def test_other_ports_and_other_sources_keep_their_connections(guarded: Machine) -> None:
    with socket.create_connection((guarded.address, HTTP), 10) as connection:
        connection.settimeout(3)
        assert is_talking(connection)
        wide = f"{guarded.peer.split('.')[0]}.0.0.0/8"
        guarded.run(cut([f"{guarded.peer}/32 22", f"{wide} 443", f"198.51.100.0/24 {HTTP}"]))
        assert is_talking(connection)
