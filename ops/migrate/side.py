"""One end of a migration: what is asked of a Qdrant server, or of a local folder of the client.

Points travel as the JSON text that Qdrant gives out, so that nothing is rounded, renamed or read
twice on the way; who compares them reads `Page.records()`. Nothing here writes but `upsert`,
`delete` and `request`, and no key is ever part of a name or a message.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ops.errors import StackroomError
from ops.settings import ACCESS_COLLECTION

Json = dict[str, Any]
PointId = int | str  # an unsigned number of 64 bits, or a UUID in lower case with hyphens
# the tokens of developers: they belong to the server they were made for, and are never moved
NEVER_MOVED = frozenset({ACCESS_COLLECTION})
PAGE = 256  # points of a page, unless told


class MigrationError(StackroomError):
    """A migration cannot be made, or goes wrong: neither end lost a point by it."""

    exit_code = 2


def order(point: PointId) -> tuple[int, int]:
    """Where a point stands in Qdrant's own order: numbers first, then UUIDs by their bytes."""
    return (0, point) if isinstance(point, int) else (1, uuid.UUID(point).int)


def within(point: PointId, start: PointId | None, end: PointId | None) -> bool:
    """Whether start <= point < end; None is no bound."""
    here = order(point)
    return (start is None or order(start) <= here) and (end is None or here < order(end))


@dataclass(frozen=True)
class Record:
    """A point. `vector` is JSON as Qdrant's REST writes it: a list of numbers, a list of lists
    (multivector), {"indices": [...], "values": [...]} (sparse), or {name: one of these}; the
    unnamed vector beside named ones is called "". A point without vectors has {}."""

    id: PointId
    vector: Any
    payload: Json


@dataclass(frozen=True)
class Page:
    """Points in order of their ids. `points` is the JSON of them with commas between, without
    the brackets; `following` is the id that the next page begins with, None after the last."""

    points: bytes
    count: int
    following: PointId | None

    def records(self) -> list[Record]:
        return [
            Record(point["id"], point.get("vector", {}), point.get("payload") or {})
            for point in json.loads(b"[%b]" % self.points)
        ]


@dataclass(frozen=True)
class VectorSpec:
    """A dense vector: `distance` is Cosine, Dot, Euclid or Manhattan; `datatype` float32, float16
    or uint8; `multi` its multivector settings or None; `rest` every other setting as Qdrant
    writes it (on_disk, memory, hnsw_config, quantization_config)."""

    size: int
    distance: str
    datatype: str = "float32"
    multi: Json | None = None
    rest: Json = field(default_factory=dict)


@dataclass(frozen=True)
class CollectionInfo:
    """A collection as it is. `points` is exact. `vectors` by name, "" for the unnamed one;
    `sparse`, `indexes` (parameters of payload indexes by field) and `config` (params,
    hnsw_config, optimizer_config, wal_config, quantization_config, strict_mode_config, metadata)
    as Qdrant writes them. `aliases` lead to it. `status` is green, yellow, grey or red."""

    name: str
    points: int
    vectors: dict[str, VectorSpec]
    sparse: dict[str, Json]
    indexes: dict[str, Any]
    config: Json
    aliases: tuple[str, ...] = ()
    status: str = "green"
    shard_keys: tuple[PointId, ...] = ()

    @property
    def shards(self) -> int:
        return int(self.config["params"].get("shard_number") or 1)


class Side(Protocol):
    """One end. Calls may come from several threads. Every call raises UnreachableError without an
    answer, ServiceError (RefusedError with its HTTP status, for a server) for a refusal."""

    name: str  # for a person: the environment, the URL or the folder
    is_server: bool  # a folder can only be read from

    def version(self) -> str:
        """Such as "1.19.0": the server's, or that of the client that reads the folder."""
        ...

    def collections(self) -> list[str]:
        """Sorted, without NEVER_MOVED."""
        ...

    def aliases(self) -> dict[str, str]:
        """Each alias with its collection, without those of NEVER_MOVED."""
        ...

    def info(self, name: str) -> CollectionInfo:
        """Raises MigrationError where there is no such collection."""
        ...

    def count(self, name: str) -> int:
        """Exact."""
        ...

    def ids(
        self, name: str, start: PointId | None = None, end: PointId | None = None
    ) -> Iterator[list[PointId]]:
        """The ids from `start` up to, not with, `end`, in order, some thousands at a time."""
        ...

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
        """Up to `limit` points from `start` up to, not with, `end`; fewer where they are so big
        that memory or a request's size would not hold them. `following` is None after the last
        one before `end`."""
        ...

    def fetch(self, name: str, ids: Sequence[PointId]) -> list[Record]:
        """These points, in order of their ids; what is not there is left out."""
        ...

    def upsert(self, name: str, points: bytes) -> None:
        """Write points given as `Page.points`, and wait until they are in place."""
        ...

    def delete(self, name: str, ids: Sequence[PointId]) -> None:
        """Delete these points, and wait until they are gone."""
        ...

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """One REST call; its `result`. A folder refuses."""
        ...

    def close(self) -> None: ...


def without_never_moved(aliases: dict[str, str]) -> dict[str, str]:
    return {alias: name for alias, name in aliases.items() if name not in NEVER_MOVED}


def described(
    name: str,
    answer: Json,
    points: int,
    aliases: Sequence[str],
    shard_keys: Sequence[PointId] = (),
) -> CollectionInfo:
    """From the REST answer of GET /collections/<name>."""
    config = answer["config"]
    params = config["params"]
    given = params.get("vectors") or {}
    dense = {"": given} if isinstance(given.get("size"), int) else given
    return CollectionInfo(
        name=name,
        points=points,
        vectors={key: vector_spec(spec) for key, spec in dense.items()},
        sparse={key: spec or {} for key, spec in (params.get("sparse_vectors") or {}).items()},
        indexes={
            key: schema.get("params") or schema["data_type"]
            for key, schema in (answer.get("payload_schema") or {}).items()
        },
        config=config,
        aliases=tuple(sorted(aliases)),
        status=str(answer.get("status", "green")),
        shard_keys=tuple(sorted(shard_keys, key=str)),
    )


def vector_spec(spec: Json) -> VectorSpec:
    """From the REST form of one dense vector's settings."""
    given = {key: value for key, value in spec.items() if value is not None}
    return VectorSpec(
        size=int(given.pop("size")),
        distance=str(given.pop("distance")),
        datatype=str(given.pop("datatype", "float32")).lower(),
        multi=given.pop("multivector_config", None),
        rest=given,
    )
