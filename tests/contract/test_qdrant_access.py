"""Which action needs which right: the whole table, one token of each level against each action.

Developers get what this table says and nothing else. What the server at hand does not have is
skipped by the name of its right, and only the stand-in may lack anything.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from contract_server import REAL, WHICH, Server
from qdrant_client import grpc as q

C = "/collections/{c}"
V = [1, 1, 1, 1]
POINT: dict[str, Any] = {"points": [{"id": 1, "vector": V, "payload": {"kind": "guide"}}]}
INDEX = {"field_name": "kind", "field_schema": "keyword"}
NEW = {"vectors": {"size": 2, "distance": "Dot"}}
DENSE = {"dense": {"size": 4, "distance": "Dot"}}
ONE = {"limit": 1}
GROUPS = {"limit": 1, "group_by": "kind", "group_size": 1}
NOWHERE = {"location": "file:///none.snapshot"}
LEVELS = ("m", "r", "rw", "r of the collection", "prw")

# A letter for each level in turn: m, global r, and for the one collection rw, r, prw. A number is
# what somebody is told whom the server lets in where there is nothing to be had: 404 of a
# file that is not there, 415 of what is no upload, 405 of a cluster on a server that is alone.
ACCESS: list[tuple[str, str, str, Any, str, int]] = [
    # everybody sees what is theirs
    ("list collections", "GET", "/collections", None, "yyyyy", 200),
    ("list aliases", "GET", "/aliases", None, "yyyyy", 200),
    ("look at a collection", "GET", C, None, "yyyyy", 200),
    ("ask for a collection's existence", "GET", f"{C}/exists", None, "yyyyy", 200),
    ("list a collection's aliases", "GET", f"{C}/aliases", None, "yyyyy", 200),
    ("list shard keys", "GET", f"{C}/shards", None, "yyyyy", 200),
    ("watch optimizations", "GET", f"{C}/optimizations", None, "yyyyy", 200),
    ("look at a collection's cluster", "GET", f"{C}/cluster", None, "yyyyn", 200),
    # reading points
    ("get a point", "GET", f"{C}/points/1", None, "yyyyy", 200),
    ("get points", "POST", f"{C}/points", {"ids": [1]}, "yyyyy", 200),
    ("scroll", "POST", f"{C}/points/scroll", {}, "yyyyy", 200),
    ("count", "POST", f"{C}/points/count", {}, "yyyyy", 200),
    ("facet", "POST", f"{C}/facet", {"key": "kind"}, "yyyyy", 200),
    ("query", "POST", f"{C}/points/query", {"query": V}, "yyyyy", 200),
    ("query in a batch", "POST", f"{C}/points/query/batch", {"searches": [{"query": V}]},
     "yyyyy", 200),
    ("query groups", "POST", f"{C}/points/query/groups", {"query": V, **GROUPS}, "yyyyy", 200),
    ("search", "POST", f"{C}/points/search", {"vector": V, **ONE}, "yyyyy", 200),
    ("search in a batch", "POST", f"{C}/points/search/batch",
     {"searches": [{"vector": V, **ONE}]}, "yyyyy", 200),
    ("search groups", "POST", f"{C}/points/search/groups", {"vector": V, **GROUPS}, "yyyyy", 200),
    ("search a matrix of pairs", "POST", f"{C}/points/search/matrix/pairs", {"sample": 2, **ONE},
     "yyyyy", 200),
    ("search a matrix of offsets", "POST", f"{C}/points/search/matrix/offsets",
     {"sample": 2, **ONE}, "yyyyy", 200),
    ("recommend", "POST", f"{C}/points/recommend", {"positive": [1], **ONE}, "yyyyy", 200),
    ("recommend in a batch", "POST", f"{C}/points/recommend/batch",
     {"searches": [{"positive": [1], **ONE}]}, "yyyyy", 200),
    ("recommend groups", "POST", f"{C}/points/recommend/groups", {"positive": [1], **GROUPS},
     "yyyyy", 200),
    ("discover", "POST", f"{C}/points/discover", {"target": 1, **ONE}, "yyyyy", 200),
    ("discover in a batch", "POST", f"{C}/points/discover/batch",
     {"searches": [{"target": 1, **ONE}]}, "yyyyy", 200),
    # writing points
    ("write points", "PUT", f"{C}/points?wait=true", POINT, "ynyny", 200),
    ("write in a batch", "POST", f"{C}/points/batch?wait=true", {"operations": [{"upsert": POINT}]},
     "ynyny", 200),
    ("delete points", "POST", f"{C}/points/delete?wait=true", {"points": [7]}, "ynyny", 200),
    ("write vectors", "PUT", f"{C}/points/vectors?wait=true",
     {"points": [{"id": 1, "vector": V}]}, "ynyny", 200),
    ("delete vectors", "POST", f"{C}/points/vectors/delete?wait=true",
     {"points": [7], "vector": [""]}, "ynyny", 404),
    ("set payload", "POST", f"{C}/points/payload?wait=true",
     {"payload": {"seen": 1}, "points": [1]}, "ynyny", 200),
    ("overwrite payload", "PUT", f"{C}/points/payload?wait=true",
     {"payload": {"seen": 1}, "points": [1]}, "ynyny", 200),
    ("delete payload", "POST", f"{C}/points/payload/delete?wait=true",
     {"keys": ["seen"], "points": [1]}, "ynyny", 200),
    ("clear payload", "POST", f"{C}/points/payload/clear?wait=true", {"points": [1]},
     "ynyny", 200),
    # the collection around its points
    ("create a payload index", "PUT", f"{C}/index?wait=true", INDEX, "ynynn", 200),
    ("delete a payload index", "DELETE", f"{C}/index/kind?wait=true", None, "ynynn", 200),
    ("create a vector name", "PUT", f"{C}/vectors/extra?wait=true", DENSE, "ynynn", 200),
    ("delete a vector name", "DELETE", f"{C}/vectors/extra?wait=true", None, "ynynn", 200),
    # snapshots of it
    ("list snapshots", "GET", f"{C}/snapshots", None, "yyyyn", 200),
    ("download a snapshot", "GET", f"{C}/snapshots/none.snapshot", None, "yyyyn", 404),
    ("create a snapshot", "POST", f"{C}/snapshots", None, "ynynn", 200),
    ("delete a snapshot", "DELETE", f"{C}/snapshots/none.snapshot", None, "ynynn", 404),
    ("recover a snapshot", "PUT", f"{C}/snapshots/recover", NOWHERE, "ynnnn", 400),
    ("upload a snapshot", "POST", f"{C}/snapshots/upload", {}, "ynnnn", 415),
    ("list shard snapshots", "GET", f"{C}/shards/0/snapshots", None, "yyyyn", 200),
    ("download a shard snapshot", "GET", f"{C}/shards/0/snapshots/none.snapshot", None,
     "yyyyn", 404),
    ("create a shard snapshot", "POST", f"{C}/shards/0/snapshots", None, "ynynn", 200),
    ("delete a shard snapshot", "DELETE", f"{C}/shards/0/snapshots/none.snapshot", None,
     "ynynn", 404),
    ("stream a shard snapshot", "GET", f"{C}/shards/0/snapshot", None, "ynynn", 200),
    ("recover a shard snapshot", "PUT", f"{C}/shards/0/snapshots/recover", NOWHERE, "ynnnn", 400),
    ("upload a shard snapshot", "POST", f"{C}/shards/0/snapshots/upload", {}, "ynnnn", 415),
    # snapshots of everything
    ("list full snapshots", "GET", "/snapshots", None, "yynnn", 200),
    ("download a full snapshot", "GET", "/snapshots/none.snapshot", None, "yynnn", 404),
    ("create a full snapshot", "POST", "/snapshots", None, "ynnnn", 200),
    ("delete a full snapshot", "DELETE", "/snapshots/none.snapshot", None, "ynnnn", 404),
    # what there is
    ("create a collection", "PUT", f"{C}-new", NEW, "ynnnn", 200),
    ("change a collection", "PATCH", C, {"metadata": {"team": "library"}}, "ynnnn", 200),
    ("delete a collection", "DELETE", f"{C}-new", None, "ynnnn", 200),
    ("change aliases", "POST", "/collections/aliases", {"actions": []}, "ynnnn", 200),
    ("create a shard key", "PUT", f"{C}/shards", {"shard_key": "a"}, "ynnnn", 405),
    ("delete a shard key", "POST", f"{C}/shards/delete", {"shard_key": "a"}, "ynnnn", 405),
    ("change a collection's cluster", "POST", f"{C}/cluster",
     {"drop_replica": {"shard_id": 0, "peer_id": 1}}, "ynnnn", 405),
    ("look at somebody else's collection", "GET", f"{C}-other", None, "yynnn", 200),
    ("count in somebody else's collection", "POST", f"{C}-other/points/count", {}, "yynnn", 200),
    # the server
    ("read telemetry", "GET", "/telemetry", None, "yyyyy", 200),
    ("read the cluster's telemetry", "GET", "/cluster/telemetry", None, "yyyyy", 500),
    ("list issues", "GET", "/issues", None, "yyyyy", 200),
    ("read metrics", "GET", "/metrics", None, "yynnn", 200),
    ("look at the cluster", "GET", "/cluster", None, "yynnn", 200),
    ("read quotas", "GET", "/quotas", None, "yynnn", 200),
    ("read the logger's settings", "GET", "/logger", None, "yynnn", 200),
    ("change the logger's settings", "POST", "/logger", {}, "ynnnn", 200),
    ("change quotas", "PUT", "/quotas", "as they are", "ynnnn", 200),
    ("read the audit log", "POST", "/audit/logs", {}, "ynnnn", 200),
    ("read stack traces", "GET", "/stacktrace", None, "ynnnn", 200),
    ("read slow requests", "GET", "/profiler/slow_requests", None, "ynnnn", 200),
    ("clear issues", "DELETE", "/issues", None, "ynnnn", 200),
    ("remove a peer", "DELETE", "/cluster/peer/1", None, "ynnnn", 405),
    ("recover raft", "POST", "/cluster/recover", None, "ynnnn", 405),
]  # fmt: skip
NOT_IN_THE_STAND_IN = {
    "list shard keys", "watch optimizations", "look at a collection's cluster", "facet",
    "query groups", "search in a batch", "search groups", "search a matrix of pairs",
    "search a matrix of offsets", "recommend", "recommend in a batch", "recommend groups",
    "discover", "discover in a batch", "write in a batch", "write vectors", "delete vectors",
    "create a vector name", "delete a vector name", "list shard snapshots",
    "download a shard snapshot", "create a shard snapshot", "delete a shard snapshot",
    "stream a shard snapshot", "recover a shard snapshot", "upload a shard snapshot",
    "download a full snapshot", "create a full snapshot", "delete a full snapshot",
    "create a shard key", "delete a shard key", "change a collection's cluster",
    "read the cluster's telemetry", "read quotas", "read the logger's settings",
    "change the logger's settings", "change quotas", "read the audit log", "read stack traces",
    "read slow requests", "clear issues", "remove a peer", "recover raft",
}  # fmt: skip


def levels(*names: str) -> list[Any]:
    """The access claim of each level, the last three for these collections or aliases."""
    rules = [
        [{"collection": name, "access": level} for name in names] for level in ("rw", "r", "prw")
    ]
    return ["m", "r", *rules]


def skip_unless_real(action: str) -> None:
    """Of what only the real server has: named, in the list of what was not checked."""
    pytest.skip(f"not checked: the right to {action}; {WHICH} has no such action")


@pytest.fixture(scope="module")
def collections(server: Server) -> Iterator[str]:
    """A collection beside one that is somebody else's, made once: it takes the server longest."""
    name = f"contract-{secrets.token_hex(6)}"
    vectors = {"vectors": {"size": 4, "distance": "Cosine"}}
    server.result("PUT", f"/collections/{name}", vectors)
    server.result("PUT", f"/collections/{name}-other", NEW)
    yield name
    for made in (name, f"{name}-other"):
        server.send("DELETE", f"/collections/{made}")


