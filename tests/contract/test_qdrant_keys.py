"""What answers without a key, which keys are refused and how, and what a JWT may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jwt
import pytest
from contract_server import Server

NO_KEY = "Must provide an API key or an Authorization bearer token"
WRONG_KEY = "Invalid API key or JWT"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/healthz", "healthz check passed"),
        ("/livez", "healthz check passed"),
        ("/readyz", "all shards are ready"),
    ],
)
def test_health_needs_no_key(server: Server, path: str, text: str) -> None:
    answer = server.send("GET", path, accept="*/*")
    assert (answer.status_code, answer.text) == (200, text)


def test_the_version_needs_no_key(server: Server) -> None:
    answer = server.send("GET", "/", accept="*/*").json()
    assert answer["title"] == "qdrant - vector search engine"
    assert answer["version"].count(".") == 2


@pytest.mark.parametrize(
    "path", ["/collections", "/metrics", "/telemetry", "/aliases", "/snapshots", "/no-such-path"]
)
@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"accept": "*/*"}, NO_KEY),
        ({"api_key": "wrong"}, WRONG_KEY),
        ({"api_key": ""}, WRONG_KEY),
        ({"authorization": "Bearer wrong"}, WRONG_KEY),
        ({"authorization": "Bearer a.b.c"}, WRONG_KEY),
        ({"authorization": "Basic wrong"}, NO_KEY),
    ],
)
def test_everything_else_refuses(
    server: Server, path: str, headers: dict[str, str], text: str
) -> None:
    answer = server.send("GET", path, **headers)
    assert (answer.status_code, answer.text) == (401, text)


def test_a_write_refuses_too(server: Server, collection: str) -> None:
    answer = server.send("DELETE", f"/collections/{collection}", api_key="wrong")
    assert answer.status_code == 401
    assert server.result("GET", f"/collections/{collection}/exists") == {"exists": True}


def test_the_scheme_of_a_bearer_token_is_spelled_bearer(server: Server) -> None:
    answer = server.send("GET", "/collections", authorization=f"bearer {server.key}")
    assert (answer.status_code, answer.text) == (401, NO_KEY)


def test_a_key_and_a_token_go_into_either_header(server: Server) -> None:
    for secret in (server.key, server.token(access="r")):
        for headers in ({"api_key": secret}, {"authorization": f"Bearer {secret}"}):
            assert server.send("GET", "/collections", **headers).status_code == 200


def test_the_key_header_wins_over_the_bearer_token(server: Server) -> None:
    bearer = f"Bearer {server.key}"
    answer = server.send("GET", "/collections", api_key="wrong", authorization=bearer)
    assert answer.status_code == 401


POINT = {"points": [{"id": 1, "vector": [1, 1, 1, 1]}]}
INDEX = {"field_name": "kind", "field_schema": "keyword"}
NEW = {"vectors": {"size": 2, "distance": "Dot"}}
# a letter for each level in turn: m, global r, and for the one collection rw, r, prw
ACCESS = [
    ("GET", "/collections", None, "yyyyy"),
    ("GET", "/aliases", None, "yyyyy"),
    ("GET", "/telemetry", None, "yyyyy"),
    ("GET", "/issues", None, "yyyyy"),
    ("GET", "/metrics", None, "yynnn"),
    ("GET", "/cluster", None, "yynnn"),
    ("GET", "/snapshots", None, "yynnn"),
    ("GET", "/collections/{c}", None, "yyyyy"),
    ("GET", "/collections/{c}/exists", None, "yyyyy"),
    ("GET", "/collections/{c}/aliases", None, "yyyyy"),
    ("GET", "/collections/{c}/snapshots", None, "yyyyn"),
    ("GET", "/collections/{c}/points/1", None, "yyyyy"),
    ("POST", "/collections/{c}/points", {"ids": [1]}, "yyyyy"),
    ("POST", "/collections/{c}/points/scroll", {}, "yyyyy"),
    ("POST", "/collections/{c}/points/count", {}, "yyyyy"),
    ("POST", "/collections/{c}/points/query", {"query": [1, 1, 1, 1]}, "yyyyy"),
    ("POST", "/collections/{c}/points/search", {"vector": [1, 1, 1, 1], "limit": 1}, "yyyyy"),
    ("PUT", "/collections/{c}/points?wait=true", POINT, "ynyny"),
    ("POST", "/collections/{c}/points/delete?wait=true", {"points": [7]}, "ynyny"),
    (
        "POST",
        "/collections/{c}/points/payload?wait=true",
        {"payload": {"seen": 1}, "points": [1]},
        "ynyny",
    ),
    ("PUT", "/collections/{c}/index?wait=true", INDEX, "ynynn"),
    ("DELETE", "/collections/{c}/index/kind?wait=true", None, "ynynn"),
    ("PATCH", "/collections/{c}", {"metadata": {"team": "library"}}, "ynnnn"),
    ("PUT", "/collections/{c}-new", NEW, "ynnnn"),
    ("DELETE", "/collections/{c}-new", None, "ynnnn"),
    ("POST", "/collections/aliases", {"actions": []}, "ynnnn"),
    ("GET", "/collections/{c}-other", None, "yynnn"),
    ("POST", "/collections/{c}-other/points/count", {}, "yynnn"),
]


@pytest.mark.parametrize(("method", "path", "body", "allowed"), ACCESS)
def test_the_access_table(
    server: Server,
    collection: str,
    new_name: Callable[[], str],
    method: str,
    path: str,
    body: Any,
    allowed: str,
) -> None:
    other = f"{collection}-other"
    server.result("PUT", f"/collections/{other}", NEW)
    levels: list[Any] = ["m", "r"]
    levels += [[{"collection": collection, "access": level}] for level in ("rw", "r", "prw")]
    found = ""
    try:
        for access in levels:
            bearer = f"Bearer {server.token(access=access)}"
            where = path.replace("{c}", collection)
            answer = server.send(method, where, body, authorization=bearer)
            assert answer.status_code in (200, 403), answer.text
            found += "y" if answer.status_code == 200 else "n"
    finally:
        server.send("DELETE", f"/collections/{other}")
        server.send("DELETE", f"/collections/{collection}-new")
    assert found == allowed


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
    token = server.token(subject="bob")
    answer = server.send("PATCH", f"/collections/{collection}", {}, authorization=f"Bearer {token}")
    assert answer.status_code == 200


def test_lists_are_cut_to_what_a_token_may_see(
    server: Server, collection: str, new_name: Callable[[], str]
) -> None:
    alias = new_name()
    action = {"create_alias": {"collection_name": collection, "alias_name": alias}}
    server.result("POST", "/collections/aliases", {"actions": [action]})

    def ask(path: str, *names: str) -> Any:
        access = [{"collection": name, "access": "r"} for name in names]
        bearer = f"Bearer {server.token(access=access)}"
        return server.send("GET", path, authorization=bearer)

    assert ask("/collections", collection).json()["result"]["collections"] == [{"name": collection}]
    # an alias is a name of its own: it needs its own rule, and so does what it points to
    assert ask(f"/collections/{alias}", collection).status_code == 403
    assert ask(f"/collections/{alias}", alias).status_code == 200
    assert ask("/aliases", collection).json()["result"]["aliases"] == []
    assert ask("/aliases", collection, alias).json()["result"]["aliases"] == [
        {"alias_name": alias, "collection_name": collection}
    ]


def test_expiry_has_thirty_seconds_of_leeway(server: Server, now: int) -> None:
    def ask(exp: int) -> tuple[int, str]:
        bearer = f"Bearer {server.token(access='r', exp=exp)}"
        answer = server.send("GET", "/collections", authorization=bearer)
        return answer.status_code, answer.text

    assert ask(now + 60)[0] == 200
    assert ask(now - 15)[0] == 200
    assert ask(now - 60) == (403, "ExpiredSignature")


def test_tokens_that_are_refused(server: Server) -> None:
    rule = {"collection": "any", "access": "r"}
    payload = "access[0].payload: The 'payload' constraint is deprecated and should not be used"
    cases = {
        server.token("another-key-of-more-than-32-bytes", access="m"): (403, "InvalidSignature"),
        server.token(access=[rule | {"payload": {"team": "a"}}]): (401, payload),
        server.token(access=[rule, rule]): (
            401,
            "access[1].collection: Collection name should be unique",
        ),
        jwt.encode({"access": "m"}, server.key * 2, "HS384"): (401, WRONG_KEY),
        jwt.encode({"access": "m"}, None, "none"): (401, WRONG_KEY),
    }
    for token, expected in cases.items():
        answer = server.send("GET", "/collections", authorization=f"Bearer {token}")
        assert (answer.status_code, answer.text) == expected


def test_unknown_claims_and_not_before_are_passed_over(server: Server) -> None:
    token = server.token(access="r", aud="somebody", nbf=99999999999, team="library")
    answer = server.send("GET", "/collections", authorization=f"Bearer {token}")
    assert answer.status_code == 200


def test_a_token_lives_as_long_as_the_point_it_names(server: Server, collection: str) -> None:
    def ask(name: str, kind: str) -> tuple[int, str]:
        claim = {"collection": name, "matches": [{"key": "kind", "value": kind}]}
        bearer = f"Bearer {server.token(access='r', value_exists=claim)}"
        answer = server.send("GET", "/collections", authorization=bearer)
        return answer.status_code, answer.text

    refused = "Invalid JWT, stateful validation failed"
    assert ask(collection, "guide")[0] == 200
    assert ask(collection, "revoked") == (401, refused)
    assert ask("contract-absent", "guide") == (403, refused)
    # taking the point away takes the token away
    server.result("POST", f"/collections/{collection}/points/delete?wait=true", {"points": [1]})
    assert ask(collection, "guide") == (401, refused)
