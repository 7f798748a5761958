"""The collection that is moved into: made with every setting of the source, loaded without an
index, and given back what was put off. Each step may be done twice, so a crash costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from ops.clients.rest import RefusedError
from ops.errors import UnprovenError
from ops.migrate.server import path_of
from ops.migrate.side import CollectionInfo, Json, MigrationError, Side
from ops.migrate.state import Switch

# of `params`, what can be said when a collection is made; the rest follows in a PATCH
PARAMS = (
    *("vectors", "sparse_vectors", "shard_number", "replication_factor"),
    *("write_consistency_factor", "on_disk_payload", "payload", "id_tracker"),
)
LATER_PARAMS = ("read_fan_out_factor", "read_fan_out_delay_ms")
CONFIG = {
    "hnsw_config": "hnsw_config",
    "wal_config": "wal_config",
    "optimizer_config": "optimizers_config",
    "quantization_config": "quantization_config",
    "metadata": "metadata",
}
INDEXING_THRESHOLD = 10000  # Qdrant's own, in kB, for a server that names none
POLL_SECONDS = 0.5


def create_body(info: CollectionInfo) -> Json:
    """The body that makes a collection with the settings of this one, but what `put_off` holds."""
    params = _given(info.config["params"])
    body: Json = {"vectors": {}} | {key: params[key] for key in PARAMS if key in params}
    for found, asked in CONFIG.items():
        if value := _given(info.config.get(found)):
            body[asked] = value
    body.get("optimizers_config", {}).pop("prevent_unoptimized", None)
    return body


def put_off(source: CollectionInfo, made: CollectionInfo) -> Json:
    """The PATCH that ends the load: indexing as it was made, and what would stand in its way."""
    optimizers = made.config.get("optimizer_config") or {}
    wanted = source.config.get("optimizer_config") or {}
    threshold = optimizers.get("indexing_threshold")
    back: Json = {"indexing_threshold": INDEXING_THRESHOLD if threshold is None else threshold}
    if wanted.get("prevent_unoptimized") is not None:
        back["prevent_unoptimized"] = wanted["prevent_unoptimized"]
    body: Json = {"optimizers_config": back}
    if strict := _given(source.config.get("strict_mode_config")):
        body["strict_mode_config"] = strict
    later = _given(source.config["params"])
    if params := {key: later[key] for key in LATER_PARAMS if key in later}:
        body["params"] = params
    return body


def create(target: Side, name: str, info: CollectionInfo, *, again: bool) -> Json:
    """Make the collection and its payload indexes; returns what is put off.

    `again`: an earlier try may have made it already. Raises MigrationError where one is there that
    this migration did not make, and for settings that the server refuses: then nothing is left.
    """
    if name in target.collections():
        made = target.info(name)
        if not again or made.points or _shape(made) != _shape(info):
            raise MigrationError(
                f"{target.name} has a collection {name} that this migration did not make",
                "stackroom migrate run ... --as <another name>",
            )
    else:
        target.request("PUT", f"{path_of(name)}?timeout=60", create_body(info))
    try:
        _index(target, name, info)
    except RefusedError as error:
        if error.status != httpx.codes.BAD_REQUEST:
            raise
        target.request("DELETE", path_of(name))  # made by us, and empty
        raise MigrationError(f"{error.message}; {name} was removed again") from None
    return put_off(info, target.info(name))


def _shape(info: CollectionInfo) -> object:
    sizes = {name: (spec.size, spec.distance) for name, spec in info.vectors.items()}
    return sizes, sorted(info.sparse)


def _index(target: Side, name: str, info: CollectionInfo) -> None:
    """Before the points: HNSW takes them into account, and no load is filtered without them."""
    for field, schema in info.indexes.items():
        body = {"field_name": field, "field_schema": _given(schema)}
        target.request("PUT", f"{path_of(name)}/index?wait=true", body)


def defer(target: Side, name: str) -> None:
    """No index while points pour in: it would be built over and over."""
    target.request("PATCH", path_of(name), {"optimizers_config": {"indexing_threshold": 0}})


def restore(target: Side, name: str, body: Json) -> None:
    """Give back what was put off; Qdrant then builds the index by itself."""
    target.request("PATCH", path_of(name), body)


def wait_until_green(
    target: Side, name: str, *, seconds: float, tell: Callable[[str], None]
) -> None:
    """Until the index is built. Raises MigrationError for a red one, UnprovenError in the end."""
    limit = time.monotonic() + seconds
    nudged = False
    while True:
        status = target.request("GET", path_of(name))["status"]
        if status == "green":
            return
        if status == "red":
            raise MigrationError(
                f"{name} is red: Qdrant cannot work on it", "look at the server's log and its disk"
            )
        if status == "grey" and not nudged:
            # its work waits for the next update; an empty one is enough
            target.request("PATCH", path_of(name), {"optimizers_config": {}})
            nudged = True
        if time.monotonic() > limit:
            raise UnprovenError(f"{name} is still {status} after {seconds:.0f} s", "run it again")
        tell(status)
        time.sleep(POLL_SECONDS)


def point_aliases(target: Side, switches: list[Switch], *, back: bool = False) -> None:
    """Lead every alias to its target, or back to where it led before, in one request: whoever
    asks through one sees the old collection or the new one, never none."""
    there = target.aliases()
    actions: list[Json] = []
    for each in switches:
        wanted = each.led_to if back else each.target
        if there.get(each.alias, "") == wanted:
            continue
        if each.alias in there:
            actions.append({"delete_alias": {"alias_name": each.alias}})
        if wanted:
            entry = {"collection_name": wanted, "alias_name": each.alias}
            actions.append({"create_alias": entry})
    if actions:
        target.request("POST", "/collections/aliases", {"actions": actions})


def _given(value: Any) -> Any:
    """Without what is null: Qdrant lists it, and takes it for "as it is by itself"."""
    if isinstance(value, dict):
        return {key: _given(each) for key, each in value.items() if each is not None}
    return value
