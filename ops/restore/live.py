"""The services that run: who they are, what they hold, whether they serve. Knows no backup.

It stops and starts containers, and changes nothing else of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ops.backup.source import Event, Tell, silent
from ops.clients import docker
from ops.clients.postgres import Postgres
from ops.clients.rest import QdrantRest
from ops.errors import BackupError, ServiceError, SettingsError, UnreachableError
from ops.restore import answers
from ops.settings.host import (
    QDRANT_API_KEY,
    Credentials,
    FilesSource,
    HostConfig,
    PostgresSource,
    QdrantSource,
    RabbitmqSource,
)
from ops.settings.host import Source as SourceConfig
from ops.settings.people import ACCESS_COLLECTION

HEALTHY_SECONDS = 900.0  # Qdrant opens its port only after it has loaded every collection
STOP_SECONDS = 600.0  # docker's own limit, the container's grace period, comes long before
STEADY_SECONDS = 3.0  # that a container without a health check has to run
RESTARTS = 3  # after so many it will not become healthy by itself
# Caddy makes these anew wherever they are missing: they are not yet anybody's data
MADE_BY_A_DEPLOY = ("caddy/",)


class LiveQdrant(BaseModel):
    """What a live Qdrant has to hold once it serves: exact counts by collection."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    counts: dict[str, tuple[int, int]]  # smallest, largest

    def check(self, credentials: Credentials) -> None:
        """Wait until it serves, and count. More points than promised were written since it began
        to serve. Raises BackupError, StackroomError of Qdrant."""
        with QdrantRest(self.url, credentials.get(QDRANT_API_KEY)) as rest:
            answers.wait_until_ready(rest, self.url, seconds=HEALTHY_SECONDS)
            for collection, (low, _) in self.counts.items():
                found = answers.exact_count(rest.request, collection)
                if found < low:
                    raise BackupError(
                        f"the live collection {collection} has {found} points instead of {low}"
                    )


@dataclass(frozen=True)
class Live:
    """One source as it runs. `folder` is what a restore switches; None: it leaves it alone.

    `holds` says what would be replaced, "" for nothing. `version` is "" where nobody answers.
    """

    source: SourceConfig
    folder: Path | None
    containers: list[str]
    image: str = ""
    version: str = ""
    answers: bool = True
    holds: str = ""


def survey(config: HostConfig, credentials: Credentials) -> list[Live]:
    """Every source of the configuration as it is now, in the configuration's order.

    Raises ServiceError where a volume or a container that a restore needs is not there.
    """
    return [_look(source, credentials) for source in config.sources]


def _look(source: SourceConfig, credentials: Credentials) -> Live:
    if isinstance(source, QdrantSource):
        return _qdrant(source, credentials)
    if isinstance(source, PostgresSource):
        return _postgres(source)
    if isinstance(source, RabbitmqSource):
        return _rabbitmq(source)
    return _files(source)


def _qdrant(source: QdrantSource, credentials: Credentials) -> Live:
    folder, containers, image = _service(source.volume, source.container)
    try:
        with QdrantRest(source.url, credentials.get(QDRANT_API_KEY)) as rest:
            version = rest.version()
            counts = {
                name: answers.exact_count(rest.request, name)
                for name in answers.collections(rest.request)
                if name != ACCESS_COLLECTION  # a deploy makes it, and it goes along
            }
    except UnreachableError:
        return Live(
            *(source, folder, containers, image),
            answers=False,
            holds=f"{source.name}: it does not answer, so what it holds is not known",
        )
    full = [f"{name} with {count} points" for name, count in sorted(counts.items()) if count]
    holds = f"{source.name}: the collection {full[0]}" if full else ""
    more = f", and {len(full) - 1} more" if len(full) > 1 else ""
    return Live(source, folder, containers, image, version, holds=holds + more)


def _postgres(source: PostgresSource) -> Live:
    if not source.volume:
        raise SettingsError(
            f"{source.name}: the configuration names no volume, and a restore switches volumes",
            "deploy again: stackroom -e <env> deploy",
        )
    folder, containers, image = _service(source.volume, source.container, source.containers)
    server = Postgres(source.container, source.user)
    try:
        version = server.version()
        holds = _holds(server, source)
    except (ServiceError, UnreachableError):
        return Live(
            *(source, folder, containers, image),
            answers=False,
            holds=f"{source.name}: it does not answer, so what it holds is not known",
        )
    return Live(source, folder, containers, image, version, holds=holds)


