"""The history and a run as they are printed, on terminals of two widths and on none."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from ops.backup.history import Row
from ops.backup.records import Record, RepositoryResult
from ops.backup.show import LIMIT, first_line, list_json, record_json, show_list, show_record

NOW = datetime(2026, 11, 21, 10, 45, tzinfo=UTC)


def row(days: float = 1, **facts: Any) -> Row:
    when = NOW - timedelta(days=days)
    given = {
        "run": f"{when:%Y%m%dT%H%M%SZ}-0000{int(days):02x}",
        "outcome": "ok",
        "bytes": 12_345_678,
        "items": 3,
        "seconds": 151,
        "where": ("local", "offsite"),
        "trigger": "timer",
    }
    return Row(when=when, **{**given, **facts})


def console(width: int = 80, terminal: bool = True, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(
        file=file,
        width=width,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        highlight=False,
        soft_wrap=True,
    )


def printed(made: Console, *, plain: bool = True) -> str:
    made.file.flush()
    raw = made.file.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if not plain:
        return str(raw)
    return "\n".join(Text.from_ansi(line).plain for line in raw.splitlines())


def shown(rows: list[Row], made: Console | None = None, **more: Any) -> str:
    made = made or console()
    show_list(rows, made, now=NOW, **more)
    return printed(made)


HISTORY = [
    row(1, outcome="warning", where=("local",), error="offsite failed: 403 [bold]not markup[/]"),
    row(2, drilled=NOW - timedelta(days=1.9), verified=NOW - timedelta(days=1.9)),
    row(3, read=Fraction(1, 4)),
    row(4, outcome="failed", bytes=0, where=(), error="Qdrant does not answer"),
    row(400, where=(), gone=("local",), bytes=6_000_000),
]


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    text = shown(HISTORY, console(width))
    assert max(len(line) for line in text.splitlines()) <= width
    assert text.splitlines()[0] == (
        "last good backup 24 h ago, 12.3 MB, last drill 45 h ago, 3 kept"
    )


def cells(line: str) -> str:
    return " ".join(line.split())


def test_each_backup_says_when_how_large_how_long_where_and_what_proved_it() -> None:
    lines = shown(HISTORY, console(120)).splitlines()
    assert cells(lines[2]) == "RUN WHEN (UTC) AGE SIZE TOOK VERIFIED DRILLED WHERE RESULT"
    assert cells(lines[3]) == (
        "20261120T104500Z-000001 2026-11-20 10:45 24 h ago 12.3 MB 2 min 31 s - - local warning"
    )
    assert lines[4] == "  offsite failed: 403 [bold]not markup[/]"
    assert cells(lines[5]).endswith("31 s 11-19 11-19 local offsite ok")
    assert cells(lines[6]).endswith("31 s 1/4 - local offsite ok")
    assert cells(lines[7]).endswith("ago - 2 min 31 s - - - failed")
    assert cells(lines[9]).endswith("- - - pruned")


def test_the_narrow_form_still_has_every_column() -> None:
    lines = shown(HISTORY, console(80)).splitlines()
    assert cells(lines[3]) == "000001 11-20 10:45 24 h 12.3 MB 2 min 31 s - - local warning"
    assert cells(lines[5]).endswith("11-19 11-19 both ok")
    assert "2025-10-17" in lines[9]  # the year, once the month alone would mislead


def test_the_chart_reads_from_old_to_new_with_its_scale() -> None:
    lines = shown(HISTORY).splitlines()[-2:]
    assert lines[0] == "size  ▄·███"
    assert lines[1].strip() == "6.0 MB to 12.3 MB, 2025-10-17 to 2026-11-20; gaps: failed"


def test_no_chart_of_a_single_backup() -> None:
    assert "size" not in shown([row()])


def test_where_no_terminal_is_there_is_no_colour_and_nothing_is_cut() -> None:
    made = console(40, terminal=False)
    show_list(HISTORY, made, now=NOW)
    text = printed(made, plain=False)
    assert "\x1b" not in text
    assert "20261120T104500Z-000001" in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_a_terminal_of_ascii_gets_a_chart_of_ascii() -> None:
    assert shown(HISTORY, console(80, encoding="ascii")).isascii()


def test_so_many_rows_unless_all_are_asked_for() -> None:
    many = [row(days) for days in range(1, LIMIT + 6)]
    text = shown(many)
    assert text.count("both") == LIMIT
    assert "5 older: stackroom backup list --all" in text
    assert len(text.splitlines()[-2]) == len("size  ") + LIMIT + 5  # the chart is of all
    assert shown(many, limit=None).count("both") == LIMIT + 5


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([], "no backup yet: stackroom backup run"),
        ([row(outcome="failed", where=())], "no good backup"),
        ([row(0.5)], "last good backup 12 h ago, 12.3 MB, never drilled, 1 kept"),
        ([row(bytes=0, outcome=None)], "last good backup 24 h ago, never drilled, 1 kept"),
    ],
)
def test_the_first_line(rows: list[Row], line: str) -> None:
    assert first_line(rows, NOW) == line
    assert shown(rows).splitlines()[0] == line


def test_the_document_keeps_its_keys() -> None:
    document = json.loads(json.dumps(list_json(HISTORY)))
    assert document["schema_version"] == 1
    assert document["backups"][1] == {
        "run": "20261119T104500Z-000002",
        "when": "2026-11-19T10:45:00Z",
        "outcome": "ok",
        "bytes": 12345678,
        "items": 3,
        "seconds": 151,
        "verified": "2026-11-19T13:09:00Z",
        "share_read": 0.0,
        "drilled": "2026-11-19T13:09:00Z",
        "where": ["local", "offsite"],
        "failed_in": [],
        "removed_from": [],
        "trigger": "timer",
        "error": "",
    }
    assert list_json([row(outcome=None)])["backups"][0]["outcome"] == "unknown"


def record(**facts: Any) -> Record:
    at = NOW - timedelta(hours=8)
    given = {
        "kind": "backup",
        "run": "20261121T024500Z-00000a",
        "outcome": "ok",
        "exit_code": 0,
        "finished": at + timedelta(seconds=151),
        "bytes": 12_345_678,
        "items": 3,
        "trigger": "timer",
    }
    return Record(started=at, **{**given, **facts})


def shown_record(record: Record) -> str:
    made = console()
    show_record(record, made, now=NOW)
    return printed(made)


def test_a_good_run_in_full() -> None:
    stored = [
        RepositoryResult(name="local", ok=True, snapshot="ab" * 32, added_bytes=4200, seconds=20)
    ]
    assert shown_record(record(repositories=stored, notified=True)).splitlines() == [
        "backup 20261121T024500Z-00000a went well",
        "",
        "started  2026-11-21 02:45 UTC, 8 h ago, by its timer",
        "took     2 min 31 s",
        "result   ok, exit code 0",
        "size     12.3 MB",
        "items    3",
        "local    ok, snapshot abababab, grew by 4.2 kB, in 20 s",
        "notice   sent",
    ]


def test_a_run_that_failed_says_why_and_what_to_do_next() -> None:
    failed = record(
        outcome="failed",
        exit_code=2,
        error="stored nowhere: [red]local failed",
        repositories=[RepositoryResult(name="local", ok=False, error="no space", seconds=2)],
        hint="df -h /var/backups",
    )
    lines = shown_record(failed).splitlines()
    assert lines[:2] == [
        "backup 20261121T024500Z-00000a failed",
        "  stored nowhere: [red]local failed",
    ]
    assert "local    failed after 2.0 s: no space" in lines
    assert lines[-3:] == ["-> df -h /var/backups", "-> stackroom doctor", "-> stackroom backup run"]


def test_a_drill_shows_its_evidence() -> None:
    same = {"subject": "qdrant/a: exact count", "expected": "5", "found": "5", "ok": True}
    differs = same | {"subject": "qdrant/b: exact count", "found": "4", "ok": False}
    details = {
        "repository": "local",
        "size": 12_345_678,
        "seconds": {"fetch": 1.2, "total": 61.5},
        "rto_seconds": 61.5,
        "comparisons": [same, same, differs],
    }
    text = shown_record(
        record(kind="drill", outcome="failed", subject="20261120T000000Z-00000b", details=details)
    )
    assert "about       backup 20261120T000000Z-00000b" in text
    assert "seconds     fetch 1.2 s, total 1 min 2 s" in text
    assert "rto         1 min 2 s" in text
    assert "compared    3, 1 of them differ" in text
    assert "differs     qdrant/b: exact count: expected 5, found 4" in text
    assert "-> stackroom drill" in text


def test_a_run_that_goes_on_is_shown_as_such() -> None:
    text = shown_record(record(outcome="running", finished=None, exit_code=None))
    assert text.splitlines()[0].endswith("is running")
    assert "->" not in text


@pytest.mark.parametrize("details", [{"x": None}, {"comparisons": 5}, {"local": {"ok": True}}])
def test_details_of_any_shape_can_be_shown(details: dict[str, Any]) -> None:
    assert "went well" in shown_record(record(kind="check", details=details))


def test_the_document_of_a_run_is_its_record() -> None:
    document = json.loads(json.dumps(record_json(record())))
    assert (document["schema_version"], document["seconds"]) == (1, 151)
    assert document["outcome"] == "ok"
