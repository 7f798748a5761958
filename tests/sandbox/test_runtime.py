"""What runs, as the machine's own Docker, systemd and sockets tell it."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

import pytest
import testinfra
from hands import EDGE, HOST, NAME, QDRANT, inspect, on_host
from testinfra.host import Host

from ops.settings import Environment

pytestmark = pytest.mark.sandbox

SERVICES = pytest.mark.parametrize("name", [QDRANT, EDGE])


@pytest.fixture(scope="module")
def host(deployed: Environment) -> Host:
    return testinfra.get_host(f"docker://{NAME}")


@SERVICES
def test_a_service_has_no_more_rights_than_it_needs(deployed: Environment, name: str) -> None:
    found = inspect(name)["HostConfig"]

    assert found["ReadonlyRootfs"] is True
    assert found["CapDrop"] == ["ALL"]
    assert (found["CapAdd"] or []) == (["NET_BIND_SERVICE"] if name == EDGE else [])
    assert found["SecurityOpt"] == ["no-new-privileges:true"]
    assert found["Privileged"] is False
    assert 0 < found["Memory"] <= 4 * 1024**3
    assert 0 < found["PidsLimit"] <= 4096
    assert not any("docker.sock" in bind for bind in found["Binds"] or [])
    assert (found["NetworkMode"], found["PidMode"]) == ("stackroom", "")
    assert found["IpcMode"] in ("private", "shareable")


@SERVICES
def test_a_service_starts_again_and_fills_no_disk(deployed: Environment, name: str) -> None:
    found = inspect(name)

    assert found["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert found["HostConfig"]["LogConfig"]["Type"] == "json-file"
    assert found["HostConfig"]["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}
    assert found["State"]["Health"]["Status"] == "healthy"
    assert len(found["Config"]["Labels"]["stackroom.config"]) == 64
    assert not found["Config"]["Image"].endswith(":latest")


def test_only_the_edge_is_published_beyond_loopback(deployed: Environment) -> None:
    bound = {
        name: {(each["HostIp"], each["HostPort"]) for ports in published for each in ports or []}
        for name in (QDRANT, EDGE)
        for published in [inspect(name)["NetworkSettings"]["Ports"].values()]
    }

    assert bound[QDRANT] == {("127.0.0.1", "6333"), ("127.0.0.1", "6334")}
    assert bound[EDGE] == {("0.0.0.0", "443"), ("::", "443")}  # noqa: S104 - what Docker reports


def test_compose_accepts_its_files(host: Host) -> None:
    with_warnings = host.run("cd /etc/stackroom/stack && docker compose config --quiet")

    assert (with_warnings.rc, with_warnings.stdout, with_warnings.stderr) == (0, "", "")


def test_qdrant_stops_in_order(deployed: Environment, unchanged: None) -> None:
    try:
        on_host(f"docker stop {QDRANT}")
        state = inspect(QDRANT)["State"]
    finally:
        on_host(
            f"docker start {QDRANT}; cd /etc/stackroom/stack && docker compose up -d --wait 2>&1"
        )

    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


@pytest.mark.parametrize("path", ["/collections", "/telemetry", "/metrics", "/issues", "/cluster"])
@pytest.mark.parametrize("key", ["", "wrong-key-0123456789-0123456789-0123"])
def test_without_the_key_nothing_is_told(deployed: Environment, path: str, key: str) -> None:
    header = f"-H 'api-key: {key}'" if key else ""
    ask = f"curl -sk -o /dev/null -w '%{{http_code}}' {header}"

    assert on_host(f"{ask} http://127.0.0.1:6333{path}") == "401"
    assert _edge(path, key)[0] == 401


def test_neither_dashboard_nor_telemetry(deployed: Environment) -> None:
    key = deployed.settings.secrets.qdrant_api_key.get_secret_value()

    assert _edge("/dashboard", key)[0] in (401, 403, 404)
    assert _edge("/dashboard", "")[0] in (401, 403, 404)
    assert "telemetry_disabled: true" in on_host(f"docker exec {QDRANT} cat config/local.yaml")


def _edge(path: str, key: str) -> tuple[int, str]:
    """An answer of the edge to this machine, over any certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(HOST, 443, timeout=10, context=context)
    try:
        connection.request("GET", path, headers={"api-key": key} if key else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def test_docker_runs_with_its_configuration(deployed: Environment) -> None:
    info: dict[str, Any] = json.loads(on_host("docker info --format '{{json .}}'"))

    assert info["LiveRestoreEnabled"] is True
    assert info["LoggingDriver"] == "json-file"
    assert on_host("pgrep docker-proxy", check=False) == ""
    image = inspect(EDGE)["Image"]
    on_host(f"docker run -d --name bare -p 5999:443 {image} caddy file-server --listen :443")
    try:
        assert on_host("docker port bare") == "443/tcp -> 127.0.0.1:5999"
        assert inspect("bare")["HostConfig"]["LogConfig"]["Config"]["max-size"] == "10m"
    finally:
        on_host("docker rm -f bare")


@pytest.mark.parametrize("unit", ["ufw", "docker", "ssh", "stackroom-guard"])
def test_units_start_at_boot(host: Host, unit: str) -> None:
    assert host.service(unit).is_enabled


@pytest.mark.parametrize("unit", ["docker", "ssh", "systemd-journald", "apt-daily-upgrade.timer"])
def test_units_run(host: Host, unit: str) -> None:
    assert host.service(unit).is_running


def test_the_guard_comes_before_the_firewall(host: Host) -> None:
    before = host.check_output("systemctl show -p Before --value stackroom-guard.service").split()

    assert {"ufw.service", "ssh.service", "network-pre.target"} <= set(before)
    assert host.run("systemd-analyze verify stackroom-guard.service").rc == 0


@pytest.mark.parametrize("unit", ["ssh.service", "docker.service"])
def test_nothing_listens_before_the_firewall_stands(host: Host, unit: str) -> None:
    after = host.check_output(f"systemctl show -p After --value {unit}").split()
    assert "ufw.service" in after


def test_the_journal_is_capped(host: Host) -> None:
    merged = host.check_output("systemd-analyze cat-config systemd/journald.conf").splitlines()

    assert [line for line in merged if line.startswith("SystemMaxUse=")][-1] == "SystemMaxUse=100M"
    assert "max" in host.check_output("journalctl -u systemd-journald --no-pager -n 5 -o cat")


def test_security_upgrades_install_themselves(host: Host) -> None:
    effective = host.check_output("apt-config dump")

    assert 'APT::Periodic::Unattended-Upgrade "1";' in effective
    assert 'Unattended-Upgrade::Automatic-Reboot-Time "04:30";' in effective
    dry = host.run("unattended-upgrade --dry-run --debug")
    assert dry.rc == 0, dry.stderr
    assert "Debian-Security" in dry.stdout + dry.stderr
    assert "download.docker.com" not in dry.stdout + dry.stderr


def test_the_operator_account(host: Host) -> None:
    account = host.user("stackroom")
    keys = host.file("/home/stackroom/.ssh/authorized_keys")

    assert (account.exists, account.shell) == (True, "/bin/bash")
    assert "docker" not in account.groups
    # root's: the account cannot let others in
    assert (keys.user, keys.mode) == ("root", 0o644)
    assert host.run("visudo -c -f /etc/sudoers.d/stackroom").rc == 0


@pytest.fixture(scope="module")
def listeners(deployed: Environment) -> list[str]:
    return on_host("ss -Hltn | awk '{print $4}'").splitlines()


def test_nothing_else_listens_beyond_loopback(listeners: list[str]) -> None:
    beyond = {
        each.rsplit(":", 1)[1] for each in listeners if not each.startswith(("127.", "[::1]"))
    }

    assert beyond <= {"22", "443"}
