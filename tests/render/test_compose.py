"""Rules for every service, after Compose has merged the files, in the trial as in the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import stacks
from stacks import Render, Rendered, mib

from ops.render.files import ROOT
from ops.render.memory import STEP_MIB, SYSTEM_MIB

# what compose-lint may find, and why it stays
WAIVED = {
    ("qdrant", "CL-0019"): "pinned by tag; the deploy records the digest that ran",
    ("edge", "CL-0019"): "pinned by tag; the deploy records the digest that ran",
    ("api", "CL-0019"): "the team's own image; the deploy records the digest that ran",
    ("edge", "CL-0005"): "the edge is what the team reaches; DOCKER-USER decides who",
    ("edge", "CL-0013"): "mode external mounts the two certificate files that the settings name",
    ("api", "CL-0020"): "the api is promised its keys as variables; the file is 0600",
}
# settings of the host's own that no container may share
SHARED = {"privileged", "pid", "ipc", "network_mode", "userns_mode", "devices", "cgroup_parent"}


def confinement(name: str, service: dict[str, Any]) -> list[str]:
    """Every rule of confinement that the service breaks."""
    check = service.get("healthcheck", {"test": [""]})
    image = r"[^@:]+(:\d+/[^@:]+)?:(?!latest)\w[\w.-]{0,127}"
    rules = {
        "image is pinned": re.fullmatch(image, service["image"]),
        "read_only": service.get("read_only") is True,
        "cap_drop": service.get("cap_drop") == ["ALL"],
        "cap_add": service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "edge" else []),
        "security_opt": service.get("security_opt") == ["no-new-privileges:true"],
        "memory": mib(service.get("mem_limit", "0m")) >= 64,
        "processors": 0 < float(service.get("cpus", 0)) <= stacks.CPUS,
        "pids": 64 <= service.get("pids_limit", 0) <= 4096,
        "nofile": int(service.get("ulimits", {}).get("nofile", 0)) >= 16384,
        "log rotation": set(service["logging"]["options"]) == {"max-size", "max-file"},
        "log driver": service["logging"]["driver"] == "json-file",
        "label": re.fullmatch(r"[0-9a-f]{64}", service["labels"]["stackroom.config"]),
        "health": {"test", "interval", "timeout", "retries", "start_period"} <= set(check),
        "no shell of Docker's": check["test"][0] == "CMD",  # CMD-SHELL is dash or busybox
        "nothing of the host's": not SHARED & set(service),
        "no socket of Docker": "docker.sock" not in repr(service["volumes"]),
        "account": name == "edge" or re.fullmatch(r"[1-9]\d*:[1-9]\d*", service.get("user", "")),
    }
    return [rule for rule, kept in rules.items() if not kept]


# -- the project -----------------------------------------------------------------------------


def test_the_services_are_those_of_the_mode(each_kind: Rendered, kind: tuple[str, str]) -> None:
    mode, api = kind
    expected = {"qdrant"}
    expected |= set() if mode == "tunnel" else {"edge"}
    expected |= set() if api == "none" else {"api"}
    assert set(each_kind.services) == expected
    assert {service.name for service in each_kind.stack.services} == expected
    assert each_kind.project["name"] == "stackroom"


def test_every_service_is_confined_and_watched(each_kind: Rendered) -> None:
    for name, service in each_kind.services.items():
        assert confinement(name, service) == [], name
        assert service["restart"] == "unless-stopped", name
        assert service["networks"] == ["stackroom"], name
        least = 60 if name == "qdrant" else 30
        assert int(service["stop_grace_period"].removesuffix("s")) >= least, name


def test_labels_and_images_are_those_of_the_stack(each_kind: Rendered) -> None:
    assert {s.name: s.image for s in each_kind.stack.services} == {
        name: service["image"] for name, service in each_kind.services.items()
    }
    assert each_kind.digests == {
        name: service["labels"]["stackroom.config"] for name, service in each_kind.services.items()
    }


def test_only_the_edge_is_published_beyond_loopback(each_kind: Rendered) -> None:
    settings = each_kind.environment.settings
    for name, service in each_kind.services.items():
        ports = [str(port) for port in service["ports"]]
        if name == "edge":
            opened = [*settings.edge_ports(), *settings.world_ports()]
            everywhere = ("0.0.0.0", "[::]")  # noqa: S104 - what the compose file must say
            both = {f"{address}:{port}:{port}" for port in opened for address in everywhere}
            assert set(ports) == both
            assert len(ports) == len(both)
        else:
            assert ports
            assert all(port.startswith("127.0.0.1:") for port in ports), name


def test_qdrant_stops_in_order_and_reads_its_configuration(each_kind: Rendered) -> None:
    qdrant = each_kind.services["qdrant"]
    assert qdrant["command"] == ["./qdrant"]
    mounts = {mount["target"]: mount for mount in qdrant["volumes"]}
    assert mounts["/qdrant/config/local.yaml"]["source"] == "./qdrant/local.yaml"
    assert {"/qdrant/storage", "/qdrant/snapshots"} < set(mounts)
    assert "QDRANT__SERVICE__API_KEY" not in json.dumps(qdrant)


def test_nothing_starts_before_qdrant_is_healthy(each_kind: Rendered) -> None:
    for name, service in each_kind.services.items():
        if name != "qdrant":
            assert service["depends_on"]["qdrant"]["condition"] == "service_healthy"


def test_mounted_files_are_there_and_read_only_and_never_made_up(each_kind: Rendered) -> None:
    for name, service in each_kind.services.items():
        sources = list(service.get("env_file", []))
        for mount in service["volumes"]:
            assert isinstance(mount, dict), f"{name}: {mount} is the short form"
            if mount["type"] == "volume":
                continue
            assert mount["type"] == "bind"
            assert mount["read_only"] is True
            # Docker would make a folder where a file is missing
            assert mount["bind"] == {"create_host_path": False}
            sources.append(mount["source"])
        for source in sources:
            if not source.startswith("/"):
                assert source.startswith(f"./{name}/"), "not in the digest of this service"
                assert source[2:] in each_kind.files, f"{name} mounts {source}"


def test_data_outlive_the_project_and_never_take_over_an_image(each_kind: Rendered) -> None:
    declared = each_kind.project["volumes"]
    made = {volume.name: volume.uid for volume in each_kind.stack.volumes}
    assert {volume["name"] for volume in declared.values()} == set(made)
    for volume in declared.values():
        assert volume["external"] is True
        assert volume["name"].startswith("stackroom_")
    used = set()
    for service in each_kind.services.values():
        owner = int(service.get("user", "0:0").split(":")[0])
        for mount in service["volumes"]:
            if mount["type"] == "volume":
                assert mount["volume"]["nocopy"] is True
                assert made[declared[mount["source"]]["name"]] == owner
                used.add(mount["source"])
    assert used == set(declared)


def test_the_network_has_both_families_and_a_name_the_firewall_knows(each_kind: Rendered) -> None:
    ((name, network),) = each_kind.project["networks"].items()
    assert name == "stackroom"
    assert network["enable_ipv6"] is True
    subnets = [entry["subnet"] for entry in network["ipam"]["config"]]
    assert any(subnet.startswith("fd") for subnet in subnets)
    bridge = network["driver_opts"]["com.docker.network.bridge.name"]
    assert bridge.startswith("br-")
    assert len(bridge) <= 15


def test_logs_rotate_as_the_settings_say(render: Render) -> None:
    docker = {"log_max_size": "7m", "log_max_files": 3}
    for service in render(docker=docker, **stacks.case("internal", "image")).services.values():
        options = {"max-size": "7m", "max-file": "3"}
        assert service["logging"] == {"driver": "json-file", "options": options}


@pytest.mark.parametrize("host_mib", [3800, 7800, 8192, 64000])
def test_all_limits_together_leave_room_for_the_system(render: Render, host_mib: int) -> None:
    for mode, api in (("internal", "image"), ("tunnel", "none")):
        services = render(memory_mib=host_mib, **stacks.case(mode, api)).services
        limits = [mib(service["mem_limit"]) for service in services.values()]
        assert 0 <= host_mib - SYSTEM_MIB - sum(limits) < STEP_MIB


@pytest.mark.parametrize("mode", stacks.MODES)
def test_compose_lint_finds_nothing_but_what_is_waived(
    render: Render, tmp_path: Path, mode: str
) -> None:
    rendered = render(**stacks.case(mode, "image"))
    for name, file in rendered.files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(file.content, encoding="utf-8")
    done = subprocess.run(
        [stacks.tool("compose-lint"), "check", "--format", "json", "--fail-on", "critical"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in rendered.compose_files:
        assert name in done.stderr or name == "compose.yaml"  # it says which files it merged
    found = {(one["service"], one["rule_id"]) for one in json.loads(done.stdout)["findings"]}
    running = {(name, rule) for name, rule in WAIVED if name in rendered.services}
    if mode != "external":
        running.discard(("edge", "CL-0013"))
    assert found == running, "a new finding, or a waiver that nothing needs any more"


def test_compose_files_on_the_host_are_those_of_the_repository(each_kind: Rendered) -> None:
    sources = {path.read_text(encoding="utf-8") for path in (ROOT / "compose").glob("*/*.yaml")}
    for name in each_kind.compose_files:
        assert each_kind.text(name) in sources, f"{name} was rendered; compose files stay plain"
        assert os.sep not in name


# -- the trial -------------------------------------------------------------------------------


def test_a_trial_touches_nothing_that_runs(each_kind: Rendered) -> None:
    stacks.assert_touches_nothing_that_runs(each_kind.trial)


def test_a_trial_is_confined_as_the_real_one_and_runs_the_same(each_kind: Rendered) -> None:
    for name, service in each_kind.trial["services"].items():
        assert confinement(name, service) == [], name
        running = each_kind.services[name]
        changed = {key for key in running if service.get(key) != running[key]}
        assert changed <= {"ports", "networks", "restart", "mem_limit"}


def test_each_overlay_is_of_one_service_and_replaces_its_volumes(each_kind: Rendered) -> None:
    overlays = {"trial.yaml": "qdrant", "trial-edge.yaml": "edge"}
    for name, service in overlays.items():
        assert (name in each_kind.files) == (service in each_kind.services)
        if name in each_kind.files:
            overlay = stacks.load(each_kind.text(name))
            mounts = each_kind.services[service]["volumes"]
            assert set(overlay["services"]) == {service}
            # a trial that wrote to the real ones would be no trial
            real = {mount["source"] for mount in mounts if mount["type"] == "volume"}
            assert set(overlay["volumes"]) == real


# -- health checks, run as they stand against servers of this test ---------------------------

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n401 or so!"
NO_KEY = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
LOADING = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\n200"


@contextmanager
def answering(answers: dict[str, bytes]) -> Iterator[int]:
    """Answers each path with these bytes and hangs up; yields its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = b""
            # bash writes it in pieces
            while not asked.endswith(b"\r\n\r\n") and (piece := self.request.recv(1000)):
                asked += piece
            method, path, _ = asked.decode().split(" ", 2)
            self.request.sendall(answers.get(path, NOT_FOUND) if method == "GET" else NOT_FOUND)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def check_of(rendered: Rendered, service: str) -> list[str]:
    """The health check's command as Docker gets it, after Compose has made `$` of `$$`."""
    kind, *command = rendered.services[service]["healthcheck"]["test"]
    assert kind == "CMD"
    return [str(part) for part in command]


