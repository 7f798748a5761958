"""An answer as it is written: R2R's server-sent events, in order, and what came of them so far.

Where the connection breaks, what was written until then is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ops.clients.r2r.models import Citation, Found
from ops.errors import ServiceError, UnreachableError

LINE_BYTES = 64 * 1024 * 1024  # of one line; it would else grow for as long as something sends


@dataclass
class Written:
    """An answer so far. `complete` once R2R said that it is whole."""

    text: str = ""
    found: Found | None = None
    citations: list[Citation] = field(default_factory=list)
    complete: bool = False


class BrokenAnswerError(UnreachableError):
    """An answer that was begun and not ended; `partial` is what came of it."""

    def __init__(self, message: str, partial: Written) -> None:
        super().__init__(message, "ask again: an answer cannot be taken up where it broke off")
        self.partial = partial


@dataclass(frozen=True)
class Event:
    name: str
    data: str


def events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """Server-sent events out of bytes, however they are cut. One that was not ended is dropped."""
    name, data = "", list[str]()
    for line in _lines(pieces):
        if not line:
            if data:
                yield Event(name or "message", "\n".join(data))
            name, data = "", []
            continue
        key, _, value = line.partition(":")  # a comment has an empty key
        value = value.removeprefix(" ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)


def take(event: Event, written: Written) -> str:
    """Write down what `event` says; the text that it adds. Unknown events are passed over."""
    if event.name == "done":
        written.complete = True
        return ""
    try:
        said = json.loads(event.data)
        return _taken(event.name, said, written)
    except (ValueError, KeyError, TypeError):  # ValidationError is a ValueError
        raise ServiceError(f"R2R sent {event.name!r} in an unknown form") from None


def _taken(name: str, said: Any, written: Written) -> str:
    if name == "message":
        parts = said["delta"]["content"]
        added = "".join(part["payload"]["value"] for part in parts if part["type"] == "text")
        written.text += added
        return added
    if name == "search_results":
        written.found = Found.model_validate(said["data"])
    elif name == "citation":
        if said.get("is_new", True):
            written.citations.append(Citation.model_validate(said))
    elif name == "final_answer":
        written.text = said["generated_answer"]
    elif name == "error":
        raise ServiceError(f"R2R could not answer: {said['error']['message']}")
    return ""


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Lines ended by CR, LF or both; not by what else Unicode knows, which may stand in a text."""
    rest = bytearray()
    for piece in pieces:
        rest += piece
        if len(rest) > LINE_BYTES:
            raise ServiceError("R2R sends an event without an end")
        if b"\n" not in piece and b"\r" not in piece:
            continue
        held = rest.endswith(b"\r")  # its LF may be still to come
        plain = rest.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *whole, rest = plain.split(b"\n")
        rest += b"\r" if held else b""
        for line in whole:
            yield line.decode("utf-8", "replace")
