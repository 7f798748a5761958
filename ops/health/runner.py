"""Runs checks side by side, each under a deadline of its own. Knows nothing of what they look at.

A check that hangs is left behind in its daemon thread: it delays neither the others nor the exit
of the process, which never waits for daemon threads.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ops.errors import ServiceError, SettingsError, StackroomError, UnreachableError
from ops.health.model import Result, Status, Verdict, critical, unknown

DEADLINE_SECONDS = 5.0
TOTAL_SECONDS = 30.0
AT_ONCE = 8
LOGIN = "ssh.login"  # the check that all others on the machine need


@dataclass(frozen=True)
class Check:
    """A probe with a name. It starts once the check named in `needs` has gone well; if that one
    fails, its `lost` says what is missing ("no SSH login") and this one becomes UNKNOWN."""

    id: str
    probe: Callable[[], Verdict]
    seconds: float = DEADLINE_SECONDS
    needs: str = ""
    lost: str = ""


def select(checks: Sequence[Check], only: Sequence[str], skip: Sequence[str]) -> list[Check]:
    """The checks to run, by id or prefix (`host` is every `host.*`), with what they need.

    What needs a skipped check is skipped too. Raises SettingsError for a name that fits nothing.
    """
    for name in (*only, *skip):
        if not any(_fits(check, name) for check in checks):
            groups = ", ".join(dict.fromkeys(check.id.split(".")[0] for check in checks))
            raise SettingsError(f"no check is called {name!r}", f"the groups are {groups}")
    by_id = {check.id: check for check in checks}

    def chain(check: Check) -> list[Check]:
        return [check, *(chain(by_id[check.needs]) if check.needs else [])]

    wanted: set[str] = set()
    for check in checks:
        line = chain(check)
        asked = not only or any(_fits(check, name) for name in only)
        if asked and not any(_fits(link, name) for link in line for name in skip):
            wanted |= {link.id for link in line}
    return [check for check in checks if check.id in wanted]


def _fits(check: Check, name: str) -> bool:
    return check.id == name or check.id.startswith(name.rstrip(".") + ".")


def run_checks(
    checks: Sequence[Check], *, limit: int = AT_ONCE, total: float = TOTAL_SECONDS
) -> list[Result]:
    """Run all, at most `limit` at once and `total` seconds long. Results come in given order."""
    return _Run(checks, limit, total).results()


class _Run:
    """One examination. Only this thread touches the tables; the others just send their answer."""

    def __init__(self, checks: Sequence[Check], limit: int, total: float) -> None:
        self.checks = checks
        self.limit = limit
        self.total = total
        self.end = time.monotonic() + total
        self.waiting = {check.id: check for check in checks}
        self.running: dict[str, tuple[Check, float]] = {}
        self.done: dict[str, Result] = {}
        self.lost = {check.id: check.lost or f"{check.id} failed" for check in checks}
        self.answers: queue.SimpleQueue[Result] = queue.SimpleQueue()

    def results(self) -> list[Result]:
        while self.waiting or self.running:
            self._start_what_can()
            self._take_an_answer()
            self._give_up_on_the_late()
        return [self.done[check.id] for check in self.checks]

    def _start_what_can(self) -> None:
        for check in list(self.waiting.values()):
            before = self.done.get(check.needs)
            if check.needs and before is None:
                continue
            if before and before.verdict.status in (Status.CRITICAL, Status.UNKNOWN):
                del self.waiting[check.id]
                self._finish(check.id, unknown(f"not checked: {self.lost[check.needs]}"))
            elif len(self.running) < self.limit:
                del self.waiting[check.id]
                self.running[check.id] = (check, time.monotonic())
                threading.Thread(
                    target=_answer, args=(check, self.answers), name=check.id, daemon=True
                ).start()

    def _take_an_answer(self) -> None:
        if not self.running:
            return
        nearest = min(started + check.seconds for check, started in self.running.values())
        patience = max(0.0, min(nearest, self.end) - time.monotonic())
        try:
            result = self.answers.get(timeout=patience)
        except queue.Empty:
            return
        if self.running.pop(result.id, None):  # else it is late: its verdict stands already
            self.done[result.id] = result

    def _give_up_on_the_late(self) -> None:
        now = time.monotonic()
        for name, (check, started) in list(self.running.items()):
            limit = min(check.seconds, self.end - started)
            if now - started >= limit:
                del self.running[name]
                hint = "the machine or the service hangs, or a firewall drops this address"
                self._finish(name, critical(f"no answer within {limit:.3g} s", hint), now - started)
        if now >= self.end:
            for name in list(self.waiting):
                del self.waiting[name]
                self._finish(name, unknown(f"not checked: {self.total:.3g} s were over"))

    def _finish(self, name: str, verdict: Verdict, seconds: float = 0.0) -> None:
        self.done[name] = Result(name, verdict, int(seconds * 1000))


def _answer(check: Check, answers: queue.SimpleQueue[Result]) -> None:
    started = time.monotonic()
    try:
        verdict = check.probe()
    except (UnreachableError, ServiceError) as error:
        verdict = critical(error.message, error.hint)
    except StackroomError as error:
        verdict = unknown(error.message, error.hint)
    except Exception as error:
        told = " ".join(str(error).split())
        verdict = unknown(f"{type(error).__name__}: {told}", "the check itself failed: report it")
    answers.put(Result(check.id, verdict, int((time.monotonic() - started) * 1000)))
