"""Backups as people read them: the history as a table with a chart of sizes, and one run in full.

Newest first, as in everything that is looked at from the top; the chart reads like a book, the
newest at its right end. Prints what records say as it is, never as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from ops.backup import words
from ops.backup.chart import spark
from ops.backup.history import Row
from ops.backup.records import Record, RepositoryResult

SCHEMA_VERSION = 1
LIMIT = 20  # rows, unless all are asked for
NONE = "-"
_STYLES = {
    "ok": "green",
    "warning": "yellow",
    "failed": "bold red",
    "died": "bold red",
    "unproven": "magenta",
    "running": "cyan",
    "pruned": "dim",
}
_UNRECORDED = "unknown"  # in a repository, and not in this machine's records


def show_list(
    rows: Sequence[Row],
    console: Console,
    *,
    now: datetime | None = None,
    limit: int | None = LIMIT,
) -> None:
    """Print the history: one line that says it all, the newest `limit` backups (None: all of
    them), below a failed one why, and a chart of the sizes of all."""
    now = now or datetime.now(UTC)
    _print(console, Text(first_line(rows, now)))
    if not rows:
        return
    shown = list(rows if limit is None else rows[:limit])
    _print(console, Text())
    columns = _columns(shown, now, console)
    roomy = not console.is_terminal or _width(columns, shown, gap=2) <= console.width
    for line in _table(shown, columns, "  " if roomy else " "):
        _print(console, line)
    if len(shown) < len(rows):
        _print(console, Text(f"{len(rows) - len(shown)} older: stackroom backup list --all", "dim"))
    for line in _chart(rows, console):
        _print(console, line)


def first_line(rows: Sequence[Row], now: datetime) -> str:
    """All of it in less than 80 characters."""
    good = next((row for row in rows if row.good), None)
    if good is None:
        return "no backup yet: stackroom backup run" if not rows else "no good backup"
    drilled = max((row.drilled for row in rows if row.drilled), default=None)
    parts = [f"last good backup {words.ago(good.when, now)}"]
    parts += [words.size(good.bytes)] if good.bytes else []
    parts.append(f"last drill {words.ago(drilled, now)}" if drilled else "never drilled")
    kept = sum(row.good for row in rows)
    parts.append(f"{kept} kept")
    return ", ".join(parts)


@dataclass(frozen=True)
class _Column:
    head: str
    cell: Callable[[Row], str]
    side: Literal["left", "right"] = "left"
    style: Callable[[Row], str] = lambda row: ""


def _columns(rows: Sequence[Row], now: datetime, console: Console) -> list[_Column]:
    """All of it where it fits, or where nobody's terminal limits it; else the short forms."""
    wide = [
        _Column("RUN", lambda row: row.run),
        _Column("WHEN (UTC)", lambda row: words.utc(row.when)),
        _Column("AGE", lambda row: words.ago(row.when, now), "right"),
        _Column("SIZE", _size, "right"),
        _Column("TOOK", _took, "right"),
        _Column("VERIFIED", lambda row: _verified(row, now)),
        _Column("DRILLED", lambda row: _day(row.drilled, now)),
        _Column("WHERE", lambda row: " ".join(row.where) or NONE),
        _Column("RESULT", _result, style=_style),
    ]
    if not console.is_terminal or _width(wide, rows) <= console.width:
        return wide
    return [
        _Column("RUN", lambda row: words.short(row.run)),
        _Column("WHEN (UTC)", lambda row: _narrow_time(row.when, now)),
        _Column("AGE", lambda row: words.age(row.when, now), "right"),
        _Column("SIZE", _size, "right"),
        _Column("TOOK", _took, "right"),
        *wide[5:7],
        _Column("WHERE", _where),
        wide[8],
    ]


def _size(row: Row) -> str:
    return words.size(row.bytes) if row.bytes else NONE


def _took(row: Row) -> str:
    return words.duration(row.seconds) if row.seconds else NONE


def _verified(row: Row, now: datetime) -> str:
    """The day it was, or how much of the repository has been read so far."""
    if row.verified or not row.read:
        return _day(row.verified, now)
    return f"{row.read.numerator}/{row.read.denominator}"


