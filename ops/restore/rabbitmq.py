"""A RabbitMQ's definitions built anew: a throw-away broker imports them and is asked for them.

Its node has the live one's name where that is there, so that its volume fits; messages are none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ops.backup.manifest import Facts, RabbitmqFacts
from ops.backup.rabbitmq import COUNTED, USER, counts, definitions
from ops.backup.source import Event, Tell
from ops.clients import pipes
from ops.clients.docker import Scratch, docker, inspect
from ops.errors import BackupError
from ops.restore.rehearsal import Comparison
from ops.restore.throwaway import data_folder, local_image, serve
from ops.settings.host import RabbitmqSource

DATA = "/var/lib/rabbitmq"
IMPORT_SECONDS = 300.0
_FILE = "/tmp/definitions.json"  # noqa: S108 - the container's


class RabbitmqRehearsal:
    """The counterpart of RabbitmqCollector."""

    def __init__(self, config: RabbitmqSource) -> None:
        self._config = config

    def rehearse(
        self, backup: Path, facts: Facts, scratch: Scratch, volume: str, tell: Tell
    ) -> list[Comparison]:
        """See Rehearsal.rehearse."""
        if not isinstance(facts, RabbitmqFacts):
            raise TypeError(f"a RabbitMQ cannot be rebuilt from {facts.kind}")
        name = self._config.name
        wanted = _read(backup / facts.item)
        image = local_image(facts.image, facts.digest)
        folder = data_folder(image, "RABBITMQ_DATA_DIR", DATA)
        options = [
            *("--mount", f"type=volume,src={volume},dst={folder}"),
            *("--hostname", self._hostname()),
        ]
        with serve(scratch, name, image, options=options, ready=_is_ready) as broker:
            tell(Event("rebuild", facts.item))
            with (backup / facts.item).open("rb") as file:
                keep = ["sh", "-c", f"umask 077; cat > {_FILE}"]
                pipes.push(broker, keep, file, timeout=IMPORT_SECONDS, user=USER)
            _control(broker, "import_definitions", _FILE)
            _remove_defaults(broker, wanted)
            tell(Event("compare", facts.item))
            _, found = definitions(broker)
            comparisons = compare(name, facts, wanted, found)
            _control(broker, "stop_app")  # what it holds reaches its volume
        return comparisons

    def _hostname(self) -> str:
        live = inspect("container", self._config.container) if self._config.container else None
        return str(live["Config"]["Hostname"]) if live else "rabbitmq"


def compare(
    name: str, facts: RabbitmqFacts, wanted: dict[str, Any], found: dict[str, Any]
) -> list[Comparison]:
    """Each kind's number against the manifest's, and each definition against the backup's."""
    there = counts(found)
    differing = [kind for kind in COUNTED if _as_set(wanted, kind) != _as_set(found, kind)]
    return [
        *(
            Comparison(
                f"{name}: {kind}", str(number), str(there.get(kind, 0)), there.get(kind) == number
            )
            for kind, number in facts.counts.items()
        ),
        Comparison(
            f"{name}: each definition",
            "as in the backup",
            f"others: {', '.join(differing)}" if differing else "as in the backup",
            not differing,
        ),
    ]


def _as_set(read: dict[str, Any], kind: str) -> set[str]:
    return {json.dumps(one, sort_keys=True) for one in read.get(kind) or []}


def _read(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BackupError(f"{path} cannot be read: {error}") from None
    if not isinstance(read, dict):
        raise BackupError(f"{path} holds no definitions")
    return read


def _control(broker: str, *command: str) -> None:
    docker("exec", "--user", USER, broker, "rabbitmqctl", "--quiet", *command, timeout=120)


def _is_ready(broker: str) -> bool:
    """Booted to the end. Raises ServiceError while it is not."""
    probe = ["rabbitmq-diagnostics", "--quiet", "check_running"]
    docker("exec", "--user", USER, broker, *probe)
    return True


def _remove_defaults(broker: str, wanted: dict[str, Any]) -> None:
    """A new broker makes itself a user and a vhost; those of the backup stand in their place."""
    _, found = definitions(broker)
    for kind, removal in (("users", "delete_user"), ("vhosts", "delete_vhost")):
        named = {one["name"] for one in wanted.get(kind) or []}
        for one in found.get(kind) or []:
            if one["name"] not in named:
                _control(broker, removal, one["name"])
