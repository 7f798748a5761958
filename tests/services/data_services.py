"""Real Postgres and RabbitMQ in containers of our own, built from Debian's packages.

An image is built once for its recipe; a container goes with the test that started it.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ops.sandbox import engine
from ops.sandbox.archive import image_from_packages
from ops.sandbox.build import built_image

FOLDERS = Path(__file__).parent / "images"
RECIPES = {"postgres": "pgvector", "rabbitmq": "rabbitmq"}  # the R2R stack's own
LABELLED = "stackroom.test=services"  # every container and volume that a test starts
START_SECONDS = 120


def image(name: str) -> str:
    """Built where its recipe or its base has changed: one of RECIPES, or a folder of FOLDERS."""
    if name in RECIPES:
        return image_from_packages(RECIPES[name], print)
    return built_image(f"test-{name}", print, folder=FOLDERS / name)


@contextlib.contextmanager
def container(kind: str, ready: Callable[[str], bool], *options: str) -> Iterator[str]:
    """A running service by the name of its container."""
    name = f"stackroom-test-{kind}-{uuid.uuid4().hex[:8]}"
    engine.docker("run", "--detach", "--name", name, "--label", LABELLED, *options, image(kind))
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready(name):
            assert time.monotonic() < deadline, engine.docker("logs", name)
            time.sleep(0.2)
        yield name
    finally:
        engine.docker("rm", "--force", "--volumes", name)


def run_in(name: str, *command: str, stdin: str = "") -> str:
    """What a command in a container prints. Raises AssertionError where it fails."""
    interactive = ["--interactive"] if stdin else []
    done = subprocess.run(
        ["docker", "exec", *interactive, name, *command],
        input=stdin or None,
        stdin=None if stdin else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def answers(name: str, *command: str) -> bool:
    """Whether a command in a container succeeds."""
    return engine.attempt("exec", name, *command, timeout=60).returncode == 0


@contextlib.contextmanager
def postgres(user: str = "postgres") -> Iterator[str]:
    def ready(name: str) -> bool:
        return answers(name, "pg_isready", "--quiet", "--host=127.0.0.1")

    environment = ("--env", "POSTGRES_PASSWORD=of-the-tests", "--env", f"POSTGRES_USER={user}")
    with container("postgres", ready, *environment) as name:
        yield name


@contextlib.contextmanager
def rabbitmq() -> Iterator[str]:
    def ready(name: str) -> bool:
        # as root it would make a cookie that the broker cannot read
        probe = ("rabbitmq-diagnostics", "--quiet", "check_running")
        return (
            engine.attempt("exec", "--user", "rabbitmq", name, *probe, timeout=60).returncode == 0
        )

    with container("rabbitmq", ready, "--hostname", "queue") as name:
        yield name


def sql(name: str, statements: str, database: str = "postgres", user: str = "postgres") -> str:
    """What psql prints of statements, unaligned. Raises AssertionError for a refusal."""
    quiet = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
    return run_in(name, "psql", *quiet, "-U", user, "-d", database, stdin=statements)
