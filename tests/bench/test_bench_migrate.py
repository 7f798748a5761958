"""`make bench`: how fast points move, with and without proof, beside the official client's way.

The servers are those that STACKROOM_QDRANT_URL, _SECOND_URL and their _API_KEY name, else two
stand-ins. The largest collection has STACKROOM_BENCH_POINTS points. Seconds are printed and never
asserted; what is asserted is that the work was done, and how much memory it took.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from migrate_data import Rest, running_stand_in
from migrate_side import MB, Bench
from migrate_table import WAYS, Sized, table
from rich.console import Console

pytestmark = [pytest.mark.bench, pytest.mark.timeout(10800)]

NAMES = ("URL", "API_KEY", "SECOND_URL", "SECOND_API_KEY")
LARGEST = int(os.environ.get("STACKROOM_BENCH_POINTS", "200000"))
SMALLEST, MIDDLE = 10_000, 50_000
TURNS = {SMALLEST: 3}  # one of what is larger
MOST_MEMORY = 250 * MB  # of our own process
FLAT = 60 * MB  # by which the peaks of the smallest and the largest may differ

Ends = tuple[str, Rest, Rest]


@pytest.fixture(scope="module")
def ends(folder: Path) -> Iterator[Ends]:
    given = {name: os.environ.get(f"STACKROOM_QDRANT_{name}", "") for name in NAMES}
    named = [name for name, value in given.items() if value]
    assert len(named) in (0, len(NAMES)), f"{named} alone: {', '.join(NAMES)} belong together"
    if named:
        source = Rest(given["URL"], given["API_KEY"])
        target = Rest(given["SECOND_URL"], given["SECOND_API_KEY"])
        version = httpx.get(f"{source.url}/").json()["version"]
        yield f"real, {version}, at {source.url} and {target.url}", source, target
        return
    for name in ("source", "target"):
        (folder / name).mkdir()
    with running_stand_in(folder / "source") as one, running_stand_in(folder / "target") as other:
        source, target = Rest(one.url, one.key), Rest(other.url, other.key)
        source.grpc_port, target.grpc_port = one.grpc_port, other.grpc_port
        yield "two stand-ins", source, target


def said(text: str) -> None:
    print(text, flush=True)


def test_a_migration_costs_what_the_table_says(ends: Ends, folder: Path) -> None:
    which, source, target = ends
    said(f"Qdrant: {which}")
    results: list[Sized] = []
    for points in sorted({SMALLEST, min(MIDDLE, LARGEST), LARGEST}):
        with Bench(source, target, folder / f"{points}", points) as bench:
            said(f"{points} points: filling the collection")
            bench.fill()
            sized = Sized(points)
            for turn in range(TURNS.get(points, 1)):
                for way in WAYS if turn % 2 else reversed(WAYS):
                    said(f"{points} points: {WAYS[way]}")
                    sized.took[way].append(bench.child(way))
            results.append(sized)

    console = Console(record=True, highlight=False, width=100)
    console.print(table(which, results))
    printed = console.export_text()

    for sized in results:
        for took in sized.took["proven"]:
            assert took.found["outcome"] == "same", took.found["report"]
            assert took.found["compared"] == sized.points
    peaks = [max(sized.peak("move"), sized.peak("proven")) for sized in results]
    assert max(peaks) < MOST_MEMORY
    assert peaks[-1] - peaks[0] < FLAT, "memory grows with the size"
    for figure in ("migrate", "run and verify", "our process", "goal"):
        assert re.search(rf"{figure}.* \d+", printed), f"{figure!r} was not printed"
