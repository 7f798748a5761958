"""What the measured migrations have come to, and the table of it. Measures nothing itself."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from statistics import median

from migrate_side import DIMENSIONS, MB, TEXT, Took
from rich.console import Group
from rich.table import Table

# of the client's points per second over REST; printed, never asserted
LEAST_MOVED, LEAST_PROVEN = 3.0, 1.5
WAYS = {
    "client": "qdrant_client migrate(), REST",
    "client_grpc": "qdrant_client migrate(), gRPC",
    "move": "stackroom migrate run",
    "proven": "the same, then verify every point",
}


@dataclass(frozen=True)
class Sized:
    """One collection, moved in all ways that took turns."""

    points: int
    took: dict[str, list[Took]] = field(default_factory=lambda: {way: [] for way in WAYS})

    def seconds(self, way: str) -> float:
        return median(each.seconds for each in self.took[way])

    def ready(self, way: str) -> float:
        """Also with the index built."""
        return median(each.seconds + each.green for each in self.took[way])

    def peak(self, way: str) -> int:
        return max(each.peak for each in self.took[way])

    def ratio(self, way: str, to: str) -> float:
        return self.seconds(to) / self.seconds(way)


def table(which: str, sized: list[Sized]) -> Group:
    """One table by size, and a line for each goal."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    largest = sized[-1]
    return Group(
        _rows(sized),
        "",
        f"Qdrant: {which}; {os.cpu_count()} processors, load at the end {load}",
        f"a point: {DIMENSIONS} dimensions, a text of {TEXT} bytes and four fields; two indexes",
        f"without verification / migrate() over REST: {largest.ratio('move', 'client'):.2f}"
        f"   goal: at least {LEAST_MOVED}",
        f"with every point verified / migrate() over REST: {largest.ratio('proven', 'client'):.2f}"
        f"   goal: at least {LEAST_PROVEN}",
        f"our process: {_growth(sized)} from the smallest to the largest",
    )


def _rows(sized: list[Sized]) -> Table:
    rows = Table(box=None, pad_edge=False, title="One collection moved, medians", title_style="")
    rows.add_column("what")
    for each in sized:
        rows.add_column(f"{each.points} points", justify="right", no_wrap=True)

    def row(name: str, of: list[float], form: str) -> None:
        rows.add_row(name, *(f"{number:{form}}" for number in of))

    row("turns", [len(each.took["move"]) for each in sized], ".0f")
    rows.add_row("points/s")
    for way, name in WAYS.items():
        row(f"  {name}", [each.points / each.seconds(way) for each in sized], ".0f")
    rows.add_section()
    rows.add_row("times as fast as migrate()")
    for to, over in (("client", "REST"), ("client_grpc", "gRPC")):
        row(f"  run, {over}", [each.ratio("move", to) for each in sized], ".2f")
        row(f"  run and verify, {over}", [each.ratio("proven", to) for each in sized], ".2f")
    rows.add_section()
    rows.add_row("seconds, the index built too")
    for way, name in WAYS.items():
        row(f"  {name}", [each.ready(way) for each in sized], ".1f")
    rows.add_section()
    rows.add_row("seconds of a verified run by step")
    for step in ("ranges", "load", "verify"):
        spent = [median(took.steps.get(step, 0) for took in each.took["proven"]) for each in sized]
        row(f"  {step}", spent, ".2f")
    rows.add_section()
    rows.add_row("process, MB at most")
    for way, name in WAYS.items():
        row(f"  {name}", [each.peak(way) / MB for each in sized], ".0f")
    return rows


def _growth(sized: list[Sized]) -> str:
    ours = [max(each.peak("move"), each.peak("proven")) for each in sized]
    return f"{max(ours) / MB:.0f} MB at most, {(ours[-1] - ours[0]) / MB:+.0f} MB"
