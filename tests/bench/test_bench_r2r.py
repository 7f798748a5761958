"""`make bench` of the R2R stack: its deploys, starts, memory, and what the edge costs.

On the throw-away machine that STACKROOM_SANDBOX=r2r names; STACKROOM_KEEP_SANDBOX=1 takes it as it
is deployed, and restarts its services once. STACKROOM_BENCH_{TURNS,DOCUMENTS,SEARCHES} are the
counts. Seconds are printed and never asserted; what is asserted is that the work was done.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator

import pytest
import r2r_table
from r2r_driver import WORDS_IN_A_TEXT
from r2r_side import DIRECT, EDGE, Server, on_host, reader, server
from rich.console import Console, RenderableType
from stackroom_side import Deploy, timed_deploy, timed_plan

from ops import sandbox as room
from ops.render.stack import carried_images
from ops.sandbox.layout import WHICH
from ops.settings import Environment, load_environment

pytestmark = [pytest.mark.bench, pytest.mark.timeout(2400)]

KEEPING = os.environ.get("STACKROOM_KEEP_SANDBOX") == "1"
TURNS, DOCUMENTS, SEARCHES = (
    int(os.environ.get(f"STACKROOM_BENCH_{name}", default))
    for name, default in (("TURNS", "5"), ("DOCUMENTS", "20"), ("SEARCHES", "200"))
)
AT_ONCE = 4
REST_SECONDS = 20  # what a start or a deploy has left to do is not at rest
LOAD_SECONDS = 1500


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    """The environment of a machine that is bare at the start and gone at the end, or kept."""
    assert WHICH == "r2r", "these measurements need STACKROOM_SANDBOX=r2r"
    if not KEEPING:
        room.down()
    yield load_environment(room.up(print).environment)
    if not KEEPING:
        room.down()


@pytest.fixture(scope="module")
def first(environment: Environment) -> Deploy | None:
    """The deploy that makes a bare machine a running one; None where it was kept."""
    if KEEPING:
        return None
    return timed_deploy(
        environment, room.image_archive(carried_images(environment.settings), print)
    )


@pytest.fixture(scope="module")
def stack(environment: Environment, first: Deploy | None) -> Iterator[Server]:
    with server(environment) as found:
        yield found


def printed(table: RenderableType) -> str:
    console = Console(record=True, highlight=False, width=100)
    console.print()
    console.print(table)
    return console.export_text()


def test_deploys_cost_what_the_table_says(environment: Environment, first: Deploy | None) -> None:
    assert first is None or first.changes, "the first deploy found nothing to do: not bare"
    noop = timed_deploy(environment)
    assert noop.changes == [], "a second deploy changed something"
    said = printed(r2r_table.deploys(first, noop, timed_plan(environment)))
    assert re.search(r"no-op deploy +\d+\.\d", said)


@pytest.mark.usefixtures("first")
def test_a_start_takes_what_the_table_says() -> None:
    took = on_host("starts", 600)
    said = printed(r2r_table.starts(took))
    for service in ("postgres", "litellm", "r2r", "edge"):
        assert re.search(rf"^{service} +\d+\.\d", said, re.MULTILINE), service


def test_memory_and_the_edge_cost_what_the_tables_say(stack: Server) -> None:
    print(f"images: {room.image_kinds()}; resting {REST_SECONDS} s", flush=True)
    time.sleep(REST_SECONDS)
    rest = on_host("memory", 60)
    print(f"{TURNS} turns of {DOCUMENTS} documents, twice, and {SEARCHES} searches each way")
    with reader(stack) as user:
        took = on_host(
            "load",
            LOAD_SECONDS,
            user={"email": user.email, "password": user.password.get_secret_value()},
            sides=stack.sides,
            seed=secrets.token_hex(4),
            turns=TURNS,
            documents=DOCUMENTS,
            searches=SEARCHES,
            at_once=AT_ONCE,
        )
        after = on_host("memory", 60)
        brought = stack.documents(user)
    searches = 2 * TURNS * (SEARCHES + 1)
    load = f"{took['documents']} documents of {WORDS_IN_A_TEXT} words, {searches} searches"
    said = printed(r2r_table.memory(rest, after, load))
    said += printed(r2r_table.ways(took["turns"], AT_ONCE))

    # each way's first document of a turn is not counted
    assert took["documents"] == len(brought) == 2 * TURNS * (2 * DOCUMENTS + 1)
    assert {each.ingestion_status for each in brought} == {"success"}
    assert all(set(turn) == {EDGE, DIRECT} for turn in took["turns"])
    assert not any(each.email == user.email for each in stack.admin.users.every())
    for figure in ("postgres", "one by one", "at once", "search ms, median", "search ms, p95"):
        assert re.search(rf"{figure} .*\d+", said), f"{figure!r} was not printed"
