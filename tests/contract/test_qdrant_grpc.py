"""gRPC: health without a key, the same refusals, and points through the official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from contract_server import UUID, Server
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as q


@pytest.fixture
def channel(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


@pytest.fixture
def by_grpc(server: Server) -> Iterator[QdrantClient]:
    port = int(server.grpc.rsplit(":", 1)[1])
    with pytest.warns(UserWarning, match="insecure connection"):
        opened = QdrantClient(
            url=server.url,
            grpc_port=port,
            prefer_grpc=True,
            api_key=server.key,
            check_compatibility=False,
        )
    yield opened
    opened.close()


def test_health_needs_no_key(channel: Any, server: Server) -> None:
    reply = q.QdrantStub(channel).HealthCheck(q.HealthCheckRequest(), timeout=5)
    assert reply.title == "qdrant - vector search engine"
    assert reply.version == server.send("GET", "/").json()["version"]
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=5) == b"\x08\x01"  # SERVING


def test_refusals_have_grpc_codes(channel: Any, server: Server, collection: str) -> None:
    stub = q.CollectionsStub(channel)
    unknown = q.GetCollectionInfoRequest(collection_name="contract-absent")
    scoped = server.token(access=[{"collection": collection, "access": "r"}])
    cases = [
        ((), grpc.StatusCode.UNAUTHENTICATED, "Must provide an API key"),
        ((("api-key", "wrong"),), grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT"),
        ((("api-key", server.key),), grpc.StatusCode.NOT_FOUND, "Not found: Collection"),
        ((("api-key", server.token(exp=1)),), grpc.StatusCode.PERMISSION_DENIED, "ExpiredSig"),
        ((("authorization", f"Bearer {scoped}"),), grpc.StatusCode.PERMISSION_DENIED, "Forbidden"),
    ]
    for metadata, code, words in cases:
        with pytest.raises(grpc.RpcError) as refused:
            stub.Get(unknown, metadata=metadata, timeout=5)
        assert refused.value.code() == code
        assert refused.value.details().startswith(words)


def test_a_scoped_token_reads_and_may_not_write(
    channel: Any, server: Server, collection: str
) -> None:
    token = server.token(access=[{"collection": collection, "access": "r"}])
    metadata = (("api-key", token),)
    listed = q.CollectionsStub(channel).List(q.ListCollectionsRequest(), metadata=metadata)
    assert [entry.name for entry in listed.collections] == [collection]
    with pytest.raises(grpc.RpcError) as refused:
        q.PointsStub(channel).Upsert(
            q.UpsertPoints(collection_name=collection, points=[]), metadata=metadata
        )
    assert (
        refused.value.details() == f"Forbidden: Write access to collection {collection} is required"
    )


def test_points_by_grpc_are_those_of_rest(
    by_grpc: QdrantClient, server: Server, collection: str
) -> None:
    payload = {"kind": "guide", "deep": {"list": [1, 2.5, None, "x"]}, "done": True}
    point = models.PointStruct(id=7, vector=[0.0, 0.0, 0.0, 5.0], payload=payload)
    done = by_grpc.upsert(collection, [point], wait=True)
    assert done.status == models.UpdateStatus.COMPLETED
    record = server.result("GET", f"/collections/{collection}/points/7")
    assert record == {"id": 7, "payload": payload, "vector": [0.0, 0.0, 0.0, 1.0]}

    guide = models.FieldCondition(key="kind", match=models.MatchValue(value="guide"))
    guides = models.Filter(must=[guide])
    assert by_grpc.count(collection, guides).count == 2
    hits = by_grpc.query_points(
        collection, [0.0, 0.0, 0.0, 1.0], query_filter=guides, with_vectors=True
    ).points
    assert [(hit.id, hit.score) for hit in hits] == [(7, 1.0), (1, 0.0)]
    assert (hits[0].payload, hits[0].vector) == (payload, [0.0, 0.0, 0.0, 1.0])
    found = by_grpc.retrieve(collection, [UUID], with_payload=True, with_vectors=True)
    assert [(one.id, one.vector) for one in found] == [(UUID, [0.0, 0.0, 1.0, 0.0])]
    assert by_grpc.get_collection(collection).points_count == 4

    by_grpc.delete(collection, [7])
    by_grpc.delete(collection, guides)
    counted = server.result("POST", f"/collections/{collection}/points/count", {"exact": True})
    assert counted == {"count": 2}


def test_bad_input_is_an_invalid_argument(by_grpc: QdrantClient, collection: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        by_grpc.upsert(collection, [models.PointStruct(id=1, vector=[1.0])])
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "Wrong input: Vector dimension error: expected dim: 4, got 1"
