"""What a benchmark run has measured, and the table of it. Measures nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

from ansible_side import FAST, PlaybookRun
from rich.console import Group
from rich.table import Table
from stackroom_side import AFTER, Deploy

GOAL = 0.4  # of Ansible's time; printed, never asserted: seconds depend on the machine


@dataclass(frozen=True)
class Figures:
    """`deploys`, `plans` and `playbooks` are no-op runs that took turns; seconds throughout."""

    first: Deploy
    deploys: list[Deploy]
    plans: list[float]
    playbooks: list[PlaybookRun]
    round_trips: dict[str, int]

    @property
    def ratio(self) -> float:
        """Median of our no-op deploys over the median of the no-op playbooks."""
        ours = median(run.seconds for run in self.deploys)
        return ours / median(run.seconds for run in self.playbooks)


def table(figures: Figures) -> Group:
    """One table: whole runs, then each step of the no-op deploy, then the ratio and its goal."""
    rows = Table(box=None, pad_edge=False, title="Stackroom and Ansible, one host", title_style="")
    rows.add_column("what")
    for name in ("seconds", "min - max", "round trips"):
        rows.add_column(name, justify="right", no_wrap=True)
    rows.add_row("first deploy", f"{figures.first.seconds:.1f}", "one run", "")
    total = str(sum(figures.round_trips.values()))
    rows.add_row("no-op deploy", *_spread([run.seconds for run in figures.deploys]), total)
    rows.add_row("stackroom plan", *_spread(figures.plans), "")
    rows.add_row("no-op playbook", *_spread([run.seconds for run in figures.playbooks]), "")
    rows.add_section()
    for step in figures.deploys[0].steps:
        spread = _spread([run.steps[step] for run in figures.deploys])
        trips = "" if step == AFTER else str(figures.round_trips[step])
        rows.add_row(f"  {step}", *spread, trips)
    sides = (
        f"median of {len(figures.deploys)} turns; ansible-core {version('ansible-core')}: {FAST}"
    )
    verdict = f"no-op deploy / no-op playbook: {figures.ratio:.2f}   goal: at most {GOAL}"
    return Group(rows, sides, verdict)


def _spread(seconds: list[float]) -> tuple[str, str]:
    return f"{median(seconds):.2f}", f"{min(seconds):.2f} - {max(seconds):.2f}"
