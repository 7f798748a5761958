"""A Qdrant's data built anew: a throw-away server of its version recovers every snapshot.

It is reached on an internal network only, under a key that lives as long as it does. It reads the
backup and cannot write to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from ops.backup.manifest import Facts, Manifest, QdrantCollection, QdrantFacts, read_manifest
from ops.backup.source import Event, Tell
from ops.clients import docker
from ops.clients.docker import KILLED, Scratch
from ops.clients.rest import QdrantRest
from ops.errors import BackupError, ServiceError, UnprovenError, UnreachableError
from ops.restore import answers
from ops.restore.rehearsal import Comparison
from ops.settings.host import QdrantSource

USER = 1000  # of Qdrant in its container; owns its storage
PORT = 6333
START_SECONDS = 120.0
LEAST_MEMORY = 256 * 1024**2  # below that a rehearsal would only disturb the live service
SHARE = 0.75  # of the memory that is free: the live service stays ahead
SLOWEST = 5_000_000  # bytes a second that a recovery makes at least
# Qdrant reads files from nowhere but below its folder of snapshots
SNAPSHOTS = "/qdrant/snapshots"
MOUNTED = f"{SNAPSHOTS}/backup"


def patience(size: int) -> float:
    """Seconds that the recovery of so many bytes may take."""
    return 600 + size / SLOWEST


@dataclass(frozen=True)
class ThrowAway:
    """A running throw-away server."""

    container: str
    url: str
    key: SecretStr
    rest: QdrantRest

    @property
    def ask(self) -> answers.Ask:
        return self.rest.request

    @contextlib.contextmanager
    def held_to(self, what: str) -> Iterator[None]:
        """Say of a failure whether the data are bad or nothing is known of them.

        A server that refuses them, or breaks on them, condemns the backup: BackupError. One that
        has no memory, no space or no time says nothing about it: UnprovenError.
        """
        try:
            yield
        except (ServiceError, UnreachableError) as error:
            if why := self._lacking(error):
                raise UnprovenError(f"{what} could not be rebuilt: {why}", "free -h; df -h") from (
                    None
                )
            raise BackupError(f"{what} cannot be rebuilt: {error.message}{self._end()}") from None

    def _lacking(self, error: ServiceError | UnreachableError) -> str:
        state = self._state()
        if state.get("OOMKilled") or state.get("ExitCode") == KILLED:
            return "the throw-away Qdrant ran out of memory"
        if "No space left" in error.message:
            return "there is no space left"
        return error.message if state.get("Running") and isinstance(error, UnreachableError) else ""

    def _end(self) -> str:
        if self._state().get("Running"):
            return ""
        lines = docker.docker("logs", "--tail", "20", self.container).split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f"; the throw-away Qdrant ended, its last words: {said[:200]}"

    def _state(self) -> dict[str, object]:
        found = docker.inspect("container", self.container) or {"State": {}}
        state: dict[str, object] = found["State"]
        return state


class QdrantRehearsal:
    """The counterpart of QdrantCollector."""

    def __init__(self, config: QdrantSource) -> None:
        self._config = config

    def rehearse(
        self, backup: Path, facts: Facts, scratch: Scratch, volume: str, tell: Tell
    ) -> list[Comparison]:
        """See Rehearsal.rehearse. What lies below `backup` changes its owner, not its bytes."""
        if not isinstance(facts, QdrantFacts):
            raise TypeError(f"a Qdrant cannot be rebuilt from {facts.kind}")
        name = self._config.name
        folder = backup / name
        manifest = read_manifest(backup)
        with self._serve(folder, facts.image, scratch, volume) as server:
            found = server.rest.version()
            comparisons = [
                Comparison(
                    f"{name}: version",
                    facts.version,
                    found,
                    answers.readable(facts.version, found),
                )
            ]
            for collection in facts.collections:
                tell(Event("rebuild", f"{name}/{collection.name}"))
                with server.held_to(f"{name}/{collection.name}"):
                    self._recover(server, manifest, collection)
            comparisons += self._aliases(server, facts)
            for collection in facts.collections:
                tell(Event("compare", f"{name}/{collection.name}"))
                with server.held_to(f"{name}/{collection.name}"):
                    comparisons += answers.compare_collection(server.ask, name, collection)
            with server.held_to(name):
                there = sorted(answers.collections(server.ask))
            wanted = sorted(collection.name for collection in facts.collections)
            comparisons.append(
                Comparison(
                    f"{name}: collections", str(len(wanted)), str(len(there)), wanted == there
                )
            )
            scratch.stop(server.container)
        return comparisons

    def _recover(self, server: ThrowAway, manifest: Manifest, collection: QdrantCollection) -> None:
        """Let the server recover one collection from the mounted file, and wait for it."""
        item = manifest.item(collection.item)
        below = PurePosixPath(collection.item).relative_to(self._config.name)
        seconds = patience(item.size)
        with QdrantRest(server.url, server.key, timeout=seconds) as patient:
            patient.request(
                "PUT",
                f"{answers.path_of(collection.name)}/snapshots/recover?wait=true",
                {
                    "location": f"file://{quote(f'{MOUNTED}/{below}')}",
                    "priority": "snapshot",
                    "checksum": item.sha256,
                },
            )
        answers.wait_until_green(server.ask, collection.name, seconds=seconds)

    def _aliases(self, server: ThrowAway, facts: QdrantFacts) -> list[Comparison]:
        """Snapshots lack aliases: make them as the manifest says, and ask who they lead to."""
        refused = {}
        for alias, collection in facts.aliases.items():
            try:
                answers.point_aliases(server.ask, {alias: collection})
            except ServiceError as error:
                refused[alias] = error.message
        with server.held_to(self._config.name):
            there = answers.aliases(server.ask)
        return [
            Comparison(
                f"{self._config.name}: alias {alias}",
                collection,
                there.get(alias, refused.get(alias, "none")),
                there.get(alias) == collection,
            )
            for alias, collection in facts.aliases.items()
        ]

    @contextlib.contextmanager
    def _serve(
        self, folder: Path, image: str, scratch: Scratch, volume: str
    ) -> Iterator[ThrowAway]:
        storage = docker.mountpoint(volume)
        os.chown(storage, USER, USER)
        _give(folder)
        keys = Path(tempfile.mkdtemp(prefix="key-", dir=folder.parent.parent))
        try:
            key = secrets.token_hex(32)
            options = [
                *docker.confined(memory=self._memory(), pids=2048),
                *("--user", f"{USER}:{USER}", "--read-only", *self._ulimits()),
                *("--tmpfs", "/tmp:size=64m,mode=1777"),  # noqa: S108 - the container's
                *("--tmpfs", f"{SNAPSHOTS}:size=64m,mode=0700,uid={USER},gid={USER}"),
                *("--mount", f"type=volume,src={volume},dst=/qdrant/storage,volume-nocopy"),
                *("--mount", f"type=bind,src={folder},dst={MOUNTED},readonly"),
                *("--mount", f"type=bind,src={_key_file(keys, key)}"
                  ",dst=/qdrant/config/local.yaml,readonly"),
            ]  # fmt: skip
            try:
                container = scratch.start(self._config.name, image, "./qdrant", options=options)
                address = scratch.address(container)
            except (ServiceError, UnreachableError) as error:
                raise UnprovenError(
                    f"a throw-away Qdrant could not be started: {error.message}", error.hint
                ) from None
            url = f"http://{address}:{PORT}"
            with QdrantRest(url, SecretStr(key)) as rest:
                server = ThrowAway(container, url, SecretStr(key), rest)
                _wait_until_ready(server)
                yield server
        finally:
            shutil.rmtree(keys)

    def _memory(self) -> int:
        """The live service's limit, and never more than a share of what is free."""
        free = available_memory()
        if free * SHARE < LEAST_MEMORY:
            raise UnprovenError(
                f"{free // 1024**2} MiB of memory are free, and a throw-away Qdrant needs"
                f" {LEAST_MEMORY / SHARE / 1024**2:.0f}",
                "free -h",
            )
        limit = int(self._live().get("Memory") or 0)
        return min(limit or int(free * SHARE), int(free * SHARE))

    def _ulimits(self) -> list[str]:
        """The live service's: each segment of a collection holds many files open."""
        found = self._live().get("Ulimits") or []
        return [f"--ulimit={limit['Name']}={limit['Soft']}:{limit['Hard']}" for limit in found]

    def _live(self) -> dict[str, Any]:
        found = docker.inspect("container", self._config.container) or {"HostConfig": {}}
        limits: dict[str, Any] = found["HostConfig"]
        return limits


