"""Whatever is done to the machine by hand, plan names the step and the next deploy mends it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hands import deploy, holds, on_host, plan, qdrant

from ops.sandbox import client
from ops.sandbox.layout import ipv4, ipv6
from ops.sandbox.visit import open_ports
from ops.settings import Environment

pytestmark = pytest.mark.sandbox

STACK = "/etc/stackroom/stack"
FILES = "Base | files"
UPGRADES = "Base | security upgrades"
ACCESS = "Access | firewall and SSH"
DAEMON = {"Docker | daemon.json", "Docker | daemon.json for its version"}
ENGINE = "Docker | engine"
SERVICES = "Stack | services"
COLLECTIONS = "Collections | create"


@dataclass(frozen=True)
class Damage:
    """What somebody did, the steps that have to notice, and what has to be true afterwards."""

    what: str
    done: str
    noticed_by: set[str]
    mended: str


def shows(path: str, text: str) -> str:
    return f"grep -q -- '{text}' {path}"


EDITED_COMPOSE = Damage(
    "compose.yaml edited",
    f"sed -i 's/read_only: true/read_only: false/' {STACK}/compose.yaml",
    {SERVICES},
    shows(f"{STACK}/compose.yaml", "read_only: true"),
)
EDITED_CADDYFILE = Damage(
    "Caddyfile edited, and the edge started with it",
    f"sed -i 's/admin off/admin localhost:2019/' {STACK}/edge/Caddyfile"
    " && docker restart stackroom-edge-1",
    {SERVICES},
    "docker exec stackroom-edge-1 grep -q 'admin off' /etc/caddy/Caddyfile",
)
EDITED_QDRANT = Damage(
    "local.yaml edited, and Qdrant started with it",
    f"sed -i 's/jwt_rbac: true/jwt_rbac: false/' {STACK}/qdrant/local.yaml"
    " && docker restart stackroom-qdrant-1",
    {SERVICES},
    "docker exec stackroom-qdrant-1 grep -q 'jwt_rbac: true' /qdrant/config/local.yaml",
)
EDITED_DAEMON = Damage(
    "daemon.json edited, and Docker restarted",
    'sed -i \'s/"userland-proxy": false/"userland-proxy": true/\' /etc/docker/daemon.json'
    " && systemctl restart docker",
    DAEMON,
    shows("/etc/docker/daemon.json", '"userland-proxy": false')
    + " && ! pgrep docker-proxy && systemctl is-active docker",
)
EDITED_SSHD = Damage(
    "sshd's drop-in edited, and sshd restarted",
    "sed -i 's/^PasswordAuthentication no/PasswordAuthentication yes/'"
    " /etc/ssh/sshd_config.d/10-stackroom.conf && systemctl restart ssh",
    {ACCESS},
    "sshd -T | grep -qx 'passwordauthentication no'",
)
EDITED_RULES = Damage(
    "the block in after.rules edited",
    "sed -i '/STACKROOM-IN -j DROP/d' /etc/ufw/after.rules",
    {ACCESS},
    shows("/etc/ufw/after.rules", "-A STACKROOM-IN -j DROP"),
)
EDITED_GUARD = Damage(
    "the guard edited", "echo exit 0 >/usr/local/sbin/stackroom-guard", {FILES},
    shows("/usr/local/sbin/stackroom-guard", "restore_files"),
)  # fmt: skip
NO_UPGRADES = Damage(
    "security upgrades switched off",
    "systemctl disable -q --now apt-daily-upgrade.timer",
    {UPGRADES},
    "systemctl is-enabled apt-daily-upgrade.timer && systemctl is-active apt-daily-upgrade.timer",
)
RULE_ADDED = Damage(
    "a UFW rule for a stranger",
    f"ufw allow from {ipv4(66)}",
    {ACCESS},
    f"! iptables -S | grep -q {ipv4(66)} && ! grep -q {ipv4(66)} /etc/ufw/user.rules",
)
RULE_DELETED = Damage(
    "a UFW rule deleted",
    f"ufw --force delete allow from {ipv6(21)} to any port 22 proto tcp",
    {ACCESS},
    f"ip6tables -S ufw6-user-input | grep -q '{ipv6(21)}/128 .*dport 22 -j ACCEPT'",
)
CHAINS_FLUSHED = Damage(
    "the container chains flushed",
    "iptables -F STACKROOM-IN; ip6tables -F DOCKER-USER",
    {ACCESS},
    "iptables -S STACKROOM-IN | tail -n 1 | grep -qx -- '-A STACKROOM-IN -j DROP'"
    " && ip6tables -S DOCKER-USER | grep -q -- '-o br-+ -j STACKROOM-IN'",
)
UFW_DISABLED = Damage(
    "UFW disabled",
    "ufw --force disable",
    {ACCESS},
    "ufw status | grep -qx 'Status: active' && iptables -S | grep -qx -- '-P INPUT DROP'"
    " && ip6tables -S | grep -qx -- '-P INPUT DROP'",
)
CONTAINER_REMOVED = Damage(
    "the edge's container removed",
    "docker rm -f stackroom-edge-1",
    {SERVICES},
    "[ $(docker inspect -f '{{.State.Health.Status}}' stackroom-edge-1) = healthy ]",
)
CONTAINER_HANGS = Damage(
    "the edge's container hangs",
    "docker pause stackroom-edge-1",
    {SERVICES},
    "docker inspect -f '{{.State.Paused}} {{.State.Health.Status}}' stackroom-edge-1"
    " | grep -qx 'false healthy'",
)
CONTAINER_STOPPED = Damage(
    "Qdrant's container stopped",
    "docker stop stackroom-qdrant-1",
    {SERVICES, COLLECTIONS},
    "[ $(docker inspect -f '{{.State.Health.Status}}' stackroom-qdrant-1) = healthy ]",
)
JUMP_REMOVED = Damage(
    "the way to the container chains cut",
    "iptables -D FORWARD -j DOCKER-USER",
    {ACCESS},
    "iptables -S FORWARD | head -n 2 | tail -n 1 | grep -qx -- '-A FORWARD -j DOCKER-USER'",
)
DOCKER_STOPPED = Damage(
    "Docker stopped",
    "systemctl stop docker.service docker.socket 2>&1",
    {ENGINE, "Stack | volumes", "Stack | images", SERVICES},
    "systemctl is-active docker && docker ps",
)

TOGETHER = [
    [EDITED_COMPOSE, EDITED_SSHD, NO_UPGRADES],
    [EDITED_DAEMON, EDITED_RULES, EDITED_CADDYFILE],
    [RULE_ADDED, EDITED_QDRANT, JUMP_REMOVED],
    [CONTAINER_REMOVED, RULE_DELETED, EDITED_GUARD],
    [CONTAINER_STOPPED, CONTAINER_HANGS, CHAINS_FLUSHED],
    [DOCKER_STOPPED, UFW_DISABLED],
]


@pytest.mark.parametrize("damages", TOGETHER, ids=lambda ds: ", ".join(d.what for d in ds))
def test_damage_is_named_and_mended(
    deployed: Environment, unchanged: None, damages: list[Damage]
) -> None:
    for damage in damages:
        on_host(damage.done)
        assert not holds(damage.mended), damage.what

    named = plan()
    done = deploy()

    assert named == set().union(*(damage.noticed_by for damage in damages))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [damage.what for damage in damages if not holds(damage.mended)] == []


COLLECTION = "/collections/knowledge_library"


def test_a_missing_index_is_made_again(deployed: Environment, unchanged: None) -> None:
    qdrant(deployed, "DELETE", f"{COLLECTION}/index/content_type?wait=true")
    assert "content_type" not in qdrant(deployed, "GET", COLLECTION)["result"]["payload_schema"]

    assert plan() == {COLLECTIONS}
    assert deploy().returncode == 0

    schema = qdrant(deployed, "GET", COLLECTION)["result"]["payload_schema"]
    assert schema["content_type"]["data_type"] == "keyword"
    assert len(schema) == 9


def test_a_missing_collection_is_made_again(deployed: Environment, unchanged: None) -> None:
    before = qdrant(deployed, "GET", COLLECTION)["result"]
    qdrant(deployed, "DELETE", COLLECTION)

    assert plan() == {COLLECTIONS}
    assert deploy().returncode == 0

    made = qdrant(deployed, "GET", COLLECTION)["result"]
    assert made["config"]["params"] == before["config"]["params"]
    assert set(made["payload_schema"]) == set(before["payload_schema"])


def test_the_walls_stand_after_all_of_it(deployed: Environment) -> None:
    with client("allowed") as allowed, client("denied") as denied:
        assert open_ports(allowed) == {(f, p) for f in ("v4", "v6") for p in (22, 443)}
        assert open_ports(denied) == set()


def test_data_outlives_the_project(deployed: Environment, unchanged: None) -> None:
    point = {"id": 4711, "vector": [0.1] * 1024, "payload": {"file_path": "kept.md"}}
    path = f"{COLLECTION}/points"
    qdrant(deployed, "PUT", f"{path}?wait=true", {"points": [point]})
    try:
        on_host(f"cd {STACK} && docker compose down --volumes 2>&1")
        assert on_host("docker ps -q") == ""

        assert deploy().returncode == 0
        found = qdrant(deployed, "GET", f"{path}/4711")["result"]
        assert found["payload"] == {"file_path": "kept.md"}
    finally:
        qdrant(deployed, "POST", f"{path}/delete?wait=true", {"points": [4711]})