@pytest.fixture
def stage(server: Server, collections: str) -> Iterator[str]:
    """The collection with two points and an index; what an action made is gone after it."""
    full = server.result("GET", "/snapshots")
    points = {"points": [*POINT["points"], {"id": 2, "vector": [0, 1, 0, 0]}]}
    server.result("PUT", f"/collections/{collections}/points?wait=true", points)
    server.result("PUT", f"/collections/{collections}/index?wait=true", INDEX)
    yield collections
    server.send("DELETE", f"/collections/{collections}-new")
    for made in server.result("GET", "/snapshots"):
        if made not in full:
            server.send("DELETE", f"/snapshots/{made['name']}")


def test_every_right_has_a_name_of_its_own() -> None:
    names = [action for action, *_ in ACCESS]
    assert len(set(names)) == len(names)
    assert set(names) >= NOT_IN_THE_STAND_IN


@pytest.mark.parametrize(
    ("action", "method", "path", "body", "allowed", "let_in"),
    ACCESS,
    ids=[action.replace(" ", "-") for action, *_ in ACCESS],
)
def test_the_access_table(
    server: Server,
    stage: str,
    action: str,
    method: str,
    path: str,
    body: Any,
    allowed: str,
    let_in: int,
) -> None:
    if action == "change quotas" and REAL:
        body = server.result("GET", "/quotas")["config"]  # they stay as they are
    found = ""
    for level, access in zip(LEVELS, levels(stage), strict=True):
        bearer = f"Bearer {server.token(access=access)}"
        answer = server.send(method, path.replace("{c}", stage), body, authorization=bearer)
        absent = answer.status_code == 501 or (answer.status_code == 404 and not answer.text)
        if absent and not REAL and action in NOT_IN_THE_STAND_IN:
            skip_unless_real(action)
        if answer.status_code == 403:
            assert "Forbidden: " in answer.text, (level, answer.text)
        else:
            assert answer.status_code in (200, let_in), (level, answer.text)
            assert not absent, f"{action}: {WHICH} has no {method} {path}"
        found += "n" if answer.status_code == 403 else "y"
    assert found == allowed
    assert REAL or action not in NOT_IN_THE_STAND_IN, "the stand-in has it now: check it"


