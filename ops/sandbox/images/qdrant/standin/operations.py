"""What can be asked, by whom, and the answer: one table for REST and gRPC.

Each operation has its own guard, and the name that the real server's audit log gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import qdrant_edge as edge
from pydantic import BaseModel, BeforeValidator, StrictStr, TypeAdapter, ValidationError
from qdrant_client import models as m

from . import VERSION, translate
from .auth import Identity
from .errors import ApiError, bad_body, lacking, not_found
from .snapshots import Snapshots
from .store import Store

Json = Any
Operations = edge.UpdateOperation


@dataclass(frozen=True)
class Call:
    """One request: `key` is what stands behind the collection in the path, a field or a point."""

    identity: Identity
    collection: str = ""
    key: str = ""
    body: Any = None
    wait: bool = True


Guard = Callable[[Identity, str], None]
Run = Callable[[Any, Call], Json]  # on the store, or on the snapshots


@dataclass(frozen=True)
class Operation:
    guard: Guard
    run: Run
    model: Any = None  # the body must fit it


def _anybody(_: Identity, __: str) -> None:
    """Any admitted caller; the answer is cut to what they may see."""


def _reads(who: Identity, name: str) -> None:
    who.need_collection(name)


def _reads_whole(who: Identity, name: str) -> None:
    who.need_collection(name, whole=True)


def _writes(who: Identity, name: str) -> None:
    who.need_collection(name, write=True)


def _writes_whole(who: Identity, name: str) -> None:
    who.need_collection(name, write=True, whole=True)


def _looks_everywhere(who: Identity, _: str) -> None:
    who.need_global()


def _manages(who: Identity, _: str) -> None:
    who.need_global(manage=True)


def _list_collections(store: Store, call: Call) -> Json:
    return {"collections": [{"name": n} for n in store.names() if call.identity.sees(n)]}


def _list_aliases(store: Store, call: Call) -> Json:
    return {
        "aliases": [
            {"alias_name": alias, "collection_name": target}
            for alias, target in sorted(store.aliases.items())
            if call.collection in ("", target) and call.identity.sees(alias, target)
        ]
    }


def _telemetry(store: Store, call: Call) -> Json:
    seen = [name for name in store.names() if call.identity.sees(name)]
    app = {"name": "qdrant", "version": VERSION}
    return {"id": "stand-in", "app": app, "collections": {"number_of_collections": len(seen)}}


def _metrics(store: Store, _: Call) -> Json:
    return {name: store.get(name).info()["points_count"] for name in store.names()}


def _create_index(store: Store, call: Call) -> Json:
    collection, wanted = store.get(call.collection), call.body
    if wanted.field_schema is None:
        reason = "Can't auto-detect field type, please specify `field_schema` in the request"
        raise ApiError(400, f"Bad request: {reason}")
    schema = translate.index_schema(wanted.field_schema)
    number = collection.update(Operations.create_field_index(wanted.field_name, schema))
    if isinstance(wanted.field_schema, m.PayloadSchemaType):
        shown: dict[str, Any] = {"data_type": wanted.field_schema.value}
    else:
        params = wanted.field_schema.model_dump(mode="json", exclude_none=True)
        shown = {"data_type": params["type"], "params": params}
    store.note_index(collection, wanted.field_name, shown)
    return _done(number, call)


def _delete_index(store: Store, call: Call) -> Json:
    collection = store.get(call.collection)
    number = collection.update(Operations.delete_field_index(call.key))
    store.note_index(collection, call.key, None)
    return _done(number, call)


def _done(number: int, call: Call) -> Json:
    """The engine has always finished; the answer says what the caller asked to wait for."""
    return {"operation_id": number, "status": "completed" if call.wait else "acknowledged"}


def _upsert(store: Store, call: Call) -> Json:
    wanted = call.body
    if isinstance(wanted, m.PointsBatch):
        wanted = _list_of(wanted.batch)
    if not wanted.points:
        raise ApiError(400, "Bad request: Empty update request")
    points = [translate.point(struct) for struct in wanted.points]
    return _done(store.get(call.collection).update(Operations.upsert_points(points)), call)


def _list_of(batch: m.Batch) -> m.PointsList:
    payloads: list[Any] = [*(batch.payloads or (None for _ in batch.ids))]
    if isinstance(batch.vectors, dict):
        names = list(batch.vectors)
        rows = zip(*batch.vectors.values(), strict=True)
        vectors: list[Any] = [dict(zip(names, row, strict=True)) for row in rows]
    else:
        vectors = list(batch.vectors)
    try:
        parts = list(zip(batch.ids, vectors, payloads, strict=True))
    except ValueError:
        raise bad_body("ids, vectors and payloads of a batch differ in number") from None
    return m.PointsList(points=[m.PointStruct(id=i, vector=v, payload=p) for i, v, p in parts])


def _on_points(verb: str) -> Run:
    """Change the points listed or those that fit a filter: the engine has each verb for both."""

    def run(store: Store, call: Call) -> Json:
        wanted = call.body
        details: tuple[Any, ...] = ()
        if isinstance(wanted, m.SetPayload):
            details = (wanted.payload, wanted.key)
        elif isinstance(wanted, m.DeletePayload):
            details = (wanted.keys,)
        if getattr(wanted, "points", None) is not None:
            ids = [translate.point_id(item) for item in wanted.points]
            operation = getattr(Operations, verb)(ids, *details)
        elif getattr(wanted, "filter", None) is not None:
            fitting = translate.filter_(wanted.filter)
            operation = getattr(Operations, f"{verb}_by_filter")(fitting, *details)
        else:
            raise bad_body("Either list of point ids or filter must be provided")
        return _done(store.get(call.collection).update(operation), call)

    return run


def _get_points(store: Store, call: Call) -> Json:
    wanted: m.PointRequest = call.body
    ids = [translate.point_id(item) for item in wanted.ids]
    payload = translate.payload_selector(wanted.with_payload or False)
    found = store.get(call.collection).call("retrieve", ids, payload, wanted.with_vector or False)
    return [translate.as_json(record) for record in found]


def _get_point(store: Store, call: Call) -> Json:
    try:
        number = translate.point_id(int(call.key) if call.key.isdigit() else call.key)
    except ApiError:
        raise ApiError(400, f'Wrong input: Can not recognize "{call.key}" as point id') from None
    found = store.get(call.collection).call("retrieve", [number], True, True)
    if not found:
        raise not_found(f"Point with id {call.key} does not exists!")
    return translate.as_json(found[0])


def _limit(given: int | None) -> int:
    if given is not None and given < 1:
        reason = f"[limit: value {given} invalid, must be 1 or larger]"
        raise ApiError(422, f"Validation error in JSON body: {reason}")
    return given or 10


def _scroll(store: Store, call: Call) -> Json:
    wanted: m.ScrollRequest = call.body
    request = edge.ScrollRequest(
        offset=None if wanted.offset is None else translate.point_id(wanted.offset),
        limit=_limit(wanted.limit),
        filter=translate.maybe_filter(wanted.filter),
        with_payload=translate.payload_selector(
            True if wanted.with_payload is None else wanted.with_payload
        ),
        with_vector=wanted.with_vector,
        order_by=translate.order_by(wanted.order_by),
    )
    found, following = store.get(call.collection).call("scroll", request)
    points = [translate.as_json(record) for record in found]
    return {"points": points, "next_page_offset": translate.next_offset(following)}


def _count(store: Store, call: Call) -> Json:
    request = edge.CountRequest(exact=True, filter=translate.maybe_filter(call.body.filter))
    return {"count": store.get(call.collection).call("count", request)}


def _query(store: Store, call: Call) -> Json:
    return {"points": _nearest(store, call.collection, call.body)}


def _query_batch(store: Store, call: Call) -> Json:
    return [{"points": _nearest(store, call.collection, one)} for one in call.body.searches]


def _search_as_query(body: Any) -> Any:
    """The older form of a query, as other programs still send it."""
    if not isinstance(body, dict) or not {"vector", "limit"} <= body.keys():
        raise ValueError("missing field `vector` or `limit`")
    given = dict(body)
    vector = given.pop("vector")
    if isinstance(vector, dict):
        return given | {"query": vector.get("vector"), "using": vector.get("name")}
    return given | {"query": vector}


Search = Annotated[m.QueryRequest, BeforeValidator(_search_as_query)]


def _nearest(store: Store, name: str, wanted: m.QueryRequest) -> list[Json]:
    if wanted.prefetch or wanted.lookup_from:
        raise lacking("prefetch or lookup in queries")
    collection = store.get(name)
    only = translate.maybe_filter(wanted.filter)
    query: Any = wanted.query.nearest if isinstance(wanted.query, m.NearestQuery) else wanted.query
    if isinstance(query, int | str) and not isinstance(query, bool):
        mine = translate.point_id(query)
        others = edge.Filter(must_not=[edge.HasIdCondition({mine})])
        only = edge.Filter(must=[only, others]) if only else others
        query = _vector_of(store, name, mine, wanted.using)
    if isinstance(query, list):
        query = edge.Query.Nearest(translate.vector(query), using=wanted.using)
    elif isinstance(query, m.OrderByQuery):
        query = translate.order_by(query.order_by)
    elif query is not None:
        raise lacking(f"query {type(query).__name__}")
    request = edge.QueryRequest(
        limit=_limit(wanted.limit),
        offset=wanted.offset,
        query=query,
        with_vector=wanted.with_vector,
        with_payload=translate.payload_selector(wanted.with_payload),
        filter=only,
        score_threshold=wanted.score_threshold,
    )
    return [translate.as_json(hit) for hit in collection.call("query", request)]


def _vector_of(store: Store, name: str, point: Any, using: str | None) -> list[float]:
    found = store.get(name).call("retrieve", [point], False, True)
    if not found:
        raise not_found(f"No point with id {point} found")
    vector = found[0].vector
    return list(vector[using] if isinstance(vector, dict) else vector)


def _no_full_snapshots(_: Store, __: Call) -> Json:
    raise lacking("snapshots of the whole storage")


class Recover(BaseModel):
    location: StrictStr
    priority: Literal["no_sync", "snapshot", "replica"] | None = None
    checksum: StrictStr | None = None
    api_key: StrictStr | None = None


def _recover(snapshots: Snapshots, call: Call) -> Json:
    return snapshots.recover(call.collection, call.body.location, call.body.checksum)


OPERATIONS: Mapping[str, Operation] = {
    "list_collections": Operation(_anybody, _list_collections),
    "get_collection": Operation(_reads, lambda s, c: s.get(c.collection).info()),
    "collection_exists": Operation(_reads, lambda s, c: {"exists": s.exists(c.collection)}),
    "create_collection": Operation(
        _manages, lambda s, c: s.create(c.collection, c.body), m.CreateCollection
    ),
    "update_collection": Operation(
        _manages, lambda s, c: s.change(c.collection, c.body), m.UpdateCollection
    ),
    "delete_collection": Operation(_manages, lambda s, c: s.delete(c.collection)),
    "list_aliases": Operation(_anybody, _list_aliases),
    "list_collection_aliases": Operation(_reads, _list_aliases),
    "change_aliases": Operation(
        _manages, lambda s, c: s.change_aliases(c.body.actions), m.ChangeAliasesOperation
    ),
    "create_payload_index": Operation(_writes_whole, _create_index, m.CreateFieldIndex),
    "drop_payload_index": Operation(_writes_whole, _delete_index),
    "upsert_points": Operation(_writes, _upsert, m.PointInsertOperations),
    "delete_points": Operation(_writes, _on_points("delete_points"), m.PointsSelector),
    "set_payload": Operation(_writes, _on_points("set_payload"), m.SetPayload),
    "overwrite_payload": Operation(_writes, _on_points("overwrite_payload"), m.SetPayload),
    "delete_payload": Operation(_writes, _on_points("delete_payload"), m.DeletePayload),
    "clear_payload": Operation(_writes, _on_points("clear_payload"), m.PointsSelector),
    "retrieve": Operation(_reads, _get_points, m.PointRequest),
    "get_point": Operation(_reads, _get_point),
    "scroll": Operation(_reads, _scroll, m.ScrollRequest),
    "count": Operation(_reads, _count, m.CountRequest),
    "query_points": Operation(_reads, _query, m.QueryRequest),
    "query_batch": Operation(_reads, _query_batch, m.QueryRequestBatch),
    "core_search_batch": Operation(_reads, lambda s, c: _nearest(s, c.collection, c.body), Search),
    "telemetry": Operation(_anybody, _telemetry),
    "metrics": Operation(_looks_everywhere, _metrics),
    "cluster_status": Operation(_looks_everywhere, lambda _, __: {"status": "disabled"}),
    "issues": Operation(_anybody, lambda _, __: {"issues": []}),
    "list_snapshots": Operation(_reads_whole, lambda s, c: s.list(c.collection)),
    "create_snapshot": Operation(_writes_whole, lambda s, c: s.create(c.collection)),
    "get_snapshot": Operation(_reads_whole, lambda s, c: s.path(c.collection, c.key)),
    "delete_collection_snapshot": Operation(
        _writes_whole, lambda s, c: s.delete(c.collection, c.key)
    ),
    "recover_from_snapshot": Operation(_manages, _recover, Recover),
    "upload_snapshot": Operation(_manages, lambda s, c: s.restore_uploaded(c.collection, *c.body)),
    "list_full_snapshots": Operation(_looks_everywhere, lambda _, __: []),
    "create_full_snapshot": Operation(_manages, _no_full_snapshots),
}


# what runs on the files of snapshots and not on the store
ABOUT_SNAPSHOTS = {
    "list_snapshots",
    "create_snapshot",
    "get_snapshot",
    "delete_collection_snapshot",
    "recover_from_snapshot",
    "upload_snapshot",
}
# as in the real server's audit log: another operation's name, no collection, or no line at all
LOGGED_AS = {"get_point": "retrieve", "query_points": "query_batch"}
LOGGED_WITHOUT_COLLECTION = {
    "create_collection",
    "update_collection",
    "delete_collection",
    "create_payload_index",
    "drop_payload_index",
}
NOT_LOGGED = {"telemetry", "metrics"}


def fit(method: str, body: Any) -> Any:
    """A JSON body as the operation's model. Fields it does not know at the top are passed over."""
    model = OPERATIONS[method].model
    if model is None:
        return body
    if isinstance(body, dict) and isinstance(model, type) and issubclass(model, BaseModel):
        body = {name: body[name] for name in body.keys() & model.model_fields}
    try:
        return TypeAdapter(model).validate_python(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise bad_body(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
