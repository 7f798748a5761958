"""One throw-away host for all tests of a run. STACKROOM_KEEP_SANDBOX=1 leaves it as it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hands import Attempt, deploy, plan

from ops import sandbox as room
from ops.render.stack import carried_images
from ops.sandbox.layout import NAME, OWNED
from ops.sandbox.visit import Watch, watching
from ops.settings import Environment, load_environment

LISTINGS = (
    ("ps", "--all", "--format", "{{.Names}}"),
    ("volume", "ls", "--format", "{{.Name}}"),
    ("network", "ls", "--format", "{{.Name}}"),
)
# moments of a first deploy at which it is killed, each seen on the machine itself
KILLED_WHILE = {
    "packages are unpacked": "pgrep -f '[d]pkg .*--status-fd'",
    "the firewall is not confirmed": "test -e /var/lib/stackroom/guard/pending",
    "Docker is unpacked": "pgrep -f '[d]pkg .*--status-fd'",
    "images are loaded": "test -e /var/lib/stackroom/images.tar",
    "services start": "docker ps --format '{{.Names}}' | grep -q stackroom-qdrant",
    "the verbs' packages are installed": "pgrep -f '[v]env-.*[.]new/bin/python -m pip'",
}


def what_docker_has() -> set[str]:
    """Every container, volume and network of the sandbox, by name or by the label it is made with.

    Other tests have things of their own on the same engine, and may run at the same time.
    """
    return {
        f"{listing[0]} {name}"
        for listing in LISTINGS
        for mark in (f"label={OWNED}", f"name={NAME}")
        for name in subprocess.run(
            ["docker", *listing, "--filter", mark], capture_output=True, text=True, check=True
        ).stdout.split()
    }


def keeping() -> bool:
    return os.environ.get("STACKROOM_KEEP_SANDBOX") == "1"


@pytest.fixture(scope="session")
def sandbox() -> Iterator[room.Sandbox]:
    """A running sandbox, bare at the start of the run; afterwards nothing of it may be left."""
    if not keeping():
        room.down()
    yield room.up(print)
    if not keeping():
        room.down()
        left = what_docker_has()
        assert not left, f"`sandbox down` left {sorted(left)}"


@pytest.fixture(scope="session")
def environment(sandbox: room.Sandbox) -> Environment:
    return load_environment(sandbox.environment)


@pytest.fixture(scope="session")
def archive(environment: Environment) -> Path:
    """The stack's images, as a machine without a registry gets them."""
    made = room.image_archive(carried_images(environment.settings), print)
    print(f"images of the stack: {room.image_kinds()}")
    assert made
    return made


@dataclass(frozen=True)
class FirstDeploy:
    """How the first deploy went: the killed attempts by moment, and the one that finished."""

    killed: dict[str, Attempt]
    finished: Attempt
    seen_by_denied: Watch


@pytest.fixture(scope="session")
def first_deploy(sandbox: room.Sandbox, archive: Path) -> FirstDeploy:
    """The machine's first deploy, killed at every moment of KILLED_WHILE and begun again."""
    killed = {}
    with room.client("denied") as denied, watching(denied, period=1.0, seconds=900) as watch:
        for moment, sign in ({} if keeping() else KILLED_WHILE).items():
            attempt = Attempt.start("--images", str(archive))
            if attempt.kill_when(sign, 240):
                killed[moment] = attempt
        finished = Attempt.start("--images", str(archive))
        finished.wait()
    return FirstDeploy(killed, finished, watch)


@pytest.fixture(scope="session")
def deployed(environment: Environment, request: pytest.FixtureRequest) -> Environment:
    """The environment of the machine that all tests share; each leaves it as it is deployed."""
    if any("first_deploy" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("first_deploy")
    else:
        done = deploy("--images", str(request.getfixturevalue("archive")))
        assert done.returncode == 0, done.stdout + done.stderr
    return environment


@pytest.fixture
def unchanged(deployed: Environment) -> Iterator[None]:
    """Around a test that changes the machine: afterwards it is as deployed again."""
    yield
    assert plan() == set()
