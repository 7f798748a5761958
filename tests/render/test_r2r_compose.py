"""The compose files of the R2R stack as they stand: confinement, order, who is told what."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.render.files import ROOT

COMPOSE = ROOT / "compose" / "r2r"
OVERLAYS = ("hatchet", "unstructured", "graphs", "dashboards")
LONG_LIVED, ONE_SHOTS = "unless-stopped", "no"
# the ports a person or the edge may ask for, on this host's loopback
PUBLISHED = {
    "r2r": "127.0.0.1:7272:7272",
    "litellm": "127.0.0.1:4000:4000",
    "rabbitmq": "127.0.0.1:15672:15672",
    "r2r-dashboard": "127.0.0.1:7273:3000",
    "hatchet-dashboard": "127.0.0.1:7274:80",
}
HATCHET = {
    "hatchet-postgres",
    "rabbitmq",
    "hatchet-migrate",
    "hatchet-setup",
    "hatchet-token",
    "hatchet-engine",
}


def merged(*overlays: str) -> dict[str, dict[str, Any]]:
    """The services of compose.yaml under these overlays: maps and lists grow."""
    services: dict[str, dict[str, Any]] = {}
    for name in ("compose", *overlays):
        document = yaml.safe_load((COMPOSE / f"{name}.yaml").read_text(encoding="utf-8"))
        for service, words in document["services"].items():
            kept = services.setdefault(service, {})
            for word, value in words.items():
                if isinstance(value, dict):
                    kept[word] = {**kept.get(word, {}), **value}
                elif isinstance(value, list) and word in kept:
                    kept[word] = [*kept[word], *value]
                else:
                    kept[word] = value
    return services


def every() -> Iterator[tuple[str, ...]]:
    for count in range(len(OVERLAYS) + 1):
        for chosen in itertools.combinations(OVERLAYS, count):
            yield chosen
            if "hatchet" in chosen:
                yield (*chosen, "hatchet-dashboard")


ALL = merged(*OVERLAYS, "hatchet-dashboard")


def needed(services: dict[str, dict[str, Any]], name: str) -> dict[str, str]:
    """Service -> the condition that this one waits for."""
    waits = services[name].get("depends_on", {})
    return {other: word["condition"] for other, word in waits.items()}


def test_simple_is_the_first_file_alone_and_drops_what_it_does_not_need() -> None:
    assert set(merged()) == {"postgres", "litellm", "r2r"}
    assert set(merged("hatchet")) - set(merged()) == HATCHET


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_service_is_confined(name: str) -> None:
    service = ALL[name]
    assert re.fullmatch(r"[a-z0-9./-]+:\$\{[A-Z0-9_]+:\?\}", service["image"]), "pinned by tag"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["networks"] == ["stackroom"]
    assert {"mem_limit", "cpus", "logging", "ulimits", "stop_grace_period"} <= set(service)
    assert 64 <= service["pids_limit"] <= 4096
    assert service["logging"]["driver"] == "json-file"
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    variable = name.upper().replace("-", "_")
    assert service["labels"] == {"stackroom.config": f"${{{variable}_CONFIG_SHA256:?}}"}
    forbidden = {"privileged", "pid", "ipc", "network_mode", "devices", "container_name"}
    assert not forbidden & set(service)
    # nginx, for its port below 1024, is the only one that begins as root
    nginx = name == "hatchet-dashboard"
    assert nginx or re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert nginx or "cap_add" not in service


@pytest.mark.parametrize("name", sorted(ALL))
def test_what_stays_is_watched_and_what_ends_is_waited_for(name: str) -> None:
    service = ALL[name]
    if service["restart"] == LONG_LIVED:
        check = service["healthcheck"]
        assert {"test", "interval", "timeout", "retries", "start_period"} <= set(check)
        assert check["test"][0] == "CMD"
        return
    assert service["restart"] == ONE_SHOTS
    assert "healthcheck" not in service
    waiting = [other for other in ALL if name in needed(ALL, other)]
    assert waiting, "`docker compose up --wait` counts one that nobody waits for as a failure"


@pytest.mark.parametrize("overlays", list(every()), ids="+".join)
def test_each_waits_for_the_right_condition_of_one_that_is_there(overlays: tuple[str, ...]) -> None:
    services = merged(*overlays)
    for name in services:
        for other, condition in needed(services, name).items():
            stays = services[other]["restart"] == LONG_LIVED
            expected = "service_healthy" if stays else "service_completed_successfully"
            assert condition == expected, f"{name} waits for {other}"


def test_the_order_of_a_first_start() -> None:
    services = merged("hatchet", "unstructured", "graphs")

    def before(name: str) -> set[str]:
        return set().union(*({other} | before(other) for other in needed(services, name)))

    assert before("hatchet-migrate") == {"hatchet-postgres"}
    assert before("hatchet-setup") == {"hatchet-postgres", "hatchet-migrate", "rabbitmq"}
    assert before("hatchet-token") == before("hatchet-setup") | {"hatchet-setup"}
    assert before("hatchet-engine") == before("hatchet-setup") | {"hatchet-setup"}
    assert before("r2r") == set(services) - {"r2r"}
    assert before("postgres") == before("litellm") == set()


def test_nothing_is_published_beyond_loopback() -> None:
    published = {name: service["ports"] for name, service in ALL.items() if "ports" in service}
    assert published == {name: [port] for name, port in PUBLISHED.items()}


def test_variables_must_be_set_and_none_is_a_secret() -> None:
    for path in COMPOSE.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"(?m)(^|\s)#.*$", "", text)
        for found in re.findall(r"(?<!\$)\$(?!\$).{0,40}", text):
            assert re.match(r"\$\{[A-Z0-9_]+:\?\}", found), f"{path.name}: {found}"
        assert not re.findall(r"\$\{\w*(?:PASSWORD|SECRET|TOKEN|KEY):\?\}", text), path.name


def test_secrets_come_by_a_file_of_the_service_alone() -> None:
    files = {name: service.get("env_file", []) for name, service in ALL.items()}
    assert files["postgres"] == ["./postgres/postgres.env"]
    assert files["litellm"] == ["./litellm/litellm.env"]
    assert files["r2r"] == ["./r2r/r2r.env"]
    assert files["hatchet-postgres"] == ["./hatchet-postgres/postgres.env"]
    assert files["rabbitmq"] == ["./rabbitmq/rabbitmq.env"]
    # the admin's password is for the one that makes the account
    admin = [name for name, paths in files.items() if "./hatchet-setup/admin.env" in paths]
    assert admin == ["hatchet-setup"]
    # it prints its database's address, so that one is of its own, with the password beside it
    assert files["hatchet-migrate"] == ["./hatchet-migrate/migrate.env"]
    for name in ("unstructured", "graph-clustering", "r2r-dashboard"):
        assert files[name] == [], name


def test_hatchet_may_run_what_it_unpacks() -> None:
    unpacking = {name for name in ALL if name.startswith("hatchet-")}
    for name in unpacking - {"hatchet-postgres", "hatchet-migrate"}:
        (scratch,) = (each for each in ALL[name]["tmpfs"] if each.startswith("/tmp:"))
        assert "exec" in scratch.split(":", 1)[1].split(","), name
        assert ALL[name]["environment"]["SERVER_SECURITY_CHECK_ENABLED"] == "false", name


def engine_script(tmp_path: Path, engine: str, ready: str) -> str:
    """The engine's start script over stand-ins; `ready` is the program asked for its state."""
    (script,) = ALL["hatchet-engine"]["command"]
    for name, body in (("engine", engine), ("wget", ready)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    script = script.replace("$$", "$").replace("/hatchet/hatchet-engine", str(tmp_path / "engine"))
    script = script.replace("/tmp/log", str(tmp_path / "log")).replace("sleep 2 ", "sleep 0.05 ")
    return f"PATH={tmp_path}:$PATH\n{script}"


def test_the_engine_logs_no_password_and_ends_as_it_ends(tmp_path: Path) -> None:
    said = 'dial: refused: "amqp://hatchet:canary@rabbitmq:5672/" at 22:00:19'
    script = engine_script(tmp_path, f"echo '{said}'; exit 7", "exit 0")
    done = subprocess.run(
        ["sh", "-euc", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == 'dial: refused: "amqp://hatchet:***@rabbitmq:5672/" at 22:00:19\n'
    assert done.returncode == 7


def test_an_engine_that_has_given_the_broker_up_is_ended(tmp_path: Path) -> None:
    script = engine_script(tmp_path, "trap '' TERM; while true; do sleep 0.1; done", "exit 1")
    done = subprocess.run(["sh", "-euc", script], capture_output=True, timeout=120, check=False)
    assert done.returncode == 128 + signal.SIGKILL


def test_the_engine_is_told_to_stop(tmp_path: Path) -> None:
    up = tmp_path / "up"
    engine = f"trap 'echo stopped; exit 0' TERM; touch {up}; while true; do sleep 0.05; done"
    script = engine_script(tmp_path, engine, "exit 0")
    with subprocess.Popen(["sh", "-euc", script], stdout=subprocess.PIPE, text=True) as shell:
        deadline = time.monotonic() + 60
        while not up.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        shell.terminate()
        said, _ = shell.communicate(timeout=60)
    assert (said, shell.returncode) == ("stopped\n", 0)


def test_the_token_lasts_is_made_once_and_is_never_printed() -> None:
    ((script,), entry) = (ALL["hatchet-token"]["command"], ALL["hatchet-token"]["entrypoint"])
    assert entry == ["sh", "-euc"]
    assert "--expiresIn 87600h" in script
    assert script.index("if [ -s token ]; then exit 0; fi") < script.index("token create")
    assert not re.search(r"\b(cat|tee)\b|echo \"?\$", script)
    mounts = {mount["source"]: mount for mount in ALL["r2r"]["volumes"]}
    assert mounts["hatchet_token"]["read_only"] is True
    start = (COMPOSE / "r2r" / "start.py").read_text(encoding="utf-8")
    assert f'Path("{mounts["hatchet_token"]["target"]}/token")' in start


def test_data_outlive_the_project_and_files_are_never_made_up() -> None:
    declared: dict[str, Any] = {}
    for path in COMPOSE.glob("[!t]*.yaml"):  # a trial's data are thrown away
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        declared |= document.get("volumes", {})
    for name, volume in declared.items():
        assert volume == {"name": f"stackroom_{name}", "external": True}
    used = set()
    for name, service in ALL.items():
        for mount in service.get("volumes", []):
            if mount["type"] == "volume":
                used.add(mount["source"])
                assert mount["volume"] == {"nocopy": True}
            else:
                assert mount["read_only"] is True, name
                assert mount["bind"] == {"create_host_path": False}, name
    assert used == set(declared)


def test_r2r_asks_litellm_by_both_of_its_variables() -> None:
    told = ALL["r2r"]["environment"]
    assert told["OPENAI_BASE_URL"] == told["OPENAI_API_BASE"] == "http://litellm:4000/v1"


def test_hatchet_is_of_one_version() -> None:
    images = {ALL[name]["image"] for name in ALL if "hatchet-dev" in ALL[name]["image"]}
    assert {image.split(":", 1)[1] for image in images} == {"${HATCHET_VERSION:?}"}


def test_the_image_is_built_of_a_hashed_lock_and_of_no_file_with_secrets() -> None:
    folder = COMPOSE / "r2r"
    assert ALL["r2r"]["pull_policy"] == "never"
    ignored = (folder / ".dockerignore").read_text(encoding="utf-8").split()
    assert "*" in ignored
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert not [name for name in allowed if Path(name).suffix in (".env", ".toml")]
    lock = (folder / "requirements.lock").read_text(encoding="utf-8")
    versions = dict(re.findall(r"(?m)^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", lock))
    assert versions["r2r"] == "3.6.6"
    assert versions["hatchet-sdk"] == "0.47.0"
    major, minor, _ = (int(part) for part in versions["litellm"].split("."))
    assert (1, 84) <= (major, minor) < (1, 107)
    assert lock.count("\n    --hash=sha256:") >= len(versions)
    dockerfile = (folder / "Dockerfile").read_text(encoding="utf-8")
    assert "--require-hashes" in dockerfile
    assert re.search(r"(?m)^USER r2r$", dockerfile)
