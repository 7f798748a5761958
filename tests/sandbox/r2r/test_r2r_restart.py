"""The machine restarts: the services come in their order, with everything that they had."""

from __future__ import annotations

import subprocess
from datetime import datetime

import pytest
from hands import NAME, healthy, holds, inspect, on_host, plan, until
from r2r_hands import CONTAINERS, EDGE, LITELLM, POSTGRES, R2R, bring, documents, found

from ops.settings import Environment

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("deployed")]

TEXT = "The lighthouse keeper wrote the tides of the northern bay into a green book."


def started(container: str) -> datetime:
    return datetime.fromisoformat(inspect(container)["State"]["StartedAt"][:19])


def test_services_start_in_their_order_and_nothing_is_lost(deployed: Environment) -> None:
    brought = bring(deployed, TEXT)
    before = {name: started(name) for name in CONTAINERS}
    subprocess.run(["docker", "restart", NAME], check=True, capture_output=True)
    until(lambda: all(healthy(name) for name in CONTAINERS), 300, "the stack after the restart")
    until(
        lambda: holds("systemctl is-active --quiet stackroom-stack.service"), 60, "the unit's word"
    )
    after = {name: started(name) for name in CONTAINERS}
    assert all(after[name] > before[name] for name in CONTAINERS)
    assert max(after[POSTGRES], after[LITELLM]) <= after[R2R] <= after[EDGE]
    # it exits where Postgres does not answer: it was not started before
    assert inspect(R2R)["RestartCount"] == 0
    assert "database system was shut down" in on_host(f"docker logs --tail 200 {POSTGRES} 2>&1")
    assert documents(deployed)[brought] == "success"
    assert found(deployed, TEXT)[0] == brought
    assert plan() == set()
