"""Promises of the compose files: what every service must have, and that Compose can read them."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from merged import compose_texts, project, references, variables
from rendered import APIS, MODES, Rendered, RenderSettings, tool

from ops.render.files import ROOT
from ops.render.memory import SYSTEM_MIB

# what compose-lint may find, and why it stays
WAIVED = {
    ("qdrant", "CL-0019"): "pinned by tag; the deploy records the digest that ran",
    ("edge", "CL-0019"): "pinned by tag; the deploy records the digest that ran",
    ("api", "CL-0019"): "the team's own image; the deploy records the digest that ran",
    ("edge", "CL-0005"): "the edge is what the team reaches; DOCKER-USER decides who",
    ("edge", "CL-0013"): "mode external mounts the two certificate files that the settings name",
    ("api", "CL-0020"): "the api is promised its keys as variables; the file is 0600",
}


def services(rendered: Rendered) -> dict[str, Any]:
    found: dict[str, Any] = project(rendered)["services"]
    return found


def mib(text: str) -> int:
    factor = {"m": 1, "g": 1024}[text[-1]]
    return int(text[:-1]) * factor


def test_the_services_are_those_of_the_mode(each_kind: Rendered) -> None:
    expected = {"qdrant"}
    expected |= set() if each_kind.mode == "tunnel" else {"edge"}
    expected |= set() if each_kind.api == "no api" else {"api"}
    assert set(services(each_kind)) == expected
    assert {service.name for service in each_kind.stack.services} == expected
    assert project(each_kind)["name"] == "stackroom"


def test_variables_are_all_given_and_all_used(each_kind: Rendered) -> None:
    used = set().union(*(references(text) for text in compose_texts(each_kind).values()))
    given = set(variables(each_kind)) - {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE"}
    assert used == given
    assert all(variables(each_kind).values())


def test_every_service_is_confined(each_kind: Rendered) -> None:
    for name, service in services(each_kind).items():
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "edge" else []), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert 64 <= service["pids_limit"] <= 4096, name
        assert mib(service["mem_limit"]) >= 64, name
        assert 0 < float(service["cpus"]) <= 4, name
        assert int(service["ulimits"]["nofile"]) >= 16384, name
        assert not {"privileged", "network_mode", "pid", "ipc", "devices"} & set(service), name
        if name != "edge":
            assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name


def test_every_service_is_watched_and_restarted(each_kind: Rendered) -> None:
    for name, service in services(each_kind).items():
        check = service["healthcheck"]
        assert check["test"][0] == "CMD", name  # CMD-SHELL is dash or busybox by chance
        assert {"interval", "timeout", "retries", "start_period"} <= set(check), name
        assert service["restart"] == "unless-stopped", name
        assert int(service["stop_grace_period"].removesuffix("s")) >= 30, name
        assert service["labels"]["stackroom.config"] == each_kind.digests()[name]
    assert int(services(each_kind)["qdrant"]["stop_grace_period"].removesuffix("s")) >= 60


def test_images_are_pinned_and_the_ones_that_are_pulled(each_kind: Rendered) -> None:
    found = {name: service["image"] for name, service in services(each_kind).items()}
    assert found == {service.name: service.image for service in each_kind.stack.services}
    for image in found.values():
        assert re.search(r":(?!latest)[\w][\w.-]{0,127}$", image), image


def test_only_the_edge_is_published_beyond_loopback(each_kind: Rendered) -> None:
    settings = each_kind.environment.settings
    for name, service in services(each_kind).items():
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
    qdrant = services(each_kind)["qdrant"]
    assert qdrant["command"] == ["./qdrant"]
    mounts = {mount["target"]: mount for mount in qdrant["volumes"]}
    assert mounts["/qdrant/config/local.yaml"]["source"] == "./qdrant/local.yaml"
    assert {"/qdrant/storage", "/qdrant/snapshots"} < set(mounts)
    assert "QDRANT__SERVICE__API_KEY" not in json.dumps(qdrant)


def test_mounted_files_are_read_only_and_never_made_up(each_kind: Rendered) -> None:
    for name, service in services(each_kind).items():
        for mount in service["volumes"]:
            assert isinstance(mount, dict), f"{name}: {mount} is the short form"
            if mount["type"] == "bind":
                assert mount["read_only"] is True
                assert mount["bind"] == {"create_host_path": False}
                assert mount["source"].startswith("/") or each_kind.has(mount["source"][2:])


def test_volumes_outlive_the_project_and_are_those_of_the_stack(each_kind: Rendered) -> None:
    declared = project(each_kind)["volumes"]
    assert all(volume["external"] is True for volume in declared.values())
    made = {volume.name: volume.uid for volume in each_kind.stack.volumes}
    assert {volume["name"] for volume in declared.values()} == set(made)
    for service in services(each_kind).values():
        owner = int(service.get("user", "0:0").split(":")[0])
        for mount in service["volumes"]:
            if mount["type"] == "volume":
                assert made[declared[mount["source"]]["name"]] == owner


def test_the_network_has_both_families_and_a_name_the_firewall_knows(each_kind: Rendered) -> None:
    ((name, network),) = project(each_kind)["networks"].items()
    assert network["enable_ipv6"] is True
    subnets = [entry["subnet"] for entry in network["ipam"]["config"]]
    assert any(subnet.startswith("fd") for subnet in subnets)
    bridge = network["driver_opts"]["com.docker.network.bridge.name"]
    assert bridge.startswith("br-")
    assert len(bridge) <= 15
    assert all(service["networks"] == [name] for service in services(each_kind).values())


def test_logs_rotate_as_the_settings_say(render: RenderSettings) -> None:
    settings = "[docker]\nlog_max_size = '7m'\nlog_max_files = 3\n"
    for service in services(render(settings + MODES["internal"] + APIS["image"])).values():
        options = {"max-size": "7m", "max-file": "3"}
        assert service["logging"] == {"driver": "json-file", "options": options}


@pytest.mark.parametrize("host_mib", [3800, 7800, 64000])
def test_all_limits_together_leave_room_for_the_system(
    render: RenderSettings, host_mib: int
) -> None:
    rendered = render(MODES["internal"] + APIS["image"], memory_mib=host_mib)
    limits = [mib(service["mem_limit"]) for service in services(rendered).values()]
    assert sum(limits) == host_mib - SYSTEM_MIB
    tunnel = services(render(MODES["tunnel"], memory_mib=host_mib))
    assert mib(tunnel["qdrant"]["mem_limit"]) == host_mib - SYSTEM_MIB


@pytest.mark.parametrize("mode", MODES)
def test_compose_lint_finds_nothing_but_what_is_waived(
    render: RenderSettings, tmp_path: Path, mode: str
) -> None:
    rendered = render(MODES[mode] + APIS["image"])
    folder = rendered.write(tmp_path / "stack")
    done = subprocess.run(
        [tool("compose-lint"), "check", "--format", "json", "--fail-on", "critical"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in compose_texts(rendered):
        assert name in done.stderr or name == "compose.yaml"  # it says which files it merged
    found = {(one["service"], one["rule_id"]) for one in json.loads(done.stdout)["findings"]}
    running = {(name, rule) for name, rule in WAIVED if name in services(rendered)}
    if mode != "external":
        running.discard(("edge", "CL-0013"))
    assert found == running, "a new finding, or a waiver that nothing needs any more"


def test_trial_overlays_change_services_and_nothing_they_must_not(each_kind: Rendered) -> None:
    class Tagged(yaml.SafeLoader):
        """Knows Compose's !reset and !override."""

    def plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        assert isinstance(node, yaml.SequenceNode)
        return loader.construct_sequence(node, deep=True)

    Tagged.add_multi_constructor("!", plain)
    overlays = {"trial.yaml": "qdrant", "trial-edge.yaml": "edge"}
    for name, service in overlays.items():
        assert each_kind.has(name) == (service in services(each_kind))
        if each_kind.has(name):
            overlay = yaml.load(each_kind.file(name).content, Loader=Tagged)  # noqa: S506
            assert set(overlay["services"]) == {service}
            change = overlay["services"][service]
            assert change["ports"] == []
            assert change["networks"] == ["trial"]
            # every volume is replaced: a trial that wrote to the real ones would be no trial
            real = {
                mount["source"]
                for mount in services(each_kind)[service]["volumes"]
                if mount["type"] == "volume"
            }
            assert set(overlay["volumes"]) == real
            assert not any("external" in volume for volume in overlay["volumes"].values())