def _day(when: datetime | None, now: datetime) -> str:
    if when is None:
        return NONE
    return f"{when:%m-%d}" if abs((now - when).days) < 300 else f"{when:%Y-%m}"


def _narrow_time(when: datetime, now: datetime) -> str:
    return words.utc(when)[5:] if abs((now - when).days) < 300 else words.utc(when)[:10]


def _where(row: Row) -> str:
    return "both" if len(row.where) > 1 else row.where[0] if row.where else NONE


def _result(row: Row) -> str:
    return "pruned" if row.gone and not row.where else row.outcome or _UNRECORDED


def _style(row: Row) -> str:
    return _STYLES.get(_result(row), "")


def _width(columns: Sequence[_Column], rows: Sequence[Row], gap: int = 1) -> int:
    return sum(_widths(columns, rows)) + gap * (len(columns) - 1)


def _widths(columns: Sequence[_Column], rows: Sequence[Row]) -> list[int]:
    return [max(len(c.head), *(len(c.cell(row)) for row in rows)) for c in columns]


def _table(rows: Sequence[Row], columns: Sequence[_Column], gap: str) -> list[Text]:
    widths = _widths(columns, rows)
    lines = [_line(columns, widths, gap, [(column.head, "bold") for column in columns])]
    for row in rows:
        lines.append(_line(columns, widths, gap, [(c.cell(row), c.style(row)) for c in columns]))
        lines += [Text(f"  {remark}", "dim") for remark in _remarks(row)]
    return lines


def _line(
    columns: Sequence[_Column], widths: Sequence[int], gap: str, cells: Sequence[tuple[str, str]]
) -> Text:
    line = Text()
    for column, width, (text, style) in zip(columns, widths, cells, strict=True):
        line.append(f"{text:>{width}}" if column.side == "right" else f"{text:<{width}}", style)
        line.append(gap)
    line.rstrip()
    return line


def _remarks(row: Row) -> list[str]:
    """Below a backup: why it is not as it should be."""
    if row.outcome is None:
        return ["a repository holds it; this machine has no record of it"]
    if row.outcome not in ("ok", "running"):
        return [row.error.splitlines()[0]] if row.error else []
    return []


def _chart(rows: Sequence[Row], console: Console) -> list[Text]:
    """Sizes over time, oldest at the left, and what the lowest and the highest bar are."""
    known = [row for row in reversed(rows) if row.outcome not in ("running", None)]
    fine = ("ok", "warning")
    sizes = [float(row.bytes) if row.outcome in fine and row.bytes else None for row in known]
    real = [size for size in sizes if size is not None]
    if len(real) < 2:
        return []
    unicode = "utf" in console.encoding.lower()
    width = min(console.width if console.is_terminal else 100, 120) - len("size  ")
    low, high = words.size(int(min(real))), words.size(int(max(real)))
    scale = f"      {low} to {high}, {known[0].when:%Y-%m-%d} to {known[-1].when:%Y-%m-%d}"
    gaps = "" if None not in sizes else "; gaps: failed"
    bars = Text("size  ").append(spark(sizes, width, unicode=unicode), "cyan")
    return [Text(), bars, Text(scale + gaps, "dim")]


def _print(console: Console, line: Text) -> None:
    if not console.is_terminal:
        line = Text(line.plain)
    console.print(line, soft_wrap=True)


