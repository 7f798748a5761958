"""What the tests of backups on the machine share: restic itself, points, verbs with --json."""

from __future__ import annotations

import json
from typing import Any

from hands import (
    ENVIRONMENT,
    on_host,
    qdrant,
    stackroom,
)

from ops.settings import Environment

JOBS = ("backup", "check", "drill", "prune")
BASE = "/var/lib/stackroom/backup"
LOCAL = "/var/backups/stackroom"
COLLECTION = "knowledge_library"
POINTS = f"/collections/{COLLECTION}/points"


def restic(*words: str, repository: str = LOCAL) -> str:
    """restic's own answer about a repository, by the machine's root."""
    password = "--password-file /etc/stackroom/secrets/restic_password"
    return on_host(f"restic --no-cache --no-lock -r {repository} {password} {' '.join(words)}")


def snapshots(repository: str = LOCAL) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(restic("snapshots", "--json", repository=repository))
    return found


def count(environment: Environment) -> int:
    answer = qdrant(environment, "POST", f"{POINTS}/count", {"exact": True})
    return int(answer["result"]["count"])


def write_points(environment: Environment, first: int, number: int) -> None:
    points = [
        {"id": i, "vector": [(i * 7 + d) % 11 / 11 for d in range(1024)], "payload": {"n": i}}
        for i in range(first, first + number)
    ]
    answer = qdrant(environment, "PUT", f"{POINTS}?wait=true", {"points": points})
    assert answer["status"] == "ok", answer


def verb(*words: str, environment: str = ENVIRONMENT, code: int = 0) -> Any:
    """A verb with --json from the operator's machine; its document."""
    done = stackroom(*words, "--json", environment=environment, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)
