"""Qdrant's collections as snapshots, with what has to be true of them when they are restored.

Nothing on the server is changed: each snapshot made is deleted again in any case.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from ops.backup.manifest import Item, QdrantCollection, QdrantFacts
from ops.backup.qdrant_leftovers import Leftovers
from ops.backup.qdrant_sample import collection_path, dense_vectors, observe, observe_again
from ops.backup.source import Collected, Event, Tell
from ops.clients.docker import image_and_digest, mountpoint
from ops.clients.rest import QdrantRest, RefusedError
from ops.clients.snapshots import SILENCE_SECONDS, Snapshots
from ops.errors import StackroomError
from ops.settings.host import QDRANT_API_KEY, Credentials, QdrantSource
from ops.settings.people import ACCESS_COLLECTION

READ_SECONDS = 120.0  # an exact search over all points of a large collection
# a snapshot is copied once inside the server: never slower than this on a disk that works
CREATE_SECONDS, CREATE_RATE = 600.0, 5e6  # at least; bytes a second
# where the disk cannot be looked at: vectors with their index, and a collection's own files
OVERHEAD, FLOOR = 1.5, 64 * 1024 * 1024
PASSES = 3  # over the list of collections, for those that are made meanwhile
LONGEST_NAME = 180  # characters of a file name, without its ending


class QdrantCollector:
    """Every collection of one server, but for the access points: a backup of them would bring
    revoked tokens back. `silence`: seconds without a byte until it counts as gone."""

    def __init__(
        self,
        config: QdrantSource,
        credentials: Credentials,
        *,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self.name = config.name
        self._config = config
        self._credentials = credentials
        self._silence = silence

    def expected_bytes(self) -> int:
        """About the size of all snapshots. Raises as `Source` says."""
        with self._rest() as rest:
            estimated = sum(_expected(rest, name) for name in _names(rest))
        return self._bytes_on_disk() or estimated

    def collect(self, staging: Path, tell: Tell) -> Collected:
        """Write a snapshot of every collection. Raises StackroomError."""
        folder = staging / self.name
        folder.mkdir(mode=0o700)
        leftovers = Leftovers(staging.parent / f"{self.name}.snapshots.json")
        found: dict[str, tuple[Item, QdrantCollection]] = {}
        with self._rest() as rest, self._snapshots() as snapshots:
            version = rest.version()
            leftovers.clear(snapshots, _names(rest))
            fetch = _Fetch(rest, snapshots, leftovers, folder, tell)
            for _ in range(PASSES):
                missing = [name for name in _names(rest) if name not in found]
                for name in missing:
                    if collected := _unless_gone(rest, fetch, name):
                        found[name] = collected
                if not missing:
                    break
            aliases = _aliases(rest)
        image, digest = self._image()
        facts = QdrantFacts(
            version=version,
            image=image,
            digest=digest,
            collections=[collection for _, collection in found.values()],
            aliases={alias: target for alias, target in aliases.items() if target in found},
        )
        return Collected([item for item, _ in found.values()], facts)

    def _rest(self) -> QdrantRest:
        key = self._credentials.need(QDRANT_API_KEY)
        return QdrantRest(self._config.url, key, timeout=min(READ_SECONDS, 2 * self._silence))

    def _snapshots(self) -> Snapshots:
        key = self._credentials.need(QDRANT_API_KEY)
        return Snapshots(self._config.url, key, silence=self._silence)

    def _image(self) -> tuple[str, str]:
        try:
            return image_and_digest(self._config.container)
        except StackroomError:  # a server outside of Docker, or an engine that is being upgraded
            return self._config.image, ""

    def _bytes_on_disk(self) -> int:
        """What the collections take on the server's volume; 0 where it is not on this machine."""
        if not self._config.container:
            return 0
        try:
            folder = mountpoint(self._config.volume) / "collections"
        except StackroomError:
            return 0
        return sum(_blocks(folder))


