# ruff: noqa: S104 - what ss prints
"""The collector: runs anywhere on old Pythons, never fails as a whole, takes no secret along."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sent_lab

from ops.clients import on_host
from ops.health import collect
from ops.health import host as health

PARTS = (collect, on_host)


@pytest.mark.parametrize("module", PARTS)
def test_is_python_3_9_and_standard_library_only(module: Any) -> None:
    assert sent_lab.foreign(module, (3, 9), PARTS) == set()


def test_sent_over_standard_input_it_answers_for_every_section(tmp_path: Path) -> None:
    """On a PATH with no tool at all, so that what is missing is told and nothing crashes."""
    facts = sent_lab.on_a_bare_machine(health.program(), tmp_path)
    assert set(facts) == {"values", "errors"}
    assert set(facts["values"]) | set(facts["errors"]) == set(collect.SECTIONS)
    assert not set(facts["values"]) & set(facts["errors"])
    assert facts["errors"]["sshd"] == "sshd is not installed"
    assert facts["errors"]["firewall"] == "ufw is not installed"
    assert facts["errors"]["containers"] == "docker is not installed"
    meminfo = Path("/proc/meminfo").read_text().split()
    assert facts["values"]["memory"]["total"] == int(meminfo[1]) // 1024
    assert facts["values"]["disk"][0]["path"] == "/"  # known without docker's help


def test_a_section_that_fails_or_hangs_costs_only_itself() -> None:
    gate = threading.Event()

    def fails() -> Any:
        raise RuntimeError("no such tool")

    sections = {"good": lambda: [1], "bad": fails, "hangs": gate.wait}
    assert on_host.gather(sections, 0.3) == {
        "values": {"good": [1]},
        "errors": {"bad": "no such tool", "hangs": "no answer within 0.3 s"},
    }
    gate.set()


def test_a_command_that_fails_names_itself_and_its_last_words() -> None:
    facts = on_host.gather(
        {"x": lambda: collect.run("sh", "-c", "echo one; echo two >&2; false")}, 9
    )
    assert facts["errors"] == {"x": "sh -c echo one; echo two >&2; false: two"}


def test_rules_by_chain() -> None:
    listing = (
        "-P INPUT DROP\n-P FORWARD DROP\n-N DOCKER-USER\n-N STACKROOM-IN\n-N DOCKER\n"
        "-A FORWARD -j DOCKER-USER\n-A STACKROOM-IN -j DROP\n-A DOCKER -j DROP\n"
    )
    assert collect.filters(listing) == {
        "policies": {"INPUT": "DROP", "FORWARD": "DROP"},
        "rules": {
            "INPUT": [],
            "FORWARD": ["-A FORWARD -j DOCKER-USER"],
            "DOCKER-USER": [],
            "STACKROOM-IN": ["-A STACKROOM-IN -j DROP"],
        },
    }


def test_listeners_as_ss_prints_them() -> None:
    lines = {
        'LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3))': ("0.0.0.0", 22, "sshd"),
        'LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=1,fd=4))': ("::", 22, "sshd"),
        "LISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:*": ("127.0.0.53", 53, ""),
        "LISTEN 0 4096 *:443 *:*": ("*", 443, ""),
    }
    for line, (address, port, program) in lines.items():
        expected = {"address": address, "port": port, "program": program}
        assert collect.listener(line) == expected


def test_a_container_without_its_secrets() -> None:
    found = {
        "Name": "/stackroom-qdrant-1",
        "Image": "sha256:q",
        "RestartCount": 2,
        "State": {
            "Status": "running",
            "ExitCode": 0,
            "OOMKilled": False,
            "StartedAt": "2020-01-02T03:04:05.123456789Z",
            "Health": {"Status": "healthy", "Log": [{"Output": "canary-secret"}]},
        },
        "Config": {
            "Image": "qdrant:v1",
            "Env": ["API_KEY=canary-secret"],
            "Cmd": ["canary-secret"],
            "Labels": {
                "com.docker.compose.project": "stackroom",
                "com.docker.compose.service": "qdrant",
                "stackroom.config": "abc",
            },
        },
        "HostConfig": {
            "ReadonlyRootfs": True,
            "Memory": 1024,
            "PidsLimit": 64,
            "SecurityOpt": ["no-new-privileges:true"],
            "CapDrop": ["ALL"],
            "Privileged": False,
        },
        "NetworkSettings": {
            "Ports": {"6334/tcp": None, "6333/tcp": [{"HostIp": "127.0.0.1", "HostPort": "6333"}]}
        },
    }
    taken = collect.container(found)
    assert taken.pop("up_seconds") > 5 * 365 * 86400
    assert taken == {
        "name": "stackroom-qdrant-1",
        "project": "stackroom",
        "service": "qdrant",
        "state": "running",
        "health": "healthy",
        "exit_code": 0,
        "restarts": 2,
        "oom_killed": False,
        "image": "qdrant:v1",
        "image_id": "sha256:q",
        "config": "abc",
        "read_only": True,
        "memory": 1024,
        "pids": 64,
        "no_new_privileges": True,
        "drops_all": True,
        "privileged": False,
        "ports": [{"address": "127.0.0.1", "port": 6333, "protocol": "tcp"}],
    }


def test_a_bare_stopped_container_is_not_taken_for_hardened() -> None:
    bare = {
        "Name": "/x",
        "Image": "sha256:x",
        "State": {"Status": "exited", "ExitCode": 3, "StartedAt": "0001-01-01T00:00:00Z"},
        "Config": {"Image": "x:1", "Labels": None},
        "HostConfig": {"SecurityOpt": None, "CapDrop": None, "PidsLimit": None},
    }
    taken = collect.container(bare)
    assert taken["exit_code"] == 3
    assert not any(
        taken[name]
        for name in ("read_only", "memory", "pids", "no_new_privileges", "drops_all", "up_seconds")
    )


def test_files_records_and_flags(tmp_path: Path, monkeypatch: Any) -> None:
    stack, state = tmp_path / "stack", tmp_path / "state"
    for folder in (stack / "sub", state / "deploys", state / "guard"):
        folder.mkdir(parents=True)
    (stack / "sub" / "compose.yaml").write_bytes(b"abc")
    (stack / "link").symlink_to("/etc/shadow")
    (state / "deploys" / "2026-01.json").write_text('{"n": 1}')
    (state / "deploys" / "2026-02.json").write_text('{"n": 2}')
    monkeypatch.setattr(collect, "STACK", stack)
    monkeypatch.setattr(collect, "STATE", state)
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180: "abc"
    assert collect.files() == {str(stack / "sub" / "compose.yaml"): sha}
    assert collect.deploy() == {"file": "2026-02.json", "record": {"n": 2}}
    assert collect.guard()["pending"] is False
    (state / "guard" / "pending").write_text("")
    assert collect.guard()["pending"] is True