# the same rights over gRPC, which the edge passes on as well

Ask = Callable[[Any, str], Any]
GRPC: list[tuple[str, Ask, str]] = [
    ("list collections", lambda ch, _: (q.CollectionsStub(ch).List, q.ListCollectionsRequest()),
     "yyyyy"),
    ("look at a collection", lambda ch, c: (q.CollectionsStub(ch).Get,
     q.GetCollectionInfoRequest(collection_name=c)), "yyyyy"),
    ("query", lambda ch, c: (q.PointsStub(ch).Query, q.QueryPoints(collection_name=c, limit=1)),
     "yyyyy"),
    ("write points", lambda ch, c: (q.PointsStub(ch).Upsert, q.UpsertPoints(collection_name=c,
     points=[q.PointStruct(id=q.PointId(num=1), vectors=q.Vectors(vector=q.Vector(data=V)))])),
     "ynyny"),
    ("delete points", lambda ch, c: (q.PointsStub(ch).Delete, q.DeletePoints(collection_name=c,
     points=q.PointsSelector(points=q.PointsIdsList(ids=[q.PointId(num=7)])))), "ynyny"),
    ("create a payload index", lambda ch, c: (q.PointsStub(ch).CreateFieldIndex,
     q.CreateFieldIndexCollection(collection_name=c, field_name="kind",
     field_type=q.FieldType.FieldTypeKeyword)), "ynynn"),
    ("list snapshots", lambda ch, c: (q.SnapshotsStub(ch).List,
     q.ListSnapshotsRequest(collection_name=c)), "yyyyn"),
    ("create a snapshot", lambda ch, c: (q.SnapshotsStub(ch).Create,
     q.CreateSnapshotRequest(collection_name=c)), "ynynn"),
    ("create a collection", lambda ch, c: (q.CollectionsStub(ch).Create, q.CreateCollection(
     collection_name=f"{c}-new", vectors_config=q.VectorsConfig(params=q.VectorParams(size=2,
     distance=q.Distance.Dot)))), "ynnnn"),
    ("delete a collection", lambda ch, c: (q.CollectionsStub(ch).Delete,
     q.DeleteCollection(collection_name=f"{c}-new")), "ynnnn"),
    ("look at somebody else's collection", lambda ch, c: (q.CollectionsStub(ch).Get,
     q.GetCollectionInfoRequest(collection_name=f"{c}-other")), "yynnn"),
]  # fmt: skip
NOT_IN_THE_STAND_INS_GRPC = {
    "create a payload index", "list snapshots", "create a snapshot", "create a collection",
    "delete a collection",
}  # fmt: skip


