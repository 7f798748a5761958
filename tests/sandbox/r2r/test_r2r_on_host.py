"""The R2R stack as a first deploy leaves it: what runs, who reaches it, what it gives away."""

from __future__ import annotations

import json
import subprocess

import pytest
from hands import NAME, deploy, holds, inspect, on_host, plan, stackroom
from r2r_hands import (
    CONTAINERS,
    EDGE,
    LITELLM,
    POSTGRES,
    R2R,
    at_edge,
    bearer,
    direct,
    identities,
    login,
)

from ops.demo.r2r import forget_people, ingest_and_ask
from ops.sandbox import client, image_kinds
from ops.sandbox.visit import open_ports
from ops.settings import Environment

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("deployed")]

PUBLISHED_ADDRESS, PUBLISHED_PASSWORD = "admin@example.com", "change_me_immediately"
KEEPERS = (
    "/etc/stackroom/stack",
    "/etc/stackroom/stack.previous",
    "/etc/stackroom/stack.refused",
    "/etc/stackroom/stack.failed",
    "/etc/stackroom/secrets",
    "/run/containerd/",  # what Docker starts the containers with, in folders of root's alone
)


@pytest.fixture(scope="module")
def canaries(deployed: Environment) -> list[str]:
    kept = deployed.settings.secrets.r2r
    assert kept
    names = ("secret_key", "admin_password", "postgres_password", "litellm_master_key")
    return [getattr(kept, name).get_secret_value() for name in names]


@pytest.fixture
def after_a_start(deployed: Environment) -> None:
    """R2R prints most where it starts."""
    on_host(f"docker restart {R2R} {LITELLM} >/dev/null")
    on_host("cd /etc/stackroom/stack && docker compose up -d --wait 2>&1")


def test_every_service_runs_and_is_healthy(deployed: Environment) -> None:
    orchestration = deployed.settings.r2r.orchestration
    print(f"images: {image_kinds()}; orchestration: {orchestration}")
    names = on_host("docker ps --format '{{.Names}}'").split()
    assert sorted(names) == sorted(CONTAINERS)
    for name in CONTAINERS:
        assert inspect(name)["State"]["Health"]["Status"] == "healthy", name
        assert inspect(name)["HostConfig"]["ReadonlyRootfs"], name


def test_a_second_deploy_changes_nothing() -> None:
    before = identities()
    assert plan() == set()
    done = deploy()
    assert done.returncode == 0, done.stdout
    assert "0 of" in done.stdout
    assert identities() == before


def test_nothing_but_ssh_and_the_edge_listens_beyond_loopback() -> None:
    listening = on_host("ss -Htln | awk '{print $4}'").splitlines()
    outward = {each for each in listening if not each.startswith(("127.", "[::1]"))}
    assert {each.rpartition(":")[2] for each in outward} == {"22", "443"}
    for name, ports in {POSTGRES: [], LITELLM: ["4000"], R2R: ["7272"]}.items():
        bindings = inspect(name)["NetworkSettings"]["Ports"]
        published = [each for found in bindings.values() for each in found or []]
        assert [each["HostPort"] for each in published] == ports, name
        assert all(each["HostIp"] == "127.0.0.1" for each in published), name


def test_exactly_the_listed_reach_it() -> None:
    with client("allowed") as allowed, client("denied") as denied:
        assert open_ports(allowed) == {(f, p) for f in ("v4", "v6") for p in (22, 443)}
        assert open_ports(denied) == set()


def test_who_has_no_login_gets_nothing(deployed: Environment) -> None:
    for path in ("/v3/documents", "/v3/users", "/v3/system/status", "/v3/system/settings"):
        assert direct(path)[0] in (401, 403), path
        assert at_edge(deployed, path)[0] in (401, 403), path
    assert login(PUBLISHED_ADDRESS, PUBLISHED_PASSWORD)[0] in (401, 404)
    assert login(deployed.settings.r2r.admin_email, PUBLISHED_PASSWORD)[0] == 401
    assert direct("/v3/system/status", bearer(deployed))[0] == 200


def test_the_header_that_chooses_a_schema_ends_at_the_edge(deployed: Environment) -> None:
    header = 'header = "X-Project-Name: somebody_elses"'
    token = bearer(deployed)
    assert direct("/v3/documents", token, header)[0] == 500, "R2R looks into that schema"
    assert at_edge(deployed, "/v3/documents", token, header)[0] == 200


def test_two_people_find_their_own_and_an_answer_streams(deployed: Environment) -> None:
    said: list[str] = []
    ingest_and_ask(deployed, said.append)
    forget_people(deployed)
    assert len([line for line in said if "finds nothing of" in line]) == 2
    assert "The stack room is where the books are kept." in said[-1]


def test_the_doctor_finds_every_part_of_it_well() -> None:
    done = stackroom("doctor", "--json")
    report = json.loads(done.stdout)
    found = {each["id"]: each["status"] for each in report["checks"]}
    rooms = ("r2r", "litellm", "postgres", "documents", "edge", "containers", "stack", "outside")
    ours = {name: status for name, status in found.items() if name.split(".")[0] in rooms}
    assert {name.split(".")[0] for name in ours} == set(rooms)
    assert {name: status for name, status in ours.items() if status != "OK"} == {}


@pytest.mark.usefixtures("after_a_start")
def test_no_log_record_or_process_list_has_a_secret(canaries: list[str]) -> None:
    logs = "; ".join(f"docker logs {name} 2>&1" for name in CONTAINERS)
    places = [
        logs,
        "journalctl --no-pager -q",
        "cat /var/lib/stackroom/deploys/*",
        "ps -eo args",
        "docker image inspect $(docker ps --format '{{.Image}}')",
        f"docker inspect {EDGE}",
        "ls -R /tmp /var/tmp; cat /var/lib/docker/containers/*/*-json.log",
    ]
    for place in places:
        said = on_host(place, check=False)
        assert said, place
        assert [name[:6] for name in canaries if name in said] == [], place


def test_only_their_keepers_hold_the_secrets(canaries: list[str]) -> None:
    found = subprocess.run(
        [
            *("docker", "exec", "-i", NAME, "grep", "-rlsF", "--devices=skip", "-f", "-"),
            *("/etc", "/var/lib/stackroom", "/var/log", "/root", "/home", "/run", "/tmp"),
        ],
        input="\n".join(canaries),
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert "/etc/stackroom/stack/r2r/r2r.env" in found
    assert [path for path in found if not path.startswith(KEEPERS)] == []
    for path in found:
        assert not holds(f"su -s /bin/sh nobody -c 'cat {path}' 2>/dev/null"), path


def test_the_order_of_a_restart_is_a_unit_of_systemd() -> None:
    assert holds("systemctl is-enabled --quiet stackroom-stack.service")
    assert holds("systemctl is-active --quiet stackroom-stack.service")
