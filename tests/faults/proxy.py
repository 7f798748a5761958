"""Something between Qdrant and us that goes wrong on purpose; else it passes everything on."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

PASSED_ON = ("content-type", "api-key", "accept", "accept-encoding")


class Proxy:
    """`fault` by name, for requests whose method and path begin as `where` says."""

    def __init__(self, target: str) -> None:
        self.fault = ""
        self.where = ("GET", "/")
        self.hits = 0
        outer, client = self, httpx.Client(base_url=target, timeout=60)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                answer = client.request(
                    self.command,
                    self.path,
                    content=self.rfile.read(length) or None,
                    headers={name: self.headers[name] for name in PASSED_ON if self.headers[name]},
                )
                method, path = outer.where
                meant = self.command == method and self.path.startswith(path)
                fault = outer.fault if meant else ""
                outer.hits += bool(fault)
                self.answer(answer, fault)

            do_GET = do_POST = do_PUT = do_DELETE = pass_on

            def answer(self, answer: httpx.Response, fault: str) -> None:
                status, body = answer.status_code, bytearray(answer.content)
                if fault == "hang":
                    time.sleep(120)
                if fault == "error 500":
                    status, body = 500, bytearray(b'{"status":{"error":"Service internal error"}}')
                length = len(body)
                if fault == "too short":
                    length -= 1000
                    body = body[:length]
                if fault == "too long":
                    body += bytes(1000)
                    length = len(body)
                if fault == "another byte":
                    body[len(body) // 2] ^= 1
                if fault == "cut half-way":
                    body = body[: length // 2]
                self.send_response(status)
                for name in ("content-type",):
                    self.send_header(name, answer.headers.get(name, "application/json"))
                self.send_header("content-length", str(length))
                self.end_headers()
                if fault == "hang half-way":
                    self.wfile.write(body[: length // 2])
                    self.wfile.flush()
                    time.sleep(120)
                self.wfile.write(body)
                if fault == "cut half-way":
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.shutdown(2)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    opened = Proxy(target)
    try:
        yield opened
    finally:
        opened.close()
