"""Collects what is defined in a RabbitMQ: vhosts, users, queues, exchanges, bindings, policies.

Messages are not backed up: they are on their way, and what they are about stands in a database.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ops.backup.manifest import RabbitmqFacts
from ops.backup.sink import Sink
from ops.backup.source import Collected, Event, Tell
from ops.clients import pipes
from ops.clients.docker import image_and_digest, running
from ops.errors import ServiceError
from ops.settings.host import RabbitmqSource

EXPORT_SECONDS = 300.0
# its user in its container: asked as root while it starts for the first time, rabbitmqctl would
# make a cookie that the broker cannot read
USER = "rabbitmq"
COUNTED = (
    *("vhosts", "users", "permissions", "topic_permissions", "policies", "parameters"),
    *("queues", "exchanges", "bindings"),
)
_ABOUT = 64 * 1024  # bytes: definitions are small


def definitions(container: str) -> tuple[bytes, dict[str, Any]]:
    """What the broker exports, as it printed it and as it reads.

    Raises ServiceError where it refuses, or prints no definitions.
    """
    printed = bytearray()
    command = ["rabbitmqctl", "--quiet", "export_definitions", "-"]
    pipes.pull(container, command, printed.extend, timeout=EXPORT_SECONDS, user=USER)
    # what goes before the JSON is talk: versions differ in what they hold to be quiet
    start = max(printed.find(b"{"), 0)
    try:
        read = json.loads(printed[start:])
    except ValueError:
        read = None
    if not isinstance(read, dict) or "vhosts" not in read:
        raise ServiceError(
            f"rabbitmqctl in {container} printed no definitions", f"docker logs {container}"
        )
    return bytes(printed[start:]), read


def counts(read: dict[str, Any]) -> dict[str, int]:
    """How many of each kind are defined. Queues that do not outlive their connection, and the
    exchanges every vhost has, are never exported."""
    return {kind: len(read.get(kind) or []) for kind in COUNTED}


class RabbitmqCollector:
    """The definitions as one JSON file, with the users' password hashes in it."""

    def __init__(self, config: RabbitmqSource) -> None:
        self._config = config
        self.name = config.name

    def expected_bytes(self) -> int:
        running(self._config.container)
        return _ABOUT

    def collect(self, staging: Path, tell: Tell) -> Collected:
        """Write `<name>/definitions.json`. Raises UnreachableError where the container does not
        run, ServiceError where the broker in it does not answer."""
        image, digest = image_and_digest(self._config.container)
        path = f"{self.name}/definitions.json"
        tell(Event("collect", path))
        printed, read = definitions(self._config.container)
        with Sink(staging, path) as sink:
            sink.write(printed)
        return Collected(
            items=[sink.item()],
            facts=RabbitmqFacts(
                version=str(read.get("rabbitmq_version") or read.get("rabbit_version") or ""),
                image=image,
                digest=digest,
                item=path,
                counts=counts(read),
            ),
        )
