"""What the R2R stack's measurements have come to, and the tables of it. Measures nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from r2r_side import DIRECT, EDGE
from rich.console import Group
from rich.table import Table
from stackroom_side import Deploy

GOAL = 1.05  # of the time that R2R takes when it is asked directly; printed, never asserted
IDLE = "empty request ms, median"  # what the edge costs by itself; no part of the goal
MIB = 1024 * 1024

Json = dict[str, Any]


def deploys(first: Deploy | None, noop: Deploy, plan: float) -> Table:
    """Seconds; without a first deploy where the machine was deployed before."""
    rows = _rows("Deploys of the R2R stack", "seconds", "")
    rows.add_row("first deploy", *_first(first))
    rows.add_row("no-op deploy", f"{noop.seconds:.1f}", "one run")
    rows.add_row("stackroom plan", f"{plan:.1f}", "one run")
    return rows


def starts(took: Json) -> Group:
    """Each container's own seconds, and those of all of them in their order."""
    rows = _rows("A start of the R2R stack, its data there", "seconds")
    for name, seconds in sorted(took["healthy"].items(), key=lambda each: each[1]):
        rows.add_row(_service(name), f"{seconds:.1f}")
    rows.add_section()
    rows.add_row("all, each after what it needs", f"{took['start']:.1f}")
    rows.add_row("stopping all", f"{took['stop']:.1f}")
    return Group(rows, "a service: from its process's start until Docker finds it healthy")


def memory(rest: Json, after: Json, load: str) -> Group:
    """By container; both as the driver gives them."""
    rows = _rows(
        "Memory of the R2R stack", "at rest MiB", "after load MiB", "peak MiB", "limit MiB"
    )
    for name in rest:
        figures = (rest[name]["now"], after[name]["now"], after[name]["most"], rest[name]["limit"])
        rows.add_row(_service(name), *(f"{figure / MIB:.0f}" for figure in figures))
    sums = (
        sum(each["now"] for each in rest.values()),
        sum(each["now"] for each in after.values()),
        sum(each["most"] for each in after.values()),
    )
    rows.add_section()
    rows.add_row("all", *(f"{figure / MIB:.0f}" for figure in sums), "")
    said = "at rest, after load: without file cache; peak: since its start, with file cache,"
    return Group(rows, f"{said} as its limit counts", f"load: {load}")


@dataclass(frozen=True)
class Ways:
    """One figure of both ways, a value for each turn. `rate`: more is better."""

    edge: list[float]
    direct: list[float]
    rate: bool

    @property
    def ratios(self) -> list[float]:
        """Time through the edge over time directly, by turn."""
        pairs = zip(self.edge, self.direct, strict=True)
        return [direct / edge if self.rate else edge / direct for edge, direct in pairs]

    @property
    def ratio(self) -> float:
        """The same by the medians of both."""
        edge, direct = median(self.edge), median(self.direct)
        return direct / edge if self.rate else edge / direct


def ways(turns: list[Json], at_once: int) -> Group:
    """Each figure through the edge, directly, and what the edge costs; medians of the turns."""
    rows = _rows("R2R through the edge, and directly", EDGE, DIRECT, "ratio", "min - max")
    figures = _figures(turns, at_once)
    for name, figure in figures.items():
        rows.add_row(
            name,
            _value(figure.edge),
            _value(figure.direct),
            f"{figure.ratio:.3f}",
            f"{min(figure.ratios):.3f} - {max(figure.ratios):.3f}",
        )
    worst = max(figure.ratio for name, figure in figures.items() if name != IDLE)
    sides = f"medians of {len(turns)} turns, from the host itself, connections kept; ratio of times"
    goal = f"largest ratio, without empty requests: {worst:.3f}   goal: at most {GOAL}"
    return Group(rows, sides, goal)


def _figures(turns: list[Json], at_once: int) -> dict[str, Ways]:
    def of(taken: Callable[[Json], float], rate: bool) -> Ways:
        edge, direct = ([taken(turn[side]) for turn in turns] for side in (EDGE, DIRECT))
        return Ways(edge, direct, rate)

    def together(took: Json) -> float:
        return len(took["brought"]) / float(took["together"])

    return {
        "documents/s, one by one": of(lambda t: len(t["brought"]) / sum(t["brought"]), True),
        f"documents/s, {at_once} at once": of(together, True),
        "search ms, median": of(lambda t: 1000 * median(t["searched"]), False),
        "search ms, p95": of(lambda t: 1000 * quantiles(t["searched"], n=20)[-1], False),
        IDLE: of(lambda t: 1000 * median(t["idle"]), False),
    }


def _first(first: Deploy | None) -> tuple[str, str]:
    return (f"{first.seconds:.1f}", "one run") if first else ("-", "was deployed before")


def _value(values: list[float]) -> str:
    return f"{median(values):.2f}"


def _service(container: str) -> str:
    return container.removeprefix("stackroom-").removesuffix("-1")


def _rows(title: str, *columns: str) -> Table:
    rows = Table(
        box=None,
        pad_edge=False,
        title=title,
        title_style="",
        title_justify="left",
        min_width=len(title),
    )
    rows.add_column("what")
    for name in columns:
        rows.add_column(name, justify="right", no_wrap=True)
    return rows