# the health checks, run as they stand against servers of this test


@contextmanager
def answering(statuses: dict[str, int]) -> Iterator[int]:
    """A server that answers each path with its status; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def check_of(rendered: Rendered, service: str) -> list[str]:
    _, *command = services(rendered)[service]["healthcheck"]["test"]
    return [str(part) for part in command]


@pytest.mark.parametrize(
    ("ready", "without_key", "healthy"),
    [(200, 401, True), (200, 200, False), (503, 401, False), (200, 403, False)],
    ids=["closed", "open", "not ready", "refused for another reason"],
)
def test_qdrant_is_healthy_only_when_ready_and_closed(
    render: RenderSettings, ready: int, without_key: int, healthy: bool
) -> None:
    program, option, script = check_of(render(), "qdrant")
    assert "/6333" in script
    with answering({"/readyz": ready, "/collections": without_key}) as port:
        done = subprocess.run([program, option, script.replace("/6333", f"/{port}")], timeout=10)
    assert (done.returncode == 0) is healthy
    after = subprocess.run(
        [program, option, script.replace("/6333", f"/{port}")], capture_output=True, timeout=10
    )
    assert after.returncode != 0  # nobody listens


@pytest.mark.parametrize("only", ["curl", "wget", "python3", "bash"])
def test_the_api_is_asked_with_the_tool_its_image_has(
    render: RenderSettings, tmp_path: Path, only: str
) -> None:
    for name in ("sh", only):
        found = sys.executable if name == "python3" else shutil.which(name)
        assert found, f"{name} is needed for this test"
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {found} "$@"\n', encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    command = check_of(render(APIS["image"]), "api")
    with answering({"/health": 200}) as good, answering({"/health": 500}) as bad:
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


def test_the_edge_is_asked_where_its_caddyfile_answers(render: RenderSettings) -> None:
    rendered = render(MODES["internal"])
    url = check_of(rendered, "edge")[-1]
    assert url == "http://127.0.0.1:2020/health"
    assert "http://127.0.0.1:2020 {" in rendered.file("edge/Caddyfile").content


def test_compose_files_on_the_host_are_those_of_the_repository(each_kind: Rendered) -> None:
    sources = {path.read_text(encoding="utf-8") for path in (ROOT / "compose").glob("*/*.yaml")}
    for name, text in compose_texts(each_kind).items():
        assert text in sources, f"{name} was rendered; compose files stay plain"
    assert os.sep not in "".join(compose_texts(each_kind))
