"""What the measured backups have come to, and the tables of it. Measures nothing itself."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from statistics import median

from backup_side import DIMENSIONS, GB, POINT_BYTES, Took
from rich.console import Group
from rich.table import Table

LEAST_THROUGHPUT = 0.8  # of the plain way's; printed, never asserted
MOST_MEMORY = 120e6  # bytes of our own process
MB = 1e6
# what a backup spends its time on: the row, and the beginnings of the steps that are in it
STEPS = {
    "preflight: repository, sizes, clock": ("preflight",),
    "observe: count, samples, queries": ("collect:qdrant:observe",),
    "snapshot, by the server": ("collect:qdrant:snapshot",),
    "download, hashed": ("collect:qdrant:download",),
    "compare: the same once more": ("collect:qdrant:compare",),
    "publish: fsync, manifest, renames": ("publish:",),
    "store: restic": ("store:",),
}


@dataclass(frozen=True)
class Turns:
    """Two ways to the same end that took turns; `size` is what each of them fetched, in bytes."""

    size: int
    plain: list[Took] = field(default_factory=list)
    ours: list[Took] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Our throughput over the plain one's, by medians."""
        return _median(self.plain) / _median(self.ours)


@dataclass(frozen=True)
class Sized:
    """One collection: its first backup, further ones of the unchanged collection, drills."""

    filled: float  # seconds
    first: Took
    again: list[Took] = field(default_factory=list)
    drills: list[Took] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the whole backup."""
        return int(self.first.found["bytes"])

    def peak(self) -> int:
        """Bytes of memory that our own process took at most, in a backup."""
        return max(took.peak for took in (self.first, *self.again))


def table(which: str, sized: list[Sized], downloads: Turns, whole: Turns) -> Group:
    """Two tables, and a line for each goal."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    peaks = [each.peak() for each in sized]
    return Group(
        _turns(downloads, whole),
        "",
        _sizes(sized),
        f"Qdrant: {which}; {os.cpu_count()} processors, load at the end {load}",
        f"a point: {DIMENSIONS} dimensions and a text, {POINT_BYTES} bytes; no index",
        f"download / plain download: {downloads.ratio:.2f}   goal: at least {LEAST_THROUGHPUT}",
        f"collect / by hand: {whole.ratio:.2f}   (collect also proves what it fetched)",
        f"our process at most: {max(peaks) / MB:.0f} MB, {_growth(peaks)}"
        f"   goal: flat, under {MOST_MEMORY / MB:.0f} MB",
    )


def _growth(peaks: list[int]) -> str:
    return f"{(peaks[-1] - peaks[0]) / MB:+.0f} MB from the smallest to the largest"


def _turns(downloads: Turns, whole: Turns) -> Table:
    title = f"One Qdrant collection of {downloads.size / GB:.2f} GB, medians"
    rows = Table(box=None, pad_edge=False, title=title, title_style="")
    rows.add_column("what")
    for name in ("turns", "seconds", "min - max", "MB/s", "memory MB"):
        rows.add_column(name, justify="right", no_wrap=True)
    for name, turns, of in (
        ("plain download with sha256", downloads.plain, downloads),
        ("download by Stackroom", downloads.ours, downloads),
        ("by hand: snapshot, plain download", whole.plain, whole),
        ("collect by Stackroom", whole.ours, whole),
    ):
        seconds = [took.seconds for took in turns]
        rows.add_row(
            *(name, str(len(turns)), f"{median(seconds):.2f}"),
            *(f"{min(seconds):.2f} - {max(seconds):.2f}", f"{of.size / MB / median(seconds):.0f}"),
            f"{max(took.peak for took in turns) / MB:.0f}",
        )
        if turns is whole.ours or turns is whole.plain:
            for step in turns[0].steps:
                each = [took.steps.get(step, 0.0) for took in turns]
                if median(each) >= 0.005:  # what rounds to nothing says nothing
                    name = step.removeprefix("collect:qdrant:")
                    rows.add_row(f"  {name}", "", f"{median(each):.2f}")
    return rows


def _sizes(sized: list[Sized]) -> Table:
    rows = Table(
        box=None, pad_edge=False, title="Backup and drill by size of the backup", title_style=""
    )
    rows.add_column("what")
    for each in sized:
        rows.add_column(f"{each.size / GB:.2f} GB", justify="right", no_wrap=True)

    def row(name: str, of: list[float], form: str = ".2f") -> None:
        rows.add_row(name, *(f"{number:{form}}" for number in of))

    row("first backup, s", [each.first.seconds for each in sized])
    for name, beginnings in STEPS.items():
        row(f"  {name}", [_seconds(each.first, beginnings) for each in sized])
    known = tuple(beginning for beginnings in STEPS.values() for beginning in beginnings)
    row("  all else", [each.first.seconds - _seconds(each.first, known) for each in sized])
    row("  our process, MB at most", [each.peak() / MB for each in sized], ".0f")
    row("  restic, MB at most", [_most_of_restic(each) / MB for each in sized], ".0f")
    rows.add_section()
    row("backup of it unchanged, s", [_median(each.again) for each in sized])
    row("  restic's part, s", [median(map(_restic, each.again)) for each in sized])
    row("  added to the repository, MB", [median(map(_added, each.again)) / MB for each in sized])
    row("  added by the first one, MB", [_added(each.first) / MB for each in sized], ".0f")
    rows.add_section()
    row("drill, s", [_drilled(each, "total") for each in sized])
    # comparing lasts until the throw-away service is gone
    for step in ("fetch", "verify", "rebuild", "compare"):
        row(f"  {step}", [_drilled(each, step) for each in sized])
    row("drill, s per GB", [_drilled(each, "total") * GB / each.size for each in sized], ".1f")
    row("  our process, MB at most", [_most(each.drills) / MB for each in sized], ".0f")
    rows.add_section()
    row("(filling the collection, s)", [each.filled for each in sized], ".0f")
    return rows


def _median(turns: list[Took]) -> float:
    return median(took.seconds for took in turns)


def _most(turns: list[Took]) -> float:
    return max(took.peak for took in turns)


def _most_of_restic(sized: Sized) -> float:
    return max(took.children_peak for took in (sized.first, *sized.again))


def _seconds(took: Took, beginnings: tuple[str, ...]) -> float:
    return sum(seconds for step, seconds in took.steps.items() if step.startswith(beginnings))


def _restic(took: Took) -> float:
    return float(took.found["repositories"][0]["seconds"])


def _added(took: Took) -> float:
    return float(took.found["repositories"][0]["added_bytes"])


def _drilled(sized: Sized, step: str) -> float:
    return median(took.found["details"]["seconds"][step] for took in sized.drills)
