"""A report for people: one line first, then a table; plain lines where no terminal is."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.health.model import Report, Status

_STYLES = {
    Status.OK: "green",
    Status.WARNING: "yellow",
    Status.CRITICAL: "bold red",
    Status.UNKNOWN: "magenta",
}


def show(report: Report, console: Console) -> None:
    """Print the report. What checks found is printed as it is, never read as markup."""
    console.print(
        Text(report.first_line(), _STYLES[report.status] if console.is_terminal else ""),
        soft_wrap=True,
    )
    if console.is_terminal:
        console.print(_table(report))
    else:
        for line in plain_lines(report):
            console.print(Text(line), soft_wrap=True)


def plain_lines(report: Report) -> list[str]:
    """One line per check; below what is not OK, what to do about it."""
    width = max((len(check.id) for check in report.checks), default=0)
    lines = []
    for check in report.checks:
        verdict = check.verdict
        lines.append(f"{verdict.status.name:<8}  {check.id:<{width}}  {verdict.summary}")
        if verdict.status and verdict.hint:
            lines.append(f"{'':<8}  {'':<{width}}  -> {verdict.hint}")
    return lines


def _table(report: Report) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in report.checks:
        verdict = check.verdict
        table.add_row(
            Text(verdict.status.name, _STYLES[verdict.status]), check.id, Text(verdict.summary)
        )
        if verdict.status and verdict.hint:
            table.add_row("", "", Text(f"-> {verdict.hint}", "dim"))
    return table
