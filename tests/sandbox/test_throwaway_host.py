"""The throw-away host behaves like a machine, and leaves the machine it runs on alone.

Deploys of other tests may have passed over the host before: nothing here needs it to be bare.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from hands import ENVIRONMENT, HOST, HOST_IPV6, NAME

from ops import sandbox as room
from ops.errors import StackroomError
from ops.sandbox import archive, build
from ops.sandbox.host import OWN_CAS
from ops.sandbox.layout import IMAGES, ipv4, ipv6
from ops.settings import load_environment

pytestmark = pytest.mark.sandbox

BOTH = pytest.mark.parametrize("address", [HOST, HOST_IPV6])


def shell(command: str, *, into: str = NAME) -> str:
    """What a shell command in a container says, by the engine: past SSH and the code under test."""
    return subprocess.run(
        ["docker", "exec", into, "sh", "-c", command],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout.strip()


def docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def ssh(sandbox: room.Sandbox, address: str, command: str) -> subprocess.CompletedProcess[str]:
    """A login that takes no host key but the one the environment knows."""
    known = sandbox.environment / "known_hosts"
    return subprocess.run(
        [
            *("ssh", "-F", "none", "-i", str(sandbox.key), "-o", "IdentitiesOnly=yes"),
            *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR"),
            *("-o", f"UserKnownHostsFile={known}", "-o", f"HostKeyAlias={HOST}"),
            *("-o", "ConnectTimeout=10", f"root@{address}", command),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@BOTH
def test_login_over_both_families(sandbox: room.Sandbox, address: str) -> None:
    done = ssh(sandbox, address, "hostname; cat /proc/1/comm")

    assert (done.returncode, done.stdout.split()) == (0, ["sandbox", "systemd"]), done.stderr


def test_a_second_up_changes_nothing(sandbox: room.Sandbox) -> None:
    def state() -> tuple[str, list[tuple[str, int]], str]:
        files = [sandbox.key, *sandbox.environment.iterdir()]
        return (
            docker("inspect", NAME, "--format", "{{.Id}} {{.State.StartedAt}}"),
            sorted((file.name, file.stat().st_mtime_ns) for file in files),
            shell("cat /root/.ssh/authorized_keys"),
        )

    before = state()
    said: list[str] = []
    again = room.up(said.append)

    assert state() == before
    assert not again.created
    assert len(said) == 1


def test_the_environment_leads_to_it(sandbox: room.Sandbox) -> None:
    environment = load_environment(sandbox.environment)

    assert environment.name == ENVIRONMENT
    assert environment.machine.address == sandbox.ipv4
    assert environment.machine.key == str(sandbox.key)
    assert f"{ipv4(66)}/32" not in environment.settings.addresses()


def test_status_is_readable_by_programs(sandbox: room.Sandbox) -> None:
    status = json.loads(room.status().to_json())

    assert (status["exists"], status["running"]) == (True, True)
    assert status["address"] == HOST
    assert status["systemd"] in ("running", "degraded")


def test_a_restart_keeps_the_machine(sandbox: room.Sandbox) -> None:
    shell("echo kept > /root/written-before-the-restart")
    host_key = shell("cat /etc/ssh/ssh_host_ed25519_key.pub")
    docker("restart", NAME)

    room.up(print)

    assert ssh(sandbox, sandbox.ipv4, "cat /root/written-before-the-restart").stdout == "kept\n"
    assert shell("cat /etc/ssh/ssh_host_ed25519_key.pub") == host_key


def test_the_image_is_a_bare_machine() -> None:
    program = "for it in ufw docker restic sudo; do command -v $it; done; ls /etc/ssh; :"
    found = docker("run", "--rm", build.host_image(print), "sh", "-c", program).split()

    assert "sshd_config" in found
    assert [name for name in found if not name.startswith(("ssh", "moduli"))] == []
    assert [name for name in found if name.startswith("ssh_host")] == []


def test_packages_can_be_installed(sandbox: room.Sandbox) -> None:
    quiet = "DEBIAN_FRONTEND=noninteractive apt-get -qq"
    assert ssh(sandbox, sandbox.ipv4, f"{quiet} update").returncode == 0

    done = ssh(sandbox, sandbox.ipv4, f"{quiet} install -y hello >/dev/null && hello")

    shell(f"{quiet} purge -y hello")
    assert done.stdout == "Hello, world!\n", done.stderr


def test_it_trusts_the_authorities_that_this_machine_trusts(sandbox: room.Sandbox) -> None:
    trusted = shell("cat /etc/ssl/certs/ca-certificates.crt")

    for certificate in OWN_CAS.glob("*.crt"):
        assert certificate.read_text(encoding="ascii").strip() in trusted


def test_kernel_settings_and_clock_of_this_machine_are_out_of_reach(sandbox: room.Sandbox) -> None:
    pid_max = Path("/proc/sys/kernel/pid_max")
    before = pid_max.read_text(encoding="ascii")

    written = ssh(sandbox, sandbox.ipv4, "echo 99999 > /proc/sys/kernel/pid_max")
    # to the present second: should it not be refused, nothing is lost
    clock = ssh(sandbox, sandbox.ipv4, 'date -s "@$(date +%s)"')
    network = ssh(sandbox, sandbox.ipv4, "echo 1 > /proc/sys/net/ipv4/ip_forward")

    assert "Read-only" in written.stderr
    assert "not permitted" in clock.stderr
    assert network.returncode == 0, network.stderr
    assert pid_max.read_text(encoding="ascii") == before


BANNER = "import socket,sys; print(socket.create_connection((sys.argv[1],22),5).recv(4).decode())"


@BOTH
def test_an_allowed_machine_reaches_sshd(sandbox: room.Sandbox, address: str) -> None:
    with room.client("allowed") as allowed:
        answer = allowed.run(["python3", "-c", BANNER, address])

    assert answer.stdout == "SSH-\n", answer.stderr


SERVE_ONE = """
import socket
with socket.create_server(("::", 7), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    for _ in range(2):
        connection, peer = server.accept()
        connection.sendall(peer[0].encode())
        connection.close()
"""
ASK = """
import socket, sys, time
for _ in range(50):
    try:
        print(socket.create_connection((sys.argv[1], 7), 5).recv(99).decode())
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
"""


def test_clients_are_seen_under_their_addresses(sandbox: room.Sandbox) -> None:
    with room.client("allowed") as allowed, room.client("denied") as denied:
        docker("exec", "--detach", allowed.container, "python3", "-c", SERVE_ONE)
        seen = [denied.run(["python3", "-c", ASK, to]) for to in (allowed.ipv4, allowed.ipv6)]

    assert [one.stdout.strip() for one in seen] == [f"::ffff:{ipv4(66)}", ipv6(66)], seen
    assert f"{NAME}-client" not in docker("ps", "--all", "--format", "{{.Names}}")


def test_a_client_that_hangs_is_ended(sandbox: room.Sandbox) -> None:
    with room.client("third", ipv4(77), ipv6(77)) as third:
        assert third.run(["sleep", "60"], timeout=0.2).returncode == 124
        assert third.run(["cat"], stdin="through stdin").stdout == "through stdin"


PINNED = "stackroom.invalid/caddy:2.11.2"  # .invalid: no registry can have it


@pytest.fixture
def own_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(archive, "ARCHIVE", tmp_path / "images.tar")
    monkeypatch.setattr(archive, "RECORD", tmp_path / "images.json")
    return tmp_path / "images.tar"


def images_of_the_engine() -> list[str]:
    return docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()


def test_an_image_nobody_has_is_built_and_saved_under_its_name(own_archive: Path) -> None:
    assert room.image_archive([PINNED], print) == own_archive

    with tarfile.open(own_archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest
        assert [image["RepoTags"] for image in json.load(manifest)] == [[PINNED]]
    assert PINNED not in images_of_the_engine()
    assert room.image_kinds() == {PINNED: "built from packages"}


def test_an_archive_is_written_once_and_left_over_names_are_taken_back(own_archive: Path) -> None:
    room.image_archive([PINNED], print)
    written = own_archive.stat().st_mtime_ns
    built = [name for name in images_of_the_engine() if name.startswith(f"{IMAGES}/caddy:")]
    docker("tag", built[0], PINNED)  # as a run that was killed leaves it

    room.image_archive([PINNED], print)

    assert own_archive.stat().st_mtime_ns == written
    assert PINNED not in images_of_the_engine()
    assert room.image_kinds() == {PINNED: "built from packages"}


def test_an_image_that_is_here_is_saved_as_it_is(own_archive: Path) -> None:
    name = "stackroom.invalid/mine:1.0"
    docker("tag", build.base_image(print), name)
    try:
        room.image_archive([name], print)
        assert name in images_of_the_engine()
    finally:
        docker("rmi", name)
    assert room.image_kinds() == {name: "local"}


def test_an_image_that_can_be_had_from_nowhere_is_named(own_archive: Path) -> None:
    with pytest.raises(StackroomError, match=r"stackroom\.invalid/nothing:1 cannot be pulled"):
        room.image_archive(["stackroom.invalid/nothing:1"], print)

    assert not own_archive.exists()


def test_a_purge_takes_the_images_of_the_sandbox_only(monkeypatch: pytest.MonkeyPatch) -> None:
    base = build.base_image(print)
    monkeypatch.setattr(build, "IMAGES", "stackroom-purged")
    docker("tag", base, "stackroom-purged/base:1")
    docker("tag", base, "stackroom-purged/host:1")

    build.remove_all()

    left = images_of_the_engine()
    assert base in left
    assert not [name for name in left if name.startswith("stackroom-purged/")]


def test_no_images_need_no_archive() -> None:
    assert room.image_archive([], print) is None