@pytest.mark.parametrize(
    ("ready", "collections", "healthy"),
    [
        (OK, NO_KEY, True),
        (OK, OK, False),  # open to everybody
        (LOADING, NO_KEY, False),
        (OK, LOADING, False),
        (OK, FORBIDDEN, False),  # refused for another reason
        (NO_KEY, NO_KEY, False),
        (b"", b"", False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NO_KEY, False),
        (b"HTTP/1.1 20", NO_KEY, False),
    ],
)
def test_qdrant_is_healthy_only_when_ready_and_closed_to_those_without_a_key(
    render: Render, ready: bytes, collections: bytes, healthy: bool
) -> None:
    *shell, script = check_of(render(), "qdrant")
    assert "/127.0.0.1/6333" in script
    with answering({"/readyz": ready, "/collections": collections}) as port:
        script = script.replace("/127.0.0.1/6333", f"/127.0.0.1/{port}")
        done = subprocess.run([*shell, script], capture_output=True, timeout=10)
    assert (done.returncode == 0) is healthy
    down = subprocess.run([*shell, script], capture_output=True, timeout=10)
    assert down.returncode != 0


@pytest.mark.parametrize("only", ["curl", "wget", "python3", "bash"])
def test_the_api_is_asked_with_the_tool_its_image_has(
    render: Render, tmp_path: Path, only: str
) -> None:
    for name in ("sh", only):
        found = sys.executable if name == "python3" else shutil.which(name)
        assert found, f"{name} is needed for this test"
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {found} "$@"\n', encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    command = check_of(render(**stacks.case("internal", "image")), "api")
    with answering({"/health": OK}) as good, answering({"/health": BROKEN}) as bad:
        codes = [
            subprocess.run(
                command,
                executable=str(tmp_path / "sh"),
                env={"PATH": str(tmp_path), "API_PORT": str(port)},
                capture_output=True,
                timeout=10,
            ).returncode
            for port in (good, bad)
        ]
    assert codes[0] == 0
    assert codes[1] != 0
