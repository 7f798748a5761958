"""The machine's facts, judged: literal facts in, a status out, with words that name the thing."""

from __future__ import annotations

from typing import Any

import pytest

from ops.health import machine
from ops.health.host import judged
from ops.health.model import Status

OK, WARNING, CRITICAL = Status.OK, Status.WARNING, Status.CRITICAL


def volume(path: str, size: int, free: int, inodes: int = 100, inodes_free: int = 90) -> Any:
    return {
        "path": path,
        "size": size,
        "free": free,
        "inodes": inodes,
        "inodes_free": inodes_free,
    }


def ram(available: int) -> Any:
    return {"total": 1000, "available": available, "swap_total": 512, "swap_free": 500}


TIMERS = {"apt-daily.timer": "enabled", "apt-daily-upgrade.timer": "enabled"}
TABLE: list[tuple[Any, Any, Status, str]] = [
    (machine.disk, [volume("/", 100, 21)], OK, "/ is 79 % full"),
    (machine.disk, [volume("/", 100, 60), volume("/var/v", 100, 20)], WARNING, "/var/v is 80 %"),
    (machine.disk, [volume("/", 100, 10), volume("/var/v", 100, 80)], CRITICAL, "/ is 90 %"),
    (machine.inodes, [volume("/", 1, 1, 100, 50)], OK, "50 %"),
    (machine.inodes, [volume("/", 1, 1, 0, 0)], OK, "no inode limit"),
    (machine.inodes, [volume("/", 1, 1, 100, 15)], WARNING, "85 %"),
    (machine.inodes, [volume("/", 1, 1, 0, 0), volume("/b", 1, 1, 100, 5)], CRITICAL, "/b"),
    (machine.memory, ram(500), OK, "50 % of 1000 MiB in use, 12 MiB swapped out"),
    (machine.memory, ram(80), WARNING, "92 %"),
    (machine.memory, ram(40), CRITICAL, "96 %"),
    (machine.oom, {"kills": 0}, OK, "no process"),
    (machine.oom, {"kills": 3}, WARNING, "3 processes"),
    (machine.load, {"minutes_15": 3.0, "cpus": 2}, OK, "1.50 per cpu"),
    (machine.load, {"minutes_15": 4.0, "cpus": 2}, WARNING, "2.00 per cpu"),
    (machine.load, {"minutes_15": 12.0, "cpus": 2}, WARNING, "6.00 per cpu"),
    (machine.units, {"failed": []}, OK, "no systemd unit"),
    (machine.units, {"failed": ["a.service", "b.timer"]}, WARNING, "a.service, b.timer"),
    (machine.clock, {"synchronized": True, "container": ""}, OK, "synchronised"),
    (machine.clock, {"synchronized": False, "container": "docker"}, OK, "machine below keeps time"),
    (machine.clock, {"synchronized": False, "container": ""}, WARNING, "not synchronised"),
    (machine.reboot, {"required": False, "days": 0.0}, OK, "no reboot"),
    (machine.reboot, {"required": True, "days": 3.4}, WARNING, "3 days"),
    (machine.updates, {"timers": TIMERS, "unattended": True}, OK, "install themselves"),
    (machine.updates, {"timers": TIMERS, "unattended": False}, WARNING, "unattended-upgrades off"),
    (machine.updates, {"timers": {}, "unattended": True}, WARNING, "no timers off"),
    (
        machine.updates,
        {"timers": TIMERS | {"apt-daily.timer": "masked"}, "unattended": True},
        WARNING,
        "apt-daily.timer off",
    ),
    (machine.guard, {"pending": False, "seconds": 0.0}, OK, "no change"),
    (machine.guard, {"pending": True, "seconds": 9.0}, WARNING, "since 9 s"),
    (machine.guard, {"pending": True, "seconds": 900.0}, CRITICAL, "since 900 s"),
    (
        machine.deploy,
        {
            "file": "20260304T050607Z.json",
            "record": {"at": "2026-03-04T05:06:07+00:00", "who": "anna", "revision": "abc"},
        },
        OK,
        "last deploy 2026-03-04T05:06 by anna, revision abc",
    ),
    (machine.deploy, {}, WARNING, "no deploy is recorded"),
    (machine.deploy, {"file": "2026.json", "record": {}}, WARNING, "2026.json is damaged"),
    (machine.deploy, {"file": "2026.json", "record": None}, WARNING, "2026.json is damaged"),
]


@pytest.mark.parametrize(
    ("judge", "facts", "status", "words"),
    TABLE,
    ids=[f"{judge.__name__}-{status.name}-{words}" for judge, _, status, words in TABLE],
)
def test_judged(judge: Any, facts: Any, status: Status, words: str) -> None:
    verdict = judge(facts)
    assert verdict.status is status
    assert words in verdict.summary
    assert bool(verdict.hint) is (status is not OK)


@pytest.mark.parametrize("judge", sorted({row[0] for row in TABLE}, key=lambda each: each.__name__))
def test_every_judge_has_a_good_and_a_bad_row(judge: Any) -> None:
    seen = {status for each, _, status, _ in TABLE if each is judge}
    assert OK in seen
    assert seen - {OK}


def test_a_missing_section_is_unknown_with_the_machines_own_reason() -> None:
    facts = {"values": {}, "errors": {"units": "systemctl is not installed"}}
    verdict = judged(facts, machine.units, "units")
    assert verdict.status is Status.UNKNOWN
    assert verdict.summary == "could not look: systemctl is not installed"
    assert judged(facts, machine.disk, "disk").summary == "could not look: not collected"


def test_a_present_section_is_judged() -> None:
    assert judged({"values": {"oom": {"kills": 0}}}, machine.oom, "oom").status is OK
