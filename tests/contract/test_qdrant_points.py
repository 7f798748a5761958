"""Points: written and read back raw and through the official client, filtered and searched."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
from contract_server import UUID, Server
from qdrant_client import QdrantClient, models


def test_vectors_of_a_cosine_collection_are_kept_normalised(
    server: Server, collection: str
) -> None:
    record = server.result("GET", f"/collections/{collection}/points/1")
    assert record["vector"] == [0.6, 0.8, 0.0, 0.0]
    assert record["payload"]["kind"] == "guide"


def test_points_by_id_carry_only_what_is_asked(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/points"
    assert server.result("POST", path, {"ids": [2, 99]}) == [{"id": 2}]
    full = {"ids": [UUID], "with_payload": True, "with_vector": True}
    assert server.result("POST", path, full) == [
        {"id": UUID, "payload": {}, "vector": [0.0, 0.0, 1.0, 0.0]}
    ]
    some = {"ids": [1], "with_payload": ["kind", "level"]}
    assert server.result("POST", path, some) == [
        {"id": 1, "payload": {"kind": "guide", "level": 5}}
    ]
    missing = (404, "Not found: Point with id 99 does not exists!")
    assert server.refused("GET", f"{path}/99") == missing
    unreadable = (400, 'Wrong input: Can not recognize "x" as point id')
    assert server.refused("GET", f"{path}/x") == unreadable


def test_an_upsert_replaces_the_whole_point(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/points"
    body = {"points": [{"id": 1, "vector": [0, 0, 0, 2], "payload": {"new": None}}]}
    done = server.result("PUT", f"{path}?wait=true", body)
    assert done["status"] == "completed"
    assert server.result("GET", f"{path}/1") == {
        "id": 1,
        "payload": {"new": None},
        "vector": [0.0, 0.0, 0.0, 1.0],
    }
    assert server.result("PUT", path, body)["status"] == "acknowledged"
    assert server.result("POST", f"{path}/count", {"exact": True}) == {"count": 3}


def test_a_batch_holds_columns(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/points"
    columns = {"ids": [10, 11], "vectors": [[1, 0, 0, 0], [0, 2, 0, 0]]}
    body = {"batch": columns | {"payloads": [{"n": 1}, {"n": 2}]}}
    server.result("PUT", f"{path}?wait=true", body)
    found = server.result("POST", path, {"ids": [10, 11], "with_payload": True})
    assert found == [{"id": 10, "payload": {"n": 1}}, {"id": 11, "payload": {"n": 2}}]


def test_refused_writes_change_nothing(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/points?wait=true"
    good = [1, 1, 1, 1]
    wrong_size = (400, "Wrong input: Vector dimension error: expected dim: 4, got 3")
    wrong_name = (400, "Wrong input: Not existing vector name error: nope")
    reason = "is not a valid point ID, valid values are either an unsigned integer or a UUID"

    def refusal(**point: Any) -> tuple[int, str]:
        return server.refused("PUT", path, {"points": [point]})

    assert refusal(id=7, vector=[1, 1, 1]) == wrong_size
    assert refusal(id=7, vector={"nope": good}) == wrong_name
    for bad in ("abc", -1):
        assert refusal(id=bad, vector=good) == (
            400,
            f"Format error in JSON body: value {bad} {reason}",
        )
    assert refusal(id=7)[0] == 400
    assert refusal(id=7, vector=["x", 1, 1, 1])[0] == 400
    assert server.refused("PUT", path, {"points": []}) == (400, "Bad request: Empty update request")
    assert server.refused("PUT", path.replace("true", "maybe"), {"points": []})[0] == 400
    assert server.result("POST", f"/collections/{collection}/points/count", {}) == {"count": 3}


def test_scrolling_page_by_page(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/points/scroll"
    first = server.result("POST", path, {"limit": 2, "with_payload": False})
    assert first == {"points": [{"id": 1}, {"id": 2}], "next_page_offset": UUID}
    last = server.result("POST", path, {"limit": 2, "offset": UUID})
    assert last == {"points": [{"id": UUID, "payload": {}}], "next_page_offset": None}
    assert server.refused("POST", path, {"limit": 0})[0] == 422


def test_scrolling_in_the_order_of_a_field_needs_its_index(server: Server, collection: str) -> None:
    path = f"/collections/{collection}"
    body = {"order_by": {"key": "level", "direction": "desc"}, "with_payload": False}
    status, words = server.refused("POST", f"{path}/points/scroll", body)
    assert status == 400
    assert words.startswith("Wrong input: No range index for `order_by` key: `level`.")
    index = {"field_name": "level", "field_schema": "integer"}
    server.result("PUT", f"{path}/index?wait=true", index)
    assert server.result("POST", f"{path}/points/scroll", body)["points"] == [
        {"id": 2, "order_value": 9},
        {"id": 1, "order_value": 5},
    ]


GUIDE = {"key": "kind", "match": {"value": "guide"}}
FILTERS: list[tuple[dict[str, Any], int]] = [
    ({}, 3),
    ({"must": [GUIDE]}, 1),
    ({"must": GUIDE}, 1),
    ({"must_not": [GUIDE]}, 2),
    ({"should": [GUIDE, {"key": "kind", "match": {"value": "note"}}]}, 2),
    ({"must": [{"should": [GUIDE, {"has_id": [2]}]}], "must_not": [{"has_id": [2]}]}, 1),
    ({"min_should": {"conditions": [GUIDE, {"has_id": [1, 2]}], "min_count": 2}}, 1),
    ({"must": [{"key": "kind", "match": {"any": ["guide", "note"]}}]}, 2),
    ({"must": [{"key": "kind", "match": {"except": ["guide"]}}]}, 1),
    ({"must": [{"key": "tags", "match": {"value": "b"}}]}, 1),
    ({"must": [{"key": "draft", "match": {"value": False}}]}, 1),
    ({"must": [{"key": "draft", "match": {"value": 0}}]}, 0),
    ({"must": [{"key": "text", "match": {"text": "door"}}]}, 1),
    ({"must": [{"key": "level", "match": {"value": 9}}]}, 1),
    ({"must": [{"key": "level", "range": {"gte": 5, "lt": 9}}]}, 1),
    ({"must": [{"key": "made", "range": {"gte": "2026-01-01T00:00:00Z"}}]}, 1),
    ({"must": [{"key": "made", "range": {"lt": "2026-01-02T05:00:00+02:00"}}]}, 0),
    ({"must": [{"key": "made", "range": {"lt": "2026-01-02T06:00:00+02:00"}}]}, 1),
    ({"must": [{"has_id": [1, UUID, 99]}]}, 2),
    ({"must": [{"is_empty": {"key": "tags"}}]}, 2),
    ({"must": [{"key": "tags", "values_count": {"gte": 2}}]}, 1),
    (
        {
            "must": [
                {
                    "key": "place",
                    "geo_radius": {"center": {"lon": 13.4, "lat": 52.5}, "radius": 1000},
                }
            ]
        },
        1,
    ),
]


@pytest.mark.parametrize(("condition", "count"), FILTERS)
def test_filters_count_the_same_with_and_without_an_index(
    server: Server, collection: str, condition: dict[str, Any], count: int
) -> None:
    path = f"/collections/{collection}"
    body = {"exact": True, "filter": condition}
    assert server.result("POST", f"{path}/points/count", body) == {"count": count}
    types = {"kind": "keyword", "level": "integer", "made": "datetime", "draft": "bool"}
    for field, kind in types.items():
        index = {"field_name": field, "field_schema": kind}
        server.result("PUT", f"{path}/index?wait=true", index)
    assert server.result("POST", f"{path}/points/count", body) == {"count": count}


@pytest.mark.parametrize(
    "condition",
    [
        {"unknown": []},
        {"must": [{"unknown": 1}]},
        {"must": [{"key": "level", "match": {"value": 1.5}}]},
        {"must": [{"key": "made", "range": {"gte": "yesterday"}}]},
        {"must": [{"has_id": ["no id"]}]},
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(
    server: Server, collection: str, condition: dict[str, Any]
) -> None:
    body = {"filter": condition}
    status, words = server.refused("POST", f"/collections/{collection}/points/count", body)
    assert status == 400
    assert words.startswith("Format error in JSON body: ")


def test_a_query_ranks_by_cosine(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/points/query"
    hits = server.result("POST", path, {"query": [3, 4, 0, 0], "limit": 2})["points"]
    assert [(hit["id"], hit["score"]) for hit in hits] == [(1, 1.0), (2, 0.8)]
    assert set(hits[0]) == {"id", "version", "score"}
    one = server.result(
        "POST",
        path,
        {
            "query": {"nearest": [30, 40, 0, 0]},
            "score_threshold": 0.9,
            "with_vector": True,
            "with_payload": {"exclude": ["tags", "made", "text", "place"]},
        },
    )["points"]
    assert len(one) == 1
    assert one[0]["vector"] == [0.6, 0.8, 0.0, 0.0]
    assert one[0]["payload"] == {"kind": "guide", "level": 5, "draft": False}


def test_a_query_may_filter_page_and_start_from_a_point(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/points/query"

    def ids(**body: Any) -> list[Any]:
        return [hit["id"] for hit in server.result("POST", path, body)["points"]]

    assert ids(query=[3, 4, 0, 0], filter={"must_not": [{"has_id": [1]}]}) == [2, UUID]
    assert ids(query=[3, 4, 0, 0], limit=1, offset=1) == [2]
    assert ids(query=2) == [1, UUID]  # the point itself is not among its neighbours
    assert ids() == [1, 2, UUID]  # without a query: in the order of ids
    batch = {"searches": [{"query": [3, 4, 0, 0], "limit": 1}, {"query": [0, 0, 1, 0], "limit": 1}]}
    found = server.result("POST", f"{path}/batch", batch)
    assert [answer["points"][0]["id"] for answer in found] == [1, UUID]
    search = path.replace("query", "search")
    hits = server.result("POST", search, {"vector": [3, 4, 0, 0], "limit": 1})
    assert [hit["id"] for hit in hits] == [1]


def test_refused_queries(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/points/query"
    wrong_size = (400, "Wrong input: Vector dimension error: expected dim: 4, got 2")
    wrong_name = (400, "Wrong input: Not existing vector name error: nope")
    assert server.refused("POST", path, {"query": [1, 2]}) == wrong_size
    assert server.refused("POST", path, {"query": [1, 2, 3, 4], "using": "nope"}) == wrong_name
    assert server.refused("POST", path, {"query": 99}) == (
        404,
        "Not found: No point with id 99 found",
    )
    assert server.refused("POST", path, {"query": [1, 2, 3, 4], "limit": 0})[0] == 422


def test_named_vectors(server: Server, new_name: Callable[[], str]) -> None:
    path = f"/collections/{new_name()}"
    vectors = {
        "text": {"size": 2, "distance": "Dot"},
        "image": {"size": 3, "distance": "Euclid"},
    }
    server.result("PUT", path, {"vectors": vectors})
    points = [
        {"id": 1, "vector": {"text": [1, 2], "image": [0, 0, 3]}},
        {"id": 2, "vector": {"text": [2, 0]}},
    ]
    server.result("PUT", f"{path}/points?wait=true", {"points": points})
    both = server.result("POST", f"{path}/points", {"ids": [1, 2], "with_vector": True})
    assert both == [
        {"id": 1, "vector": {"text": [1.0, 2.0], "image": [0.0, 0.0, 3.0]}},
        {"id": 2, "vector": {"text": [2.0, 0.0]}},
    ]
    body = {"query": [1, 1], "using": "text", "with_vector": ["text"]}
    hits = server.result("POST", f"{path}/points/query", body)["points"]
    assert [(hit["id"], hit["score"]) for hit in hits] == [(1, 3.0), (2, 2.0)]
    assert hits[0]["vector"] == {"text": [1.0, 2.0]}
    far = {"query": [4, 0, 3], "using": "image"}
    assert [
        (hit["id"], hit["score"])
        for hit in server.result("POST", f"{path}/points/query", far)["points"]
    ] == [(1, 4.0)]
    assert server.refused("POST", f"{path}/points/query", {"query": [1, 1]})[0] == 400


def test_payload_is_set_overwritten_and_taken_away(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/points"

    def change(method: str, where: str, **body: Any) -> dict[str, Any]:
        server.result(method, f"{path}/payload{where}?wait=true", body)
        payload: dict[str, Any] = server.result("GET", f"{path}/2")["payload"]
        return payload

    assert change("POST", "", payload={"z": 1}, points=[2]) == {
        "kind": "note",
        "level": 9,
        "tags": [],
        "z": 1,
    }
    assert change("POST", "/delete", keys=["tags", "level"], points=[2]) == {"kind": "note", "z": 1}
    nested = change("POST", "", payload={"in": 1}, key="deep", filter={"must": [{"has_id": [2]}]})
    assert nested == {"kind": "note", "z": 1, "deep": {"in": 1}}
    assert change("PUT", "", payload={"only": True}, points=[2]) == {"only": True}
    assert change("POST", "/clear", points=[2]) == {}
    lost = server.refused("POST", f"{path}/payload?wait=true", {"payload": {}, "points": [999]})
    assert lost == (404, "Not found: No point with id 999 found")
    assert server.refused("POST", f"{path}/payload", {"payload": {"z": 1}})[0] == 400


def test_deleting_by_id_and_by_filter(server: Server, collection: str) -> None:
    path = f"/collections/{collection}/points"
    server.result("POST", f"{path}/delete?wait=true", {"points": [1, 999]})
    assert server.result("POST", f"{path}/count", {}) == {"count": 2}
    body = {"filter": {"must": [{"key": "kind", "match": {"value": "note"}}]}}
    server.result("POST", f"{path}/delete?wait=true", body)
    left = server.result("POST", f"{path}/scroll", {})["points"]
    assert [record["id"] for record in left] == [UUID]
    assert server.refused("POST", f"{path}/delete", {})[0] == 400


def test_the_official_client_writes_and_finds(
    client: QdrantClient, server: Server, new_name: Callable[[], str]
) -> None:
    name = new_name()
    client.create_collection(name, models.VectorParams(size=3, distance=models.Distance.COSINE))
    points = [
        models.PointStruct(id=n, vector=[1.0, n, 0.0], payload={"n": n, "even": n % 2 == 0})
        for n in range(1, 151)
    ]
    client.upload_points(name, points, wait=True)
    assert client.count(name, exact=True).count == 150
    even = models.Filter(
        must=[models.FieldCondition(key="even", match=models.MatchValue(value=True))]
    )
    hits = client.query_points(name, query=[1.0, 2.0, 0.0], query_filter=even, limit=3).points
    assert hits[0].id == 2
    assert hits[0].score == pytest.approx(1.0)
    assert all(hit.payload is not None and hit.payload["even"] for hit in hits)
    seen: list[Any] = []
    offset: Any = None
    while True:
        page, offset = client.scroll(name, limit=64, offset=offset, with_vectors=True)
        seen += page
        if offset is None:
            break
    assert [record.id for record in seen] == list(range(1, 151))
    assert seen[2].vector == pytest.approx([1 / sqrt(10), 3 / sqrt(10), 0.0])
    client.set_payload(name, {"seen": True}, points=[1])
    assert client.retrieve(name, [1])[0].payload == {"n": 1, "even": False, "seen": True}
    client.delete(name, even)
    # counted by another way than the client
    count = server.result("POST", f"/collections/{name}/points/count", {"exact": True})
    assert count == {"count": 75}


def test_metrics_count_the_points_of_each_collection(server: Server, collection: str) -> None:
    answer = server.send("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    assert f'collection_points{{id="{collection}"}} 3' in lines
    assert "app_status_recovery_mode 0" in lines
    assert "collection_dead_replicas 0" in lines
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert 0 < float(values["process_open_fds"]) < float(values["process_max_fds"])
    assert 0 < float(values["process_open_mmaps"]) < float(values["system_max_mmaps"])
    version = server.send("GET", "/").json()["version"]
    assert f'app_info{{name="qdrant",version="{version}"}} 1' in lines


def test_telemetry_names_the_version(server: Server) -> None:
    told = server.result("GET", "/telemetry")
    version = server.send("GET", "/").json()["version"]
    assert (told["app"]["name"], told["app"]["version"]) == ("qdrant", version)
    assert told["collections"]["number_of_collections"] >= 0
