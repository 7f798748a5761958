"""Sizes and times as people say them, and what to do next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.backup import words
from ops.backup.chart import ASCII, BLOCKS, spark
from ops.backup.records import Kind, Outcome, Record

NOW = datetime(2026, 11, 21, 10, 45, tzinfo=UTC)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),  # never "1000.0 kB"
        (12_345_678, "12.3 MB"),
        (4_200_000_000, "4.2 GB"),
        (5 * 10**15, "5.0 PB"),
    ],
)
def test_sizes(number: int, text: str) -> None:
    assert words.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),  # never "60 s"
        (151, "2 min 31 s"),
        (3599.9, "1 h"),
        (11520, "3 h 12 min"),
        (86399, "1 d"),
        (180000, "2 d 2 h"),
        (-3, "0 s"),  # a clock that was set back
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (-30, "now"),
        (59, "59 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (3 * 3600 + 59, "3 h ago"),
        (47 * 3600, "47 h ago"),
        (48 * 3600, "2 d ago"),
        (-3600 * 5, "5 h ahead of the clock"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    assert words.ago(NOW - timedelta(seconds=seconds), NOW) == text


@given(st.floats(0, 4e8))
def test_a_duration_has_no_unit_that_runs_over(seconds: float) -> None:
    parts = words.duration(seconds).split(" ")
    limits = {"s": 60, "min": 60, "h": 24, "d": 10**9}
    assert all(
        float(number) < limits[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True)
    )


def record(kind: Kind = "backup", hours: float = 8, **facts: Any) -> Record:
    at = NOW - timedelta(hours=hours)
    facts = {"finished": at + timedelta(minutes=2), **facts}
    return Record(kind=kind, run=f"{at:%Y%m%dT%H%M%SZ}-00000a", started=at, **facts)


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_whatever_did_not_go_well_has_a_next_command(kind: Kind, outcome: Outcome) -> None:
    commands = words.next_commands(record(kind, outcome=outcome), "team")
    assert bool(commands) == (outcome not in ("ok", "running"))
    assert all(command.startswith("stackroom -e team ") for command in commands)


def test_a_hint_of_the_run_itself_comes_first() -> None:
    failed = record(outcome="failed", hint="df -h")
    assert words.next_commands(failed)[:2] == ["df -h", "stackroom doctor"]


def test_the_previous_run_is_of_the_same_kind_ended_and_earlier() -> None:
    this = record(hours=8)
    others = [
        record("drill", hours=9),
        record(hours=10, outcome="running"),
        record(hours=30, outcome="failed"),
        record(hours=50, outcome="ok"),
        record(hours=2, outcome="ok"),
        record(hours=20, outcome="ok", dry_run=True),
    ]
    assert words.previous([this, *others], this) == others[2]
    assert words.previous([this], this) is None


def test_the_previous_drill_is_of_the_same_repository() -> None:
    def drill(hours: float, repository: str) -> Record:
        details = {"repository": repository} if repository else {}
        return record("drill", hours=hours, outcome="failed", details=details)

    this, other, same = drill(1, "local"), drill(8, "offsite"), drill(15, "local")
    assert words.previous([this, other, same], this) == same
    assert words.previous([this, other], this) is None
    # one that ended before it had any
    nowhere = drill(4, "")
    assert words.previous([this, nowhere, other, same], this) == nowhere


def test_bars_are_as_high_as_their_share_and_gaps_stay_gaps() -> None:
    assert spark([0, 4, None, 8], 10) == "▁▅·█"
    assert spark([0, 4, None, 8], 10, unicode=False) == "_= #"
    assert spark([], 10) == ""
    assert spark([None, None], 10) == "··"
    assert spark([0, 0], 10) == "▁▁"


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e15)), max_size=300), st.integers(1, 80))
def test_bars_keep_the_width_and_the_highest_value(values: list[float | None], width: int) -> None:
    bars = spark(values, width)
    assert len(bars) == min(len(values), width)
    assert len(BLOCKS) == len(ASCII)
    if any(values):
        assert BLOCKS[-1] in bars


def test_nothing_is_said_twice() -> None:
    failed = record(outcome="failed", hint="stackroom doctor")
    assert words.next_commands(failed) == ["stackroom doctor", "stackroom backup run"]
