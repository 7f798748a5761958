"""Declared collections against what a Qdrant server has: what to send, and what differs.

Pure: it neither sends nor reads. It adds what is missing and never changes or deletes what is
there; a collection that differs is reported, because making it right would mean copying its points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ops.errors import ServiceError
from ops.settings import Collection
from ops.settings.model import Vector

Json = dict[str, Any]
UNNAMED = ""  # how Qdrant itself calls the only vector of a collection

QUANTIZATION: dict[str, Json] = {
    "scalar": {"scalar": {"type": "int8", "always_ram": True}},
    "binary": {"binary": {"always_ram": True}},
}


@dataclass(frozen=True)
class Request:
    """One REST call to send. `says` is the line a person reads about it."""

    method: str
    path: str
    body: Json | None
    says: str


@dataclass(frozen=True)
class CollectionPlan:
    """`requests` in the order to send them; `differences` are for a person to decide about."""

    requests: list[Request]
    differences: list[str]


@dataclass(frozen=True)
class LiveState:
    """What the server has: collection info by name, and each alias with its collection."""

    collections: Mapping[str, Json]
    aliases: Mapping[str, str]

    @classmethod
    def of(cls, answers: Mapping[str, Any]) -> LiveState:
        """From the JSON bodies that answer `reads()`, by path. A 404 body means: not there.

        Raises ServiceError when an answer that must be there is none.
        """
        listed = [entry["name"] for entry in _result(answers, "/collections")["collections"]]
        aliases = _result(answers, "/aliases")["aliases"]
        wanted = [name for name in listed if _path(name) in answers]
        return cls(
            {name: _result(answers, _path(name)) for name in wanted}
            | {name: {} for name in listed if name not in wanted},
            {entry["alias_name"]: entry["collection_name"] for entry in aliases},
        )


def reads(declared: Mapping[str, Collection]) -> list[Request]:
    """The GET requests whose answers make a LiveState."""
    return [
        Request("GET", "/collections", None, "list collections"),
        Request("GET", "/aliases", None, "list aliases"),
        *(Request("GET", _path(name), None, f"look at {name}") for name in declared),
    ]


def desired(declared: Mapping[str, Collection]) -> dict[str, Json]:
    """The body that creates each collection, by name."""
    return {name: _create_body(collection) for name, collection in declared.items()}


def plan(declared: Mapping[str, Collection], live: LiveState) -> CollectionPlan:
    """Creations, missing payload indexes and missing aliases; and everything that differs."""
    requests: list[Request] = []
    differences: list[str] = []
    for name, collection in declared.items():
        if name in live.aliases:
            target = live.aliases[name]
            differences.append(f"{name}: is an alias of {target} on the server, not a collection")
            continue
        info = live.collections.get(name)
        if info is None:
            requests.append(Request("PUT", _path(name), _create_body(collection), f"create {name}"))
        else:
            differences += [f"{name}: {text}" for text in _differences(collection, info)]
        requests += _missing_indexes(name, collection, info or {})
        for alias in collection.aliases:
            if alias in live.collections:
                differences.append(f"{name}: alias {alias} is a collection on the server")
            elif alias not in live.aliases:
                requests.append(_create_alias(name, alias))
            elif live.aliases[alias] != name:
                differences.append(f"{name}: alias {alias} points to {live.aliases[alias]}")
    return CollectionPlan(requests, differences)


def _path(name: str) -> str:
    return f"/collections/{name}"


def _result(answers: Mapping[str, Any], path: str) -> Any:
    answer = answers.get(path)
    if not isinstance(answer, dict) or "result" not in answer:
        status = answer.get("status") if isinstance(answer, dict) else answer
        reason = status.get("error") if isinstance(status, dict) else status
        raise ServiceError(f"Qdrant did not answer GET {path}: {reason or 'no answer'}")
    return answer["result"]


def _vectors(collection: Collection) -> dict[str, Vector]:
    return {UNNAMED: collection.vector} if collection.vector else dict(collection.vectors)


def _create_body(collection: Collection) -> Json:
    vectors = {name: _vector_body(vector) for name, vector in _vectors(collection).items()}
    body: Json = {"vectors": vectors.get(UNNAMED, vectors)}
    if collection.quantization != "none":
        body["quantization_config"] = QUANTIZATION[collection.quantization]
    return body


def _vector_body(vector: Vector) -> Json:
    body: Json = {"size": vector.size, "distance": vector.distance.value.capitalize()}
    return body | ({"on_disk": True} if vector.on_disk else {})


def _missing_indexes(name: str, collection: Collection, info: Json) -> list[Request]:
    present = info.get("payload_schema", {})
    return [
        Request(
            "PUT",
            f"{_path(name)}/index?wait=true",
            {"field_name": field, "field_schema": kind},
            f"index {field} ({kind}) of {name}",
        )
        for field, kind in collection.payload_indexes.items()
        if field not in present
    ]


def _create_alias(name: str, alias: str) -> Request:
    action = {"create_alias": {"collection_name": name, "alias_name": alias}}
    body = {"actions": [action]}
    return Request("POST", "/collections/aliases", body, f"alias {alias} for {name}")


def _differences(collection: Collection, info: Json) -> Iterator[str]:
    config = info["config"]
    yield from _vector_differences(_vectors(collection), config["params"].get("vectors") or {})
    quantization = next(iter(config.get("quantization_config") or {}), "none")
    if quantization != collection.quantization:
        yield _differs("quantization", quantization, collection.quantization)
    for field, kind in collection.payload_indexes.items():
        found = info["payload_schema"].get(field, {}).get("data_type", kind)
        if found != kind:
            yield _differs(f"payload index {field}", found, kind)


def _vector_differences(declared: dict[str, Vector], live: Json) -> Iterator[str]:
    if isinstance(live.get("size"), int):
        live = {UNNAMED: live}
    if declared.keys() != live.keys():
        yield _differs("vectors", _names(live), _names(declared))
        return
    for name, vector in declared.items():
        found, label = live[name], f"vector {name} " if name else ""
        distance = found["distance"].lower()
        on_disk = bool(found.get("on_disk")) or found.get("memory") == "cold"
        if found["size"] != vector.size:
            yield _differs(f"{label}size", found["size"], vector.size)
        if distance != vector.distance:
            yield _differs(f"{label}distance", distance, vector.distance.value)
        if on_disk != vector.on_disk:
            yield _differs(f"{label}on_disk", str(on_disk).lower(), str(vector.on_disk).lower())


def _names(vectors: Mapping[str, Any]) -> str:
    return ", ".join(name or "one without a name" for name in sorted(vectors)) or "none"


def _differs(what: str, found: object, declared: object) -> str:
    return f"{what} is {found} on the server, {declared} in the settings"