def available_memory() -> int:
    """Bytes that the kernel could give away without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise UnprovenError("/proc/meminfo does not say how much memory is free")


def _give(folder: Path) -> None:
    """Let Qdrant's user read the fetched files; they lie in a folder that is closed to others."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
        path.chmod(0o500 if path.is_dir() else 0o400)


def _key_file(folder: Path, key: str) -> Path:
    """Qdrant's own settings, which alone know the key."""
    path = folder / "local.yaml"
    settings = {
        "service": {"api_key": key, "enable_static_content": False},
        "storage": {"storage_path": "./storage", "snapshots_path": "./snapshots"},
        "telemetry_disabled": True,
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(settings, file)  # JSON is YAML
    os.chown(path, USER, USER)
    return path


def _wait_until_ready(server: ThrowAway) -> None:
    limit = time.monotonic() + START_SECONDS
    while not answers.ready(server.rest):
        state = docker.inspect("container", server.container) or {"State": {}}
        if not state["State"].get("Running") or time.monotonic() > limit:
            said = docker.docker("logs", "--tail", "5", server.container).strip().splitlines()[-1:]
            raise UnprovenError(
                f"the throw-away Qdrant did not start: {''.join(said)[:200] or 'no word from it'}",
                "free -h; docker info",
            )
        time.sleep(0.2)
