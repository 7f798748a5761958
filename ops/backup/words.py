"""Sizes, times and results in words, and the line to type next. Pure; knows no secret."""

from __future__ import annotations

from datetime import UTC, datetime

from ops.backup.records import Outcome, Record

RESULTS: dict[Outcome, str] = {
    "running": "is running",
    "ok": "went well",
    "warning": "went well only in part",
    "failed": "failed",
    "unproven": "could not be proven",
    "died": "did not come to its end",
}
_STEP = 999.95  # from here on, one decimal would round to 1000.0


def size(number: int) -> str:
    """Bytes with decimal prefixes: "999 B", "12.3 MB"."""
    if number < 1000:
        return f"{number} B"
    value = float(number)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < _STEP:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} PB"


def duration(seconds: float) -> str:
    """ "0.4 s", "2 min 31 s", "3 h 12 min", "2 d 4 h": two units at most."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    minutes = round(whole / 60)
    if minutes < 24 * 60:
        return _two(minutes // 60, "h", minutes % 60, "min")
    hours = round(whole / 3600)
    return _two(hours // 24, "d", hours % 24, "h")


def _two(large: int, unit: str, small: int, below: str) -> str:
    return f"{large} {unit} {small} {below}" if small else f"{large} {unit}"


def age(then: datetime, now: datetime) -> str:
    """One unit, rounded down: "3 h", "12 d"; "now", and "ahead" for what a clock dated ahead."""
    seconds = int((now - then).total_seconds())
    if seconds < -60:
        return "ahead"
    for length, unit in ((2 * 86400, "d"), (2 * 3600, "h"), (120, "min"), (1, "s")):
        if seconds >= length:
            single = {"d": 86400, "h": 3600, "min": 60, "s": 1}[unit]
            return f"{seconds // single} {unit}"
    return "now"


def ago(then: datetime, now: datetime) -> str:
    """ "3 h ago"; for what a clock dated ahead, by how much."""
    text = age(then, now)
    if text == "ahead":
        return f"{age(now, then)} ahead of the clock"
    return text if text == "now" else f"{text} ago"


def utc(time: datetime) -> str:
    """ "2026-11-21 02:30"; the zone is said by whoever prints it."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def short(run: str) -> str:
    """The end of a run id, which people can type."""
    return run.rsplit("-", 1)[-1]


def previous(records: list[Record], record: Record) -> Record | None:
    """The run of the same kind that ended before this one began, the newest; whatever its end.

    Of drills, one of the same repository: they take turns, and one says nothing of the other.
    """
    earlier = [
        other
        for other in records
        if other.kind == record.kind
        and other.run != record.run
        and other.outcome != "running"
        and not other.dry_run
        and other.started <= record.started
        and _comparable(other, record)
    ]
    return max(earlier, key=lambda other: other.started, default=None)


def _comparable(other: Record, record: Record) -> bool:
    """One that ended before it had a repository stands for any."""
    places = {each.details.get("repository") for each in (other, record) if each.kind == "drill"}
    return len(places - {None, ""}) < 2


def next_commands(record: Record, environment: str = "") -> list[str]:
    """What to type after this run: on the operator's machine with `environment`, on the host
    without; nothing where all is well."""
    given = [record.hint] if record.hint else []
    verb = f"stackroom -e {environment}" if environment else "stackroom"
    if record.outcome in ("ok", "running"):
        return []
    if record.kind == "restore":
        return [*given, f"{verb} doctor"]
    again = {
        "backup": f"{verb} backup run",
        "check": f"{verb} backup check",
        "prune": f"{verb} backup prune",
        "drill": f"{verb} drill",
    }[record.kind]
    # a check or drill that fails says that what is stored is bad: have a good one first
    fresh = [f"{verb} backup run"] if record.kind in ("check", "drill") else []
    fresh = fresh if record.outcome == "failed" else []
    return list(dict.fromkeys([*given, f"{verb} doctor", *fresh, again]))
