"""One throw-away host for all tests of a run. STACKROOM_KEEP_SANDBOX=1 leaves it as it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from ops import sandbox as room

LISTINGS = (
    ("ps", "--all", "--format", "{{.Names}}"),
    ("volume", "ls", "--format", "{{.Name}}"),
    ("network", "ls", "--format", "{{.Name}}"),
)


def what_docker_has() -> set[str]:
    """Every container, volume and network of this machine's engine, by name."""
    return {
        f"{listing[0]} {name}"
        for listing in LISTINGS
        for name in subprocess.run(
            ["docker", *listing], capture_output=True, text=True, check=True
        ).stdout.split()
    }


@pytest.fixture(scope="session")
def sandbox() -> Iterator[room.Sandbox]:
    """A running sandbox, bare at the start of the run; afterwards nothing of it may be left."""
    keep = os.environ.get("STACKROOM_KEEP_SANDBOX") == "1"
    if not keep:
        room.down()
    before = what_docker_has()
    yield room.up(print)
    if not keep:
        room.down()
        now = what_docker_has()
        left = (now - before) | {thing for thing in now if "stackroom-sandbox" in thing}
        assert not left, f"`sandbox down` left {sorted(left)}"