@pytest.mark.parametrize(
    ("action", "ask", "allowed"), GRPC, ids=[row[0].replace(" ", "-") for row in GRPC]
)
def test_the_access_table_over_grpc(
    server: Server, stage: str, action: str, ask: Ask, allowed: str
) -> None:
    found = ""
    with grpc.insecure_channel(server.grpc) as channel:
        call, request = ask(channel, stage)
        for access in levels(stage):
            bearer = ("authorization", f"Bearer {server.token(access=access)}")
            try:
                call(request, metadata=(bearer,), timeout=20)
            except grpc.RpcError as refused:
                code = refused.code()
            else:
                code = grpc.StatusCode.OK
            if code is grpc.StatusCode.UNIMPLEMENTED and not REAL:
                assert action in NOT_IN_THE_STAND_INS_GRPC
                skip_unless_real(f"{action} over gRPC")
            found += {grpc.StatusCode.OK: "y", grpc.StatusCode.PERMISSION_DENIED: "n"}[code]
    assert found == allowed
    assert REAL or action not in NOT_IN_THE_STAND_INS_GRPC, "the stand-in has it now: check it"


@pytest.mark.parametrize(
    ("access", "method", "path", "body", "reason"),
    [
        ("r", "PUT", "/points", POINT, "Global manage access is required"),
        ("coll r", "PUT", "/points", POINT, "Write access to collection {c} is required"),
        ("coll prw", "PUT", "/index", INDEX, "Only points access is allowed for collection {c}"),
        ("coll rw", "DELETE", "", None, "Global access is required"),
        ("nothing", "GET", "", None, "Access to collection {c} is required"),
    ],
)
def test_a_refusal_names_what_is_lacking(
    server: Server, collection: str, access: str, method: str, path: str, body: Any, reason: str
) -> None:
    rules = [{"collection": collection, "access": access.removeprefix("coll ")}]
    claim: Any = {"r": "r", "nothing": []}.get(access, rules)
    answer = server.send(
        method,
        f"/collections/{collection}{path}",
        body,
        authorization=f"Bearer {server.token(access=claim)}",
    )
    assert answer.status_code == 403
    assert answer.json()["status"]["error"] == "Forbidden: " + reason.replace("{c}", collection)


