# ruff: noqa: ARG002 - every servicer method takes request and context
"""Enough of Qdrant's gRPC for clients to work through a proxy; what is absent is UNIMPLEMENTED.

Messages become the REST models by qdrant-client's own conversions, then take the same path.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc  # type: ignore[import-untyped]
from qdrant_client import grpc as g
from qdrant_client import models as m
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from . import TITLE, VERSION
from .errors import ApiError
from .operations import Call
from .service import Service

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    501: grpc.StatusCode.UNIMPLEMENTED,
}
SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse: status SERVING


class _Guarded:
    """Identify, perform, and time one call; refusals become gRPC codes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def _ask(
        self,
        api: str,
        method: str,
        context: Any,
        answer: Callable[[Any, float], Any],
        collection: str = "",
        body: Callable[[], Any] = lambda: None,
        wait: bool = True,
    ) -> Any:
        started = time.monotonic()
        remote = context.peer().split(":", 1)[-1].rsplit(":", 1)[0]
        headers = {pair[0]: pair[1] for pair in context.invocation_metadata()}
        try:
            identity = self._service.identify(headers, api, remote)
            call = Call(identity, collection, body=body(), wait=wait)
            result = self._service.perform(method, call, api, remote)
        except ApiError as error:
            code = CODES.get(error.status, grpc.StatusCode.INTERNAL)
            context.abort(code, error.message)
        return answer(result, time.monotonic() - started)


class Collections(_Guarded, g.CollectionsServicer):
    """What a client lists before it works."""

    def List(self, request: Any, context: Any) -> Any:
        def answer(result: Any, took: float) -> Any:
            names = [g.CollectionDescription(name=c["name"]) for c in result["collections"]]
            return g.ListCollectionsResponse(collections=names, time=took)

        return self._ask("/qdrant.Collections/List", "list_collections", context, answer)

    def Get(self, request: Any, context: Any) -> Any:
        def answer(result: Any, took: float) -> Any:
            info = RestToGrpc.convert_collection_info(m.CollectionInfo.model_validate(result))
            return g.GetCollectionInfoResponse(result=info, time=took)

        return self._ask(
            "/qdrant.Collections/Get", "get_collection", context, answer, request.collection_name
        )


class Points(_Guarded, g.PointsServicer):
    """Points, dense vectors only."""

    def Upsert(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            structs = [GrpcToRest.convert_point_struct(point) for point in request.points]
            return m.PointsList(points=structs)

        return self._write("Upsert", "upsert_points", request, context, body)

    def Delete(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            return GrpcToRest.convert_points_selector(request.points)

        return self._write("Delete", "delete_points", request, context, body)

    def _write(
        self, rpc: str, method: str, request: Any, context: Any, body: Callable[[], Any]
    ) -> Any:
        def answer(result: Any, took: float) -> Any:
            done = RestToGrpc.convert_update_result(m.UpdateResult.model_validate(result))
            return g.PointsOperationResponse(result=done, time=took)

        return self._ask(
            f"/qdrant.Points/{rpc}",
            method,
            context,
            answer,
            request.collection_name,
            body,
            request.wait,
        )

    def Query(self, request: Any, context: Any) -> Any:
        def answer(result: Any, took: float) -> Any:
            hits = [m.ScoredPoint.model_validate(hit) for hit in result["points"]]
            found = [RestToGrpc.convert_scored_point(hit) for hit in hits]
            return g.QueryResponse(result=found, time=took)

        def body() -> Any:
            return GrpcToRest.convert_query_points(request)

        return self._ask(
            "/qdrant.Points/Query", "query_points", context, answer, request.collection_name, body
        )

    def Get(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            wanted = m.PointRequest(ids=[GrpcToRest.convert_point_id(i) for i in request.ids])
            if request.HasField("with_payload"):
                selector = GrpcToRest.convert_with_payload_selector(request.with_payload)
                wanted.with_payload = selector
            if request.HasField("with_vectors"):
                vectors = GrpcToRest.convert_with_vectors_selector(request.with_vectors)
                wanted.with_vector = vectors
            return wanted

        def answer(result: Any, took: float) -> Any:
            records = [m.Record.model_validate(record) for record in result]
            found = [RestToGrpc.convert_record(record) for record in records]
            return g.GetResponse(result=found, time=took)

        return self._ask(
            "/qdrant.Points/Get", "retrieve", context, answer, request.collection_name, body
        )

    def Count(self, request: Any, context: Any) -> Any:
        def body() -> Any:
            given = request.filter if request.HasField("filter") else None
            return m.CountRequest(filter=given and GrpcToRest.convert_filter(given))

        def answer(result: Any, took: float) -> Any:
            return g.CountResponse(result=g.CountResult(count=result["count"]), time=took)

        return self._ask(
            "/qdrant.Points/Count", "count", context, answer, request.collection_name, body
        )


class Qdrant(g.QdrantServicer):
    """The health check, which needs no key."""

    def HealthCheck(self, request: Any, context: Any) -> Any:
        return g.HealthCheckReply(title=TITLE, version=VERSION)


def serve(service: Service) -> grpc.Server | None:
    """Start the gRPC server; none where the port is switched off. Raises RuntimeError if taken."""
    port = service.config.grpc_port
    if port is None:
        return None
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    add: Any = g  # generated without types
    add.add_QdrantServicer_to_server(Qdrant(), server)
    add.add_CollectionsServicer_to_server(Collections(service), server)
    add.add_PointsServicer_to_server(Points(service), server)
    check = grpc.unary_unary_rpc_method_handler(lambda _, __: SERVING)
    health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})
    server.add_generic_rpc_handlers((health,))
    host = service.config.host
    server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    server.start()
    return server
