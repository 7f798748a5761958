"""Collections to move and to compare: every kind of vector, id and payload that Qdrant takes.

All of it follows from a seed: the same kind, count and seed give the same points on any machine.
Fills servers over plain REST and embedded folders by the official client; no code of ours.
"""

from __future__ import annotations

import contextlib
import secrets
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from qdrant_client import QdrantClient, models
from stand_in_process import StandIn, make

Json = dict[str, Any]
PointId = int | str

BLOCK = 1000  # points whose numbers come from one generator
SIZE = 16  # dimensions, where nothing else is said
PATIENCE = 600  # seconds
REQUEST_BYTES = 8_000_000  # about; Qdrant refuses bodies over 32 MB

# what a careless reader loses: the ends of the numbers, and what looks like none of them
EDGE_IDS: tuple[PointId, ...] = (
    0,
    1,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    "00000000-0000-0000-0000-000000000000",
    "00000000-0000-0000-0000-000000000001",
    "7fffffff-ffff-ffff-ffff-ffffffffffff",
    "80000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
)
PAYLOADS: tuple[Json | None, ...] = (
    None,
    {},
    {"text": "close the door", "page": 7, "draft": False, "tags": ["a", "b"]},
    {"none": None, "empty": "", "no list": [], "no map": {}, "zero": 0, "false": False},
    {"one": 1, "one as a float": 1.0, "true": True, "minus nothing": -0.0},
    {"most": 2**63 - 1, "least": -(2**63), "beyond": 2**64 - 1, "odd": 2**53 + 1},
    {"tenth": 0.1, "huge": 1.7976931348623157e308, "tiny": 5e-324, "third": 1 / 3},
    {"größe": "naïve - 日本語 - 😀", "control": "\t\n\u0001", "ends": 'a "b" \\ c', "": "no name"},
    {"a": {"b": {"c": [{"d": [1, [2, [3, None]]]}, {"e": {"f": "deep"}}]}}, "a.b": "a dot"},
    {"made": "2026-01-02T03:04:05Z", "place": {"lon": 13.4, "lat": 52.5}},
)
# what a float32 may be, at its ends: the least, a subnormal, the next after 1, almost the largest
EDGE_FLOATS = np.array([1e-45, -1.1e-38, 1.0000001, 3.0e38, -0.0, 0.1], dtype=np.float32)

DENSE: Json = {"size": SIZE, "distance": "Cosine"}
MULTI: Json = {"multivector_config": {"comparator": "max_sim"}}
KINDS: dict[str, Json] = {
    "unnamed": {"vectors": DENSE},
    "dot": {"vectors": DENSE | {"distance": "Dot"}},
    "named": {
        "vectors": {
            "text": DENSE,
            "image": {"size": 4, "distance": "Euclid"},
            "größe": {"size": 1, "distance": "Manhattan"},
        }
    },
    "sparse": {"vectors": {}, "sparse_vectors": {"words": {"modifier": "idf"}, "more": {}}},
    "multivector": {"vectors": DENSE | MULTI},
    "mixed": {
        "vectors": {
            "text": DENSE,
            "plain": {"size": 8, "distance": "Dot"},
            "tokens": {"size": 4, "distance": "Cosine"} | MULTI,
        },
        "sparse_vectors": {"words": {}},
    },
    "half": {"vectors": DENSE | {"datatype": "float16"}},
    "half dot": {"vectors": DENSE | {"distance": "Dot", "datatype": "float16"}},
    "bytes": {"vectors": DENSE | {"datatype": "uint8"}},
    "bare": {"vectors": {}},
}
INDEXES: dict[str, Any] = {
    "page": "integer",
    "tags": "keyword",
    "text": {"type": "text", "tokenizer": "word", "min_token_len": 2, "lowercase": True},
    "made": {"type": "datetime", "is_principal": True},
}


