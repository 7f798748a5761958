"""A machine that cannot take the stack is refused, with each reason; a good one is not."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from typing import Any

import pytest
from settings_lab import R2R_PASSWORDS, SECRETS, settings_with

from ops.host.preflight import HostReport, Report, problems
from ops.settings.model import Settings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna"
NOW = 1_800_000_000.0
GOOD = HostReport(
    distribution="debian",
    version="13",
    codename="trixie",
    kernel="6.12.48+deb13-amd64",
    memory_mib=3900,
    cpus=2,
    free_mib=30_000,
    filesystem="ext4",
    now=NOW + 3,
    init="systemd",
    listeners=((22, "sshd"), (53, "systemd-resolve")),
)
LINES = [
    "distribution=debian",
    "version=13",
    "codename=trixie",
    "kernel=6.12.48+deb13-amd64",
    "init=systemd",
    "cpus=2",
    "memory_mib=3900",
    "free_mib=30000",
    "filesystem=ext4",
    f"now={NOW:.0f}",
    "deployed=no",
]
API = {"image": "a:1", "port": 8000}


def some_settings(**other: Any) -> Settings:
    return Settings(
        operators={"anna": {"addresses": ["198.51.100.7"], "keys": [KEY]}},
        secrets=dict.fromkeys(("qdrant_api_key", "api_token", "restic_password"), "k" * 32),
        **other,
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"distribution": "debian", "version": "12"},
        {"distribution": "ubuntu", "version": "22.04"},
        {"distribution": "ubuntu", "version": "24.04"},
        {"kernel": "5.10.0-37-amd64"},
        {"kernel": "7.0-rc1"},
        {"memory_mib": 1900},
        {"filesystem": "xfs"},
        {"filesystem": "overlay"},
        {"now": NOW - 119},
        {"listeners": ((80, "apache2"), (8443, "java"), (8000, "python3"))},
    ],
)
def test_a_good_machine_has_no_problems(change: dict[str, Any]) -> None:
    assert problems(dataclasses.replace(GOOD, **change), some_settings(), NOW) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"distribution": "fedora", "version": "42"},
            "fedora 42 is not supported; reinstall with: debian 12, debian 13, ubuntu 22.04, "
            "ubuntu 24.04",
        ),
        ({"version": "11"}, "debian 11 is not supported; reinstall with: debian 12"),
        ({"version": ""}, "debian  is not supported"),
        ({"init": "runit"}, "the machine runs runit, not systemd, as its first process"),
        ({"kernel": "5.9.16"}, "kernel 5.9.16 is older than 5.10; upgrade and reboot"),
        ({"kernel": "5.9-rc12"}, "kernel 5.9-rc12 is older than 5.10; upgrade and reboot"),
        ({"kernel": "4.19.0-27"}, "kernel 4.19.0-27 is older than 5.10; upgrade and reboot"),
        ({"memory_mib": 960}, "960 MiB of memory; the stack needs 1800"),
        (
            {"free_mib": 299, "deployed": True},
            "299 MiB free below /var/lib; a deploy needs 300",
        ),
        ({"free_mib": 4999}, "4999 MiB free below /var/lib; a deploy needs 5000"),
        *(
            ({"filesystem": name}, f"/var/lib/docker is on {name}; databases need a local disk")
            for name in ("nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "tmpfs")
        ),
        ({"now": NOW + 121}, "the machine's clock is +121 s off; set it"),
        ({"now": NOW - 3600}, "the machine's clock is -3600 s off; set it"),
        (
            {"listeners": ((443, "nginx"),)},
            "port 443 is held by nginx; stop it or choose another port",
        ),
        ({"half_restored": True}, "a restore is under way or was broken off"),
        ({"listeners": ((6333, "qdrant"),)}, "port 6333 is held by qdrant"),
        ({"listeners": ((6334, "qdrant"),)}, "port 6334 is held by qdrant"),
    ],
)
def test_each_reason_to_refuse(change: dict[str, Any], reason: str) -> None:
    (found,) = problems(dataclasses.replace(GOOD, **change), some_settings(), NOW)
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        ({"edge": {"mode": "tunnel"}}, [6333, 6334]),
        ({}, [443, 6333, 6334]),
        ({"api": API}, [443, 6333, 6334, 8000, 8443]),
        ({"api": API, "edge": {"mode": "tunnel"}}, [6333, 6334, 8000]),
        ({"edge": {"mode": "internal", "port": 4443}}, [4443, 6333, 6334]),
        (
            {"edge": {"mode": "acme", "domain": "a.example.com", "email": "a@example.com"}},
            [80, 443, 6333, 6334],
        ),
    ],
)
def test_the_ports_that_have_to_be_free(settings: dict[str, Any], held: list[int]) -> None:
    ports = (22, 80, 443, 4443, 6333, 6334, 8000, 8443)
    report = dataclasses.replace(GOOD, listeners=tuple((port, "squatter") for port in ports))
    assert problems(report, some_settings(**settings), NOW) == [
        f"port {port} is held by squatter; stop it or choose another port" for port in held
    ]


def test_the_r2r_stack_has_ports_and_a_need_of_room_of_its_own() -> None:
    models = {name: {"model": "openai/a"} for name in ("chat", "text-embedding-3-team")}
    secrets = SECRETS | {"r2r": R2R_PASSWORDS}
    r2r = settings_with(stack="r2r", litellm={"models": models}, secrets=secrets)
    report = dataclasses.replace(
        GOOD, free_mib=15_999, listeners=((7272, "squatter"), (6333, "squatter"))
    )
    assert problems(report, r2r, NOW) == [
        "15999 MiB free below /var/lib; a deploy needs 16000",
        "port 7272 is held by squatter; stop it or choose another port",
    ]


def test_a_port_on_two_addresses_is_told_once_and_all_reasons_together() -> None:
    report = dataclasses.replace(
        GOOD, init="sh", memory_mib=1, listeners=((443, "nginx"), (443, "nginx"))
    )
    assert len(problems(report, some_settings(), NOW)) == 3


def test_listeners_are_read_from_ss_and_docker() -> None:
    report = Report().process(
        [
            *LINES,
            'listener=0.0.0.0:22 users:(("sshd",pid=812,fd=3))',
            'listener=127.0.0.53%lo:53 users:(("systemd-resolve",pid=500,fd=14))',
            'listener=[::]:443 users:(("nginx",pid=9,fd=6),("nginx",pid=8,fd=6))',
            "listener=*:9100 ",
            # Docker's own, for containers of ours and of others
            'listener=127.0.0.1:6333 users:(("dockerd",pid=4161,fd=24))',
            'listener=0.0.0.0:8080 users:(("docker-proxy",pid=4170,fd=4))',
            "container=web|web-app-1|0.0.0.0:8080->80/tcp, :::8080->80/tcp, 443/tcp",
            "container=|old-qdrant|127.0.0.1:6333-6334->6333-6334/tcp, 0.0.0.0:53->53/udp",
            "container=|idle|",
        ]
    )
    assert set(report.listeners) == {
        (22, "sshd"),
        (53, "systemd-resolve"),
        (443, "nginx"),
        (9100, "an unknown process"),
        (8080, "the container web-app-1"),
        (6333, "the container old-qdrant"),
        (6334, "the container old-qdrant"),
    }
    assert dataclasses.replace(report, listeners=()) == dataclasses.replace(
        GOOD, now=NOW, listeners=()
    )


def test_the_look_at_a_machine_works_on_this_one() -> None:
    """The fact's shell text, run here: it looks only."""
    for tool in ("findmnt", "ss", "awk", "df"):
        assert shutil.which(tool), f"apt-get install what has {tool} (util-linux, iproute2, gawk)"
    done = subprocess.run(
        ["sh", "-eu", "-c", Report().command()],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    report = Report().process(done.stdout.splitlines())
    assert report.kernel == os.uname().release
    assert report.cpus == os.cpu_count()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    assert abs(report.memory_mib - total) <= 1
    assert abs(report.now - time.time()) < 5
    assert report.filesystem
    assert report.free_mib > 0
