"""The stack on the host, judged: containers, files and images against what would be rendered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ops.health import stack
from ops.health.model import Status
from ops.render.project import Service

OK, WARNING, CRITICAL = Status.OK, Status.WARNING, Status.CRITICAL


SERVICES = [Service("qdrant", "qdrant:v1", "aa"), Service("edge", "caddy:2", "bb")]
IDS = {"qdrant:v1": "sha256:q", "caddy:2": "sha256:c"}


def container(service: str = "qdrant", **changes: Any) -> dict[str, Any]:
    image, config = {"qdrant": ("qdrant:v1", "aa")}.get(service, ("caddy:2", "bb"))
    return {
        "name": f"stackroom-{service}-1",
        "project": "stackroom",
        "service": service,
        "state": "running",
        "health": "healthy",
        "exit_code": 0,
        "up_seconds": 60.0,
        "restarts": 0,
        "oom_killed": False,
        "image": image,
        "image_id": IDS[image],
        "config": config,
        "read_only": True,
        "memory": 1 << 30,
        "pids": 512,
        "no_new_privileges": True,
        "drops_all": True,
        "privileged": False,
        "ports": [],
    } | changes


def both(**changes: Any) -> list[dict[str, Any]]:
    """A healthy stack in which the container of qdrant has these changes."""
    return [
        container(**changes),
        container("edge"),
        container("stray", project="other", restarts=9),
    ]


@pytest.mark.parametrize(
    ("containers", "status", "words"),
    [
        (both(), OK, "qdrant, edge run"),
        (both(health=""), OK, ""),
        (both(health="starting"), WARNING, "still starting: qdrant"),
        (both(health="unhealthy"), CRITICAL, "qdrant is unhealthy"),
        (both(state="exited", exit_code=101), CRITICAL, "qdrant is exited (exit code 101)"),
        (both(state="exited", oom_killed=True), CRITICAL, "(out of memory)"),
        (both(state="restarting"), CRITICAL, "qdrant is restarting"),
        (both()[1:], CRITICAL, "qdrant has no container"),
        (both(project="other"), CRITICAL, "qdrant has no container"),
    ],
)
def test_running(containers: Any, status: Status, words: str) -> None:
    verdict = stack.running(containers, SERVICES)
    assert verdict.status is status
    assert words in verdict.summary


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"state": "exited"}, OK, "edge run and are healthy; qdrant ended well"),
        ({"state": "exited", "exit_code": 1}, CRITICAL, "qdrant is exited (exit code 1)"),
        ({"state": "exited", "exit_code": 137, "oom_killed": True}, CRITICAL, "out of memory"),
        ({"state": "running", "health": ""}, WARNING, "still starting: qdrant"),
        ({"state": "created"}, WARNING, "still starting: qdrant"),
        ({"state": "dead"}, CRITICAL, "qdrant is dead"),
    ],
)
def test_what_is_to_end_is_well_when_it_ended_well(
    changes: Any, status: Status, words: str
) -> None:
    once = [replace(SERVICES[0], once=True), SERVICES[1]]
    verdict = stack.running(both(**changes), once)
    assert verdict.status is status
    assert words in verdict.summary


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, OK),
        ({"restarts": 1}, WARNING),
        ({"restarts": 1, "up_seconds": 3 * 86400.0}, OK),
        ({"restarts": 5}, CRITICAL),
        ({"restarts": 5, "state": "restarting", "up_seconds": 0.0}, CRITICAL),
    ],
)
def test_restarts(changes: Any, status: Status) -> None:
    assert stack.restarts(both(**changes)).status is status


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, OK, "read-only"),
        ({"read_only": False}, WARNING, "qdrant can write to its root"),
        ({"memory": 0}, WARNING, "qdrant has no memory limit"),
        ({"pids": -1}, WARNING, "qdrant has no process limit"),
        ({"no_new_privileges": False}, WARNING, "qdrant may gain privileges"),
        ({"drops_all": False}, WARNING, "qdrant keeps capabilities"),
        ({"privileged": True}, CRITICAL, "qdrant is privileged"),
    ],
)
def test_limits(changes: Any, status: Status, words: str) -> None:
    verdict = stack.limits(both(**changes))
    assert verdict.status is status
    assert words in verdict.summary


FOLDER = "/etc/stackroom/stack/"


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        ({FOLDER + "a": "1", FOLDER + "b": "2", FOLDER + "other": "9"}, OK, "2 files"),
        ({FOLDER + "a": "1", FOLDER + "b": "3"}, WARNING, FOLDER + "b differs"),
        ({FOLDER + "a": "1"}, WARNING, FOLDER + "b is missing"),
        ({}, WARNING, FOLDER + "a is missing"),
    ],
)
def test_files(found: dict[str, str], status: Status, words: str) -> None:
    expected = {FOLDER + "a": "1", FOLDER + "b": "2", "/etc/elsewhere": "not collected"}
    verdict = stack.files(found, expected)
    assert verdict.status is status
    assert words in verdict.summary


@pytest.mark.parametrize(("label", "status"), [("aa", OK), ("old", WARNING), ("", WARNING)])
def test_config(label: str, status: Status) -> None:
    assert stack.config(both(config=label), SERVICES).status is status


@pytest.mark.parametrize(
    ("changes", "ids", "status", "words"),
    [
        ({}, IDS, OK, "pinned"),
        ({"image": "qdrant:v0"}, IDS, WARNING, "runs qdrant:v0, pinned is qdrant:v1"),
        ({"image_id": "sha256:x"}, IDS, WARNING, "another image than qdrant:v1"),
        ({}, {"caddy:2": "sha256:c"}, WARNING, "another image than qdrant:v1"),
    ],
)
def test_images(changes: Any, ids: dict[str, str], status: Status, words: str) -> None:
    verdict = stack.images(both(**changes), ids, SERVICES)
    assert verdict.status is status
    assert words in verdict.summary
