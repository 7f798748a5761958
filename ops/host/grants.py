"""The developers' tokens in the host's Qdrant: those of the inventory are in force, no other is."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api import deploy, operation

from ops import grants as tokens_in_force
from ops.host.collections import relayed
from ops.host.facts import Json
from ops.host.operations import Commands
from ops.settings import Settings
from ops.settings.rights import values_in_force


@deploy("Grants")
def grants(settings: Settings) -> None:
    """The list that Qdrant looks a token up in, on every request."""
    admit(name="tokens", settings=settings)


@operation()
def admit(settings: Settings) -> Commands:
    """Revoke what is not of the inventory, admit what is missing."""
    reads = relayed(tokens_in_force.reads())
    # a host without the stack has no Qdrant to ask, and no token is in force there
    answers = host.get_fact(Json, script=f"{reads} 2>/dev/null || true") or {}
    requests = tokens_in_force.plan(settings, answers)
    if not requests:
        host.noop(f"{len(values_in_force(settings))} tokens are in force")
        return
    yield f"{relayed(requests)} >/dev/null"
