"""R2R's probes against a small R2R on loopback that behaves well, and badly on purpose."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from ops.clients.r2r import R2R, Login
from ops.errors import ServiceError, UnreachableError
from ops.health.model import Status
from ops.health.r2r import PATIENCE, server

OK, WARNING, CRITICAL, UNKNOWN = Status.OK, Status.WARNING, Status.CRITICAL, Status.UNKNOWN
ADMIN = Login("librarian@example.com", SecretStr("canary-of-the-administrator"))
OWNER = "cfca521e-d294-5d14-9668-35ed0269b0f8"
PLACE = "14a56b90-6d65-441f-88e6-38af019dcd9e"
FAILURE = "the model is gone"


class Server(http.server.ThreadingHTTPServer):
    """Keeps documents; `faults`: open, known, blind, undeleted, chunks stay, failed, queued, ..."""

    daemon_threads = True

    def __init__(self, *faults: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults = faults
        self.documents: dict[str, dict[str, Any]] = {}
        self.has_place = "fresh" not in faults and "race" not in faults
        self.seen: list[str] = []

    def keep(self, name: str, text: str, created: datetime) -> None:
        late = "failed" in self.faults
        self.documents[name] = {
            "id": name,
            "owner_id": OWNER,
            "collection_ids": [PLACE],
            "document_type": "txt",
            "metadata": {"failure": FAILURE} if late else {},
            "version": "v0",
            "size_in_bytes": 9,
            "ingestion_status": "failed" if late else "success",
            "extraction_status": "pending",
            "created_at": created.isoformat(),
            "updated_at": created.isoformat(),
            "text": text,
        }


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def _any(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size).decode()
        path = self.path.partition("?")[0]
        self.server.seen.append(f"{self.command} {path}")
        code, answer = self._answer(self.command, path, body)
        if code == 200:
            total = len(answer) if isinstance(answer, list) else 1
            answer = {"results": answer, "total_entries": total}
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _any

    def _answer(self, method: str, path: str, body: str) -> tuple[int, Any]:
        faults = self.server.faults
        if path == "/v3/health":
            return (503 if "unready" in faults else 200), {"message": "ok"}
        if path == "/v3/users/login":
            return self._login(body)
        if "authorization" not in self.headers and "open" not in faults:
            return (500 if "broken" in faults else 401), {"message": "No credentials provided."}
        if path == "/v3/system/status":
            if "not a superuser" in faults:
                return 403, {"message": "Only a superuser can call the `system/status` endpoint."}
            began = "2026-11-21T12:00:00Z"
            figures = {"uptime_seconds": 7200.0, "cpu_usage": 1.0, "memory_usage": 2.0}
            return 200, {"start_time": began, **figures}
        if path == f"/v3/collections/name/{server.CANARY}":
            return (200, _place()) if self.server.has_place else (404, {"message": "none"})
        if path == "/v3/collections":
            self.server.has_place = True
            return (409, {"message": "exists"}) if "race" in faults else (200, _place())
        if path == f"/v3/collections/{PLACE}/documents":
            return 200, list(self.server.documents.values())
        return self._documents(method, path, body)

    def _documents(self, method: str, path: str, body: str) -> tuple[int, Any]:
        faults, documents = self.server.faults, self.server.documents
        if (method, path) == ("POST", "/v3/documents"):
            if "refuses" in faults:
                return 500, {"message": "no embedding"}
            name, text = re.findall(r'name="(?:id|chunks)"\r\n\r\n(.*?)\r\n', body)
            if "queued" not in faults:
                self.server.keep(name, json.loads(text)[0], datetime.now(UTC))
            return 200, {"document_id": name, "message": "taken"}
        if path == "/v3/retrieval/search":
            asked = json.loads(body)["search_settings"]["filters"]["document_id"]["$eq"]
            found = [] if "blind" in faults else [documents[asked]]
            hits = [{**each, "document_id": each["id"]} for each in found]
            return 200, {"chunk_search_results": hits}
        if path == "/v3/documents":
            return 200, list(documents.values())
        name = path.split("/")[3]
        if name not in documents:
            chunks = path.endswith("/chunks") and "chunks stay" in faults
            return (200, [_chunk(name)]) if chunks else (404, {"message": "not found"})
        if method == "DELETE":
            if "undeleted" not in faults:
                del documents[name]
            return 200, {"success": True}
        return 200, documents[name]

    def _login(self, body: str) -> tuple[int, Any]:
        if "change_me_immediately" in body:
            known = "known" in self.server.faults
            return (200, _tokens()) if known else (404, {"message": "User not found"})
        if "another password" in self.server.faults:
            return 401, {"message": "Incorrect email or password"}
        return 200, _tokens()

    def log_message(self, *_: Any) -> None:
        pass


def _tokens() -> dict[str, Any]:
    return {f"{kind}_token": {"token": kind, "token_type": kind} for kind in ("access", "refresh")}


def _chunk(document: str) -> dict[str, Any]:
    ids = {"id": document, "document_id": document, "owner_id": OWNER, "collection_ids": [PLACE]}
    return {**ids, "text": "still here", "metadata": {}}


def _place() -> dict[str, Any]:
    moment = "2026-11-21T12:00:00Z"
    return {
        "id": PLACE,
        "owner_id": OWNER,
        "name": server.CANARY,
        "description": None,
        "graph_cluster_status": "pending",
        "graph_sync_status": "pending",
        "user_count": 1,
        "document_count": 0,
        "created_at": moment,
        "updated_at": moment,
    }


@contextlib.contextmanager
def r2r(*faults: str) -> Iterator[tuple[Server, str, R2R]]:
    here = Server(*faults)
    threading.Thread(target=here.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{here.server_address[1]}"
    try:
        with R2R(url, ADMIN, patience=PATIENCE) as client:
            yield here, url, client
    finally:
        here.shutdown()
        here.server_close()


def test_ready() -> None:
    with r2r() as (_, url, _client):
        assert server.ready(url).status is OK
    with r2r("unready") as (_, url, _client):
        assert server.ready(url).status is CRITICAL
    with pytest.raises(UnreachableError, match="R2R does not answer"):
        server.ready("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("", OK, "refused a request without a login"),
        ("open", CRITICAL, "OPEN: answers 200 /v3/documents without a login"),
        ("known", CRITICAL, "OPEN: answers 200 the published password"),
        ("broken", UNKNOWN, "500"),
    ],
)
def test_closed(fault: str, status: Status, words: str) -> None:
    with r2r(fault) as (_, url, _client):
        verdict = server.closed(url)
    assert verdict.status is status
    assert words in verdict.summary


def test_the_administrator() -> None:
    with r2r() as (_, _url, client):
        assert server.login(client, ADMIN.email).status is OK
        verdict = server.status(client, ADMIN.email)
        assert verdict.summary == f"{ADMIN.email} is a superuser; R2R runs for 2.0 h"
    with r2r("another password") as (_, _url, client):
        verdict = server.login(client, ADMIN.email)
        assert verdict.status is CRITICAL
        assert "keeps the password that it was made with" in verdict.summary
        assert ADMIN.password.get_secret_value() not in repr(verdict)
    with r2r("not a superuser") as (_, _url, client):
        assert server.status(client, ADMIN.email).status is CRITICAL


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("", OK, "ingested, found and deleted a document in "),
        ("fresh", OK, "ingested, found and deleted"),
        ("race", OK, "ingested, found and deleted"),
        ("blind", CRITICAL, "just ingested is not found"),
        ("undeleted", CRITICAL, "just deleted is still there"),
        ("chunks stay", CRITICAL, "just deleted is still there"),
        ("failed", CRITICAL, f"the ingestion failed: {FAILURE}"),
        ("queued", WARNING, "the document is in the queue after"),
    ],
)
def test_a_transaction(
    fault: str, status: Status, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "queued":
        monkeypatch.setattr(server, "INGEST_SECONDS", 0.4)
    with r2r(fault) as (here, _url, client):
        verdict = server.transaction(client)
        left = set(here.documents)
    assert verdict.status is status
    assert words in verdict.summary
    assert bool(left) is (fault == "undeleted")


def test_a_transaction_that_is_refused_leaves_nothing() -> None:
    with r2r("refuses") as (here, _url, client):
        with pytest.raises(ServiceError, match="no embedding"):
            server.transaction(client)
        assert not here.documents
        assert here.seen[-1].startswith("DELETE /v3/documents/")


def test_what_was_left_behind_is_taken_out_once_it_is_old() -> None:
    now = datetime.now(UTC)
    old, young = str(uuid.uuid4()), str(uuid.uuid4())
    with r2r() as (here, _url, client):
        here.keep(old, "", now - server.LEFT_BEHIND - timedelta(seconds=9))
        here.keep(young, "", now - server.LEFT_BEHIND + timedelta(seconds=60))
        verdict = server.transaction(client)
        left = set(here.documents)
    assert left == {young}
    assert verdict.summary.endswith("; 1 of an earlier one taken out")
