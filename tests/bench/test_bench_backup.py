"""`make bench`: what a backup and a drill cost, in seconds and in memory.

Qdrant is the one that STACKROOM_QDRANT_URL and STACKROOM_QDRANT_API_KEY name (empty, and
STACKROOM_QDRANT_IMAGE an image of its version), else the stand-in. The largest collection has
STACKROOM_BENCH_GB gigabytes. Seconds are printed and never asserted; what is asserted is that the
work was done, and how much memory it took.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from backup_side import GB, Bench, Server
from backup_table import MOST_MEMORY, Sized, Turns, table
from live_stack import qdrant_image
from rich.console import Console
from servers import restic_program
from stand_in_process import make

pytestmark = [pytest.mark.bench, pytest.mark.timeout(10800)]

URL, KEY, IMAGE = (f"STACKROOM_QDRANT_{name}" for name in ("URL", "API_KEY", "IMAGE"))
LARGEST = float(os.environ.get("STACKROOM_BENCH_GB", "1"))
SMALLEST, MIDDLE = 0.1, 1.0
TURNS, WHOLE_TURNS = 5, 3
AGAIN = 3  # runs of the same on what is no larger than MIDDLE; one on what is
FLAT = 16e6  # bytes by which the peaks of the smallest and the largest may differ


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    named = [name for name in (URL, KEY, IMAGE) if os.environ.get(name)]
    assert len(named) in (0, 3), f"{named} alone: {URL}, {KEY} and {IMAGE} belong together"
    if named:
        url = os.environ[URL].rstrip("/")
        port = (httpx.URL(url).port or 6333) + 1
        real = Server(f"real, at {url}", url, port, os.environ[KEY], qdrant_image())
        assert not real.collections(), f"{url} holds collections: they would be measured too"
        yield real
        return
    (folder / "qdrant").mkdir()
    stand_in = make(folder / "qdrant", secrets.token_hex(24))
    stand_in.start()
    try:
        yield Server("the stand-in", stand_in.url, stand_in.grpc_port, stand_in.key, qdrant_image())
    finally:
        stand_in.stop()


def taking_turns(bench: Bench, plain: str, ours: str, count: int, size: int) -> Turns:
    """Both ways `count` times; who begins alternates. One of each before does not count."""
    turns = Turns(size)
    bench.child(plain)
    bench.child(ours)
    for turn in range(count):
        sides = [(plain, turns.plain), (ours, turns.ours)]
        for work, took in sides if turn % 2 else reversed(sides):
            took.append(bench.child(work))
    return turns


def said(text: str) -> None:
    print(text, flush=True)


def measured(bench: Bench, filled: float) -> Sized:
    """Back the collection up, again while it is unchanged, and drill the newest backup."""
    sized = Sized(filled, bench.child("backup"))
    for _ in range(AGAIN if bench.size <= MIDDLE * GB else 1):
        sized.again.append(bench.child("backup"))
        sized.drills.append(bench.child("rehearse"))
    return sized


def test_a_backup_and_a_drill_cost_what_the_table_says(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACKROOM_RESTIC", str(restic_program()))
    said(f"Qdrant: {server.which}")
    sizes = sorted({SMALLEST, min(MIDDLE, LARGEST), LARGEST})
    results: list[Sized] = []
    for size in sizes:
        with Bench(server, folder / f"{size}", int(size * GB)) as bench:
            said(f"{size:g} GB: filling the collection")
            filled = bench.fill()
            if size == sizes[-1]:
                said(f"{size:g} GB: downloads and whole collects, in turns")
                bench.make_snapshot()
                downloads = taking_turns(
                    bench, "plain", "download", TURNS, int(bench.snapshot["size"])
                )
                bench.drop_snapshot()
                whole = taking_turns(bench, "by_hand", "collect", WHOLE_TURNS, downloads.size)
            said(f"{size:g} GB: backups and drills")
            results.append(measured(bench, filled))

    console = Console(record=True, highlight=False, width=100)
    console.print(table(server.which, results, downloads, whole))
    printed = console.export_text()

    assert len({took.found["sha256"] for took in downloads.plain + downloads.ours}) == 1
    for sized in results:
        runs = [sized.first, *sized.again, *sized.drills]
        assert {run.found["outcome"] for run in runs} == {"ok"}, runs
        assert all(run.found["details"]["comparisons"] for run in sized.drills)
    peaks = [sized.peak() for sized in results] + [took.peak for took in downloads.ours]
    assert max(peaks) < MOST_MEMORY
    assert max(peaks) - min(peaks) < FLAT, "memory grows with the size"
    for figure in ("plain download", "first backup", "unchanged", "s per GB", "goal"):
        assert re.search(rf"{figure}.* \d+", printed), f"{figure!r} was not printed"
    assert not server.collections()
