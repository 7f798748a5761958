"""What a check says and what all of them together say. Pure values; nothing is looked at here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from ops.firstline import first_line

SCHEMA_VERSION = 1


class Status(IntEnum):
    """The Nagios plug-in codes; the number is the exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


# The habit of Nagios: what is known to be bad outweighs what could not be looked at.
_WORST_FIRST = (Status.CRITICAL, Status.WARNING, Status.UNKNOWN, Status.OK)
_FOUND = {
    Status.CRITICAL: "failed",
    Status.WARNING: "need a look",
    Status.UNKNOWN: "could not be done",
}


def worst(statuses: Iterable[Status]) -> Status:
    """CRITICAL over WARNING over UNKNOWN over OK; nothing at all is UNKNOWN."""
    seen = set(statuses)
    return next((status for status in _WORST_FIRST if status in seen), Status.UNKNOWN)


@dataclass(frozen=True)
class Verdict:
    """One judgement: `hint` names the likely cause and the next command; `value`, with the limits
    `warn` and `crit`, is the figure that was judged, in the unit that `summary` names."""

    status: Status
    summary: str
    hint: str = ""
    value: float | None = None
    warn: float | None = None
    crit: float | None = None


def ok(summary: str) -> Verdict:
    return Verdict(Status.OK, summary)


def warning(summary: str, hint: str = "") -> Verdict:
    return Verdict(Status.WARNING, summary, hint)


def critical(summary: str, hint: str = "") -> Verdict:
    return Verdict(Status.CRITICAL, summary, hint)


def unknown(summary: str, hint: str = "") -> Verdict:
    return Verdict(Status.UNKNOWN, summary, hint)


def measured(
    summary: str, value: float, warn: float, crit: float, hint: str, status: Status | None = None
) -> Verdict:
    """A figure against its limits, where more is worse. `hint` is kept only when it is needed."""
    if status is None:
        status = (
            Status.CRITICAL if value >= crit else Status.WARNING if value >= warn else Status.OK
        )
    return Verdict(status, summary, hint if status else "", round(value, 2), warn, crit)


@dataclass(frozen=True)
class Result:
    """A verdict with the name of its check and the time it took."""

    id: str
    verdict: Verdict
    duration_ms: int = 0

    def as_dict(self) -> dict[str, Any]:
        verdict = asdict(self.verdict) | {"status": self.verdict.status.name}
        return {"id": self.id, "duration_ms": self.duration_ms, **verdict}


@dataclass(frozen=True)
class Report:
    """Every check of one examination, in the fixed order of the catalogue."""

    environment: str
    checked_at: datetime  # aware, UTC
    checks: tuple[Result, ...]

    @property
    def status(self) -> Status:
        return worst(check.verdict.status for check in self.checks)

    def first_line(self) -> str:
        """The whole story in under 80 characters; names that do not fit become a number."""
        status = self.status
        names = [check.id for check in self.checks if check.verdict.status is status]
        if not names:
            return "UNKNOWN: no check was run"
        if status is Status.OK:
            return f"OK: {len(names)} of {len(names)} checks passed"
        head = f"{status.name}: {len(names)} of {len(self.checks)} checks {_FOUND[status]}"
        return first_line(head, names)

    def to_json(self) -> dict[str, Any]:
        """The JSON document: a key may be added, none is renamed without a new schema_version."""
        return {
            "schema_version": SCHEMA_VERSION,
            "environment": self.environment,
            "checked_at": self.checked_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "status": self.status.name,
            "exit_code": int(self.status),
            "summary": self.first_line(),
            "checks": [check.as_dict() for check in self.checks],
        }
