"""The machine restarts in the middle of a change that nobody confirmed: it comes back as it was."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hands import EDGE, NAME, QDRANT, deploy, healthy, holds, on_host, plan, qdrant, ssh, until

from ops.sandbox import client
from ops.sandbox.layout import ipv4
from ops.sandbox.visit import Watch, open_ports, watching
from ops.settings import Environment

pytestmark = pytest.mark.sandbox

POINTS = "/collections/knowledge_library/points"
POINT = {"id": 4712, "vector": [0.2] * 1024, "payload": {"file_path": "kept.md"}}
DROP_IN = "/etc/ssh/sshd_config.d/10-stackroom.conf"


@dataclass(frozen=True)
class Restart:
    """What a stranger saw from the shutdown until everything ran, and what was in the files."""

    stranger: Watch
    rules_before: str
    rules_after: str


def stored_rules() -> str:
    return on_host(f"cat /etc/ufw/user.rules /etc/ufw/user6.rules {DROP_IN}")


@pytest.fixture(scope="module")
def restarted(deployed: Environment) -> Iterator[Restart]:
    qdrant(deployed, "PUT", f"{POINTS}?wait=true", {"points": [POINT]})
    before = stored_rules()
    on_host("stackroom-guard arm 170")
    # the lockout that nobody would get out of: another port, and no rule for the operator
    on_host(f"echo 'Port 2222' >>{DROP_IN}")
    on_host(f"ufw --force delete allow from {ipv4(1)} to any port 22 proto tcp")
    assert stored_rules() != before
    with client("denied") as denied, watching(denied, workers=2, period=0.5, seconds=170) as watch:
        subprocess.run(["docker", "restart", NAME], check=True, capture_output=True)
        until(lambda: healthy(QDRANT) and healthy(EDGE), 120, "the stack after the restart")
    yield Restart(watch, before, stored_rules())
    qdrant(deployed, "POST", f"{POINTS}/delete?wait=true", {"points": [4712]})


def test_no_stranger_got_in_while_it_started(restarted: Restart) -> None:
    assert restarted.stranger.opened == []
    assert restarted.stranger.attempts > 100


def test_the_unconfirmed_change_is_undone(restarted: Restart) -> None:
    assert restarted.rules_after == restarted.rules_before
    assert not holds("test -e /var/lib/stackroom/guard/pending")
    assert "undone at boot" in on_host("journalctl -q -b -t stackroom-guard --no-pager")


def test_the_operator_gets_in(restarted: Restart) -> None:
    assert ssh("true").returncode == 0


def test_exactly_the_listed_reach_it(restarted: Restart) -> None:
    with client("allowed") as allowed, client("denied") as denied:
        assert open_ports(allowed) == {(f, p) for f in ("v4", "v6") for p in (22, 443)}
        assert open_ports(denied) == set()


def test_the_points_are_still_there(restarted: Restart, deployed: Environment) -> None:
    found = qdrant(deployed, "GET", f"{POINTS}/4712")["result"]

    assert found["payload"] == POINT["payload"]


def test_nothing_is_left_to_do(restarted: Restart) -> None:
    assert plan() == set()
    assert deploy().returncode == 0
