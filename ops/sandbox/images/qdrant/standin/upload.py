"""A file out of a multipart form, on its way from the connection to the disk: never in memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from .errors import PlainError

PIECE = 1024 * 1024
LINE = 8192  # the longest header line that is taken


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def readline(self, size: int, /) -> bytes: ...


class Body:
    """What is left of a request's body. Whoever does not need it drains it."""

    def __init__(self, source: Source, length: int) -> None:
        self._source = source
        self._left = length

    def read(self, size: int) -> bytes:
        piece = self._source.read(min(size, self._left))
        self._left = self._left - len(piece) if piece else 0
        return piece

    def read_all(self) -> bytes:
        return self.read(self._left)

    def line(self) -> bytes:
        piece = self._source.readline(min(LINE, self._left))
        self._left -= len(piece)
        return piece

    def drain(self) -> None:
        while self.read(PIECE):
            pass


def receive(body: Body, kind: str, target: Path) -> str:
    """Write the field `snapshot` into a new file; the file name that the client gave.

    Raises PlainError for any other form, OSError.
    """
    found = re.search(r"boundary=\"?([^\";]+)", kind)
    if not kind.startswith("multipart/form-data") or found is None:
        words = "Parsed Content-Type did not have 'multipart' top-level media type"
        raise PlainError(415, words)
    boundary = b"--" + found[1].encode()
    if body.line().rstrip() != boundary:
        raise _unfit("Multipart stream is incomplete")
    headers = b""
    while (line := body.line()).strip():
        headers += line
    field = re.search(rb'name="([^"]*)"', headers)
    if field is None or field[1] != b"snapshot":
        raise _unfit("Required field is missing: snapshot")
    _write(body, b"\r\n" + boundary, target)
    name = re.search(rb'filename="([^"]*)"', headers)
    return Path(name[1].decode("utf-8", "replace")).name if name else ""


def _write(body: Body, end: bytes, target: Path) -> None:
    kept = b""
    with target.open("xb") as file:
        while piece := body.read(PIECE):
            kept += piece
            if (at := kept.find(end)) >= 0:
                file.write(kept[:at])
                body.drain()
                return
            # the end may be cut in two by the pieces
            file.write(kept[: -len(end)])
            kept = kept[-len(end) :]
    raise _unfit("Multipart stream is incomplete")


def _unfit(reason: str) -> PlainError:
    return PlainError(400, reason)