def list_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The document of `backup list --json`, newest first: a key may be added, none is renamed or
    removed without a new schema_version."""
    return {
        "schema_version": SCHEMA_VERSION,
        "backups": [
            {
                "run": row.run,
                "when": _stamp(row.when),
                "outcome": row.outcome or _UNRECORDED,
                "bytes": row.bytes,
                "items": row.items,
                "seconds": round(row.seconds, 3),
                "verified": _stamp(row.verified),
                "share_read": round(float(row.read), 4),
                "drilled": _stamp(row.drilled),
                "where": list(row.where),
                "failed_in": list(row.failed_in),
                "removed_from": list(row.gone),
                "trigger": row.trigger,
                "error": row.error,
            }
            for row in rows
        ],
    }


def record_json(record: Record) -> dict[str, Any]:
    """The document of one run: its record as it is kept, which has a schema_version of its own."""
    return record.model_dump(mode="json") | {"seconds": record.seconds}


def _stamp(when: datetime | None) -> str | None:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if when else None


def show_record(record: Record, console: Console, *, now: datetime | None = None) -> None:
    """Print one run: a line that says it all, every fact, and after a bad one what to do next."""
    now = now or datetime.now(UTC)
    style = _STYLES[record.outcome]
    head = f"{record.kind} {record.run} {words.RESULTS[record.outcome]}"
    _print(console, Text(head, style))
    for line in record.error.splitlines():
        _print(console, Text(f"  {line}"))
    _print(console, Text())
    found = [(name, value) for name, value in _facts(record, now) if value]
    width = max(len(name) for name, _ in found)
    for name, value in found:
        _print(console, Text().append(f"{name:<{width}}  ", "bold").append(value))
    commands = words.next_commands(record)
    if commands:
        _print(console, Text())
    for command in commands:
        _print(console, Text(f"-> {command}", "bold"))


def _facts(record: Record, now: datetime) -> list[tuple[str, str]]:
    """Name and value of everything that is known; what is empty is not printed."""
    by = {"timer": "its timer", "hand": "hand"}[record.trigger]
    return [
        ("started", f"{words.utc(record.started)} UTC, {words.ago(record.started, now)}, by {by}"),
        ("took", words.duration(record.seconds) if record.finished else ""),
        ("result", f"{record.outcome}, exit code {record.exit_code}" if record.finished else ""),
        ("about", f"backup {record.subject}" if record.subject else ""),
        ("size", words.size(record.bytes) if record.bytes else ""),
        ("items", str(record.items) if record.items else ""),
        *((result.name, _repository(result)) for result in record.repositories),
        *_details({k: v for k, v in record.details.items() if k != "size"}),
        ("dry run", "nothing was changed" if record.dry_run else ""),
        ("notice", "sent" if record.notified else ""),
    ]


def _repository(result: RepositoryResult) -> str:
    took = words.duration(result.seconds) if result.seconds else ""
    if not result.ok:
        return f"failed{f' after {took}' if took else ''}: {result.error}"
    parts = ["ok"]
    parts += [f"snapshot {result.snapshot[:8]}"] if result.snapshot else []
    parts += [f"grew by {words.size(result.added_bytes)}"] if result.snapshot else []
    return ", ".join([*parts, f"in {took}"] if took else parts)


def _details(details: dict[str, Any]) -> list[tuple[str, str]]:
    """Evidence by name. What was compared is counted, and named where it differs."""
    lines: list[tuple[str, str]] = []
    for name, value in details.items():
        if name == "comparisons" and isinstance(value, list):
            lines += _comparisons(value)
        else:
            lines.append((name.removesuffix("_seconds").replace("_", " "), _plain(name, value)))
    return lines


def _comparisons(found: list[Any]) -> list[tuple[str, str]]:
    entries = [entry for entry in found if isinstance(entry, dict)]
    wrong = [entry for entry in entries if not entry.get("ok")]
    total = (
        f"{len(entries)}, {len(wrong)} of them differ" if wrong else f"{len(entries)}, all equal"
    )
    return [
        ("compared", total),
        *(
            ("differs", f"{e.get('subject')}: expected {e.get('expected')}, found {e.get('found')}")
            for e in wrong
        ),
    ]


def _plain(name: str, value: Any) -> str:
    """One line of a value; of the nested ones too."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and ("seconds" in name):
        return words.duration(value)
    if isinstance(value, int) and ("size" in name or "bytes" in name):
        return words.size(value)
    if isinstance(value, dict):
        inner = ((key, _plain(f"{name} {key}", entry)) for key, entry in value.items())
        return ", ".join(f"{key} {entry}" for key, entry in inner if entry)
    if isinstance(value, list):
        return " ".join(_plain(name, entry) for entry in value)
    return "" if value is None else str(value)
