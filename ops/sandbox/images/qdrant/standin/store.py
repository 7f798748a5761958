"""Collections on disk: one engine shard each, and one JSON file with all that shards cannot keep.

The JSON file is replaced as a whole, so a kill leaves the old or the new state, never half of one.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import qdrant_edge as edge
from qdrant_client import models as m

from . import translate
from .errors import ApiError, lacking, no_collection, not_found, wrong_input

HNSW = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10000,
    "max_indexing_threads": 0,
    "on_disk": False,
}
OPTIMIZERS = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "max_segment_size": None,
    "memmap_threshold": None,
    "indexing_threshold": 10000,
    "flush_interval_sec": 5,
    "max_optimization_threads": None,
    "prevent_unoptimized": None,
}
WAL = {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1}


class Collection:
    """One shard, and what was declared about it. Engine failures come out as ApiError."""

    def __init__(self, folder: Path, record: dict[str, Any], shard: edge.EdgeShard) -> None:
        self.folder = folder
        self.record = record  # {"config": ..., "indexes": {field: schema}}, kept in the JSON file
        self._shard = shard
        self._operations = itertools.count()
        self._lock = threading.Lock()

    def call(self, name: str, *arguments: Any) -> Any:
        """A read of the engine by the name of its method."""
        try:
            return getattr(self._shard, name)(*arguments)
        except Exception as error:  # the engine raises nothing narrower
            raise _engine_error(error) from None

    def update(self, operation: edge.UpdateOperation) -> int:
        """Apply one change; gives its number since the start of the process."""
        with self._lock:
            self._need_room()
            self.call("update", operation)
            return next(self._operations)

    def _need_room(self) -> None:
        """The real server's own words, at the same fill: the engine would die of a full disk."""
        capacity = (self.record["config"].get("wal_config") or WAL)["wal_capacity_mb"]
        if shutil.disk_usage(self.folder).free < 2 * capacity * 1024 * 1024:
            raise ApiError(
                500,
                "Service internal error: No space left on device: "
                "WAL buffer size exceeds available disk space",
            )

    def info(self) -> dict[str, Any]:
        shard = self.call("info")
        points = {field: index.points for field, index in shard.payload_schema.items()}
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": shard.indexed_vectors_count,
            "points_count": shard.points_count,
            "segments_count": shard.segments_count,
            "config": self.record["config"],
            "payload_schema": {
                field: {**schema, "points": points.get(field, 0)}
                for field, schema in self.record["indexes"].items()
            },
            "update_queue": {"length": 0},
        }

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Everything is in the files, and stays as it is: a change waits."""
        with self._lock:
            self.call("flush")
            yield

    def replace(self, folder: Path, record: dict[str, Any], shard: edge.EdgeShard) -> None:
        """Other points from now on; the declared configuration stays, the indexes come along."""
        with self._lock:
            self.folder, before = folder, self._shard
            self.record = self.record | {"folder": folder.name, "indexes": record["indexes"]}
            self._shard = shard
        before.close()

    def flush(self) -> None:
        self.call("flush")

    def close(self) -> None:
        self.call("close")


def _engine_error(error: Exception) -> ApiError:
    text = str(error)
    if text.startswith("No point with id"):
        return not_found(f"{text} found")
    if "Service runtime error" in text:
        return ApiError(500, text)
    return wrong_input(text)


class Store:
    """Every collection and alias below one folder. Loads what is there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "collections"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "stand-in.json"
        self._lock = threading.Lock()
        kept = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.aliases: dict[str, str] = kept.get("aliases", {})
        self.peer: int = kept.get("peer") or uuid4().int >> 76  # as in the names of snapshots
        self._collections: dict[str, Collection] = {}
        for name, record in kept.get("collections", {}).items():
            shard = edge.EdgeShard.load(str(self._folder / record["folder"]))
            self._collections[name] = Collection(self._folder / record["folder"], record, shard)
        for left_over in set(self._folder.iterdir()) - {c.folder for c in self}:
            shutil.rmtree(left_over)  # created or deleted, but killed before it was recorded

    def __iter__(self) -> Any:
        return iter(list(self._collections.values()))

    def names(self) -> list[str]:
        return sorted(self._collections)

    def exists(self, name: str) -> bool:
        return self.aliases.get(name, name) in self._collections

    def get(self, name: str) -> Collection:
        """By name or alias. Raises ApiError 404."""
        try:
            return self._collections[self.aliases.get(name, name)]
        except KeyError:
            raise no_collection(name) from None

    def create(self, name: str, wanted: m.CreateCollection) -> bool:
        with self._lock:
            if name in self._collections:
                raise ApiError(409, f"Wrong input: Collection `{name}` already exists!")
            if name in self.aliases:
                reason = "Alias with the same name already exists"
                raise wrong_input(f"Can't create collection with name {name}. {reason}")
            if wanted.sparse_vectors:
                raise lacking("sparse vectors")
            folder = self._folder / uuid4().hex  # a name may hold characters that no path may
            shard = edge.EdgeShard.create(str(folder), translate.shard_config(wanted.vectors))
            record = {"folder": folder.name, "config": _config(wanted), "indexes": {}}
            self._collections[name] = Collection(folder, record, shard)
            self._save()
            return True

    def change(self, name: str, wanted: m.UpdateCollection) -> bool:
        """PATCH: index, optimizer and quantization parameters and metadata."""
        with self._lock:
            config = self.get(name).record["config"]
            config["hnsw_config"] |= _dump(wanted.hnsw_config)
            config["optimizer_config"] |= _dump(wanted.optimizers_config)
            if wanted.quantization_config:
                given = wanted.quantization_config
                off = given == m.Disabled.DISABLED
                config["quantization_config"] = None if off else _dump(given)
            if wanted.metadata:
                config["metadata"] = config.get("metadata", {}) | wanted.metadata
            self._save()
            return True

    def delete(self, name: str) -> bool:
        with self._lock:
            collection = self._collections.pop(name, None)
            if collection is None:
                return False
            self.aliases = {a: target for a, target in self.aliases.items() if target != name}
            self._save()
            collection.close()
            shutil.rmtree(collection.folder)
            return True

    def new_folder(self) -> Path:
        """Where a shard may be laid out; cleared at the next start unless a collection takes it."""
        folder = self._folder / uuid4().hex
        folder.mkdir()
        return folder

    def forget_folder(self, folder: Path) -> None:
        """Remove it unless a collection has taken it."""
        if folder not in {collection.folder for collection in self}:
            shutil.rmtree(folder, ignore_errors=True)

    def restore(self, name: str, record: dict[str, Any], folder: Path) -> None:
        """Take a folder with a shard as a new collection, or instead of an old one's points."""
        try:
            shard = edge.EdgeShard.load(str(folder))
        except Exception as error:  # the engine raises nothing narrower
            raise _engine_error(error) from None
        with self._lock:
            record = record | {"folder": folder.name}
            collection = self._collections.get(self.aliases.get(name, name))
            if collection is None:
                self._collections[name] = Collection(folder, record, shard)
                self._save()
                return
            mine, other = collection.record["config"]["params"], record["config"]["params"]
            for key, says in (("vectors", "vectors"), ("shard_number", "shard number")):
                if mine[key] != other[key]:
                    shard.close()
                    words = f"Collection {says}: {mine[key]} Snapshot {says}: {other[key]}"
                    reason = f"Snapshot is not compatible with existing collection: {words}"
                    raise wrong_input(reason)
            old = collection.folder
            collection.replace(folder, record, shard)
            self._save()
            shutil.rmtree(old)

    def change_aliases(self, actions: list[Any]) -> bool:
        with self._lock:
            aliases = dict(self.aliases)
            for action in actions:
                self._change_alias(aliases, action)
            self.aliases = aliases
            self._save()
            return True

    def _change_alias(self, aliases: dict[str, str], action: Any) -> None:
        match action:
            case m.CreateAliasOperation(create_alias=new):
                if new.collection_name not in self._collections:
                    raise no_collection(new.collection_name)
                if new.alias_name in self._collections:
                    taken = f"Collection `{new.alias_name}` already exists!"
                    raise ApiError(409, f"Wrong input: {taken}")
                aliases[new.alias_name] = new.collection_name
            case m.DeleteAliasOperation(delete_alias=old):
                aliases.pop(old.alias_name, None)
            case m.RenameAliasOperation(rename_alias=names):
                if names.old_alias_name not in aliases:
                    raise not_found(f"Alias {names.old_alias_name} does not exists!")
                aliases[names.new_alias_name] = aliases.pop(names.old_alias_name)

    def note_index(
        self, collection: Collection, field: str, schema: Mapping[str, Any] | None
    ) -> None:
        """Keep how a payload index was asked for; None: it is gone."""
        with self._lock:
            others = {f: s for f, s in collection.record["indexes"].items() if f != field}
            collection.record["indexes"] = others | ({field: schema} if schema else {})
            self._save()

    def _save(self) -> None:
        """Replace the JSON file. The lock is held."""
        kept = {
            "collections": {name: c.record for name, c in self._collections.items()},
            "aliases": self.aliases,
            "peer": self.peer,
        }
        draft = self._file.with_suffix(".new")
        with draft.open("w") as file:
            json.dump(kept, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)

    def close(self) -> None:
        for collection in self:
            collection.flush()
            collection.close()


def _dump(model: Any) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_none=True) if model else {}


def _config(wanted: m.CreateCollection) -> Mapping[str, Any]:
    vectors = wanted.vectors
    shown = {n: _dump(v) for n, v in vectors.items()} if isinstance(vectors, dict) else None
    config: dict[str, Any] = {
        "params": {
            "vectors": _dump(vectors) if shown is None else shown,
            "shard_number": wanted.shard_number or 1,
            "replication_factor": wanted.replication_factor or 1,
            "write_consistency_factor": wanted.write_consistency_factor or 1,
            "on_disk_payload": wanted.on_disk_payload is not False,
        },
        "hnsw_config": HNSW | _dump(wanted.hnsw_config),
        "optimizer_config": OPTIMIZERS | _dump(wanted.optimizers_config),
        "wal_config": WAL | _dump(wanted.wal_config),
        "quantization_config": _dump(wanted.quantization_config) or None,
    }
    return config | ({"metadata": wanted.metadata} if wanted.metadata else {})