@dataclass(frozen=True)
class Dataset:
    """`points` many; `create` is the body that makes the collection over REST.

    `large` points have a payload of `large_bytes`; `gaps` leaves vectors out where names allow it.
    """

    kind: str
    points: int
    seed: int = 1
    size: int = SIZE  # dimensions of the vectors that would have SIZE
    large: int = 0
    large_bytes: int = 1_000_000
    gaps: bool = True
    plain: bool = False  # ids 0, 1, 2..., one text each: what a benchmark is about

    @property
    def create(self) -> Json:
        return _resized(KINDS[self.kind], self.size)

    def ids(self) -> list[PointId]:
        """In Qdrant's order: numbers, then UUIDs."""
        return sorted(
            (self.id_of(number) for number in range(self.points)),
            key=lambda each: (isinstance(each, str), each),
        )

    def id_of(self, number: int) -> PointId:
        """The edges first, then numbers in a row, numbers far apart and UUIDs, a third of each."""
        if self.plain:
            return number
        if number < len(EDGE_IDS):
            return EDGE_IDS[number]
        if number % 3 == 0:
            return 1000 + number
        mixed = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.seed} {number}")
        if number % 3 == 1:
            return 2**40 + mixed.int % 2**62
        return str(mixed)

    def point(self, number: int) -> Json:
        """As REST takes it."""
        return next(self.some(number, number + 1))

    def some(self, start: int = 0, end: int | None = None) -> Iterator[Json]:
        """The points from `start` on, up to `end`."""
        end = self.points if end is None else end
        for block in range(start // BLOCK, -(-end // BLOCK)):
            chance = np.random.default_rng([self.seed, block])
            vectors = self._vectors(chance, min(BLOCK, self.points - block * BLOCK))
            for place, vector in enumerate(vectors):
                number = block * BLOCK + place
                if start <= number < end:
                    yield self._point(number, vector)

    def _point(self, number: int, vector: Any) -> Json:
        found: Json = {"id": self.id_of(number), "vector": vector}
        payload = self._payload(number)
        return found if payload is None else found | {"payload": payload}

    def _payload(self, number: int) -> Json | None:
        if self.plain:
            return {"text": f"the text of chunk {number} " * 12, "page": number % 400}
        if number < self.large:
            mark = f"{self.seed}-{number} "
            return {"text": (mark * (self.large_bytes // len(mark) + 1))[: self.large_bytes - 40]}
        payload = PAYLOADS[number % len(PAYLOADS)]
        return payload and payload | {"number": number}

    def _vectors(self, chance: np.random.Generator, count: int) -> Iterator[Any]:
        config = self.create
        dense, sparse = config["vectors"], config.get("sparse_vectors", {})
        if "size" in dense:
            yield from _columns(chance, count, dense)
            return
        names = {name: _columns(chance, count, params) for name, params in dense.items()}
        names |= {name: _sparse(chance, count) for name in sparse}
        for number in range(count):
            row = {name: next(column) for name, column in names.items()}
            # a name in three is left out, another one each time, and at times all of them
            yield {
                name: vector
                for place, (name, vector) in enumerate(row.items())
                if not (self.gaps and ((number + place) % 3 == 0 or number % 7 == 0))
            }


def _resized(config: Json, size: int) -> Json:
    if isinstance(config, dict):
        return {
            name: size if (name, value) == ("size", SIZE) else _resized(value, size)
            for name, value in config.items()
        }
    return config


def _columns(chance: np.random.Generator, count: int, params: Json) -> Iterator[Any]:
    """One vector for each point: lists of floats that are float32 exactly."""
    size = params["size"]
    if "multivector_config" in params:
        for _ in range(count):
            many = int(chance.integers(1, 5))
            yield chance.standard_normal((many, size), dtype=np.float32).tolist()
    elif params.get("datatype") == "uint8":
        yield from chance.integers(0, 256, (count, size)).tolist()
    else:
        rows = chance.standard_normal((count, size), dtype=np.float32)
        if params["distance"] != "Cosine" and params.get("datatype") != "float16":
            rows[::5, 0] = np.resize(EDGE_FLOATS, len(rows[::5]))
        yield from rows.tolist()


def _sparse(chance: np.random.Generator, count: int) -> Iterator[Json]:
    """Indices in no order, with the largest that there is."""
    for number in range(count):
        many = int(chance.integers(0 if number % 11 == 0 else 1, 12))
        indices = [2**32 - 1, *chance.choice(30_000, 12, replace=False).tolist()][:many]
        values = chance.standard_normal(many, dtype=np.float32).tolist()
        yield {"indices": indices, "values": values}


class Rest:
    """A Qdrant spoken to without any code of ours."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url.rstrip("/"), key
        self.grpc_port = (httpx.URL(url).port or 6333) + 1
        self._http = httpx.Client(
            base_url=self.url, headers={"api-key": key} if key else {}, timeout=PATIENCE
        )

    def send(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, path, json=body)
        assert answer.is_success, f"{method} {path}: {answer.text[:500]}"
        return answer.json()["result"]

    def fill(
        self, name: str, data: Dataset, *, create: Json | None = None, indexes: bool = False
    ) -> None:
        """Make the collection, with further settings in `create`, and write every point."""
        self.send("PUT", f"/collections/{name}", data.create | (create or {}))
        for field, schema in INDEXES.items() if indexes else ():
            body = {"field_name": field, "field_schema": schema}
            self.send("PUT", f"/collections/{name}/index?wait=true", body)
        for batch in batches(data):
            self.send("PUT", f"/collections/{name}/points?wait=true", {"points": batch})

    def copy(self, name: str, other: str, *, create: Json | None = None) -> None:
        """Another collection with the points of this one, as the server gives them out."""
        self.send("PUT", f"/collections/{other}", create or {"vectors": {}})
        for points in self.scroll(name):
            self.send("PUT", f"/collections/{other}/points?wait=true", {"points": points})

    def scroll(self, name: str) -> Iterator[list[Json]]:
        """All points, some at a time."""
        body: Json = {"limit": 500, "with_vector": True, "with_payload": True}
        while True:
            found = self.send("POST", f"/collections/{name}/points/scroll", body)
            if found["points"]:
                yield found["points"]
            if found["next_page_offset"] is None:
                return
            body["offset"] = found["next_page_offset"]

    def point(self, name: str, point: PointId) -> Json:
        body = {"ids": [point], "with_vector": True, "with_payload": True}
        found: Json = self.send("POST", f"/collections/{name}/points", body)[0]
        return found

    def put(self, name: str, *points: Json) -> None:
        self.send("PUT", f"/collections/{name}/points?wait=true", {"points": list(points)})

    def delete(self, name: str, *ids: PointId) -> None:
        self.send("POST", f"/collections/{name}/points/delete?wait=true", {"points": list(ids)})

    def count(self, name: str) -> int:
        return int(self.send("POST", f"/collections/{name}/points/count", {"exact": True})["count"])

    def drop(self, name: str) -> None:
        answer = self._http.request("DELETE", f"/collections/{name}?timeout=60")
        assert answer.is_success, answer.text

    def alias(self, alias: str, name: str) -> None:
        new = {"create_alias": {"alias_name": alias, "collection_name": name}}
        self.send("POST", "/collections/aliases", {"actions": [new]})

    def drop_alias(self, alias: str) -> None:
        gone = {"delete_alias": {"alias_name": alias}}
        self.send("POST", "/collections/aliases", {"actions": [gone]})


def batches(data: Dataset) -> Iterator[list[Json]]:
    """Few large points or many small ones."""
    batch: list[Json] = []
    room = REQUEST_BYTES
    for number, point in enumerate(data.some()):
        cost = data.large_bytes if number < data.large else 22 * data.size + 1000
        if batch and (cost > room or len(batch) == BLOCK):
            yield batch
            batch, room = [], REQUEST_BYTES
        batch.append(point)
        room -= cost
    if batch:
        yield batch


def fill_folder(folder: Path, name: str, data: Dataset) -> None:
    """The same in the client's embedded mode, which keeps what it was given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own limits
        client = QdrantClient(path=str(folder))
        config = data.create
        dense, sparse = config["vectors"], config.get("sparse_vectors", {})
        client.create_collection(
            name,
            vectors_config=models.VectorParams(**dense)
            if "size" in dense
            else {each: models.VectorParams(**params) for each, params in dense.items()},
            sparse_vectors_config={
                each: models.SparseVectorParams(**params) for each, params in sparse.items()
            },
        )
        for batch in batches(data):
            client.upsert(name, [models.PointStruct(**point) for point in batch])
        client.close()


@contextlib.contextmanager
def running_stand_in(folder: Path) -> Iterator[StandIn]:
    """One more server, which a test may stop and start again."""
    stand_in = make(folder, secrets.token_hex(24))
    stand_in.start()
    try:
        yield stand_in
    finally:
        if stand_in.process and stand_in.process.poll() is None:
            stand_in.stop()