def test_a_token_without_access_may_do_everything(server: Server, collection: str) -> None:
    """Why none is ever signed without the claim: it is as good as the key."""
    bearer = f"Bearer {server.token(subject='bob')}"
    for method, path, body in (
        ("PATCH", C, {}),
        ("PUT", f"{C}-new", NEW),
        ("DELETE", f"{C}-new", None),
        ("DELETE", C, None),
        ("GET", "/metrics", None),
    ):
        answer = server.send(method, path.replace("{c}", collection), body, authorization=bearer)
        assert answer.status_code == 200, answer.text


# aliases: a name of their own


def alias_to(server: Server, alias: str, target: str) -> None:
    create = {"create_alias": {"collection_name": target, "alias_name": alias}}
    server.result("POST", "/collections/aliases", {"actions": [create]})


@pytest.fixture
def alias(server: Server, collection: str, new_name: Callable[[], str]) -> Iterator[str]:
    name = new_name()
    alias_to(server, name, collection)
    yield name
    drop = {"delete_alias": {"alias_name": name}}
    server.send("POST", "/collections/aliases", {"actions": [drop]})


def status(server: Server, names: list[Any], method: str, path: str, body: Any = None) -> int:
    bearer = f"Bearer {server.token(access=names)}"
    return server.send(method, path, body, authorization=bearer).status_code


def test_an_alias_needs_a_rule_of_its_own(server: Server, collection: str, alias: str) -> None:
    for name, other in ((collection, alias), (alias, collection)):
        for level in ("r", "rw", "prw"):
            rules = [{"collection": name, "access": level}]
            assert status(server, rules, "GET", f"/collections/{name}") == 200
            assert status(server, rules, "GET", f"/collections/{other}") == 403
            assert status(server, rules, "POST", f"/collections/{other}/points/scroll", {}) == 403
            assert status(server, rules, "PUT", f"/collections/{other}/points", POINT) == 403
            expected = 403 if level == "r" else 200
            assert status(server, rules, "PUT", f"/collections/{name}/points", POINT) == expected


def test_a_rule_on_an_alias_follows_it_to_another_collection(
    server: Server, collection: str, alias: str, new_name: Callable[[], str]
) -> None:
    """Whoever moves an alias moves the rights of everybody who has a rule on it."""
    other = new_name()
    server.result("PUT", f"/collections/{other}", NEW)
    rules = [{"collection": alias, "access": "prw"}]
    bearer = f"Bearer {server.token(access=rules)}"

    def size() -> int:
        answer = server.send("GET", f"/collections/{alias}", authorization=bearer)
        vectors: dict[str, int] = answer.json()["result"]["config"]["params"]["vectors"]
        return vectors["size"]

    assert size() == 4
    drop = {"delete_alias": {"alias_name": alias}}
    create = {"create_alias": {"collection_name": other, "alias_name": alias}}
    server.result("POST", "/collections/aliases", {"actions": [drop, create]})
    assert size() == 2
    assert status(server, rules, "GET", f"/collections/{collection}") == 403
    assert status(server, rules, "GET", f"/collections/{other}") == 403
    server.result("POST", "/collections/aliases", {"actions": [drop]})
    assert status(server, rules, "GET", f"/collections/{alias}") == 404


