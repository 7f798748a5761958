"""One question that a removal is proven by, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx

from ops.developers.reality import Reality
from ops.errors import StackroomError


@dataclass(frozen=True)
class Probe:
    """`what` was asked, and the answer. Not `ok`: still there, or not to be known."""

    what: str
    answer: str
    ok: bool


def unknown(what: str, reality: Reality, part: str) -> Probe:
    """For a part of the host that could not be read."""
    return Probe(what, f"unknown: {reality.unknown.get(part, 'not told')}", False)


def asked(
    what: str, ask: Callable[[], tuple[int, str]], judge: Callable[[str, int, str], Probe]
) -> Probe:
    """What `judge` makes of a status and its words; an answer that does not come proves nothing."""
    try:
        code, said = ask()
    except StackroomError as error:
        return Probe(what, f"unknown: {error.message}", False)
    except httpx.HTTPError as error:
        # the kind only: a message of httpx may quote the header that holds the token
        return Probe(what, f"unknown: {type(error).__name__}", False)
    return judge(what, code, said)
