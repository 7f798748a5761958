"""A report: the worst status, one short line, a JSON form that does not move."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ops.health import Report, Result, Status, Verdict, show
from ops.health.model import measured, worst

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def report(**statuses: Status) -> Report:
    checks = [
        Result(name.replace("_", "."), Verdict(status, "what was found", "what to do"), 12)
        for name, status in statuses.items()
    ]
    return Report("lab", AT, tuple(checks))


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([Status.OK, Status.OK], Status.OK),
        ([Status.OK, Status.UNKNOWN], Status.UNKNOWN),
        ([Status.UNKNOWN, Status.WARNING], Status.WARNING),
        ([Status.UNKNOWN, Status.WARNING, Status.CRITICAL], Status.CRITICAL),
        ([], Status.UNKNOWN),
    ],
)
def test_known_bad_outweighs_not_known(statuses: list[Status], expected: Status) -> None:
    assert worst(statuses) is expected


def test_exit_codes_are_those_of_nagios() -> None:
    assert [int(s) for s in (Status.OK, Status.WARNING, Status.CRITICAL, Status.UNKNOWN)] == [
        0,
        1,
        2,
        3,
    ]


def test_first_line_counts_and_names_the_worst() -> None:
    many = report(
        qdrant_closed=Status.CRITICAL,
        host_load=Status.WARNING,
        host_disk=Status.CRITICAL,
        host_time=Status.OK,
    )
    assert many.first_line() == "CRITICAL: 2 of 4 checks failed: qdrant.closed, host.disk"
    assert report(host_disk=Status.OK).first_line() == "OK: 1 of 1 checks passed"
    assert report().first_line() == "UNKNOWN: no check was run"


names = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=120)


@given(st.lists(st.tuples(names, st.sampled_from(Status)), max_size=60))
def test_first_line_is_under_80_characters_and_never_loses_a_check(
    pairs: list[tuple[str, Status]],
) -> None:
    made = Report("lab", AT, tuple(Result(name, Verdict(status, "")) for name, status in pairs))
    line = made.first_line()
    assert len(line) < 80
    assert "\n" not in line
    assert line.startswith(made.status.name)
    concerned = [name for name, status in pairs if status is made.status]
    if pairs and made.status is not Status.OK:
        assert f" {len(concerned)} of {len(pairs)} " in line
        shown = line.partition(": ")[2].partition(": ")[2]
        if shown:
            listed, _, more = shown.partition(" and ")
            rest = int(more.split()[0]) if more else 0
            assert len(listed.split(", ")) + rest == len(concerned)


def test_json_has_exactly_these_keys_and_types() -> None:
    made = Report(
        "lab",
        AT,
        (
            Result("host.disk", measured("50 % full", 50.123, 80, 90, "delete"), 7),
            Result("host.time", Verdict(Status.WARNING, "late", "look"), 3),
        ),
    )
    found = json.loads(json.dumps(made.to_json()))
    assert {key: type(value) for key, value in found.items()} == {
        "schema_version": int,
        "environment": str,
        "checked_at": str,
        "status": str,
        "exit_code": int,
        "summary": str,
        "checks": list,
    }
    assert found["schema_version"] == 1
    assert found["checked_at"] == "2026-03-04T05:06:07Z"
    assert (found["status"], found["exit_code"]) == ("WARNING", 1)
    assert found["checks"] == [
        {
            "id": "host.disk",
            "duration_ms": 7,
            "status": "OK",
            "summary": "50 % full",
            "hint": "",
            "value": 50.12,
            "warn": 80,
            "crit": 90,
        },
        {
            "id": "host.time",
            "duration_ms": 3,
            "status": "WARNING",
            "summary": "late",
            "hint": "look",
            "value": None,
            "warn": None,
            "crit": None,
        },
    ]


@pytest.mark.parametrize(
    ("value", "status"), [(79.9, Status.OK), (80, Status.WARNING), (90, Status.CRITICAL)]
)
def test_a_figure_meets_its_limits(value: float, status: Status) -> None:
    verdict = measured("full", value, 80, 90, "delete")
    assert verdict.status is status
    assert bool(verdict.hint) is (status is not Status.OK)


def test_shown_plain_where_no_terminal_is() -> None:
    out = io.StringIO()
    sick = Report(
        "lab", AT, (Result("host.disk", Verdict(Status.CRITICAL, "[red]full[/red] " * 9, "free")),)
    )
    show(sick, Console(file=out, width=40))
    first, line, hint = out.getvalue().splitlines()
    assert first == "CRITICAL: 1 of 1 checks failed: host.disk"
    assert line == "CRITICAL  host.disk  " + "[red]full[/red] " * 9  # as found: no markup, no wrap
    assert hint.split() == ["->", "free"]
    assert "\x1b" not in out.getvalue()


def test_shown_in_colour_on_a_terminal() -> None:
    out = io.StringIO()
    show(
        report(host_disk=Status.CRITICAL, host_time=Status.OK),
        Console(file=out, force_terminal=True, color_system="standard", width=90),
    )
    text = out.getvalue()
    assert text.index("failed: host.disk") < text.index("what was found")
    assert "\x1b[" in text
    assert text.count("-> what to do") == 1  # what is well needs no advice
