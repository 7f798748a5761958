"""A small HTTP server that answers as it is told: what a real R2R cannot be made to do."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """`pieces` are streamed, and then the connection is closed without an end if it is `cut`;
    a `hang` seconds long stands before the last piece, or before the answer without pieces."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    pieces: tuple[bytes, ...] = ()
    cut: bool = False
    hang: float = 0
    reset: bool = False  # the connection, instead of any answer


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Lab:
    """`on` gives the answers to one path, in order; the last one is given for ever."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._replies: dict[str, list[Reply]] = {}
        self._over = threading.Event()
        lab = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

            def _serve(self) -> None:
                length = int(self.headers.get("content-length", 0))
                headers = {key.lower(): value for key, value in self.headers.items()}
                request = Seen(self.command, self.path, headers, self.rfile.read(length))
                lab.seen.append(request)
                lab.answer(self, request)

            do_GET = do_POST = do_DELETE = _serve

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def on(self, path: str, *replies: Reply) -> None:
        self._replies[path] = list(replies)

    def asked(self, path: str) -> list[Seen]:
        return [each for each in self.seen if each.path.partition("?")[0] == path]

    def answer(self, handler: BaseHTTPRequestHandler, request: Seen) -> None:
        waiting = self._replies.get(request.path.partition("?")[0], [Reply(404)])
        reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        with contextlib.suppress(OSError):
            if reply.pieces:
                self._stream(handler, reply)
                return
            self._over.wait(reply.hang)
            if reply.reset:
                _reset(handler)
                return
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            handler.send_response(reply.status)
            for name, value in {"content-length": str(len(body)), **reply.headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)

    def _stream(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        handler.send_response(reply.status)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for number, piece in enumerate(reply.pieces, 1):
            if number == len(reply.pieces):
                self._over.wait(reply.hang)
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
        if reply.cut:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            handler.wfile.write(b"0\r\n\r\n")


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


@contextlib.contextmanager
def running() -> Iterator[Lab]:
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


def results(found: Any, **more: Any) -> Reply:
    return Reply(body={"results": found, **more})


def tokens(access: str = "access-1", refresh: str = "refresh-1") -> Reply:
    return results(
        {
            "access_token": {"token": access, "token_type": "access"},
            "refresh_token": {"token": refresh, "token_type": "refresh"},
        }
    )


def refused(status: int, message: str = "no", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"message": message, "error_type": "R2RException"}, named)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def eventually(true: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
