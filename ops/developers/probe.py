"""One question that a removal is proven by, and its answer."""

from __future__ import annotations

from dataclasses import dataclass

from ops.developers.reality import Reality


@dataclass(frozen=True)
class Probe:
    """`what` was asked, and the answer. Not `ok`: still there, or not to be known."""

    what: str
    answer: str
    ok: bool


def unknown(what: str, reality: Reality, part: str) -> Probe:
    """For a part of the host that could not be read."""
    return Probe(what, f"unknown: {reality.unknown.get(part, 'not told')}", False)
