"""Collections, payload indexes and aliases, and the words and codes of each refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract_server import Server
from qdrant_client import QdrantClient, models

VECTOR = {"size": 4, "distance": "Cosine"}
TYPES = ["keyword", "integer", "float", "geo", "text", "bool", "datetime", "uuid"]


def test_a_collection_from_creation_to_deletion(
    server: Server, new_name: Callable[[], str]
) -> None:
    path = f"/collections/{(name := new_name())}"
    assert server.result("GET", f"{path}/exists") == {"exists": False}
    assert server.result("PUT", path, {"vectors": VECTOR}) is True
    assert server.result("GET", f"{path}/exists") == {"exists": True}
    assert {"name": name} in server.result("GET", "/collections")["collections"]
    assert server.result("DELETE", path) is True
    assert server.result("DELETE", path) is False
    missing = f"Not found: Collection `{name}` doesn't exist!"
    assert server.refused("GET", path) == (404, missing)


def test_what_a_fresh_collection_says_of_itself(
    server: Server, new_name: Callable[[], str]
) -> None:
    path = f"/collections/{new_name()}"
    body = {
        "vectors": {"text": VECTOR | {"on_disk": True}, "image": {"size": 2, "distance": "Euclid"}},
        "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
        "hnsw_config": {"m": 8},
    }
    server.result("PUT", path, body)
    info = server.result("GET", path)
    assert (info["status"], info["optimizer_status"]) == ("green", "ok")
    assert (info["points_count"], info["indexed_vectors_count"]) == (0, 0)
    assert info["segments_count"] >= 1
    assert info["payload_schema"] == {}
    config = info["config"]
    assert config["params"] == {
        "vectors": body["vectors"],
        "shard_number": 1,
        "replication_factor": 1,
        "write_consistency_factor": 1,
        "on_disk_payload": True,
    }
    assert config["quantization_config"] == body["quantization_config"]
    assert config["hnsw_config"]["m"] == 8
    assert config["hnsw_config"]["ef_construct"] == 100
    assert config["optimizer_config"]["indexing_threshold"] == 10000


def test_the_official_client_reads_the_same(
    client: QdrantClient, new_name: Callable[[], str]
) -> None:
    name = new_name()
    client.create_collection(
        name,
        models.VectorParams(size=4, distance=models.Distance.DOT),
        quantization_config=models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(always_ram=True)
        ),
    )
    assert client.collection_exists(name)
    config = client.get_collection(name).config
    assert config.params.vectors == models.VectorParams(size=4, distance=models.Distance.DOT)
    assert isinstance(config.quantization_config, models.BinaryQuantization)
    assert client.delete_collection(name)
    assert not client.collection_exists(name)


def test_patch_changes_only_what_it_names(server: Server, collection: str) -> None:
    path = f"/collections/{collection}"
    before = server.result("GET", path)["config"]
    body = {"hnsw_config": {"m": 24}, "optimizers_config": {"indexing_threshold": 20000}}
    assert server.result("PATCH", path, body) is True
    after = server.result("GET", path)["config"]
    assert after["hnsw_config"] == before["hnsw_config"] | {"m": 24}
    assert after["optimizer_config"] == before["optimizer_config"] | {"indexing_threshold": 20000}
    assert after["params"] == before["params"]


def test_refused_creations(server: Server, collection: str, new_name: Callable[[], str]) -> None:
    taken = f"Wrong input: Collection `{collection}` already exists!"
    assert server.refused("PUT", f"/collections/{collection}", {"vectors": VECTOR}) == (409, taken)
    path = f"/collections/{new_name()}"
    for vectors in ({"size": 0, "distance": "Dot"}, {"size": 4, "distance": "dot"}, {"size": 4}):
        status, words = server.refused("PUT", path, {"vectors": vectors})
        assert status == 400
        assert words.startswith("Format error in JSON body: ")
    for bad in ("a%2Fb", "a%3Ab", "a%2Ab", "a" * 256):
        status, words = server.refused("PUT", f"/collections/{bad}", {"vectors": VECTOR})
        assert status == 422
        assert words.startswith("Validation error in path parameters: [collection_name: ")
    assert server.result("GET", f"{path}/exists") == {"exists": False}


def test_what_is_absent_is_404(server: Server, new_name: Callable[[], str]) -> None:
    path = f"/collections/{(name := new_name())}"
    missing = (404, f"Not found: Collection `{name}` doesn't exist!")
    index = {"field_name": "a", "field_schema": "keyword"}
    point = {"points": [{"id": 1, "vector": [1, 1, 1, 1]}]}
    assert server.refused("GET", path) == missing
    assert server.refused("PATCH", path, {}) == missing
    assert server.refused("PUT", f"{path}/index", index) == missing
    assert server.refused("DELETE", f"{path}/index/a") == missing
    assert server.refused("PUT", f"{path}/points", point) == missing
    assert server.refused("POST", f"{path}/points/query", {"query": [1, 1, 1, 1]}) == missing
    assert server.refused("POST", f"{path}/points/count", {}) == missing
    unknown = server.send("GET", "/no-such-path")
    assert (unknown.status_code, unknown.text) == (404, "")


@pytest.mark.parametrize("kind", TYPES)
def test_a_payload_index_of_every_type(server: Server, collection: str, kind: str) -> None:
    path = f"/collections/{collection}"
    body = {"field_name": "deep.field", "field_schema": kind}
    done = server.result("PUT", f"{path}/index?wait=true", body)
    assert done["status"] == "completed"
    assert server.result("GET", path)["payload_schema"] == {
        "deep.field": {"data_type": kind, "points": 0}
    }
    server.result("PUT", f"{path}/index?wait=true", body)  # again: no error, no second one
    assert len(server.result("GET", path)["payload_schema"]) == 1
    server.result("DELETE", f"{path}/index/deep.field?wait=true")
    assert server.result("GET", path)["payload_schema"] == {}


def test_a_payload_index_counts_the_points_that_have_the_field(
    server: Server, collection: str
) -> None:
    path = f"/collections/{collection}"
    schema = {"type": "text", "tokenizer": "word", "lowercase": True}
    for field, wanted in (("kind", "keyword"), ("text", schema)):
        body = {"field_name": field, "field_schema": wanted}
        server.result("PUT", f"{path}/index?wait=true", body)
    assert server.result("GET", path)["payload_schema"] == {
        "kind": {"data_type": "keyword", "points": 2},
        "text": {"data_type": "text", "params": schema, "points": 1},
    }


def test_refused_indexes(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/index?wait=true"
    status, words = server.refused("PUT", path, {"field_name": "a", "field_schema": "nonsense"})
    assert status == 400
    assert words.startswith("Format error in JSON body: ")
    status, words = server.refused("PUT", path, {"field_name": "a"})
    assert status == 400
    assert words.startswith("Bad request: Can't auto-detect field type")


def alias(name: str, target: str) -> dict[str, Any]:
    return {"create_alias": {"collection_name": target, "alias_name": name}}


def test_aliases_point_move_and_go(
    server: Server, collection: str, new_name: Callable[[], str]
) -> None:
    other, first, second = new_name(), new_name(), new_name()
    server.result("PUT", f"/collections/{other}", {"vectors": VECTOR})

    def act(*actions: dict[str, Any]) -> None:
        assert server.result("POST", "/collections/aliases", {"actions": list(actions)}) is True

    def targets() -> dict[str, str]:
        listed = server.result("GET", "/aliases")["aliases"]
        named = {entry["alias_name"]: entry["collection_name"] for entry in listed}
        return {name: named[name] for name in (first, second) if name in named}

    act(alias(first, collection))
    assert targets() == {first: collection}
    assert server.result("GET", f"/collections/{first}")["points_count"] == 3
    assert server.result("GET", f"/collections/{first}/exists") == {"exists": True}
    assert server.result("GET", f"/collections/{collection}/aliases")["aliases"] == [
        {"alias_name": first, "collection_name": collection}
    ]
    act(alias(first, other))  # an alias that exists is moved without a word
    assert targets() == {first: other}
    act({"rename_alias": {"old_alias_name": first, "new_alias_name": second}})
    assert targets() == {second: other}
    act(alias(first, collection), {"delete_alias": {"alias_name": second}})
    assert targets() == {first: collection}
    assert server.result("DELETE", f"/collections/{first}") is False  # an alias is no collection
    server.result("DELETE", f"/collections/{collection}")
    assert targets() == {}  # and goes with the one it points to


def test_refused_aliases(server: Server, collection: str, new_name: Callable[[], str]) -> None:
    name, absent = new_name(), new_name()
    missing = (404, f"Not found: Collection `{absent}` doesn't exist!")
    taken = (409, f"Wrong input: Collection `{collection}` already exists!")
    rename = {"rename_alias": {"old_alias_name": absent, "new_alias_name": name}}

    def refusal(action: dict[str, Any]) -> tuple[int, str]:
        return server.refused("POST", "/collections/aliases", {"actions": [action]})

    assert refusal(alias(name, absent)) == missing
    assert refusal(alias(collection, collection)) == taken
    assert refusal(rename) == (404, f"Not found: Alias {absent} does not exists!")
    server.result("POST", "/collections/aliases", {"actions": [alias(name, collection)]})
    status, words = server.refused("PUT", f"/collections/{name}", {"vectors": VECTOR})
    assert (status, words.split(".")[-1]) == (400, " Alias with the same name already exists")


def test_broken_json_is_400(server: Server, collection: str) -> None:
    status, words = server.refused("POST", f"/collections/{collection}/points/scroll", None)
    assert status == 400
    assert words.startswith("Format error in JSON body: ")
