"""A local folder of the Qdrant client (embedded mode) as the end that is read from.

The client's own lock is held as long as it is open, so no program writes to it meanwhile. The
client keeps every vector in memory and so does this end; it is made for some 20,000 points.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import threading
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient

from ops.errors import LockedError, SettingsError
from ops.migrate.server import IDS, MOST_BYTES, encoded
from ops.migrate.side import (
    NEVER_MOVED,
    PAGE,
    CollectionInfo,
    Json,
    MigrationError,
    Page,
    PointId,
    Record,
    described,
    order,
    without_never_moved,
)

META = "meta.json"


class Folder:
    """See Side. Raises SettingsError for a folder that is none, LockedError for one in use."""

    is_server = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            self._meta = json.loads((path / META).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{path} is no folder of the Qdrant client: {META} cannot be read",
                "give the path that the program gives to QdrantClient(path=...)",
            ) from error
        self._client = _opened(path)
        self._lock = threading.Lock()  # the client is made for one thread
        self._sorted: dict[str, list[PointId]] = {}

    def version(self) -> str:
        return importlib.metadata.version("qdrant-client")

    def collections(self) -> list[str]:
        return sorted(set(self._meta["collections"]) - NEVER_MOVED)

    def aliases(self) -> dict[str, str]:
        return without_never_moved(dict(self._meta.get("aliases", {})))

    def info(self, name: str) -> CollectionInfo:
        """Its settings are those that the folder keeps: vectors, text indexes, metadata."""
        config = self._meta["collections"].get(name)
        if config is None or name in NEVER_MOVED:
            raise MigrationError(f"{self.name} has no collection {name}")
        params = {key: config.get(key) for key in ("vectors", "sparse_vectors")}
        indexes = self._meta.get("text_indexes", {}).get(name, {})
        answer = {
            "config": {"params": params, "metadata": config.get("metadata")},
            "payload_schema": {
                field: {"data_type": "text", "params": given} for field, given in indexes.items()
            },
        }
        led = [alias for alias, leads in self.aliases().items() if leads == name]
        return described(name, answer, self.count(name), led)

    def count(self, name: str) -> int:
        return len(self._ids(name))

    def ids(
        self, name: str, start: PointId | None = None, end: PointId | None = None
    ) -> Iterator[list[PointId]]:
        found = self._between(name, start, end)
        for first in range(0, len(found), IDS):
            yield found[first : first + IDS]

    def page(
        self,
        name: str,
        start: PointId | None = None,
        end: PointId | None = None,
        *,
        limit: int = PAGE,
        vectors: bool = True,
        payload: bool = True,
    ) -> Page:
        found = self._between(name, start, end)
        wanted = found[:limit]
        points = self._retrieve(name, wanted, vectors=vectors, payload=payload)
        texts: list[bytes] = []
        size = 0
        for point in points:
            texts.append(_text(point))
            size += len(texts[-1])
            if size > MOST_BYTES:
                break
        following = found[len(texts)] if len(texts) < len(found) else None
        return Page(b",".join(texts), len(texts), following)

    def fetch(self, name: str, ids: Sequence[PointId]) -> list[Record]:
        points = self._retrieve(name, sorted(ids, key=order), vectors=True, payload=True)
        return [Record(each["id"], each["vector"], each["payload"]) for each in points]

    def upsert(self, *_: Any) -> None:
        raise self._read_only()

    def delete(self, *_: Any) -> None:
        raise self._read_only()

    def request(self, *_: Any) -> Any:
        raise self._read_only()

    def close(self) -> None:
        with self._lock:
            self._client.close()

    def _read_only(self) -> MigrationError:
        return MigrationError(f"{self.name} is a local folder: it can only be read from")

    def _ids(self, name: str) -> list[PointId]:
        with self._lock:
            if name not in self._sorted:
                count = self._client.count(name).count
                found, _ = self._client.scroll(
                    name, limit=count + 1, with_payload=False, with_vectors=False
                )
                self._sorted[name] = sorted((_plain(each.id) for each in found), key=order)
            return self._sorted[name]

    def _between(self, name: str, start: PointId | None, end: PointId | None) -> list[PointId]:
        ids = self._ids(name)
        first = 0 if start is None else bisect_left(ids, order(start), key=order)
        behind = len(ids) if end is None else bisect_left(ids, order(end), key=order)
        return ids[first:behind]

    def _retrieve(
        self, name: str, ids: Sequence[PointId], *, vectors: bool, payload: bool
    ) -> list[Json]:
        with self._lock:
            found = self._client.retrieve(
                name, list(ids), with_payload=payload, with_vectors=vectors
            )
        points = {
            _plain(each.id): {
                "id": _plain(each.id),
                "payload": each.payload or {},
                "vector": _json(each.vector) if each.vector is not None else {},
            }
            for each in found
        }
        return [points[each] for each in ids if each in points]


def _opened(path: Path) -> QdrantClient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how many points it is recommended for
        try:
            return QdrantClient(path=str(path), force_disable_check_same_thread=True)
        except RuntimeError:
            raise LockedError(
                f"{path} is in use by another program", "end the program that has it open"
            ) from None
        except Exception as error:
            # it reads pickles: whatever they hold may go wrong in any way
            raise MigrationError(
                f"{path} cannot be read: {type(error).__name__}: {error}"
            ) from None


def _plain(point: Any) -> PointId:
    return point if isinstance(point, int) else str(point)


def _json(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: _json(each) for name, each in vector.items()}
    if hasattr(vector, "indices"):
        return {"indices": list(vector.indices), "values": list(vector.values)}
    return vector


def _text(point: Json) -> bytes:
    with contextlib.suppress(ValueError):
        return encoded([point])
    raise MigrationError(f"point {point['id']} holds a number that no server takes (NaN, infinite)")
