"""Between Qdrant's request models and the engine's types, both ways. Pure.

Whatever the engine cannot do is refused by name (501), never answered by half.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from qdrant_client import models as m

from .errors import ApiError, bad_body, lacking

PointId = int | str | UUID


def point_id(value: PointId) -> PointId:
    try:
        if isinstance(value, UUID):
            return value
        if isinstance(value, int):
            if value >= 0:
                return value
        else:
            return UUID(value)
    except ValueError:
        pass
    reason = "valid values are either an unsigned integer or a UUID"
    raise bad_body(f"value {value} is not a valid point ID, {reason}")


def vector(value: Any) -> Any:
    """An unnamed vector as floats, or named ones in a dict."""
    if isinstance(value, dict):
        return {name: vector(item) for name, item in value.items()}
    if isinstance(value, list) and not (value and isinstance(value[0], list)):
        return value
    raise lacking("vectors other than dense ones")


def point(struct: m.PointStruct) -> edge.Point:
    return edge.Point(point_id(struct.id), vector(struct.vector), struct.payload)


def maybe_filter(given: m.Filter | None) -> edge.Filter | None:
    return None if given is None else filter_(given)


def filter_(given: m.Filter) -> edge.Filter:
    some = given.min_should
    return edge.Filter(
        must=_conditions(given.must),
        should=_conditions(given.should),
        must_not=_conditions(given.must_not),
        min_should=edge.MinShould(_conditions(some.conditions), some.min_count) if some else None,
    )


def _conditions(given: Any) -> Any:
    if given is None:
        return None
    return [_condition(item) for item in (given if isinstance(given, list) else [given])]


def _condition(given: Any) -> Any:
    match given:
        case m.Filter():
            return filter_(given)
        case m.HasIdCondition():
            return edge.HasIdCondition({point_id(item) for item in given.has_id})
        case m.HasVectorCondition():
            return edge.HasVectorCondition(given.has_vector)
        case m.IsEmptyCondition():
            return edge.IsEmptyCondition(given.is_empty.key)
        case m.IsNullCondition():
            return edge.IsNullCondition(given.is_null.key)
        case m.NestedCondition():
            return edge.NestedCondition(given.nested.key, filter_(given.nested.filter))
        case m.FieldCondition():
            return _field(given)
    raise lacking(f"condition {type(given).__name__}")


def _field(given: m.FieldCondition) -> edge.FieldCondition:
    if not given.model_dump(exclude={"key"}, exclude_none=True):
        reason = "At least one field condition must be specified"
        raise ApiError(422, f"Validation error in JSON body: [Validation error: {reason}]")
    if given.geo_bounding_box or given.geo_polygon:
        raise lacking("geo condition but geo_radius")
    return edge.FieldCondition(
        given.key,
        match=_match(given.match) if given.match else None,
        range=_range(given.range) if given.range else None,
        geo_radius=_geo_radius(given.geo_radius) if given.geo_radius else None,
        values_count=edge.ValuesCount(**given.values_count.model_dump())
        if given.values_count
        else None,
        is_empty=given.is_empty,
        is_null=given.is_null,
    )


def _geo_radius(given: m.GeoRadius) -> edge.GeoRadius:
    return edge.GeoRadius(edge.GeoPoint(given.center.lon, given.center.lat), given.radius)


def _match(given: Any) -> Any:
    """The engine's match types bear the names of the models and take their one field."""
    (value,) = given.model_dump().values()
    if isinstance(value, bool):
        value = np.bool_(value)  # the engine takes Python's own bool for a number
    return getattr(edge, type(given).__name__)(value)


def _range(given: Any) -> Any:
    if isinstance(given, m.Range):
        return edge.RangeFloat(**given.model_dump())
    bounds = given.model_dump(exclude_none=True)
    return edge.RangeDateTime(**{side: moment.isoformat() for side, moment in bounds.items()})


def payload_selector(given: Any) -> Any:
    match given:
        case m.PayloadSelectorInclude():
            return given.include
        case m.PayloadSelectorExclude():
            return edge.PayloadSelector.Exclude(given.exclude)
    return given


def order_by(given: Any) -> edge.OrderBy | None:
    if given is None:
        return None
    if isinstance(given, str):
        return edge.OrderBy(given)
    direction = given.direction and getattr(edge.Direction, given.direction.value.capitalize())
    return edge.OrderBy(given.key, direction, given.start_from)


def shard_config(vectors: Any) -> edge.EdgeConfig:
    """Of the vectors of a new collection. Index and quantization are shown, never built."""
    if not vectors:
        # the engine wants one at least; nobody can write or see this one
        return edge.EdgeConfig(sparse_vectors={"unused": edge.EdgeSparseVectorParams()})
    if isinstance(vectors, dict):
        return edge.EdgeConfig(vectors={name: _vector_params(v) for name, v in vectors.items()})
    return edge.EdgeConfig(vectors=_vector_params(vectors))


def _vector_params(given: m.VectorParams) -> edge.EdgeVectorParams:
    if given.size < 1:
        raise bad_body("a vector needs a size of 1 or more")
    if given.multivector_config or given.datatype:
        raise lacking("vectors other than plain float32 ones")
    return edge.EdgeVectorParams(given.size, getattr(edge.Distance, given.distance.value))


def index_schema(schema: Any) -> Any:
    """A payload index by its type; for text also how words are cut."""
    if isinstance(schema, m.TextIndexParams):
        cut = schema.tokenizer.value.capitalize() if schema.tokenizer else "Word"
        return edge.TextIndexParams(
            tokenizer=getattr(edge.TokenizerType, cut),
            lowercase=schema.lowercase,
            min_token_len=schema.min_token_len,
            max_token_len=schema.max_token_len,
        )
    kind = schema if isinstance(schema, m.PayloadSchemaType) else schema.type
    return getattr(edge.PayloadSchemaType, kind.value.capitalize())


def as_json(found: Any) -> dict[str, Any]:
    """A Record or ScoredPoint of the engine as the real server writes it: absent parts left out."""
    parts: dict[str, Any] = {"id": _id_json(found.id)}
    if isinstance(found, edge.ScoredPoint):
        parts |= {"version": found.version, "score": single(found.score)}
    if found.payload is not None:
        parts["payload"] = found.payload
    if found.vector is not None:
        parts["vector"] = _vector_json(found.vector)
    if found.order_value is not None:
        parts["order_value"] = found.order_value
    return parts


def _id_json(value: Any) -> int | str | None:
    return value if value is None or isinstance(value, int) else str(value)


def _vector_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _vector_json(item) for name, item in value.items()}
    return [single(item) for item in value]


def single(value: float) -> float:
    """The shortest decimal that is the same float32: 0.6, not 0.6000000238418579."""
    return float(str(np.float32(value)))


next_offset = _id_json
