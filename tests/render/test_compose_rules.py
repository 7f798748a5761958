"""Rules that hold after Compose has merged the files, in the trial as in the real project."""

from __future__ import annotations

import itertools
import re
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import stacks

from ops.render.stack import Stack

pytest_plugins = ("environments",)

KINDS = list(itertools.product(stacks.MODES, stacks.APIS))


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def stack(request: pytest.FixtureRequest, make_environment: stacks.MakeEnvironment) -> Stack:
    """Every edge mode with every kind of api."""
    mode, api = request.param
    return stacks.rendered(make_environment(**stacks.case(mode, api)))


@pytest.fixture(scope="module")
def project(stack: Stack) -> dict[str, Any]:
    return stacks.project(stack)


@pytest.fixture(scope="module")
def trial(stack: Stack) -> dict[str, Any]:
    """The merged project of the trial start, with the services that it starts."""
    merged = stacks.project(stack, trial=True)
    merged["services"].pop("api", None)  # `stackroom-apply` names the others
    return merged


def confinement(name: str, service: dict[str, Any]) -> list[str]:
    """Every rule of confinement that the service breaks."""
    rules = {
        "image is pinned": re.fullmatch(r"[^@:]+(:\d+/[^@:]+)?:(?!latest$).+", service["image"]),
        "read_only": service.get("read_only") is True,
        "cap_drop": service.get("cap_drop") == ["ALL"],
        "cap_add": service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "edge" else []),
        "security_opt": service.get("security_opt") == ["no-new-privileges:true"],
        "memory": re.fullmatch(r"[1-9]\d*[mg]", service.get("mem_limit", "")),
        "processors": float(service.get("cpus", 0)) > 0,
        "pids": 0 < service.get("pids_limit", 0) <= 4096,
        "nofile": int(service.get("ulimits", {}).get("nofile", 0)) >= 10_000,
        "log rotation": {"max-size", "max-file"} <= set(service["logging"]["options"]),
        "log driver": service["logging"]["driver"] == "json-file",
        "label": re.fullmatch(r"[0-9a-f]{64}", service["labels"]["stackroom.config"]),
        "healthcheck": {"test", "interval", "timeout", "retries", "start_period"}
        <= set(service.get("healthcheck", {})),
        "no shell of Docker's": service["healthcheck"]["test"][0] == "CMD",
        "nothing of the host's": not {
            "privileged",
            "pid",
            "ipc",
            "network_mode",
            "userns_mode",
            "devices",
            "cgroup_parent",
        }
        & set(service),
        "no socket of Docker": "docker.sock" not in repr(service["volumes"]),
        "account": name == "edge" or re.match(r"[1-9]\d*:[1-9]\d*$", service.get("user", "")),
    }
    return [rule for rule, kept in rules.items() if not kept]


def test_every_service_is_confined_and_watched(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        assert confinement(name, service) == [], name
        assert service["restart"] == "unless-stopped"
        assert service["networks"] == ["stackroom"]


def test_data_outlive_the_project_and_never_take_over_an_image(project: dict[str, Any]) -> None:
    for volume in project["volumes"].values():
        assert volume["external"] is True
        assert volume["name"].startswith("stackroom_")
    used = set()
    for service in project["services"].values():
        for mount in service["volumes"]:
            if mount["type"] == "volume":
                assert mount["volume"]["nocopy"] is True
                used.add(mount["source"])
            else:
                assert mount["type"] == "bind"
                assert mount["read_only"] is True
                # Docker would make a folder where a file is missing
                assert mount["bind"]["create_host_path"] is False
    assert used == set(project["volumes"])


def test_nothing_starts_before_qdrant_is_healthy(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        if name != "qdrant":
            assert service["depends_on"]["qdrant"]["condition"] == "service_healthy"


def test_a_trial_touches_nothing_that_runs(trial: dict[str, Any]) -> None:
    networks = set()
    mounted = set()
    for name, service in trial["services"].items():
        assert service.get("ports", []) == [], name
        assert "container_name" not in service
        assert service["restart"] == "no"
        networks |= set(service["networks"])
        for mount in service["volumes"]:
            if mount["type"] == "volume":
                mounted.add(mount["source"])
            else:
                assert mount["read_only"] is True
    assert len(networks) == 1
    for name in networks:
        assert trial["networks"][name] == {"internal": True}
    for name in mounted:
        assert not {"external", "name"} & set(trial["volumes"][name]), name
        assert trial["volumes"][name]["driver_opts"]["type"] == "tmpfs"


def test_a_trial_is_confined_as_the_real_one_and_runs_the_same(
    trial: dict[str, Any], project: dict[str, Any]
) -> None:
    for name, service in trial["services"].items():
        assert confinement(name, service) == [], name
        running = project["services"][name]
        changed = {key for key in running if service.get(key) != running[key]}
        assert changed <= {"ports", "networks", "restart", "mem_limit"}


# -- health checks ---------------------------------------------------------------------------


@contextmanager
def server(ready: bytes, collections: bytes) -> Iterator[int]:
    """Answers the two paths with these bytes and hangs up; yields its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = b""
            while not asked.endswith(b"\r\n\r\n"):  # bash writes it in pieces
                asked += self.request.recv(1000)
            self.request.sendall(ready if asked.startswith(b"GET /readyz ") else collections)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running.server_address[1]
        running.shutdown()


@pytest.fixture(scope="module")
def qdrant_check(make_environment: stacks.MakeEnvironment) -> list[str]:
    """The health check's command as Docker gets it, after Compose has made `$` of `$$`."""
    project = stacks.project(stacks.rendered(make_environment()))
    kind, *command = project["services"]["qdrant"]["healthcheck"]["test"]
    assert kind == "CMD"
    assert "/127.0.0.1/6333" in command[-1]
    return [str(part) for part in command]


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n401 or so!"
NO_KEY = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
LOADING = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\n200"


@pytest.mark.parametrize(
    ("ready", "collections", "healthy"),
    [
        (OK, NO_KEY, True),
        (OK, OK, False),  # open to everybody
        (LOADING, NO_KEY, False),
        (OK, LOADING, False),
        (NO_KEY, NO_KEY, False),
        (b"", b"", False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NO_KEY, False),
        (b"HTTP/1.1 20", NO_KEY, False),
    ],
)
def test_qdrant_is_healthy_only_when_ready_and_closed_to_those_without_a_key(
    qdrant_check: list[str], ready: bytes, collections: bytes, healthy: bool
) -> None:
    *shell, script = qdrant_check
    with server(ready, collections) as port:
        script = script.replace("/127.0.0.1/6333", f"/127.0.0.1/{port}")
        done = subprocess.run([*shell, script], capture_output=True, timeout=10)
    assert (done.returncode == 0) is healthy
    down = subprocess.run([*shell, script], capture_output=True, timeout=10)
    assert down.returncode != 0
