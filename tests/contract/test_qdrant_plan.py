"""The plan for declared collections, sent to the server by the standard library alone."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from contract_server import Server

from ops.collections import LiveState, Request, plan, reads
from ops.settings import Collection


def relay(server: Server, request: Request) -> Any:
    """What a host without any package of ours does with a request."""
    asked = urllib.request.Request(
        server.url + request.path,
        method=request.method,
        data=None if request.body is None else json.dumps(request.body).encode(),
        headers={"api-key": server.key, "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(asked) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refusal:
        return json.load(refusal)


def look(server: Server, declared: dict[str, Collection]) -> LiveState:
    return LiveState.of({ask.path: relay(server, ask) for ask in reads(declared)})


def declared(first: str, second: str, alias: str) -> dict[str, Collection]:
    library = {
        "vector": {"size": 16, "distance": "cosine", "on_disk": True},
        "quantization": "scalar",
        "payload_indexes": {
            "content_type": "keyword",
            "taxonomy.level1": "keyword",
            "pages": "integer",
            "classification.confidence": "float",
            "place": "geo",
            "text": "text",
            "draft": "bool",
            "created_at": "datetime",
            "document": "uuid",
        },
        "aliases": [alias],
    }
    pictures = {
        "vectors": {"small": {"size": 4, "distance": "euclid"}, "large": {"size": 8}},
        "quantization": "binary",
    }
    return {
        first: Collection.model_validate(library),
        second: Collection.model_validate(pictures),
    }


def test_applied_twice_the_plan_is_empty(server: Server, new_name: Callable[[], str]) -> None:
    first, second, alias = new_name(), new_name(), new_name()
    wanted = declared(first, second, alias)
    made = plan(wanted, look(server, wanted))
    assert len(made.requests) == 2 + 9 + 1
    for request in made.requests:
        assert relay(server, request)["status"] == "ok"
    again = plan(wanted, look(server, wanted))
    assert (again.requests, again.differences) == ([], [])
    # read by another way: the server has what was declared
    info = server.result("GET", f"/collections/{alias}")
    assert info["config"]["params"]["vectors"] == {
        "size": 16,
        "distance": "Cosine",
        "on_disk": True,
    }
    found = {field: index["data_type"] for field, index in info["payload_schema"].items()}
    assert found == wanted[first].payload_indexes


def test_a_difference_made_by_hand_is_reported_and_left(
    server: Server, new_name: Callable[[], str]
) -> None:
    first, second, alias = new_name(), new_name(), new_name()
    wanted = declared(first, second, alias)
    for request in plan(wanted, look(server, wanted)).requests:
        relay(server, request)
    move = {"create_alias": {"collection_name": second, "alias_name": alias}}
    server.result("POST", "/collections/aliases", {"actions": [move]})
    server.result("PATCH", f"/collections/{first}", {"quantization_config": "Disabled"})
    for field, kind in (("pages", "float"), ("draft", None)):
        server.result("DELETE", f"/collections/{first}/index/{field}?wait=true")
        if kind:
            body = {"field_name": field, "field_schema": kind}
            server.result("PUT", f"/collections/{first}/index?wait=true", body)
    found = plan(wanted, look(server, wanted))
    assert found.differences == [
        f"{first}: quantization is none on the server, scalar in the settings",
        f"{first}: payload index pages is float on the server, integer in the settings",
        f"{first}: alias {alias} points to {second}",
    ]
    assert [request.says for request in found.requests] == [f"index draft (bool) of {first}"]


def test_another_size_is_reported_and_the_points_stay(server: Server, collection: str) -> None:
    wanted = {collection: Collection.model_validate({"vector": {"size": 5}})}
    found = plan(wanted, look(server, wanted))
    assert found.requests == []
    assert found.differences == [f"{collection}: size is 4 on the server, 5 in the settings"]
    assert server.result("GET", f"/collections/{collection}")["points_count"] == 3
