"""The declared collections in the host's Qdrant: created where absent, never recreated."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from pyinfra import host, logger
from pyinfra.api import deploy, operation

from ops import collections as declared_collections
from ops.collections import LiveState, Request
from ops.host.facts import Json
from ops.host.operations import Commands
from ops.settings import Settings

RELAY = Path(__file__).with_name("relay.py")


@deploy("Collections")
def collections(settings: Settings) -> None:
    """Every collection of the settings, with its payload indexes and aliases."""
    if settings.collections:
        create(name="create", settings=settings)


@operation()
def create(settings: Settings) -> Commands:
    """Send what is missing to the Qdrant of this host; report what differs."""
    reads = declared_collections.reads(settings.collections)
    # a host without the stack has no Qdrant to ask: everything is missing there
    answers = host.get_fact(Json, script=f"{relayed(reads)} 2>/dev/null || true")
    live = LiveState.of(answers) if answers else LiveState({}, {})
    plan = declared_collections.plan(settings.collections, live)
    for difference in plan.differences:
        logger.warning("[%s] collection %s", host.name, difference)
    if not plan.requests:
        host.noop("the declared collections exist")
        return
    yield f"{relayed(plan.requests)} >/dev/null"


def relayed(requests: list[Request]) -> str:
    """The command that sends the requests from the host itself and prints the answers."""
    task = json.dumps([[request.method, request.path, request.body] for request in requests])
    script = RELAY.read_text(encoding="utf-8")
    return f"python3 -c {shlex.quote(script)} {shlex.quote(task)}"
