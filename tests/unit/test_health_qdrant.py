"""Qdrant's probes against HTTP servers on loopback that behave well, and badly on purpose."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from ops.errors import ServiceError, UnreachableError
from ops.health import qdrant as probes
from ops.health.model import Status
from ops.settings import Collection
from ops.settings.model import Vector

KEY = "the-right-key-of-this-test"
METRICS = """# HELP app_status_recovery_mode is running in recovery mode
# TYPE app_status_recovery_mode gauge
app_status_recovery_mode 0
quota_exceeded{resource="disk"} 0
process_open_fds 50
process_max_fds 1000
process_open_mmaps 6.5e4
system_max_mmaps 65530
"""


class Server(http.server.ThreadingHTTPServer):
    """A store of points with the faults named in `faults`: open, lost, undeleted, broken, ..."""

    daemon_threads = True

    def __init__(self, *faults: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults = faults
        self.points: dict[str, Any] = {}
        self.names = {"knowledge"}
        self.seen: list[str] = []
        self.metrics = METRICS


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def _any(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        size = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(size) or b"null")
        self.server.seen.append(f"{self.command} {self.path}")
        code, answer = self._answer(self.command, url.path, body)
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = _any

    def _answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        faults, points = self.server.faults, self.server.points
        if path == "/readyz":
            return (503, "no") if "unready" in faults else (200, "all shards are ready")
        if path == "/":
            return 200, {"title": "qdrant", "version": "1.19.0"}
        if self.headers.get("api-key") != KEY and not self._forgives(path):
            return 401, {"status": {"error": "Must provide an API key"}}
        if path == "/metrics":
            return 200, self.server.metrics
        if path == "/telemetry":
            return 200, {"result": {}}
        canary = f"/collections/{probes.CANARY}"
        if path == f"{canary}/exists":
            return 200, {"result": {"exists": probes.CANARY in self.server.names}}
        if method == "PUT" and path == canary:
            if "race" in faults:
                self.server.names.add(probes.CANARY)
                return 409, {"status": {"error": "already exists"}}
            self.server.names.add(probes.CANARY)
            return 200, {"result": True}
        if method == "PUT" and path == f"{canary}/points":
            if "broken" in faults:
                return 500, {"status": {"error": "No space left on device: WAL buffer"}}
            if "lost" not in faults:
                points.update({each["id"]: each for each in body["points"]})
            return 200, {"result": {"status": "completed"}}
        if path == f"{canary}/points/query":
            if "blind" in faults:
                return 500, {"status": {"error": "cannot search"}}
            found = [points[i] for i in body["filter"]["must"][0]["has_id"] if i in points]
            return 200, {"result": {"points": [{**each, "score": 1.0} for each in found]}}
        if path == f"{canary}/points/delete":
            if "undeleted" not in faults:
                for each in body["points"]:
                    points.pop(each, None)
            return 200, {"result": {"status": "completed"}}
        if path == f"{canary}/points":
            return 200, {"result": [points[i] for i in body["ids"] if i in points]}
        if path == "/collections":
            return 200, {"result": {"collections": [{"name": n} for n in self.server.names]}}
        if path == "/aliases":
            return 200, {"result": {"aliases": []}}
        vectors = {"size": 4, "distance": "Cosine"}
        return 200, {
            "result": {
                "status": "green",
                "optimizer_status": "ok",
                "config": {"params": {"vectors": vectors}},
                "payload_schema": {},
            }
        }

    def _forgives(self, path: str) -> bool:
        faults, given = self.server.faults, self.headers.get("api-key")
        return (
            "open" in faults
            or ("metrics" in faults and path == "/metrics")
            or ("any key" in faults and bool(given))
        )

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def qdrant(*faults: str) -> Iterator[tuple[Server, str]]:
    server = Server(*faults)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_ready() -> None:
    with qdrant() as (_, url):
        assert probes.ready(url).status is Status.OK
    with qdrant("unready") as (_, url):
        assert probes.ready(url).summary == "/readyz answers 503"


@pytest.mark.parametrize(("pinned", "status"), [("v1.19.0", "OK"), ("v1.19.1", "WARNING")])
def test_version(pinned: str, status: str) -> None:
    with qdrant() as (_, url):
        assert probes.version(url, pinned).status.name == status


def test_closed() -> None:
    with qdrant() as (server, url):
        assert probes.closed(url).status is Status.OK
        assert {line.split()[1] for line in server.seen} == {
            "/collections",
            "/metrics",
            "/telemetry",
        }


@pytest.mark.parametrize("fault", ["open", "metrics", "any key"])
def test_an_open_door_of_any_kind_is_critical(fault: str) -> None:
    with qdrant(fault) as (_, url):
        verdict = probes.closed(url)
    assert verdict.status is Status.CRITICAL
    assert verdict.summary.startswith("OPEN: answers 200")


def test_a_transaction_leaves_nothing() -> None:
    with qdrant() as (server, url):
        assert probes.transaction(url, KEY).status is Status.OK
        assert probes.transaction(url, KEY).status is Status.OK
        assert server.points == {}
        assert server.seen.count(f"PUT /collections/{probes.CANARY}") == 1
        writes = [line for line in server.seen if "/points?" in line or "/delete?" in line]
        assert len(writes) == 4
        assert all(line.endswith("?wait=true") for line in writes)


def test_two_doctors_may_make_the_collection_at_once() -> None:
    with qdrant("race") as (_, url):
        assert probes.transaction(url, KEY).status is Status.OK


@pytest.mark.parametrize(("fault", "words"), [("lost", "not found"), ("undeleted", "still there")])
def test_a_point_that_is_lost_or_stays_is_critical(fault: str, words: str) -> None:
    with qdrant(fault) as (_, url):
        verdict = probes.transaction(url, KEY)
    assert verdict.status is Status.CRITICAL
    assert words in verdict.summary


@pytest.mark.parametrize(
    ("fault", "words"), [("broken", "No space left on device"), ("blind", "cannot search")]
)
def test_a_step_that_fails_tells_why_and_still_takes_the_point_out(fault: str, words: str) -> None:
    with qdrant(fault) as (server, url):
        with pytest.raises(ServiceError, match=words):
            probes.transaction(url, KEY)
        assert server.points == {}
        assert "/points/delete?wait=true" in server.seen[-1]


def test_a_wrong_key_fails_the_transaction() -> None:
    with qdrant() as (_, url), pytest.raises(ServiceError, match="401"):
        probes.transaction(url, "another key")


def test_nobody_there_and_a_key_no_header_can_hold() -> None:
    with qdrant() as (_, url):
        with pytest.raises(UnreachableError) as caught:
            probes.transaction(url, "canary-key\n")
        assert "canary-key" not in str(caught.value) + caught.value.hint
    with pytest.raises(UnreachableError, match="ConnectError"):
        probes.ready(url)


def declared(*names: str, size: int = 4) -> dict[str, Collection]:
    return {name: Collection(vector=Vector(size=size)) for name in names}


def test_collections_are_compared_with_the_settings() -> None:
    with qdrant() as (server, url):
        server.names |= {probes.CANARY, "odd name"}
        verdict = probes.collections(url, KEY, declared("knowledge"))
        assert (verdict.status.name, verdict.summary) == ("OK", "collections in order: 2")
        assert "GET /collections/odd%20name" in server.seen
        missing = probes.collections(url, KEY, declared("knowledge", "other"))
        assert (missing.status.name, missing.summary) == ("WARNING", "not there yet: create other")
        differs = probes.collections(url, KEY, declared("knowledge", size=5))
        assert differs.status is Status.WARNING
        assert differs.summary.startswith("knowledge: size is 4")


GREEN = {"status": "green", "optimizer_status": "ok"}


@pytest.mark.parametrize(
    ("infos", "missing", "differences", "status", "words"),
    [
        ({"a": GREEN, probes.CANARY: GREEN}, [], [], "OK", "in order: 1"),
        ({"a": GREEN | {"status": "yellow"}}, [], [], "OK", "at work: a yellow"),
        ({"a": GREEN | {"status": "grey"}}, [], [], "OK", "at work: a grey"),
        ({"a": GREEN | {"status": "red"}}, ["create b"], [], "CRITICAL", "a is red"),
        (
            {"a": GREEN | {"optimizer_status": {"error": "full"}}},
            [],
            [],
            "CRITICAL",
            "green (full)",
        ),
        ({}, ["create a"], [], "WARNING", "not there yet: create a"),
        ({"a": GREEN}, [], ["a: size is 4"], "WARNING", "a: size is 4"),
    ],
)
def test_collections_judged(
    infos: Any, missing: list[str], differences: list[str], status: str, words: str
) -> None:
    verdict = probes.judge_collections(infos, missing, differences)
    assert verdict.status.name == status
    assert words in verdict.summary
    assert bool(verdict.hint) is (status != "OK")


def test_metrics_are_read_with_their_labels() -> None:
    with qdrant() as (_, url):
        assert probes.metrics(url, KEY) == {
            "app_status_recovery_mode": 0,
            'quota_exceeded{resource="disk"}': 0,
            "process_open_fds": 50,
            "process_max_fds": 1000,
            "process_open_mmaps": 65000,
            "system_max_mmaps": 65530,
        }
        with pytest.raises(ServiceError, match="401"):
            probes.metrics(url, "another key")


@pytest.mark.parametrize(
    ("figures", "status"),
    [
        ({"app_status_recovery_mode": 0}, "OK"),
        ({"app_status_recovery_mode": 1}, "CRITICAL"),
        ({"app_status_recovery_mode": 0, 'quota_exceeded{resource="disk"}': 1}, "CRITICAL"),
        ({}, "UNKNOWN"),
    ],
)
def test_recovery(figures: dict[str, float], status: str) -> None:
    assert probes.recovery(figures).status.name == status


@pytest.mark.parametrize(
    ("figures", "status"),
    [
        ({"process_open_fds": 5, "process_max_fds": 100}, "OK"),
        ({"process_open_fds": 85, "process_max_fds": 100}, "WARNING"),
        (
            {
                "process_open_fds": 5,
                "process_max_fds": 100,
                "process_open_mmaps": 99,
                "system_max_mmaps": 100,
            },
            "CRITICAL",
        ),
        ({"process_open_fds": 5}, "UNKNOWN"),
    ],
)
def test_limits(figures: dict[str, float], status: str) -> None:
    assert probes.limits(figures).status.name == status
