"""Who reaches which port, seen from other machines: exactly the listed, whatever happens.

The oracle is set equality over every port of ops.sandbox.visit.PORTS, IPv4 and IPv6.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hands import (
    EDGE,
    HOST,
    HOST_IPV6,
    QDRANT,
    changed_environment,
    deploy,
    healthy,
    holds,
    inspect,
    on_host,
    until,
)

from ops.sandbox import Client, client
from ops.sandbox.layout import ipv4, ipv6
from ops.sandbox.visit import open_ports, watching
from ops.settings import Environment

pytestmark = pytest.mark.sandbox

FAMILIES = ("v4", "v6")
LISTED = {(family, port) for family in FAMILIES for port in (22, 443)}
NOBODY: set[tuple[str, int]] = set()


@pytest.fixture(scope="module")
def machines(deployed: Environment) -> Iterator[tuple[Client, Client]]:
    """A developer's machine and a stranger's."""
    with client("allowed") as allowed, client("denied") as denied:
        yield allowed, denied


def reached(*machines: Client) -> list[set[tuple[str, int]]]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(open_ports, machines))


def test_after_the_deploys(machines: tuple[Client, Client]) -> None:
    assert reached(*machines) == [LISTED, NOBODY]


def test_after_a_docker_restart(machines: tuple[Client, Client], unchanged: None) -> None:
    _, denied = machines
    with watching(denied, period=0.25, seconds=60) as watch:
        on_host("systemctl restart docker")
        until(lambda: holds("docker ps"), 120, "Docker is back")

        assert reached(*machines) == [LISTED, NOBODY]

    assert watch.opened == []
    assert watch.attempts > 30
    # Docker asks each container anew how it is
    until(lambda: healthy(QDRANT) and healthy(EDGE), 120, "the services")


def test_after_containers_are_recreated(machines: tuple[Client, Client], unchanged: None) -> None:
    _, denied = machines
    before = inspect(EDGE)["Id"]
    with watching(denied, period=0.25, seconds=120) as watch:
        on_host("cd /etc/stackroom/stack && docker compose up -d --force-recreate --wait 2>&1")

        assert inspect(EDGE)["Id"] != before
        assert reached(*machines) == [LISTED, NOBODY]

    assert watch.opened == []


MISTAKES = (
    "docker run -d --name mistake-docker0 -p 0.0.0.0:5432:443 -p '[::]:9090:443' -p 2019:443"
    " {image} caddy file-server --listen :443",
    "docker network create --ipv6 --subnet fd00:5::/64 mistake",
    "docker run -d --name mistake-bridge --network mistake -p 0.0.0.0:8080:443 -p '[::]:5672:443'"
    " {image} caddy file-server --listen :443",
)


def test_ports_that_somebody_published_by_mistake_stay_shut(
    machines: tuple[Client, Client], unchanged: None
) -> None:
    image = inspect(EDGE)["Config"]["Image"]
    try:
        for command in MISTAKES:
            on_host(command.format(image=image))
        # they do answer: the machine itself reaches them
        for port in (5432, 8080):
            until(lambda port=port: holds(f"curl -s http://{HOST}:{port}"), 30, f"port {port}")
        until(lambda: holds(f"curl -s 'http://[{HOST_IPV6}]:5672'"), 30, "port 5672 over IPv6")
        # a bare -p is loopback's
        assert "127.0.0.1:2019" in on_host("docker port mistake-docker0")
        assert "0.0.0.0:2019" not in on_host("docker port mistake-docker0")

        assert reached(*machines) == [LISTED, NOBODY]
    finally:
        on_host("docker rm -f mistake-docker0 mistake-bridge; docker network rm mistake")


def test_a_new_developer_gets_in_and_a_stranger_does_not_meanwhile(
    machines: tuple[Client, Client], unchanged: None
) -> None:
    allowed, denied = machines
    eve = f'\n[developers.eve]\naddresses = ["{ipv4(77)}"]\n'
    with client("eve", ipv4(77), ipv6(77)) as new:
        with (
            watching(denied, (22, 443), workers=8, period=0.4, seconds=120) as stranger,
            watching(allowed, (443,), workers=2, period=0.5, seconds=120) as developer,
        ):
            with changed_environment(developers=lambda text: text + eve) as name:
                added = deploy(environment=name)
            assert reached(new) == [{("v4", 22), ("v4", 443)}]
            removed = deploy()
        assert reached(new) == [NOBODY]

    assert (added.returncode, removed.returncode) == (0, 0), added.stderr + removed.stderr
    assert stranger.opened == []
    assert stranger.attempts > 300
    # the listed are served without a break
    assert len(developer.opened) == developer.attempts > 15


def test_rules_that_somebody_changes_let_no_stranger_in_meanwhile(
    machines: tuple[Client, Client], unchanged: None
) -> None:
    _, denied = machines
    with watching(denied, (22, 443), workers=8, period=0.4, seconds=60) as stranger:
        on_host(f"ufw allow from {ipv4(99)} to any port 22 proto tcp")
        on_host("ufw limit 2222/tcp")
        on_host("ufw --force delete limit 2222/tcp")
        done = deploy()

    assert done.returncode == 0
    assert ipv4(99) not in on_host("ufw status")
    assert stranger.opened == []
