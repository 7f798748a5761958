"""A proxy before a server that hurts chosen answers on their way: cut, hanging, wrong, damaged."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import httpx

Fault = Literal["none", "cut", "reset", "500", "silent", "hang", "longer", "shorter", "flip"]
PIECE = 65536


@dataclass
class FaultProxy:
    """`fault` happens to requests whose first line fits `where`; others pass. `seen` lists all."""

    target: tuple[str, int]
    fault: Fault = "none"
    where: str = r"GET \S+/snapshots/\S+"
    # called before a request that fits is passed on
    on_match: Callable[[], None] = lambda: None
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head, rest = _head_of(client)
            line = head.split(b"\r\n", 1)[0].decode()
            self.seen.append(line)
            hurt = self.fault != "none" and re.match(self.where, line) is not None
            if re.match(self.where, line):
                self.on_match()
            if hurt and self.fault == "500":
                client.sendall(_last(b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\n") + b"oops")
                client.shutdown(socket.SHUT_WR)
                client.settimeout(5)
                for _ in _pieces(client, b""):  # closed with a body unread, it would be a reset
                    pass
                return
            if hurt and self.fault == "silent":
                self._over.wait()
                return
            with socket.create_connection(self.target) as server:
                # one request a connection: the next one is judged anew
                server.sendall(
                    re.sub(rb"(?i)connection: [^\r]*", b"connection: close", head) + rest
                )
                pump = threading.Thread(target=_pump, args=(client, server), daemon=True)
                pump.start()
                self._answer(client, server, self.fault if hurt else "none")
                client.shutdown(socket.SHUT_RD)  # a thread that reads would keep it open
                pump.join()

    def _answer(self, client: socket.socket, server: socket.socket, fault: Fault) -> None:
        head, rest = _head_of(server)
        found = re.search(rb"(?i)content-length: (\d+)", head)
        length = int(found[1]) if found else 0
        promised = {"longer": length + 10, "shorter": length - 10}.get(fault, length)
        head = re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % promised, head)
        client.sendall(_last(head))
        half, done = length // 2, 0
        for piece in _pieces(server, rest):
            if fault == "flip" and done <= half < done + len(piece):
                at = half - done
                piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
            if fault in ("cut", "reset", "hang") and done + len(piece) > half:
                client.sendall(piece[: half - done])
                if fault == "hang":
                    self._over.wait()
                elif fault == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return
            client.sendall(piece)
            done += len(piece)


@contextlib.contextmanager
def before(url: str) -> Iterator[FaultProxy]:
    """A proxy before the server at `url`."""
    parts = httpx.URL(url)
    proxy = FaultProxy((parts.host, parts.port or 80))
    try:
        yield proxy
    finally:
        proxy.close()


def _last(head: bytes) -> bytes:
    """One request a connection, so that the next one is judged anew."""
    kept = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)
    return kept.removesuffix(b"\r\n") + b"connection: close\r\n\r\n"


def _head_of(source: socket.socket) -> tuple[bytes, bytes]:
    """Up to the empty line, and what came behind it."""
    read = b""
    while b"\r\n\r\n" not in read:
        piece = source.recv(PIECE)
        if not piece:
            raise OSError("closed before the head was whole")
        read += piece
    head, _, rest = read.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _pieces(source: socket.socket, first: bytes) -> Iterator[bytes]:
    if first:
        yield first
    while piece := source.recv(PIECE):
        yield piece


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for piece in _pieces(source, b""):
            target.sendall(piece)