def test_lists_are_cut_to_what_a_token_may_see(server: Server, collection: str, alias: str) -> None:
    def ask(path: str, *names: str) -> Any:
        access = [{"collection": name, "access": "r"} for name in names]
        bearer = f"Bearer {server.token(access=access)}"
        return server.send("GET", path, authorization=bearer).json()["result"]

    assert ask("/collections", collection)["collections"] == [{"name": collection}]
    assert ask("/collections", alias)["collections"] == []
    assert ask("/aliases", collection)["aliases"] == []
    assert ask("/aliases", alias)["aliases"] == []
    assert ask("/aliases", collection, alias)["aliases"] == [
        {"alias_name": alias, "collection_name": collection}
    ]


# how a token ends


def test_expiry_has_thirty_seconds_of_leeway(server: Server, now: int) -> None:
    def ask(exp: int) -> tuple[int, str]:
        bearer = f"Bearer {server.token(access='r', exp=exp)}"
        answer = server.send("GET", "/collections", authorization=bearer)
        return answer.status_code, answer.text

    assert ask(now + 60)[0] == 200
    assert ask(now - 15)[0] == 200
    assert ask(now - 60) == (403, "ExpiredSignature")


REFUSED = "Invalid JWT, stateful validation failed"


def bound(server: Server, collection: str, *names: str, **matches: str) -> str:
    """A token that reads `names` while `collection` has a point with all of `matches`."""
    pairs = [{"key": key, "value": value} for key, value in matches.items()]
    claim = {"collection": collection, "matches": pairs}
    access = [{"collection": name, "access": "r"} for name in names]
    return server.token(access=access, value_exists=claim)


def test_a_token_lives_as_long_as_the_point_it_names(
    server: Server, collection: str, new_name: Callable[[], str]
) -> None:
    """It needs no right to the collection where that point is."""
    library = new_name()
    server.result("PUT", f"/collections/{library}", NEW)

    def ask(name: str, **matches: str) -> tuple[int, str]:
        bearer = f"Bearer {bound(server, name, library, **matches)}"
        answer = server.send("GET", f"/collections/{library}", authorization=bearer)
        return answer.status_code, answer.text

    assert ask(collection, kind="guide")[0] == 200
    assert ask(collection, kind="revoked") == (401, REFUSED)
    assert ask(collection, kind="guide", text="another") == (401, REFUSED)
    assert ask("contract-absent", kind="guide") == (403, REFUSED)
    # taking the point away takes the token away, putting it back brings it back
    points = f"/collections/{collection}/points"
    server.result("POST", f"{points}/delete?wait=true", {"points": [1]})
    assert ask(collection, kind="guide") == (401, REFUSED)
    server.result("PUT", f"{points}?wait=true", POINT)
    assert ask(collection, kind="guide")[0] == 200
    server.result("PUT", f"/collections/{collection}/index?wait=true", INDEX)
    assert ask(collection, kind="guide")[0] == 200
    assert ask(collection, kind="revoked") == (401, REFUSED)
    server.send("DELETE", f"/collections/{collection}")
    assert ask(collection, kind="guide") == (403, REFUSED)


def test_a_token_is_refused_over_grpc_once_its_point_is_gone(
    server: Server, collection: str
) -> None:
    bearer = ("authorization", f"Bearer {bound(server, collection, collection, kind='guide')}")
    with grpc.insecure_channel(server.grpc) as channel:
        ask = q.CollectionsStub(channel).Get
        request = q.GetCollectionInfoRequest(collection_name=collection)
        ask(request, metadata=(bearer,), timeout=20)
        delete = f"/collections/{collection}/points/delete?wait=true"
        server.result("POST", delete, {"points": [1]})
        with pytest.raises(grpc.RpcError) as refused:
            ask(request, metadata=(bearer,), timeout=20)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert refused.value.details() == REFUSED
