"""Orchestration `hatchet` on the machine: the real engine where its images can be had (on this
machine's engine, or from their registry), and the refusal of the deploy where they cannot.

What ran is printed. Nothing stands in for Hatchet.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hands import (
    INVENTORY,
    NAME,
    changed_environment,
    deploy,
    healthy,
    inspect,
    on_host,
    plan,
    stackroom,
    until,
)
from r2r_hands import CONTAINERS, R2R, bring, documents, found, identities

from ops.errors import StackroomError
from ops.render.stack import carried_images
from ops.sandbox import image_archive
from ops.settings import Environment, load_environment

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("deployed")]

STAYING = [*CONTAINERS, *(f"stackroom-{n}-1" for n in ("hatchet-postgres", "rabbitmq"))]
ENGINE = "stackroom-hatchet-engine-1"
ENDING = [f"stackroom-hatchet-{name}-1" for name in ("migrate", "setup", "token")]
TEXT = "The ferryman counts the passengers twice before he unties the rope."


@pytest.fixture(scope="module")
def queueing(deployed: Environment) -> Iterator[str]:
    """The environment's name with orchestration hatchet."""
    with changed_environment(
        settings=lambda text: text.replace('orchestration = "simple"', 'orchestration = "hatchet"')
    ) as name:
        yield name


@pytest.fixture(scope="module")
def archive_with_hatchet(queueing: str) -> Path | None:
    """Every image of that stack; None where Hatchet's cannot be had."""
    settings = load_environment(INVENTORY / queueing).settings
    try:
        archive = image_archive(carried_images(settings), print)
    except StackroomError as error:
        print(f"\nHATCHET DID NOT RUN, only orchestration simple: {error.message}")
        return None
    print("\nHATCHET RUNS: its real engine, from its own images")
    return archive


def doctor(environment: str, *checks: str) -> dict[str, str]:
    only = [word for check in checks for word in ("--only", check)]
    report = json.loads(stackroom("doctor", "--json", *only, environment=environment).stdout)
    return {each["id"]: each["status"] for each in report["checks"]}


def all_well() -> bool:
    return all(healthy(name) for name in [*STAYING, ENGINE])


def test_a_document_goes_through_the_queue_or_the_deploy_says_what_is_missing(
    deployed: Environment, queueing: str, archive_with_hatchet: Path | None
) -> None:
    before = identities()
    if archive_with_hatchet is None:
        done = deploy(environment=queueing)
        assert done.returncode == 6, done.stdout + done.stderr
        assert "hatchet" in done.stderr
        assert "is not on the machine and cannot be pulled" in done.stderr
        assert identities() == before
        assert plan() == set()
        return
    done = deploy("--images", str(archive_with_hatchet), environment=queueing)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all_well()
    for name in ENDING:
        state = inspect(name)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 0), name
    assert plan(queueing) == set()
    brought = bring(deployed, TEXT)
    until(lambda: documents(deployed).get(brought) == "success", 120, "the queue's work")
    assert found(deployed, TEXT)[0] == brought
    well = doctor(queueing, "hatchet", "rabbitmq", "r2r")
    assert {name: status for name, status in well.items() if status != "OK"} == {}
    assert {"hatchet.queue", "hatchet.worker", "hatchet.token", "rabbitmq.alarms"} < set(well)


def test_a_token_near_its_end_is_made_anew_by_a_deploy(
    queueing: str, archive_with_hatchet: Path | None
) -> None:
    if archive_with_hatchet is None:
        return  # told by the fixture; tests/unit/test_hatchet_token.py holds the judging of it
    place = "$(docker volume inspect -f '{{.Mountpoint}}' stackroom_hatchet_token)/token"
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 86400}).encode())
    on_host(f"printf 'e30.{claims.decode().rstrip('=')}.e30' >{place}")
    assert plan(queueing) == {"Stack | services"}
    assert doctor(queueing, "hatchet.token") == {"hatchet.token": "WARNING"}
    done = deploy(environment=queueing)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(on_host(f"cat {place}")) > 200
    assert doctor(queueing, "hatchet.token") == {"hatchet.token": "OK"}
    assert plan(queueing) == set()


def test_the_order_holds_after_a_restart_and_simple_drops_what_it_does_not_need(
    deployed: Environment, queueing: str, archive_with_hatchet: Path | None
) -> None:
    if archive_with_hatchet is not None:
        token = "cat $(docker volume inspect -f '{{.Mountpoint}}' stackroom_hatchet_token)/token"
        before = on_host(f"{token} | sha256sum")
        subprocess.run(["docker", "restart", NAME], check=True, capture_output=True)
        until(all_well, 400, "the stack after the restart")
        started = {name: inspect(name)["State"]["StartedAt"] for name in [*STAYING, ENGINE]}
        queue = ("stackroom-hatchet-postgres-1", "stackroom-rabbitmq-1")
        assert max(started[name] for name in queue) <= started[ENGINE] <= started[R2R]
        assert inspect(R2R)["RestartCount"] == 0
        assert on_host(f"{token} | sha256sum") == before
        assert plan(queueing) == set()
    assert deploy().returncode == 0
    names = on_host("docker ps --all --format '{{.Names}}'").split()
    assert sorted(names) == sorted(CONTAINERS)
    assert plan() == set()
