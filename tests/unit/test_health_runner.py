"""Deadlines: what hangs is named, and delays neither the others nor the end of the process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from ops.errors import MissingToolError, ServiceError, SettingsError, UnreachableError
from ops.health.model import Status, Verdict, ok, warning
from ops.health.runner import Check, run_checks, select


def hang() -> Verdict:
    threading.Event().wait()
    raise AssertionError("never")


def fine() -> Verdict:
    return ok("fine")


def raising(error: Exception) -> Callable[[], Verdict]:
    def probe() -> Verdict:
        raise error

    return probe


def statuses(checks: list[Check], **settings: float) -> dict[str, Status]:
    return {r.id: r.verdict.status for r in run_checks(checks, **settings)}  # type: ignore[arg-type]


def test_a_hung_check_is_critical_with_the_reason_and_delays_no_other() -> None:
    results = run_checks([Check("a.hangs", hang, seconds=0.3), Check("a.fine", fine)], limit=1)
    assert [r.id for r in results] == ["a.hangs", "a.fine"]
    assert results[0].verdict.status is Status.CRITICAL
    assert results[0].verdict.summary == "no answer within 0.3 s"
    assert results[0].duration_ms >= 300
    assert results[1].verdict.status is Status.OK  # though the only seat was taken


def test_many_hung_checks_cost_one_deadline_not_their_sum() -> None:
    started = time.monotonic()
    found = statuses([Check(f"h.{n}", hang, seconds=1) for n in range(8)])
    assert set(found.values()) == {Status.CRITICAL}
    assert time.monotonic() - started < 4


def test_the_total_ends_everything() -> None:
    started = time.monotonic()
    results = run_checks(
        [Check("h.1", hang, seconds=60), Check("h.2", hang, seconds=60)], limit=1, total=0.3
    )
    assert time.monotonic() - started < 10
    assert results[0].verdict.status is Status.CRITICAL
    assert results[0].verdict.summary == "no answer within 0.3 s"
    assert results[1].verdict.status is Status.UNKNOWN
    assert "not checked" in results[1].verdict.summary


def test_a_process_with_hung_checks_exits_at_once() -> None:
    program = (
        "import time\n"
        "from ops.health.runner import Check, run_checks\n"
        "r = run_checks([Check('h.%d' % n, lambda: time.sleep(300), seconds=0.2)"
        " for n in range(3)])\n"
        "print([x.verdict.status.name for x in r])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['CRITICAL', 'CRITICAL', 'CRITICAL']"


def test_at_most_so_many_run_at_once() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def counted() -> Verdict:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        return ok("")

    found = statuses([Check(f"c.{n}", counted) for n in range(9)], limit=3)
    assert len(found) == 9
    assert most[0] == 3


def test_a_late_answer_changes_nothing() -> None:
    gate = threading.Event()

    def late() -> Verdict:
        gate.wait()
        return ok("late")

    def other() -> Verdict:
        time.sleep(0.3)
        gate.set()
        time.sleep(0.3)
        return ok("")

    results = run_checks([Check("a.late", late, seconds=0.1), Check("a.other", other)])
    assert [r.verdict.status for r in results] == [Status.CRITICAL, Status.OK]


@pytest.mark.parametrize(
    ("error", "status", "summary", "hint"),
    [
        (UnreachableError("no login", "list it"), Status.CRITICAL, "no login", "list it"),
        (ServiceError("500", "logs"), Status.CRITICAL, "500", "logs"),
        (MissingToolError("no ssh", "apt"), Status.UNKNOWN, "no ssh", "apt"),
        (KeyError("x"), Status.UNKNOWN, "KeyError: 'x'", "the check itself failed: report it"),
        (ValueError("a\n b"), Status.UNKNOWN, "ValueError: a b", None),
    ],
)
def test_an_exception_becomes_a_verdict(
    error: Exception, status: Status, summary: str, hint: str | None
) -> None:
    (result,) = run_checks([Check("a.raises", raising(error))])
    assert (result.verdict.status, result.verdict.summary) == (status, summary)
    assert hint is None or result.verdict.hint == hint


def chain() -> list[Check]:
    return [
        Check("qdrant.ready", fine, needs="ssh.tunnel"),
        Check("ssh.tunnel", fine, needs="ssh.login", lost="no SSH tunnel"),
        Check("ssh.login", fine, lost="no SSH login"),
        Check("host.disk", fine, needs="ssh.login"),
        Check("edge.tls", fine),
    ]


def test_what_is_needed_comes_first_whatever_the_order() -> None:
    assert set(statuses(chain()).values()) == {Status.OK}


def test_what_needs_a_failed_check_is_unknown_and_says_why() -> None:
    checks = chain()
    checks[2] = Check("ssh.login", raising(UnreachableError("refused")), lost="no SSH login")
    results = {r.id: r.verdict for r in run_checks(checks)}
    assert results["ssh.login"].status is Status.CRITICAL
    assert results["host.disk"].status is Status.UNKNOWN
    assert results["host.disk"].summary == "not checked: no SSH login"
    assert results["qdrant.ready"].summary == "not checked: no SSH tunnel"
    assert results["edge.tls"].status is Status.OK


def test_a_warning_is_good_enough_to_go_on() -> None:
    checks = [Check("a.first", lambda: warning("so so")), Check("b.then", fine, needs="a.first")]
    assert statuses(checks)["b.then"] is Status.OK


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        ([], [], ["qdrant.ready", "ssh.tunnel", "ssh.login", "host.disk", "edge.tls"]),
        (["edge"], [], ["edge.tls"]),
        (["host.disk"], [], ["ssh.login", "host.disk"]),
        (["qdrant."], [], ["qdrant.ready", "ssh.tunnel", "ssh.login"]),
        ([], ["host", "edge.tls"], ["qdrant.ready", "ssh.tunnel", "ssh.login"]),
        ([], ["ssh.tunnel"], ["ssh.login", "host.disk", "edge.tls"]),
        ([], ["ssh"], ["edge.tls"]),
        (["edge"], ["edge"], []),
    ],
)
def test_selection_by_id_and_prefix(only: list[str], skip: list[str], expected: list[str]) -> None:
    assert [check.id for check in select(chain(), only, skip)] == expected


@pytest.mark.parametrize(("only", "skip"), [(["hosts"], []), ([], ["host.dis"])])
def test_a_name_that_fits_nothing_is_refused(only: list[str], skip: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"hosts|host\.dis") as caught:
        select(chain(), only, skip)
    assert "qdrant, ssh, host, edge" in caught.value.hint
