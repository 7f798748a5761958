"""The doctor finds what is wrong with a real machine, names it, and never hangs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hands import EDGE, QDRANT, healthy, on_host, stackroom, until

from ops.settings import Environment

pytestmark = pytest.mark.sandbox

START_AGAIN = "cd /etc/stackroom/stack && docker compose up -d --wait 2>&1"

PACE = "qdrant.transaction"
# the kernel is shared with other tests, which load it and run out of memory on purpose
NOT_ITS_OWN = ("--skip", "host.load", "--skip", "host.oom", "--skip", PACE)


def examined(*options: str) -> tuple[int, dict[str, Any]]:
    done = stackroom("doctor", "--json", *options)
    return done.returncode, json.loads(done.stdout)


def test_a_well_machine(deployed: Environment) -> None:
    code, report = examined(*NOT_ITS_OWN)

    assert (code, report["status"], report["exit_code"]) == (0, "OK", 0), report["summary"]
    assert set(report) == {
        *("schema_version", "environment", "checked_at"),
        *("status", "exit_code", "summary", "checks"),
    }
    assert set(report["checks"][0]) == {
        *("id", "status", "summary", "hint", "duration_ms", "value", "warn", "crit"),
    }
    assert len({check["id"] for check in report["checks"]}) == len(report["checks"]) > 30


def test_a_transaction_is_made_however_busy_the_machine_is(deployed: Environment) -> None:
    _, report = examined("--only", "qdrant")

    (done,) = [check for check in report["checks"] if check["id"] == PACE]
    assert done["status"] in ("OK", "WARNING"), done
    assert done["summary"].startswith("wrote, found and deleted a point in")


def test_some_checks_only(deployed: Environment) -> None:
    code, report = examined("--only", "host", *NOT_ITS_OWN)

    assert code == 0
    names = {check["id"] for check in report["checks"]}
    assert "host.disk" in names
    assert "host.load" not in names
    assert {name.split(".")[0] for name in names} == {"host", "ssh"}


def test_a_name_that_no_check_has(deployed: Environment) -> None:
    done = stackroom("doctor", "--only", "hsot")

    assert done.returncode == 3
    assert "hsot" in done.stderr


def test_a_stopped_container(deployed: Environment, unchanged: None) -> None:
    on_host(f"docker stop {QDRANT}")
    try:
        code, report = examined()
        told = stackroom("doctor").stdout.splitlines()
    finally:
        on_host(START_AGAIN)

    bad = {check["id"]: check for check in report["checks"] if check["status"] == "CRITICAL"}
    assert code == 2
    assert "qdrant" in bad["containers.running"]["summary"]
    assert bad["containers.running"]["hint"]
    assert "qdrant.ready" in bad
    assert told[0].startswith("CRITICAL: ")
    assert any(line.startswith("CRITICAL  containers.running") for line in told)


def test_a_hanging_edge(deployed: Environment, unchanged: None) -> None:
    on_host(f"docker pause {EDGE}")
    try:
        started = time.monotonic()
        code, report = examined()
        took = time.monotonic() - started
    finally:
        on_host(f"docker unpause {EDGE}")
        until(lambda: healthy(EDGE), 120, "the edge")

    bad = {check["id"] for check in report["checks"] if check["status"] == "CRITICAL"}
    assert code == 2
    assert {"containers.running", "edge.closed"} <= bad
    assert took < 90  # the edge would never answer
