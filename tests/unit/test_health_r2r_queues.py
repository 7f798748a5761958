"""Hatchet, RabbitMQ and R2R's token, judged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ops.health.model import Status
from ops.health.r2r import queues

OK, WARNING, CRITICAL, UNKNOWN = Status.OK, Status.WARNING, Status.CRITICAL, Status.UNKNOWN
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_the_engine() -> None:
    assert queues.ready({"ready": True}).status is OK
    assert queues.ready({"ready": False}).status is CRITICAL


@pytest.mark.parametrize(
    ("waiting", "seconds", "done", "status", "words"),
    [
        (0, 0, 0, OK, "nothing waits; 0 done in 15 minutes"),
        (900, 40, 0, OK, "900 wait, the first for 40 s"),
        (1, 899, 0, OK, "15 min"),
        (1, 900, 0, WARNING, "15 min"),
        (3, 3600, 0, CRITICAL, "3 wait, the first for 60 min"),
        (3, 90_000, 0, CRITICAL, "25.0 h"),
        (900, 3599, 7, OK, "the first for 60 min; 7 done"),
        (900, 3600, 7, WARNING, "7 done in 15 minutes"),
        (900, 900_000, 1, WARNING, "10 days"),
    ],
)
def test_the_queue_is_judged_by_its_age_and_by_whether_it_moves(
    waiting: int, seconds: float, done: int, status: Status, words: str
) -> None:
    verdict = queues.queue({"waiting": waiting, "seconds": seconds, "done": done})
    assert verdict.status is status
    assert words in verdict.summary
    assert bool(verdict.hint) is bool(status)


@pytest.mark.parametrize(
    ("seconds", "status", "words"),
    [
        (3.2, OK, "3 s ago"),
        (-0.4, OK, "0 s ago"),  # two clocks
        (20, WARNING, "20 s ago"),
        (31, CRITICAL, "no worker is connected: the last sign of life came 31 s ago"),
        (None, CRITICAL, "no worker has ever been connected"),
    ],
)
def test_the_worker(seconds: float | None, status: Status, words: str) -> None:
    verdict = queues.worker({"seconds": seconds})
    assert verdict.status is status
    assert words in verdict.summary


def queue(name: str, ready: int = 0, consumers: int = 1) -> dict[str, Any]:
    return {
        "name": name,
        "messages_ready": ready,
        "messages_unacknowledged": 0,
        "consumers": consumers,
    }


def broker(*alarms: dict[str, Any]) -> dict[str, Any]:
    return {"version": "4.0.5", "alarms": list(alarms)}


def test_alarms() -> None:
    assert queues.alarms(broker()).status is OK
    limit = {"node": "rabbit@rabbitmq", "type": "resource_limit"}
    verdict = queues.alarms(broker(limit | {"resource": "memory"}, limit | {"resource": "disk"}))
    assert verdict.status is CRITICAL
    assert verdict.summary == "RabbitMQ takes no messages: disk, memory alarm"
    other = queues.alarms(broker({"type": "file_descriptor_limit", "node": "x"}))
    assert "file_descriptor_limit" in other.summary


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        ([], OK, "0 queues"),
        ([queue("a"), queue("b", 99)], OK, "at most 99 messages wait for a consumer (b)"),
        ([queue("a", 300, 2), queue("b", 99)], WARNING, "at most 150 messages"),
        ([queue("a", 10_000)], CRITICAL, "10000 messages"),
        ([queue("a", 0, 0)], OK, "1 queues"),
        ([queue("a", 7, 0), queue("b")], WARNING, "nobody takes from: a (7)"),
        ([queue("job_processing_queue_v2_dlx_v2", 7, 0)], OK, "0 queues"),
    ],
)
def test_the_backlog_of_each_consumer(
    found: list[dict[str, Any]], status: Status, words: str
) -> None:
    verdict = queues.backlog(found)
    assert verdict.status is status
    assert words in verdict.summary


@pytest.mark.parametrize(
    ("days", "status", "words"),
    [
        (3650, OK, "good until"),
        (15, OK, "good until 2026-12-06"),
        (14, WARNING, "good until 2026-12-05"),
        (0.1, WARNING, "good until"),
        (-0.1, CRITICAL, "ran out on 2026-11-21"),
    ],
)
def test_the_token(days: float, status: Status, words: str) -> None:
    end = NOW + timedelta(days=days)
    verdict = queues.token({"expires": end.timestamp()}, NOW)
    assert verdict.status is status
    assert words in verdict.summary
    assert (" deploy" in verdict.hint) is bool(status)


def test_a_token_that_does_not_say_when() -> None:
    assert queues.token({"expires": None}, NOW).status is UNKNOWN
