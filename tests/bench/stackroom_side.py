"""Timed runs of Stackroom itself: deploys as the verb carries them out, and the verb `plan`.

Seconds come from the same reports of each step that a person watches. Round trips are counted in
a run of their own, because pyinfra's debug log costs time: its SSH connector writes one line for
each command it sends over the connection, for facts and for changes alike.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ops.deploy import carry_out
from ops.deploy.pyinfra import failure, run_pyinfra
from ops.settings import Environment

# outside of the operations: what comes first (the lock, Python, the inventory), and what comes last
BEFORE = "lock, start, login, preflight"
AFTER = "results, unlock"

_OPERATION = re.compile(r"^--> Starting operation: (?P<name>.+?)\s*$")
_SENT = re.compile(r"^\s*\[pyinfra\.connectors\.ssh\] Running command on ")


@dataclass(frozen=True)
class Deploy:
    """One deploy: seconds, the steps that changed something, seconds by step in their order."""

    seconds: float
    changes: list[str]
    steps: dict[str, float]


def timed_deploy(environment: Environment, images: Path | None = None) -> Deploy:
    """Deploy as `stackroom deploy` does once the plan is accepted: lock, pyinfra -y, record."""
    marks: list[tuple[str, float]] = [(BEFORE, time.perf_counter())]

    def on_step(name: str, result: str) -> None:
        marks.append((AFTER if result else name, time.perf_counter()))

    changes = carry_out(environment, "make bench", images=images, on_step=on_step)
    ended = time.perf_counter()
    steps: dict[str, float] = {}
    for (name, at), (_, until) in zip(marks, [*marks[1:], (AFTER, ended)], strict=True):
        steps[name] = steps.pop(name, 0.0) + until - at
    return Deploy(ended - marks[0][1], changes, steps)


def timed_plan(environment: Environment) -> float:
    """Seconds of `stackroom plan`. Raises RuntimeError when it finds drift or fails."""
    command = [str(Path(sys.executable).with_name("stackroom")), "-e", environment.name, "plan"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])}: {done.stdout}{done.stderr}")
    return seconds


def count_round_trips(environment: Environment) -> dict[str, int]:
    """Commands sent over the SSH connection by step in a deploy. Raises as a deploy does."""
    counts = {BEFORE: 0}
    step = BEFORE

    def on_line(line: str) -> None:
        nonlocal step
        if started := _OPERATION.match(line):
            step = started["name"]
            counts[step] = 0
        elif _SENT.match(line):
            counts[step] += 1

    finished = run_pyinfra(environment, "-y", "--debug", on_line=on_line)
    if finished.returncode != 0:
        raise failure(environment, finished)
    return counts
