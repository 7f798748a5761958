"""What the parts of the look at the machine share: the question, its files, its commands.

Runs on the machine, see ops/developers/look.py: standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

COMMAND_SECONDS = 10.0

QUESTION: dict[str, Any] = {
    "ssh_port": 22,
    "edge_ports": [],
    "subjects": [],  # whose last request is looked for, besides everybody's who has a token
    "collection": "stackroom_access",
    "group": "stackroom-developers",
    "keys_folder": "/etc/ssh/stackroom-keys",
    "log_bytes": 256 * 1024 * 1024,
    "log_seconds": 5.0,
    # where a test puts a machine of its own
    "root": "/",
    "qdrant": "http://127.0.0.1:6333",
}


def at(path: str) -> Path:
    return Path(QUESTION["root"]) / path.lstrip("/")


def run(*command: str, codes: tuple[int, ...] = (0,)) -> str:
    """What a command prints. Raises RuntimeError naming the command and its last words."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{command[0]}: no answer within {COMMAND_SECONDS:.0f} s") from None
    if done.returncode not in codes:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"{' '.join(command[:3])}: {last}")
    return done.stdout
