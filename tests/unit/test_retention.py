"""What retention may never do, for any history and any policy; and what it does on plain ones."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.backup.retention import Kept, plan_removal
from ops.settings.backup import Keep

NOW = datetime(2026, 11, 21, 2, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
YEAR = 365 * 24
MANY = settings(max_examples=10_000, deadline=None)
FEWER = settings(max_examples=2_000, deadline=None)

BYTES = 4  # of what is drawn, for one backup: bytes are the quickest thing to draw


def _history(drawn: bytes) -> list[Kept]:
    """Half of the backups of about the last 90 days, some ahead of the clock; half of 7 years,
    two of them ahead. Good ones are three of four, drilled ones one of four, and one of eight has
    no record."""
    history = []
    for number in range(len(drawn) // BYTES):
        high, low, spread, bits = drawn[number * BYTES : (number + 1) * BYTES]
        hours = (high * 256 + low) // 30 - 48 if spread % 2 else (high * 256 + low) - 2 * YEAR
        time = NOW - hours * HOUR
        good, drilled = bits % 4 > 0, bits // 4 % 4 == 0
        recorded = bits // 16 % 8 > 0
        history.append(Kept(f"{number:064x}", time, f"run-{number}", good, drilled, recorded))
    return history


def _policy(drawn: bytes) -> Keep:
    daily, weekly, monthly, last, cap = drawn
    return Keep(
        daily=1 + daily % 40,
        weekly=weekly % 120,
        monthly=monthly * 6,
        last=1 + last % 40,
        remove_at_most=1 + cap % 40,
    )


histories = st.binary(max_size=30 * BYTES).map(_history)
policies = st.binary(min_size=5, max_size=5).map(_policy)


def without(history: list[Kept], ids: list[str]) -> list[Kept]:
    return [kept for kept in history if kept.id not in ids]


def good_past(history: list[Kept]) -> list[Kept]:
    found = [k for k in history if k.good and k.recorded and k.time <= NOW]
    return sorted(found, key=lambda k: k.time)


@pytest.mark.slow
@given(histories, policies)
@MANY
def test_what_holds_for_any_history_and_policy(history: list[Kept], keep: Keep) -> None:
    """To draw one takes ten times longer than to ask all of this about it."""
    assert_the_newest_and_the_last_drilled_stay_and_what_goes_is_older_and_good(history, keep)
    assert_removing_twice_removes_nothing_more(history, keep)
    assert_every_window_keeps_one_of_each_of_its_periods(history, keep)


def assert_the_newest_and_the_last_drilled_stay_and_what_goes_is_older_and_good(
    history: list[Kept], keep: Keep
) -> None:
    gone = plan_removal(history, keep, NOW)
    by_id = {kept.id: kept for kept in history}
    good = good_past(history)
    left = without(history, gone)
    assert len(set(gone)) == len(gone) <= min(keep.remove_at_most, max(len(good) / 4, 1))
    for kept in (by_id[one] for one in gone):
        assert kept.good and kept.recorded
        assert kept.time < good[-1].time
    times = [by_id[one].time for one in gone]
    assert times == sorted(times)
    assert {k.id for k in good[-1:]} <= {k.id for k in left}
    drilled = [k for k in history if k.drilled and k.recorded and k.time <= NOW]
    newest_drilled = max((k.time for k in drilled), default=None)
    assert all(k in left for k in drilled if k.time == newest_drilled)
    assert len(good_past(left)) >= min(len(good), keep.last)
    # the bad, the future, and what has no record here
    untouched = [k for k in history if not k.good or not k.recorded or k.time > NOW]
    assert [k for k in left if not k.good or not k.recorded or k.time > NOW] == untouched


def assert_removing_twice_removes_nothing_more(history: list[Kept], keep: Keep) -> None:
    """Once no cap is reached; and until then never the newest, the drilled, or the last few."""
    good = good_past(history)
    gone: list[str] = []
    left = history
    for _ in range(len(history) + 1):
        more = plan_removal(left, keep, NOW)
        assert not set(more) & set(gone)
        gone += more
        left = without(left, more)
        if not more:
            break
    assert plan_removal(left, keep, NOW) == []
    # what the caps made into many steps is what one step would have removed
    at_once = keep.model_copy(update={"remove_at_most": 1000})
    assert set(plan_removal(history, at_once, NOW)) <= set(gone)
    assert len(good_past(left)) >= min(len(good), keep.last)


@pytest.mark.slow
@given(histories, policies, st.integers(1, 10))
@FEWER
def test_backups_of_a_clock_that_ran_ahead_push_nothing_out(
    history: list[Kept], keep: Keep, count: int
) -> None:
    """Nor do bad ones, nor those without a record: with or without them the same go."""
    ahead = [
        Kept(f"f{number:063x}", NOW + timedelta(days=5 * 365 + number), "", True, True)
        for number in range(count)
    ]
    bad = [
        Kept(f"e{number:063x}", NOW - timedelta(minutes=number), "", False, False)
        for number in range(count)
    ]
    unknown = [
        Kept(f"d{number:063x}", NOW - timedelta(days=number), "", True, True, recorded=False)
        for number in range(count)
    ]
    crowd = [*ahead, *history, *bad, *unknown]
    assert plan_removal(crowd, keep, NOW) == plan_removal(history, keep, NOW)


def assert_every_window_keeps_one_of_each_of_its_periods(history: list[Kept], keep: Keep) -> None:
    left = plan_and_apply(history, keep)
    for days, period in (
        (keep.daily, lambda t: t.date()),
        (keep.weekly, lambda t: t.isocalendar()[:2]),
        (keep.monthly, lambda t: (t.year, t.month)),
    ):
        inside = [k for k in good_past(history) if k.time >= NOW - timedelta(days=days)]
        remaining = [k for k in left if k.time >= NOW - timedelta(days=days)]
        assert {period(k.time) for k in inside} == {period(k.time) for k in remaining}


def plan_and_apply(history: list[Kept], keep: Keep) -> list[Kept]:
    """The good ones of the past that are left when there is nothing more to remove."""
    while gone := plan_removal(history, keep, NOW):
        history = without(history, gone)
    return good_past(history)


def nights(count: int, *, first: int = 0) -> list[Kept]:
    """One a night, newest first in age, all good."""
    return [
        Kept(f"{age:064x}", NOW - timedelta(days=age), f"night-{age}", True, False)
        for age in range(first, first + count)
    ]


KEEP = Keep(daily=14, weekly=60, monthly=365, last=3, remove_at_most=10)


def test_two_years_of_nights_become_days_weeks_and_months() -> None:
    left = plan_and_apply(nights(730), KEEP)
    ages = sorted((NOW - kept.time).days for kept in left)
    assert ages[:15] == list(range(15))
    # a Saturday: the newest of each week is a Sunday, six days ago and every seven before
    assert set(range(20, 60, 7)) <= set(ages)
    # and the last day of each of twelve months
    assert len(ages) == 15 + 6 + 12
    assert ages[-1] <= 365


def test_night_by_night_the_same_stay_as_at_once() -> None:
    """Pruning every week for two years ends with what one late clean-up would have kept."""
    kept: list[Kept] = []
    for age in range(730, -1, -1):
        kept.append(Kept(f"{age:064x}", NOW - timedelta(days=age), "", True, False))
        now = NOW - timedelta(days=age)
        if age % 7 == 0:
            gone = plan_removal(kept, KEEP, now)
            kept = without(kept, gone)
    weekly = {k.id for k in plan_and_apply(kept, KEEP)}
    assert weekly == {k.id for k in plan_and_apply(nights(731), KEEP)}


def test_the_caps() -> None:
    old = nights(40, first=1000)
    assert len(plan_removal(old, KEEP, NOW)) == 10
    assert plan_removal(old, KEEP, NOW)[0] == old[-1].id  # the oldest first
    assert len(plan_removal(old[:12], KEEP, NOW)) == 3  # a quarter
    assert len(plan_removal(old[:4], KEEP, NOW)) == 1
    assert plan_removal(old[:3], KEEP, NOW) == []  # the last three
    few = KEEP.model_copy(update={"remove_at_most": 2})
    assert len(plan_removal(old, few, NOW)) == 2


def test_the_last_drilled_stays_however_old() -> None:
    history = nights(30, first=1000)
    history[-1] = dataclasses.replace(history[-1], drilled=True)
    assert history[-1] in plan_and_apply(history, KEEP)
    history[-2] = dataclasses.replace(history[-2], drilled=True)  # a newer one was drilled
    left = plan_and_apply(history, KEEP)
    assert history[-2] in left and history[-1] not in left


def test_what_a_lost_machine_stored_never_goes() -> None:
    lost = [dataclasses.replace(kept, recorded=False) for kept in nights(40, first=1000)]
    assert plan_removal([*nights(30), *lost], KEEP, NOW) == plan_removal(nights(30), KEEP, NOW)
    assert plan_removal([*lost, *nights(3)], KEEP, NOW) == []


def test_an_empty_history() -> None:
    assert plan_removal([], KEEP, NOW) == []


def test_two_of_the_same_moment_both_stay_where_one_has_to() -> None:
    twins = [Kept(letter, NOW - 900 * 24 * HOUR, "", True, True) for letter in "abc"]
    history = [*nights(20, first=1000), *twins]
    keep = KEEP.model_copy(update={"last": 1})
    assert {kept.id for kept in plan_and_apply(history, keep)} == {"a", "b", "c"}
    undrilled = [dataclasses.replace(kept, drilled=False) for kept in history]
    assert {kept.id for kept in plan_and_apply(undrilled, keep)} == {"a", "b", "c"}
