"""What a Qdrant answers, held against what the manifest promises. Asks only; changes nothing.

A comparison never shows a payload or a vector: it becomes evidence in records, notices and logs.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from ops.backup.manifest import KnownQuery, Point, QdrantCollection
from ops.clients.rest import QdrantRest
from ops.errors import BackupError, UnprovenError, UnreachableError
from ops.restore.rehearsal import Comparison

Ask = Callable[[str, str, Any], Any]  # method, path, JSON body -> the `result` of the answer
Answers = Sequence[tuple[int | str, float]]

VECTOR_TOLERANCE = 1e-6  # relative: what a float loses on its way through JSON
SCORE_TOLERANCE = 1e-5  # another processor adds up in another order
POLL_SECONDS = 0.5
DIFFER_SHOWN = 3


def path_of(collection: str) -> str:
    """The URL path of a collection, whatever letters its name has."""
    return f"/collections/{quote(collection, safe='')}"


def readable(made_by: str, server: str) -> bool:
    """Whether a server may restore what a server of version `made_by` gave out.

    Qdrant promises its own minor version and the next, and never an older one.
    """
    made, there = _minor(made_by), _minor(server)
    return (
        made is not None
        and there is not None
        and made[0] == there[0]
        and (0 <= there[1] - made[1] <= 1)
    )


def _minor(version: str) -> tuple[int, int] | None:
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None


def ready(rest: QdrantRest) -> bool:
    """Whether it answers at all, and says that it is ready."""
    try:
        return rest.probe("/readyz") == httpx.codes.OK
    except UnreachableError:
        return False


def wait_until_ready(rest: QdrantRest, url: str, *, seconds: float) -> None:
    """Raises BackupError for one that is not ready after `seconds`."""
    limit = time.monotonic() + seconds
    while not ready(rest):
        if time.monotonic() > limit:
            raise BackupError(f"Qdrant at {url} did not get ready in {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


def wait_until_green(ask: Ask, collection: str, *, seconds: float) -> None:
    """Wait for the optimizer. Raises BackupError for a red one, UnprovenError after `seconds`."""
    limit = time.monotonic() + seconds
    nudged = False
    while True:
        status = ask("GET", path_of(collection), None)["status"]
        if status == "green":
            return
        if status == "red":
            raise BackupError(f"the rebuilt collection {collection} is red: Qdrant cannot use it")
        if status == "grey" and not nudged:
            # optimizations wait for the next update; an empty one is enough
            ask("PATCH", path_of(collection), {"optimizers_config": {}})
            nudged = True
        if time.monotonic() > limit:
            raise UnprovenError(f"{collection} is still {status} after {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


def exact_count(ask: Ask, collection: str) -> int:
    """The number of points, counted and not estimated."""
    answer = ask("POST", f"{path_of(collection)}/points/count", {"exact": True})
    return int(answer["count"])


def aliases(ask: Ask) -> dict[str, str]:
    """Alias -> collection, of the whole server."""
    found = ask("GET", "/aliases", None)["aliases"]
    return {entry["alias_name"]: entry["collection_name"] for entry in found}


def point_aliases(ask: Ask, wanted: dict[str, str]) -> None:
    """Let each alias lead to its collection, whatever it led to: all of them at one moment."""
    there = aliases(ask)
    actions: list[dict[str, Any]] = []
    for alias, collection in wanted.items():
        if alias in there:
            actions.append({"delete_alias": {"alias_name": alias}})
        new = {"alias_name": alias, "collection_name": collection}
        actions.append({"create_alias": new})
    if actions:
        ask("POST", "/collections/aliases", {"actions": actions})


def collections(ask: Ask) -> list[str]:
    """The names of all collections."""
    return [entry["name"] for entry in ask("GET", "/collections", None)["collections"]]


def compare_collection(
    ask: Ask, source: str, promised: QdrantCollection, name: str = ""
) -> list[Comparison]:
    """Count, vectors, payload indexes, sampled points and known queries of one collection.

    `name` is what it is called on this server, where that is not its name in the backup.
    """
    name = name or promised.name
    about = f"{source}/{name}: "
    info = ask("GET", path_of(name), None)
    return [
        _count(ask, about, promised, name),
        *_shape(about, promised.info, info),
        *_samples(ask, about, promised.samples, name),
        *(
            _query(ask, f"{about}query {number}", query, name)
            for number, query in enumerate(promised.queries, start=1)
        ),
    ]


def _count(ask: Ask, about: str, promised: QdrantCollection, name: str) -> Comparison:
    low, high = sorted(promised.count)
    found = exact_count(ask, name)
    expected = str(low) if low == high else f"{low} to {high}"
    return Comparison(f"{about}exact count", expected, str(found), low <= found <= high)


def _shape(about: str, promised: dict[str, Any], info: dict[str, Any]) -> list[Comparison]:
    expected, found = (part.get("config", {}).get("params", {}) for part in (promised, info))
    vectors = Comparison(
        f"{about}vectors",
        _vectors(expected.get("vectors")),
        _vectors(found.get("vectors")),
        alike(expected.get("vectors"), found.get("vectors")),
    )
    wanted, there = (sorted(part.get("payload_schema") or {}) for part in (promised, info))
    indexes = Comparison(
        f"{about}payload indexes",
        ", ".join(wanted) or "none",
        ", ".join(there) or "none",
        wanted == there,
    )
    return [vectors, indexes]


def _vectors(config: Any) -> str:
    if not isinstance(config, dict) or not config:
        return "none"
    if "size" in config:
        return f"{config['size']} {config.get('distance', '')}".strip()
    return ", ".join(f"{name}: {_vectors(part)}" for name, part in sorted(config.items()))


def _samples(ask: Ask, about: str, promised: list[Point], name: str) -> list[Comparison]:
    if not promised:
        return []
    wanted = {
        "ids": [point.id for point in promised],
        "with_vector": True,
        "with_payload": True,
    }
    answers = {point["id"]: point for point in ask("POST", f"{path_of(name)}/points", wanted)}
    wrong = [
        f"{point.id}: {difference}"
        for point in promised
        if (difference := _difference(point, answers.get(point.id)))
    ]
    total = len(promised)
    found = f"{total - len(wrong)} equal" + (
        f"; {'; '.join(wrong[:DIFFER_SHOWN])}" if wrong else ""
    )
    return [Comparison(f"{about}sampled points", f"{total} equal", found, not wrong)]


def _difference(promised: Point, found: dict[str, Any] | None) -> str:
    if found is None:
        return "missing"
    if not alike(promised.vector, found.get("vector")):
        return "the vector differs"
    if (promised.payload or {}) != (found.get("payload") or {}):
        return "the payload differs"
    return ""


def alike(one: Any, other: Any, tolerance: float = VECTOR_TOLERANCE) -> bool:
    """The same JSON, with numbers that differ by no more than `tolerance` of the larger."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            alike(a, b, tolerance) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            alike(value, other[key], tolerance) for key, value in one.items()
        )
    return bool(one == other)


