"""A row of bars for a terminal: how a number went over time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-:=+*#"
GAP = {True: "·", False: " "}  # a run that has no number


def spark(values: Sequence[float | None], width: int, *, unicode: bool = True) -> str:
    """One letter a value, oldest first; None is a gap. The bars begin at zero: half as high is
    half as much. What is wider than `width` is put together, the largest of each group."""
    levels = BLOCKS if unicode else ASCII
    groups = _groups(list(values), max(width, 1))
    top = max((value for value in groups if value), default=0)
    bars = []
    for value in groups:
        if value is None:
            bars.append(GAP[unicode])
        else:
            share = value / top if top else 0
            bars.append(levels[min(int(share * len(levels)), len(levels) - 1)])
    return "".join(bars)


def _groups(values: list[float | None], width: int) -> list[float | None]:
    if len(values) <= width:
        return values
    edges = [round(number * len(values) / width) for number in range(width + 1)]
    groups = [values[left:right] for left, right in pairwise(edges)]
    return [max((v for v in group if v is not None), default=None) for group in groups]
