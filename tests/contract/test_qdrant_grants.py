"""The list of tokens on a server: made, read back, and what it admits and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from contract_server import Server
from settings_lab import readers

from ops.grants import plan, reads, tokens
from ops.settings import ACCESS_COLLECTION, Settings
from ops.settings.rights import value_of

BOBS, EVES = (f"00000000-0000-4000-8000-00000000000{number}" for number in "12")


def settings_of(**given: str) -> Settings:
    return readers(**{name: {"token": token} for name, token in given.items()})


@pytest.fixture
def bare(server: Server) -> Iterator[Server]:
    """A server without a list of tokens, before and after."""
    there = server.send("GET", f"/collections/{ACCESS_COLLECTION}").status_code
    assert there == 404, f"this server has people's tokens in {ACCESS_COLLECTION}: use another one"
    yield server
    server.send("DELETE", f"/collections/{ACCESS_COLLECTION}")


def value(token: str) -> str:
    settings = settings_of(bob=token)
    return value_of(settings, settings.developers["bob"], token)


def answers(server: Server) -> dict[str, Any]:
    return {
        asked.path: server.send(asked.method, asked.path, asked.body).json() for asked in reads()
    }


def apply(server: Server, settings: Settings) -> int:
    requests = plan(settings, answers(server))
    for request in requests:
        server.result(request.method, request.path, request.body)
    assert plan(settings, answers(server)) == []
    return len(requests)


def ask(server: Server, token: str) -> int:
    claim = {
        "collection": ACCESS_COLLECTION,
        "matches": [{"key": "token", "value": value(token)}],
    }
    rule = [{"collection": "a", "access": "r"}]
    bearer = f"Bearer {server.token(access=rule, value_exists=claim)}"
    return server.send("GET", "/collections", authorization=bearer).status_code


def test_tokens_come_and_go_with_their_points(bare: Server) -> None:
    assert tokens(answers(bare)) == {}
    assert (ask(bare, BOBS), ask(bare, EVES)) == (403, 403)
    assert apply(bare, settings_of()) == 0

    assert apply(bare, settings_of(bob=BOBS)) == 3
    assert (ask(bare, BOBS), ask(bare, EVES)) == (200, 401)
    assert apply(bare, settings_of(bob=BOBS, eve=EVES)) == 1
    assert tokens(answers(bare)) == {value(BOBS): "bob", value(EVES): "eve"}

    assert apply(bare, settings_of(eve=EVES)) == 1
    assert (ask(bare, BOBS), ask(bare, EVES)) == (401, 200)
    assert apply(bare, settings_of()) == 1
    assert ask(bare, EVES) == 401


def test_the_list_has_no_vectors_and_an_index(bare: Server) -> None:
    apply(bare, settings_of(bob=BOBS))
    info = bare.result("GET", f"/collections/{ACCESS_COLLECTION}")
    assert not info["config"]["params"].get("vectors")
    assert info["payload_schema"]["token"]["data_type"] == "keyword"


def test_a_revoked_token_that_hides_under_a_live_id_is_found(bare: Server) -> None:
    apply(bare, settings_of(bob=BOBS))
    path = f"/collections/{ACCESS_COLLECTION}/points?wait=true"
    payload = {"token": value(EVES), "developer": "bob"}
    bare.result("PUT", path, {"points": [{"id": BOBS, "vector": {}, "payload": payload}]})
    assert (ask(bare, BOBS), ask(bare, EVES)) == (401, 200)
    assert apply(bare, settings_of(bob=BOBS)) == 1
    assert (ask(bare, BOBS), ask(bare, EVES)) == (200, 401)
