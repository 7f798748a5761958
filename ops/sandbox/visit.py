"""Tasks for a client machine: requests over TLS as a developer makes them, and a port scan.

The scan is bounded: each port of PORTS once, on the sandbox's own addresses only.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.errors import ServiceError
from ops.sandbox.client import Client
from ops.sandbox.layout import HOST_IPV4, HOST_IPV6

VISITOR = Path(__file__).with_name("visitor.py")
# the host's own ports, the edge's, the services', and some that nobody should have opened
PORTS = (
    22,
    80,
    443,
    2019,
    2375,
    2376,
    4000,
    5432,
    5672,
    6333,
    6334,
    6335,
    7272,
    8000,
    8080,
    8443,
    9090,
)


def visit(machine: Client, task: dict[str, Any], timeout: float = 120) -> Any:
    """Let another machine do one task of visitor.py; its answer. Raises ServiceError."""
    script = VISITOR.read_text(encoding="utf-8")
    done = machine.run(["python3", "-c", script], timeout, stdin=json.dumps(task))
    if done.returncode != 0:
        raise ServiceError(f"the client machine failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def open_ports(machine: Client, ports: tuple[int, ...] = PORTS) -> set[tuple[str, int]]:
    """The (family, port) pairs of the sandbox that answer the machine: {("v4", 22), ...}."""
    families = {HOST_IPV4: "v4", HOST_IPV6: "v6"}
    targets = [[address, port] for address in families for port in ports]
    reached = visit(machine, {"do": "ports", "targets": targets})
    return {(families[address], port) for address, port in reached}


@dataclass
class Watch:
    """What a machine saw while it kept trying; filled when the watch ends.

    `opened` holds (seconds since the epoch, "v4" or "v6", port), oldest first.
    """

    attempts: int = 0
    opened: list[tuple[float, str, int]] = field(default_factory=list)


@contextlib.contextmanager
def watching(
    machine: Client,
    ports: tuple[int, ...] = PORTS,
    *,
    workers: int = 1,
    period: float = 1.0,
    seconds: int = 600,
) -> Iterator[Watch]:
    """Let a machine try the ports of the sandbox again and again while the `with` block runs.

    `workers` per port and family, each trying once in `period` seconds, for at most `seconds`.
    """
    families = {HOST_IPV4: "v4", HOST_IPV6: "v6"}
    task = {
        "do": "watch",
        "targets": [[address, port] for address in families for port in ports],
        "workers": workers,
        "period": period,
        "seconds": seconds,
    }
    script = VISITOR.read_text(encoding="utf-8")
    found = Watch()
    process = subprocess.Popen(
        ["docker", "exec", "-i", machine.container, "python3", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout  # noqa: S101 - both were asked for above
    process.stdin.write(json.dumps(task) + "\n")
    process.stdin.flush()
    try:
        yield found
    finally:
        try:
            answer = json.loads(process.communicate(timeout=30)[0])
        except (ValueError, subprocess.TimeoutExpired):
            process.kill()
            raise ServiceError("the watching machine gave no answer") from None
        found.attempts = answer["attempts"]
        found.opened = [(at, families[address], port) for at, address, port in answer["opened"]]
