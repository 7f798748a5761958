"""Carry a plan out, and say step by step how it goes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ops.deploy.pyinfra import Part, failure, run_pyinfra
from ops.settings import Environment

_STARTED = re.compile(r"^--> Starting operation: (?P<name>.+?)\s*$")
# what a command prints stands in the log as well: only pyinfra's own words end a step
_ENDED = re.compile(
    r"^ *\[[^\]]+\] (?P<result>Success|No changes|Error)(?:: executed \d+ commands)?$"
)


def apply(
    environment: Environment,
    *,
    part: Part = "all",
    images: Path | None = None,
    force_lockout: bool = False,
    on_step: Callable[[str, str], None] = lambda name, result: None,
) -> list[str]:
    """Change the machine; returns the steps that changed something.

    `part` is how much of it: "people" is only who gets in, on a machine that was deployed before.
    `images` is an archive of `docker save` for a machine that cannot pull. `on_step(name, result)`
    is called at the start ("") and the end ("Success", "No changes", "Error") of each step.
    Raises DeployError with the failing step's last lines, UnreachableError without a login.
    """
    current = ""
    changed: list[str] = []

    def follow(line: str) -> None:
        nonlocal current
        if started := _STARTED.match(line):
            current = started["name"]
            on_step(current, "")
        elif current and (ended := _ENDED.match(line)):
            on_step(current, ended["result"])
            if ended["result"] == "Success":
                changed.append(current)

    data = {}
    if images:
        data["images_archive"] = str(images.resolve())
    if force_lockout:
        data["force_lockout"] = "1"
    finished = run_pyinfra(environment, "-y", part=part, data=data, on_line=follow)
    if finished.returncode != 0:
        raise failure(environment, finished)
    return changed
