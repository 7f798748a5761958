"""Qdrant's REST on the standard library's HTTP server: paths to operations, answers to JSON."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from . import TITLE, VERSION
from .errors import ApiError, KeyRefused, PlainError, bad_body, lacking
from .operations import OPERATIONS, Call, fit
from .service import Service
from .upload import Body, receive

WITHOUT_KEY = {
    "/healthz": "healthz check passed",
    "/livez": "healthz check passed",
    "/readyz": "all shards are ready",
}
C = "/collections/{collection}"
ROUTES = {
    ("GET", "/collections"): "list_collections",
    ("GET", C): "get_collection",
    ("PUT", C): "create_collection",
    ("PATCH", C): "update_collection",
    ("DELETE", C): "delete_collection",
    ("GET", f"{C}/exists"): "collection_exists",
    ("GET", "/aliases"): "list_aliases",
    ("GET", f"{C}/aliases"): "list_collection_aliases",
    ("POST", "/collections/aliases"): "change_aliases",
    ("PUT", f"{C}/index"): "create_payload_index",
    ("DELETE", f"{C}/index/{{key}}"): "drop_payload_index",
    ("PUT", f"{C}/points"): "upsert_points",
    ("POST", f"{C}/points"): "retrieve",
    ("GET", f"{C}/points/{{key}}"): "get_point",
    ("POST", f"{C}/points/delete"): "delete_points",
    ("POST", f"{C}/points/payload"): "set_payload",
    ("PUT", f"{C}/points/payload"): "overwrite_payload",
    ("POST", f"{C}/points/payload/delete"): "delete_payload",
    ("POST", f"{C}/points/payload/clear"): "clear_payload",
    ("POST", f"{C}/points/scroll"): "scroll",
    ("POST", f"{C}/points/count"): "count",
    ("POST", f"{C}/points/query"): "query_points",
    ("POST", f"{C}/points/query/batch"): "query_batch",
    ("POST", f"{C}/points/search"): "core_search_batch",
    ("GET", "/telemetry"): "telemetry",
    ("GET", "/metrics"): "metrics",
    ("GET", "/cluster"): "cluster_status",
    ("GET", "/issues"): "issues",
    ("GET", f"{C}/snapshots"): "list_snapshots",
    ("POST", f"{C}/snapshots"): "create_snapshot",
    ("POST", f"{C}/snapshots/upload"): "upload_snapshot",
    ("PUT", f"{C}/snapshots/recover"): "recover_from_snapshot",
    ("GET", f"{C}/snapshots/{{key}}"): "get_snapshot",
    ("DELETE", f"{C}/snapshots/{{key}}"): "delete_collection_snapshot",
    ("GET", "/snapshots"): "list_full_snapshots",
    ("POST", "/snapshots"): "create_full_snapshot",
}
PATTERNS = [
    (verb, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), method)
    for (verb, path), method in ROUTES.items()
]
CREATE_BY_NAME = {"create_collection", "upload_snapshot"}
# these can be asked to go on alone, which the answer 202 says; anything else is done when answered
IN_THE_BACKGROUND = {
    "create_snapshot",
    "delete_collection_snapshot",
    "recover_from_snapshot",
    "upload_snapshot",
}
STOP_SECONDS = 10  # for those that it answers; the real server gives them 30
SETTLE_SECONDS = 0.2
FORBIDDEN_IN_NAMES = set('<>:"/\\|?*\0\x1f')


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive. `service` is set by the server below."""

    server: Server
    service: Service
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        with self.server.answering():
            self._handle()

    def _handle(self) -> None:
        started = time.monotonic()
        body = Body(self.rfile, int(self.headers.get("content-length") or 0))
        try:
            self._answer(body, started)
        except KeyRefused as refusal:
            self._send(refusal.status, refusal.message, "")
        except PlainError as refusal:
            self._send(refusal.status, refusal.message)
        except ApiError as error:
            status = {"error": error.message}
            self._send_json(error.status, {"status": status, "time": time.monotonic() - started})
        except ConnectionError:
            self.close_connection = True
            return
        body.drain()  # what nobody wanted; the next request stands behind it

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = handle_any

    def _answer(self, body: Body, started: float) -> None:
        url = urlsplit(self.path)
        path = url.path.rstrip("/") or "/"
        if self.command == "GET" and path == "/":
            self._send_json(200, {"title": TITLE, "version": VERSION, "commit": "stand-in"})
            return
        if self.command == "GET" and path in WITHOUT_KEY:
            self._send(200, WITHOUT_KEY[path])
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        identity = self.service.identify(headers, path, self._remote())
        for verb, pattern, method in PATTERNS:
            if verb == self.command and (found := pattern.fullmatch(path)):
                parts = {name: unquote(text) for name, text in found.groupdict().items()}
                if method in CREATE_BY_NAME:
                    _check_name(parts["collection"])
                background = method in IN_THE_BACKGROUND
                call = Call(identity, **parts, wait=_wait(url.query, default=background))
                if method == "upload_snapshot":
                    self._receive(call, body, path, url.query, started)
                    return
                if OPERATIONS[method].model is not None:
                    call = replace(call, body=fit(method, _json(body.read_all())))
                self._perform(method, call, path, started)
                return
        if path.startswith("/collections/"):
            raise lacking(f"{self.command} {path}")
        self._send(404, "", "")

    def _perform(self, method: str, call: Call, path: str, started: float) -> None:
        remote = self._remote()
        if method == "get_snapshot":
            with _plainly():
                self._send_file(self.service.perform(method, call, path, remote))
            return
        if method in IN_THE_BACKGROUND and not call.wait:
            self.service.admit(method, call, path, remote)

            def alone() -> None:
                with contextlib.suppress(ApiError):
                    self.service.run(method, call)

            threading.Thread(target=alone).start()
            self._send_json(202, {"status": "accepted", "time": time.monotonic() - started})
            return
        self._reply(method, self.service.perform(method, call, path, remote), started)

    def _receive(self, call: Call, body: Body, path: str, query: str, started: float) -> None:
        """Judged before a byte of the file is taken."""
        method = "upload_snapshot"
        with _plainly():
            self.service.admit(method, call, path, self._remote())
        checksum = parse_qs(query).get("checksum", [None])[-1]
        with self.service.snapshots.upload() as draft:
            given = receive(body, self.headers.get("content-type", ""), draft)
            call = replace(call, body=(draft, given, checksum))
            result = self.service.run(method, call)
        self._reply(method, result, started)

    def _reply(self, method: str, result: Any, started: float) -> None:
        if method == "metrics":
            self._send(200, "".join(line + "\n" for line in _prometheus(result)))
        else:
            took = time.monotonic() - started
            self._send_json(200, {"result": result, "status": "ok", "time": took})

    def _send_file(self, path: Path) -> None:
        with path.open("rb") as file:
            self.send_response_only(200)
            self.send_header("Date", self.date_time_string())
            self.send_header("Content-Length", str(path.stat().st_size))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Disposition", f'attachment; filename="{path.name}"')
            self.end_headers()
            self.wfile.flush()
            self.connection.sendfile(file)

    def _remote(self) -> str:
        if self.service.config.trust_forwarded_headers and "x-forwarded-for" in self.headers:
            return str(self.headers["x-forwarded-for"]).split(",")[0].strip()
        return str(self.client_address[0]).removeprefix("::ffff:")

    def _send_json(self, status: int, answer: Any) -> None:
        self._send(status, json.dumps(answer, separators=(",", ":")), "application/json")

    def _send(self, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        payload = text.encode()
        self.send_response_only(status)
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Length", str(len(payload)))
        if kind:
            self.send_header("Content-Type", kind)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        """Silent: requests are in the audit log, where that is on."""


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        raise PlainError(error.status, error.message) from None


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise bad_body(str(error)) from None


def _wait(query: str, *, default: bool) -> bool:
    given = parse_qs(query).get("wait", [str(default).lower()])[-1]
    if given not in ("true", "false"):
        reason = "provided string was not `true` or `false`"
        raise ApiError(400, f"Deserialize error in query parameters: {reason}")
    return given == "true"


def _check_name(name: str) -> None:
    bad = next((char for char in name if char in FORBIDDEN_IN_NAMES), None)
    reason = f'collection name cannot contain "{bad}" char' if bad else ""
    if len(name) > 255:
        reason = f'value "{name}" invalid, must be from 1 to 255 characters'
    if reason:
        where = "Validation error in path parameters"
        raise ApiError(422, f"{where}: [collection_name: {reason}]")


def _prometheus(points: dict[str, int]) -> Iterator[str]:
    yield "# HELP app_info information about qdrant server"
    yield "# TYPE app_info gauge"
    yield f'app_info{{name="qdrant",version="{VERSION}"}} 1'
    for name, value in (
        ("app_status_recovery_mode", 0),
        ("collections_total", len(points)),
        ("collection_dead_replicas", 0),
        ("process_open_fds", len(list(Path("/proc/self/fd").iterdir()))),
        ("process_max_fds", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        ("process_open_mmaps", Path("/proc/self/maps").read_text().count("\n")),
        ("system_max_mmaps", Path("/proc/sys/vm/max_map_count").read_text().strip()),
    ):
        yield f"# TYPE {name} gauge"
        yield f"{name} {value}"
    yield "# TYPE collection_points gauge"
    for name, count in points.items():
        yield f'collection_points{{id="{name}"}} {count}'


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, service: Service) -> None:
        host = service.config.host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        handler = type("BoundHandler", (Handler,), {"service": service})
        super().__init__((host, service.config.http_port), handler)
        self._in_work = 0
        self._idle = threading.Condition()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Around each request, so that a stop can wait for it."""
        with self._idle:
            self._in_work += 1
        try:
            yield
        finally:
            with self._idle:
                self._in_work -= 1
                self._idle.notify_all()

    def stop(self) -> None:
        """Take who has connected, listen no more, answer what was asked; like the real server."""
        self.shutdown()
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.process_request(*self.get_request())
        self.socket.close()
        time.sleep(SETTLE_SECONDS)  # what was taken last has not been read yet
        with self._idle:
            self._idle.wait_for(lambda: not self._in_work, STOP_SECONDS)
