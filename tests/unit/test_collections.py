"""Declared collections against a server's answers, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from ops.collections import LiveState, desired, plan, reads
from ops.errors import ServiceError
from ops.settings import Collection

EXAMPLE = Collection.model_validate(
    {
        "vector": {"size": 1024, "distance": "cosine"},
        "quantization": "scalar",
        "payload_indexes": {"content_type": "keyword", "created_at": "datetime"},
        "aliases": ["library"],
    }
)
NAMED = Collection.model_validate(
    {"vectors": {"text": {"size": 8, "distance": "dot", "on_disk": True}, "image": {"size": 4}}}
)


def info(vectors: Any, schema: dict[str, str], quantization: Any = None) -> dict[str, Any]:
    """The body of GET /collections/{name}, as far as the plan reads it."""
    return {
        "result": {
            "status": "green",
            "config": {"params": {"vectors": vectors}, "quantization_config": quantization},
            "payload_schema": {f: {"data_type": k, "points": 0} for f, k in schema.items()},
        }
    }


def answers(infos: dict[str, Any], aliases: dict[str, str] | None = None) -> dict[str, Any]:
    listed = [{"name": name} for name in infos]
    pointing = [{"alias_name": a, "collection_name": c} for a, c in (aliases or {}).items()]
    return {
        "/collections": {"result": {"collections": listed}},
        "/aliases": {"result": {"aliases": pointing}},
        **{f"/collections/{name}": body for name, body in infos.items() if body},
    }


AS_DECLARED = info(
    {"size": 1024, "distance": "Cosine"},
    {"content_type": "keyword", "created_at": "datetime", "extra": "integer"},
    {"scalar": {"type": "int8", "always_ram": True}},
)


def test_reads_are_gets_and_name_every_declared_collection() -> None:
    asked = [(request.method, request.path) for request in reads({"a": EXAMPLE, "b": NAMED})]
    assert asked == [
        ("GET", "/collections"),
        ("GET", "/aliases"),
        ("GET", "/collections/a"),
        ("GET", "/collections/b"),
    ]


def test_desired_bodies_are_qdrants_own() -> None:
    assert desired({"a": EXAMPLE, "b": NAMED}) == {
        "a": {
            "vectors": {"size": 1024, "distance": "Cosine"},
            "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
        },
        "b": {
            "vectors": {
                "text": {"size": 8, "distance": "Dot", "on_disk": True},
                "image": {"size": 4, "distance": "Cosine"},
            }
        },
    }


def test_on_an_empty_server_everything_is_created_in_order() -> None:
    made = plan({"a": EXAMPLE}, LiveState.of(answers({})))
    assert [(request.method, request.path) for request in made.requests] == [
        ("PUT", "/collections/a"),
        ("PUT", "/collections/a/index?wait=true"),
        ("PUT", "/collections/a/index?wait=true"),
        ("POST", "/collections/aliases"),
    ]
    assert made.requests[0].body == desired({"a": EXAMPLE})["a"]
    assert made.requests[2].body == {"field_name": "created_at", "field_schema": "datetime"}
    assert made.requests[3].body == {
        "actions": [{"create_alias": {"collection_name": "a", "alias_name": "library"}}]
    }
    assert [request.says for request in made.requests] == [
        "create a",
        "index content_type (keyword) of a",
        "index created_at (datetime) of a",
        "alias library for a",
    ]
    assert made.differences == []


def test_what_is_as_declared_needs_nothing() -> None:
    live = LiveState.of(answers({"a": AS_DECLARED}, {"library": "a", "theirs": "a"}))
    made = plan({"a": EXAMPLE}, live)
    assert (made.requests, made.differences) == ([], [])


def test_only_what_is_missing_is_added() -> None:
    vectors = {"size": 1024, "distance": "Cosine"}
    some = info(vectors, {"created_at": "datetime"}, {"scalar": {"type": "int8"}})
    made = plan({"a": EXAMPLE}, LiveState.of(answers({"a": some})))
    assert [request.says for request in made.requests] == [
        "index content_type (keyword) of a",
        "alias library for a",
    ]
    assert made.differences == []


@pytest.mark.parametrize(
    ("live", "difference"),
    [
        (
            info({"size": 768, "distance": "Cosine"}, {}, {"scalar": {}}),
            "a: size is 768 on the server, 1024 in the settings",
        ),
        (
            info({"size": 1024, "distance": "Dot"}, {}, {"scalar": {}}),
            "a: distance is dot on the server, cosine in the settings",
        ),
        (
            info({"size": 1024, "distance": "Cosine", "on_disk": True}, {}, {"scalar": {}}),
            "a: on_disk is true on the server, false in the settings",
        ),
        (
            info({"text": {"size": 1024, "distance": "Cosine"}}, {}, {"scalar": {}}),
            "a: vectors is text on the server, one without a name in the settings",
        ),
        (
            info({"size": 1024, "distance": "Cosine"}, {}),
            "a: quantization is none on the server, scalar in the settings",
        ),
        (
            info({"size": 1024, "distance": "Cosine"}, {"created_at": "keyword"}, {"scalar": {}}),
            "a: payload index created_at is keyword on the server, datetime in the settings",
        ),
    ],
)
def test_what_differs_is_reported_and_never_touched(live: Any, difference: str) -> None:
    made = plan({"a": EXAMPLE}, LiveState.of(answers({"a": live}, {"library": "a"})))
    assert made.differences == [difference]
    # what is sent only ever adds an index that was not there
    assert all(request.path == "/collections/a/index?wait=true" for request in made.requests)
    schema = live["result"]["payload_schema"]
    assert all((request.body or {})["field_name"] not in schema for request in made.requests)


def test_named_vectors_are_compared_one_by_one() -> None:
    vectors = {"text": {"size": 8, "distance": "Dot"}, "image": {"size": 5, "distance": "Cosine"}}
    made = plan({"b": NAMED}, LiveState.of(answers({"b": info(vectors, {})})))
    assert made.differences == [
        "b: vector text on_disk is false on the server, true in the settings",
        "b: vector image size is 5 on the server, 4 in the settings",
    ]


def test_the_newer_way_to_say_on_disk_is_understood() -> None:
    vectors = {
        "text": {"size": 8, "distance": "Dot", "memory": "cold"},
        "image": {"size": 4, "distance": "Cosine"},
    }
    assert plan({"b": NAMED}, LiveState.of(answers({"b": info(vectors, {})}))).differences == []


def test_an_alias_that_points_elsewhere_stays_there() -> None:
    live = LiveState.of(answers({"a": AS_DECLARED, "old": None}, {"library": "old"}))
    made = plan({"a": EXAMPLE}, live)
    assert (made.requests, made.differences) == ([], ["a: alias library points to old"])


def test_a_name_that_is_taken_by_the_other_kind_is_reported() -> None:
    live = LiveState.of(answers({"a": AS_DECLARED, "library": None}))
    assert plan({"a": EXAMPLE}, live).differences == [
        "a: alias library is a collection on the server"
    ]
    live = LiveState.of(answers({"old": None}, {"a": "old"}))
    made = plan({"a": EXAMPLE}, live)
    assert made.differences == ["a: is an alias of old on the server, not a collection"]
    assert made.requests == []


def test_a_404_of_an_undeclared_name_is_absence_and_nothing_else_is() -> None:
    missing = {"status": {"error": "Not found: Collection `a` doesn't exist!"}}
    live = LiveState.of(answers({}) | {"/collections/a": missing})
    assert live.collections == {}
    broken = answers({"a": AS_DECLARED}) | {"/collections/a": {"status": {"error": "disk full"}}}
    with pytest.raises(ServiceError, match="GET /collections/a: disk full"):
        LiveState.of(broken)
    with pytest.raises(ServiceError, match="GET /collections: no answer"):
        LiveState.of({})
