"""What systemd knows of a unit that failed: when it began, and how it ended. Only looks."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args

from ops.backup.post import Scheduled

SYSTEMCTL_SECONDS = 10.0


@dataclass(frozen=True)
class UnitState:
    """What systemd says of a unit: when it was started last, and how it ended."""

    began: datetime | None = None
    result: str = ""  # exit-code, signal, timeout, oom-kill, resources, ...
    status: str = ""


Look = Callable[[str], UnitState]


def kind_of(unit: str) -> Scheduled | None:
    """The kind of run of stackroom-backup.service and its like; None for another unit's name."""
    match = re.search(rf"\bstackroom-({'|'.join(get_args(Scheduled))})(\.service)?$", unit)
    return match[1] if match else None  # type: ignore[return-value]


def unit_state(unit: str) -> UnitState:
    """Ask systemd; an empty state where it does not answer."""
    wanted = "--property=InactiveExitTimestamp,Result,ExecMainStatus"
    try:
        done = subprocess.run(
            ["systemctl", "show", wanted, "--", unit],
            capture_output=True,
            text=True,
            check=False,
            timeout=SYSTEMCTL_SECONDS,
            env=os.environ | {"TZ": "UTC", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return UnitState()
    return read_state(done.stdout) if done.returncode == 0 else UnitState()


def read_state(text: str) -> UnitState:
    """What `systemctl show` printed under TZ=UTC. Pure."""
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    stamp = re.search(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?= UTC)", said.get("InactiveExitTimestamp", "")
    )
    return UnitState(
        began=datetime.fromisoformat(stamp[0]).replace(tzinfo=UTC) if stamp else None,
        result=said.get("Result", ""),
        status=said.get("ExecMainStatus", ""),
    )