def _query(ask: Ask, about: str, query: KnownQuery, name: str) -> Comparison:
    wanted = {
        "query": query.vector,
        "limit": query.limit,
        "params": {"exact": True, "quantization": {"ignore": True}},
    }
    answer = ask(
        "POST",
        f"{path_of(name)}/points/query",
        wanted | ({"using": query.using} if query.using else {}),
    )
    found = [(point["id"], float(point["score"])) for point in answer["points"]]
    return Comparison(
        about,
        _ids(query.answers),
        _ids(found),
        same_answers(query.answers, found, cut=len(query.answers) >= query.limit),
    )


def _ids(answers: Answers) -> str:
    return " ".join(str(identity) for identity, _ in answers) or "none"


def same_answers(expected: Answers, found: Answers, *, cut: bool) -> bool:
    """The same scores in the same order, and the same points behind each score.

    Points of one score may come in any order. Where the list was cut off at its limit, others of
    the last score may stand in it: who of them is let in is Qdrant's free choice.
    """
    if len(expected) != len(found):
        return False
    if not all(_tie(a[1], b[1]) for a, b in zip(expected, found, strict=True)):
        return False
    for start, end in _ties(expected):
        if cut and end == len(expected):
            continue
        if {i for i, _ in expected[start:end]} != {i for i, _ in found[start:end]}:
            return False
    return len({identity for identity, _ in found}) == len(found)


def _tie(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=SCORE_TOLERANCE, abs_tol=1e-6)


def _ties(answers: Answers) -> Iterable[tuple[int, int]]:
    """The stretches of equal scores, as (start, end)."""
    start = 0
    for position in range(1, len(answers) + 1):
        if position == len(answers) or not _tie(answers[position][1], answers[position - 1][1]):
            yield start, position
            start = position
