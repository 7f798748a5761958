"""What the parts of the look at the machine share: the question, its files, its commands.

Runs on the machine, see ops/developers/look.py: standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ops.clients.on_host import run as run_for

COMMAND_SECONDS = 10.0

QUESTION: dict[str, Any] = {
    "stack": "qdrant",
    "ssh_port": 22,
    "edge_ports": [],
    "subjects": [],  # whose last request is looked for, besides everybody's who has a token
    "collection": "stackroom_access",
    "group": "stackroom-developers",
    "keys_folder": "/etc/ssh/stackroom-keys",
    "log_bytes": 256 * 1024 * 1024,
    "log_seconds": 5.0,
    "postgres": "stackroom-postgres-1",  # R2R's container and schema
    "schema": "stackroom",
    # where a test puts a machine of its own
    "root": "/",
    "qdrant": "http://127.0.0.1:6333",
}

run = partial(run_for, seconds=COMMAND_SECONDS)


def at(path: str) -> Path:
    return Path(QUESTION["root"]) / path.lstrip("/")
