"""Control groups that a removed sandbox leaves behind on machines where it shares their tree."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ops.sandbox import engine

TREE = Path("/sys/fs/cgroup")


def nested_containers(container: str) -> list[str]:
    """Ids of the containers that the Docker inside `container` keeps; none where it has none."""
    done = engine.attempt("exec", container, "docker", "ps", "--all", "--quiet", "--no-trunc")
    return done.stdout.split() if done.returncode == 0 else []


def remove(ids: Iterable[str], tree: Path = TREE) -> None:
    """Remove the groups named after these containers, and all groups below them.

    Only empty groups can go: the kernel refuses to remove one with a process in it.
    """
    wanted = tuple(ids)
    if not wanted:
        return
    for folder, _, _ in os.walk(tree, topdown=False):
        if any(name in folder for name in wanted):
            with suppress(OSError):
                Path(folder).rmdir()