def _holds(server: Postgres, source: PostgresSource) -> str:
    for database in server.databases():
        if full := somebodys(source, server.filled(database)):
            more = f", and {len(full) - 1} more" if len(full) > 1 else ""
            return f"{source.name}: the table {full[0]} of the database {database}{more}"
    return ""


def somebodys(source: PostgresSource, tables: Iterable[str]) -> list[str]:
    """Of these tables those whose rows are somebody's work."""
    return [table for table in tables if source.data is None or table in source.data]


def _rabbitmq(source: RabbitmqSource) -> Live:
    """Definitions without their messages: the deploy's, so they are in nobody's way."""
    if not source.volume:
        return Live(source, None, [])
    folder, containers, image = _service(source.volume, source.container, source.containers)
    return Live(source, folder, containers, image, answers=runs(source.container))


def _files(source: FilesSource) -> Live:
    """A volume is data. A folder is, where a container uses it; else a deploy renders it."""
    if source.volume:
        folder, containers = docker.mountpoint(source.volume), _users(source.volume)
    elif source.containers:
        folder, containers = Path(source.path), []
    else:
        return Live(source, None, [])
    names = [*source.containers, *(name for name in containers if name not in source.containers)]
    if source.deployed:
        return Live(source, folder, names)
    found = (
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    )
    first = next((name for name in found if not name.startswith(MADE_BY_A_DEPLOY)), "")
    return Live(source, folder, names, holds=f"{source.name}: the file {first}" if first else "")


def _service(volume: str, container: str, more: Sequence[str] = ()) -> tuple[Path, list[str], str]:
    """The folder of its volume, the containers that use that, its own first, and its image.

    `more` are those that use the service itself.
    """
    folder = docker.mountpoint(volume)
    found = docker.inspect("container", container)
    if found is None:
        raise ServiceError(f"there is no container {container}", "stackroom -e <env> deploy")
    names = dict.fromkeys([container, *_users(volume), *more])
    return folder, list(names), str(found["Config"]["Image"])


def _users(volume: str) -> list[str]:
    """The containers that a volume is mounted in, running or not; none that has had its turn."""
    form = ("--format", "{{.Names}}")
    found = docker.docker("ps", "--all", "--filter", f"volume={volume}", *form).split()
    return [name for name in found if not _has_had_its_turn(name)]


def _has_had_its_turn(container: str) -> bool:
    """Whether it is of those that a deploy runs once, and does not run: it is not to run again."""
    found = docker.inspect("container", container) or {}
    policy = found.get("HostConfig", {}).get("RestartPolicy", {}).get("Name", "")
    return policy in ("", "no") and not found.get("State", {}).get("Running")


def runs(container: str) -> bool:
    """Whether it runs; one that Docker starts over and over does not."""
    found = docker.inspect("container", container)
    return bool(found and found["State"]["Running"] and not found["State"].get("Restarting"))


def stop(containers: Sequence[str], tell: Tell = silent) -> None:
    """Stop them in order, last first, each with its own grace period."""
    for container in reversed(containers):
        tell(Event("switch:stop", container))
        docker.docker("stop", container, timeout=STOP_SECONDS)


def start(containers: Sequence[str], tell: Tell = silent) -> None:
    """Start them one after another, each when the one before is healthy.

    Raises BackupError for one that does not become healthy, StackroomError of Docker.
    """
    for container in containers:
        tell(Event("switch:start", container))
        docker.docker("start", container)
        wait_until_healthy(container)


def wait_until_healthy(container: str) -> None:
    """Healthy by its own check; without one, running for some seconds. Raises BackupError."""
    began = time.monotonic()
    restarts: int | None = None
    while True:
        described = docker.inspect("container", container) or {}
        # one that is being restarted is waited for: it may need what starts a moment later
        found = described if described.get("State", {}).get("Running") else {}
        state = found.get("State", {})
        health = state.get("Health", {}).get("Status", "")
        if health == "healthy":
            return
        waited = time.monotonic() - began
        count = int(described.get("RestartCount", 0))
        restarts = count if restarts is None else restarts
        if state and not health and waited > STEADY_SECONDS and count == restarts:
            return
        gone = not state and waited > STEADY_SECONDS
        if waited > HEALTHY_SECONDS or count > restarts + RESTARTS or gone:
            raise BackupError(
                f"the container {container} does not become healthy", f"docker logs {container}"
            )
        time.sleep(0.5)
