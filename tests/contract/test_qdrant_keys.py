"""What answers without a key, and which keys and tokens are refused, with which words."""

from __future__ import annotations

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
