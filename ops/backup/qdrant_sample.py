"""What a collection is held to after a restore: its exact count, some points, some searches.

Only reads. All is cheap on any size: 20 points, and searches within a budget of bytes to scan.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import UUID

from ops.backup.manifest import KnownQuery, Point
from ops.clients.rest import QdrantRest, RefusedError
from ops.errors import UnreachableError

POINTS = 20
FIRST = 8  # of them, by id; the others lie spread over the ids
STEPS = 7  # into which the range of ids is cut
POINT_BYTES = 256 * 1024  # of JSON; a larger point is no sample, for the manifest is held in memory
QUERIES = 5  # of each dense vector
LIMIT = 5
# an exact search reads every vector: so much by all searches of one vector, and by one at most
SCANNED_BYTES, SCANNED_AT_MOST = 8 * 1024**3, 32 * 1024**3
# answers closer together than this may change places from one machine to another
NEAR = 1e-5
HIGHEST = 2**64 - 1

PointId = int | str
Json = dict[str, Any]


@dataclass(frozen=True)
class Observation:
    count: int
    samples: list[Point]
    queries: list[KnownQuery]

    def unchanged(self, later: Observation) -> tuple[list[Point], list[KnownQuery]]:
        """The samples and queries that a later look found the same."""
        return (
            [point for point in self.samples if point in later.samples],
            [query for query in self.queries if query in later.queries],
        )


def collection_path(name: str) -> str:
    return f"/collections/{quote(name, safe='')}"


def dense_vectors(config: Mapping[str, Any]) -> dict[str, int]:
    """Dimensions by vector name, "" for the unnamed; without sparse and multi vectors."""
    vectors = config["params"].get("vectors") or {}
    named = {"": vectors} if isinstance(vectors.get("size"), int) else vectors
    return {
        name: int(params["size"])
        for name, params in named.items()
        if not params.get("multivector_config")
    }


def observe(rest: QdrantRest, name: str, config: Mapping[str, Any]) -> Observation:
    """A first look. Raises what `QdrantRest.request` does."""
    path = collection_path(name)
    count = _count(rest, path)
    samples = _retrieve(rest, path, _spread(rest, path, count))
    queries = []
    for using, size in sorted(dense_vectors(config).items()):
        queries += _queries(rest, path, using, samples, _affordable(count * size * 4))
    return Observation(count, samples, queries)


def observe_again(rest: QdrantRest, name: str, earlier: Observation) -> Observation:
    """The same points and searches, looked at once more. Raises what `QdrantRest.request` does."""
    path = collection_path(name)
    queries = [_ask(rest, path, query.using, query.vector) for query in earlier.queries]
    samples = _retrieve(rest, path, [point.id for point in earlier.samples])
    return Observation(_count(rest, path), samples, [query for query in queries if query])


def _affordable(scanned: int) -> int:
    """How many exact searches that read so many bytes each are made."""
    if scanned > SCANNED_AT_MOST:
        return 0
    return max(1, min(QUERIES, SCANNED_BYTES // max(scanned, 1)))


def _count(rest: QdrantRest, path: str) -> int:
    return int(rest.request("POST", f"{path}/points/count", {"exact": True})["count"])


def _spread(rest: QdrantRest, path: str, count: int) -> list[PointId]:
    """Ids from the beginning, and from steps along the numbers and along the UUIDs."""
    if count <= POINTS:
        return _ids(rest, path, POINTS)
    found = _ids(rest, path, FIRST)
    offsets: list[PointId] = [str(UUID(int=(2**128 // STEPS) * step)) for step in range(1, STEPS)]
    if found and isinstance(found[0], int):
        begin = found[0]
        numbers = [min(begin + count * step // STEPS, HIGHEST) for step in range(1, STEPS)]
        offsets = [*numbers, *offsets]
    for offset in offsets:
        found += _ids(rest, path, 1, offset)
    return list(dict.fromkeys(found))[:POINTS]


def _ids(rest: QdrantRest, path: str, limit: int, offset: PointId | None = None) -> list[PointId]:
    body: Json = {"limit": limit, "with_payload": False, "with_vector": False}
    body |= {} if offset is None else {"offset": offset}
    page = _where_allowed(lambda: rest.request("POST", f"{path}/points/scroll", body))
    return [point["id"] for point in page["points"]] if page else []


def _retrieve(rest: QdrantRest, path: str, ids: Sequence[PointId]) -> list[Point]:
    if not ids:
        return []
    body = {"ids": list(ids), "with_payload": True, "with_vector": True}
    by_id = {point["id"]: point for point in rest.request("POST", f"{path}/points", body)}
    return [
        Point(id=each, vector=point.get("vector"), payload=point.get("payload"))
        for each in ids
        if (point := by_id.get(each)) and len(json.dumps(point)) <= POINT_BYTES
    ]


def _queries(
    rest: QdrantRest, path: str, using: str, samples: Sequence[Point], wanted: int
) -> list[KnownQuery]:
    """Searches for the samples' own vectors, as far as their answers have one order."""
    found: list[KnownQuery] = []
    vectors = [vector for point in samples if (vector := _vector_of(point, using))]
    for vector in vectors[: 2 * wanted]:
        if query := _ask(rest, path, using, vector):
            found.append(query)
        if len(found) == wanted:
            break
    return found


def _vector_of(point: Point, using: str) -> list[float]:
    vector = point.vector.get(using) if isinstance(point.vector, dict) else point.vector
    if not isinstance(vector, list) or (vector and isinstance(vector[0], list)):
        return []
    return vector


def _ask(rest: QdrantRest, path: str, using: str, vector: list[float]) -> KnownQuery | None:
    """The exact answers, unless two of them (or the next one) are as near as each other."""
    body: Json = {
        "query": vector,
        "limit": LIMIT + 1,
        "params": {"exact": True, "quantization": {"ignore": True}},
        "with_payload": False,
    }
    body |= {"using": using} if using else {}
    try:
        found = _where_allowed(lambda: rest.request("POST", f"{path}/points/query", body))
    except UnreachableError:  # too slow for a search; a server that is gone fails the next call
        return None
    answers = [(hit["id"], hit["score"]) for hit in found["points"]] if found else []
    scores = [score for _, score in answers]
    tied = any(
        abs(one - other) <= NEAR * max(abs(one), abs(other), NEAR)
        for one, other in itertools.pairwise(scores)
    )
    if tied or not answers:
        return None
    return KnownQuery(vector=vector, using=using, limit=LIMIT, answers=answers[:LIMIT])


def _where_allowed(ask: Callable[[], Any]) -> Any:
    """None where a collection's strict mode forbids such a read: its count is proof enough."""
    try:
        return ask()
    except RefusedError as error:
        if error.status in (400, 403):
            return None
        raise
