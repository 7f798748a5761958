"""What asks the services of the R2R stack: runs on any host, and tells no secret."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import sent_lab

from ops.clients import on_host, script
from ops.health.r2r import inside

PARTS = (inside, on_host)
SIMPLE: dict[str, Any] = {
    "containers": {"postgres": "stackroom-postgres-1"},
    "schema": "library",
    "volumes": "stackroom_",
    "token": "stackroom_hatchet_token",
}
QUEUED = SIMPLE | {
    "containers": {
        name: f"stackroom-{name}-1"
        for name in ("postgres", "hatchet-postgres", "hatchet-engine", "rabbitmq")
    }
}
OF_THE_QUEUE = {"hatchet", "queue", "workers", "broker", "queues", "token"}


@pytest.mark.parametrize("module", PARTS)
def test_is_python_3_9_and_standard_library_only(module: Any) -> None:
    assert sent_lab.foreign(module, (3, 9), PARTS) == set()


def test_on_a_machine_without_docker_it_answers_for_every_section(tmp_path: Path) -> None:
    program = script.program("ops.health.r2r.inside")
    facts = sent_lab.on_a_bare_machine(program, tmp_path, json.dumps(QUEUED))
    told = facts["errors"] | facts["values"]
    assert set(told) == set(inside.sections(QUEUED))
    assert facts["errors"]["documents"] == "stackroom-postgres-1: docker is not installed"
    # what cannot be asked is not ready
    assert facts["values"] == {"hatchet": {"ready": False}}


def test_without_hatchet_nothing_of_it_is_asked() -> None:
    assert set(inside.sections(QUEUED)) - set(inside.sections(SIMPLE)) == OF_THE_QUEUE


def token(claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJFUzI1NiJ9.{body}.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "expires"),
    [
        (token({"sub": "x", "exp": 1795296067}), 1795296067.0),
        (token({"sub": "xy", "exp": 1795296067.5}), 1795296067.5),
        (token({"sub": "x"}), None),
        (token(["exp"]), None),
        (token({"exp": "never"}), None),
        ("canary-no-token", None),
        ("a.%%%.c", None),
        ("", None),
    ],
)
def test_of_a_token_only_its_end_is_read(text: str, expires: float | None) -> None:
    assert inside.expiry(text) == expires
