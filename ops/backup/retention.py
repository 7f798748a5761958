"""Which backups may go, decided by code and not by restic's own policies. Pure: nothing is removed.

Windows are counted from the clock and never from the newest backup, so one dated in the future
pushes nothing out. What was not proven good counts for nothing and is not removed either; nor is
what this machine has no record of, such as all that a lost machine stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ops.settings.backup import Keep

PART = 4  # of the good ones at most a quarter goes at once, though one may always


@dataclass(frozen=True)
class Kept:
    """A backup in a repository. `good`: stored by a run that went well; `drilled`: it restored;
    `recorded`: by a run of which this machine has a record."""

    id: str
    time: datetime
    run: str
    good: bool
    drilled: bool
    recorded: bool = True


def plan_removal(history: Sequence[Kept], keep: Keep, now: datetime) -> list[str]:
    """The ids to forget, oldest first: good ones that no window holds, and not too many at once.
    One without a record neither goes nor stands in for another in a window.

    The newest good one, the `keep.last` newest good ones and the newest drilled one stay whatever
    the windows say. `history` may be in any order; a backup dated after `now` is left alone.
    """
    past = sorted(
        (kept for kept in history if kept.recorded and kept.time <= now),
        key=lambda kept: (kept.time, kept.id),
    )
    good = [kept for kept in past if kept.good]
    staying = {kept.id for kept in good[-keep.last :]} | _newest(good)
    staying |= _newest([kept for kept in past if kept.drilled])
    staying |= _one_each(good, now - timedelta(days=keep.daily), _day)
    staying |= _one_each(good, now - timedelta(days=keep.weekly), _week)
    staying |= _one_each(good, now - timedelta(days=keep.monthly), _month)
    going = [kept.id for kept in good if kept.id not in staying]
    return going[: min(keep.remove_at_most, max(len(good) // PART, 1))]


def _newest(sorted_by_time: Sequence[Kept]) -> set[str]:
    """More than one where two bear the same time."""
    return {kept.id for kept in sorted_by_time if kept.time == sorted_by_time[-1].time}


def _one_each(
    good: Sequence[Kept], since: datetime, period: Callable[[datetime], tuple[int, ...]]
) -> set[str]:
    """The newest of each period, of those that are not older than `since`. `good` is sorted."""
    newest = {period(kept.time.astimezone(UTC)): kept.id for kept in good if kept.time >= since}
    return set(newest.values())


def _day(time: datetime) -> tuple[int, ...]:
    return time.year, time.month, time.day


def _week(time: datetime) -> tuple[int, ...]:
    return time.isocalendar()[:2]


def _month(time: datetime) -> tuple[int, ...]:
    return time.year, time.month