class _Fetch:
    """One collection after the other, into one folder."""

    def __init__(
        self,
        rest: QdrantRest,
        snapshots: Snapshots,
        leftovers: Leftovers,
        folder: Path,
        tell: Tell,
    ) -> None:
        self._rest = rest
        self._snapshots = snapshots
        self._leftovers = leftovers
        self._folder = folder
        self._tell = tell

    def target(self, name: str) -> Path:
        return self._folder / f"{file_name(name)}.snapshot"

    def collect(self, name: str) -> tuple[Item, QdrantCollection]:
        self._step("observe", name)
        info = self._rest.request("GET", collection_path(name))
        before = observe(self._rest, name, info["config"])
        item = self._snapshot(name, CREATE_SECONDS + _estimate(info) / CREATE_RATE)
        self._step("compare", name)
        after = observe_again(self._rest, name, before)
        samples, queries = before.unchanged(after)
        return item, QdrantCollection(
            name=name,
            item=item.path,
            count=(before.count, after.count),
            info={key: info[key] for key in ("config", "payload_schema") if key in info},
            samples=samples,
            queries=queries,
        )

    def _snapshot(self, name: str, timeout: float) -> Item:
        target = self.target(name)
        path = f"{self._folder.name}/{target.name}"
        there = [found.name for found in self._snapshots.list(name)]
        note = self._leftovers.asking(name, there)
        try:
            self._step("snapshot", name)
            made = self._snapshots.create(name, timeout=timeout)
            self._leftovers.made(note, made.name)
            self._step("download", name)
            sha256 = self._snapshots.download(
                name,
                made.name,
                target,
                checksum=made.checksum,
                size=made.size,
                on_bytes=lambda done, total: self._tell(
                    Event(f"collect:{self._folder.name}:download", path, done, total)
                ),
            )
            self._step("delete", name)
        finally:
            self._leftovers.remove_quietly(self._snapshots, note)
        return Item(path=path, size=target.stat().st_size, sha256=sha256)

    def _step(self, step: str, name: str) -> None:
        self._tell(Event(f"collect:{self._folder.name}:{step}", name))


def file_name(collection: str) -> str:
    """A file name for any collection: what is not [A-Za-z0-9_.-] is escaped as in a URL."""
    safe = quote(collection, safe="").replace("~", "%7E")
    if len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[:LONGEST_NAME]}-{hashlib.sha256(collection.encode()).hexdigest()[:16]}"


def _unless_gone(
    rest: QdrantRest, fetch: _Fetch, name: str
) -> tuple[Item, QdrantCollection] | None:
    """None for a collection that was deleted meanwhile; nothing of it stays in the folder."""
    try:
        return fetch.collect(name)
    except StackroomError:
        if not _is_gone(rest, name):
            raise
        fetch.target(name).unlink(missing_ok=True)
        return None


def _is_gone(rest: QdrantRest, name: str) -> bool:
    try:
        return name not in _names(rest)
    except StackroomError:  # what went wrong first says more
        return False


def _names(rest: QdrantRest) -> list[str]:
    there = {each["name"] for each in rest.request("GET", "/collections")["collections"]}
    return sorted(there - {ACCESS_COLLECTION})


def _aliases(rest: QdrantRest) -> dict[str, str]:
    listed = rest.request("GET", "/aliases")["aliases"]
    return {each["alias_name"]: each["collection_name"] for each in listed}


def _expected(rest: QdrantRest, name: str) -> int:
    try:
        return _estimate(rest.request("GET", collection_path(name)))
    except RefusedError as error:
        if error.status == httpx.codes.NOT_FOUND:  # deleted since it was listed
            return 0
        raise


def _estimate(info: dict[str, Any]) -> int:
    """Bytes of a snapshot, by the number of points and their dense vectors."""
    numbers = sum(dense_vectors(info["config"]).values())
    points = info.get("points_count") or 0
    return FLOOR + int(points * numbers * 4 * OVERHEAD)


def _blocks(folder: Path) -> Iterator[int]:
    """Bytes that each file takes; a file that goes away meanwhile takes none."""
    for root, _, files in os.walk(folder):
        for file in files:
            try:
                yield (Path(root) / file).lstat().st_blocks * 512
            except OSError:
                continue
