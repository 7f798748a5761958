"""A piece of work in a process of its own: started here, and measured there.

What it is about goes as JSON to its standard input; what it took comes as JSON from its standard
output. This loads nothing but the standard library, which would count as the work's memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Steps:
    """Seconds by step: each lasts until the next one is told of."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._step, self._since = "start", time.perf_counter()

    def __call__(self, event: Any) -> None:
        if event.step != self._step:
            self.end(event.step)

    def end(self, following: str = "") -> None:
        now = time.perf_counter()
        self.seconds[self._step] = self.seconds.get(self._step, 0.0) + now - self._since
        self._step, self._since = following, now


def child(driver: Path, work: str, given: Json, seconds: float) -> Json:
    """What one of a driver's works took. Raises AssertionError with what it printed."""
    done = subprocess.run(
        [sys.executable, str(driver), work],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{work}: {done.stderr[-3000:]}"
    took: Json = json.loads(done.stdout)
    return took


def measured(work: Callable[[Json, Steps], Json], given: Json) -> Json:
    """Do it: seconds, also by step; the most memory in bytes; what it found."""
    os.sync()  # what others have left to be written is not ours to wait for
    steps = Steps()
    began = time.perf_counter()
    found = work(given, steps)
    seconds = time.perf_counter() - began
    steps.end()
    return {"seconds": seconds, "steps": steps.seconds, "peak": peak(), "found": found}


def peak() -> int:
    """Bytes of memory that this process has held at most.

    Not getrusage's ru_maxrss: that begins with what the process that started us had held.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")
