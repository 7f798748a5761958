"""One suite for the real Qdrant and its stand-in. The run says which of the two it held to.

STACKROOM_QDRANT_URL (plain REST), STACKROOM_QDRANT_API_KEY and, where gRPC is not one port above
REST, STACKROOM_QDRANT_GRPC name a real server with `jwt_rbac: true`. Else the stand-in is started.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from contract_server import REAL, UUID, WHICH, Server
from pydantic import SecretStr
from qdrant_client import QdrantClient
from r2r_place import admin, anna, bob, r2r_place  # noqa: F401
from stand_in_process import make

from ops.clients.qdrant import connect

# a server that somebody else runs is not ours to stop
collect_ignore = ["test_stand_in.py"] if REAL else []


def pytest_report_header() -> str:
    return f"qdrant contract: held against {WHICH}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Also where other folders of tests ran first, and this file was read after the header."""
    left_out = "; restarts are tested with the stand-in only" if REAL else ""
    terminalreporter.write_line(f"qdrant contract: held against {WHICH}{left_out}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if REAL:
        key = os.environ.get("STACKROOM_QDRANT_API_KEY", "")
        assert key, "STACKROOM_QDRANT_API_KEY is missing: what a key may do is half of the contract"
        url = httpx.URL(REAL)
        grpc = os.environ.get("STACKROOM_QDRANT_GRPC", f"{url.host}:{(url.port or 6333) + 1}")
        yield Server(REAL.rstrip("/"), grpc, key)
        return
    stand_in = make(tmp_path_factory.mktemp("qdrant"), secrets.token_hex(24))
    stand_in.start()
    yield Server(stand_in.url, f"127.0.0.1:{stand_in.grpc_port}", stand_in.key)
    assert stand_in.stop() == 0, stand_in.log


@pytest.fixture
def new_name(server: Server) -> Iterator[Callable[[], str]]:
    """Names for collections that nobody else uses; what bears one is gone after the test."""
    given: list[str] = []

    def name() -> str:
        given.append(f"contract-{secrets.token_hex(6)}")
        return given[-1]

    yield name
    for made in given:
        server.send("DELETE", f"/collections/{made}")


@pytest.fixture
def collection(server: Server, new_name: Callable[[], str]) -> str:
    """Four dimensions, cosine, three points: two with numbers and one with a UUID."""
    name = new_name()
    server.result("PUT", f"/collections/{name}", {"vectors": {"size": 4, "distance": "Cosine"}})
    points = [
        {
            "id": 1,
            "vector": [3, 4, 0, 0],
            "payload": {
                "kind": "guide",
                "level": 5,
                "tags": ["a", "b"],
                "made": "2026-01-02T03:04:05Z",
                "draft": False,
                "text": "close the door",
                "place": {"lon": 13.4, "lat": 52.5},
            },
        },
        {"id": 2, "vector": [0, 1, 0, 0], "payload": {"kind": "note", "level": 9, "tags": []}},
        {"id": UUID, "vector": [0, 0, 1, 0]},
    ]
    server.result("PUT", f"/collections/{name}/points?wait=true", {"points": points})
    return name


@pytest.fixture
def client(server: Server) -> Iterator[QdrantClient]:
    opened = connect(server.url, SecretStr(server.key))
    yield opened
    opened.close()


@pytest.fixture
def now() -> int:
    return int(time.time())
