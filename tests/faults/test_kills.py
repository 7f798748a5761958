"""SIGKILL at every boundary and at any moment: nothing half, nothing lost, and somebody hears."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from place import Good, Place, lay, receiver

pytestmark = [pytest.mark.services, pytest.mark.timeout(1500)]
AT_BOUNDARIES = 170  # kills; with those at any moment they are more than 200
AT_ANY_MOMENT = 40
WORKERS = 2


def boundaries(place: Place) -> list[str]:
    """What a whole run tells, in order: where a run can be killed."""
    listed = place.folder / "steps"
    assert place.run("--steps", str(listed)).code == 0
    return listed.read_text().splitlines()


def unhurt(place: Place, before: list[str]) -> list[str]:
    """After a kill: `current` is whole, and no backup left the repository. What is there now."""
    place.nothing_half()
    now = place.snapshots()
    assert now[: len(before)] == before
    assert len(now) <= len(before) + 1
    return now


def kill_at(place: Place, steps: list[str]) -> int:
    """Kill a run at each of these boundaries; each next run follows a kill. How many died."""
    snapshots, died = place.snapshots(), 0
    for step in steps:
        assert place.run("--kill-at", step).code == -signal.SIGKILL, step
        snapshots = unhurt(place, snapshots)
        died += step != "done"  # by then the record was written
    return died


def swept(folder: Path, restic: Path, steps: list[str]) -> None:
    """A place of its own for a worker: kills, then one clean run, and each death was told."""
    with receiver() as ear:
        data = lay(folder / "data")
        place = Place(folder, restic, ear, [{"kind": "files", "name": "api", "path": str(data)}])
        good = place.good()
        died = kill_at(place, steps)
        place.next_run_is_clean()
        place.still_restores(good)
        dead = [record["run"] for record in place.records() if record["outcome"] == "died"]
        assert len(dead) == died
        told = [str(heard) for heard in ear.heard]
        for run in dead:
            assert sum(run in text for text in told) == 1, "each death is told, and once"


def test_killed_again_and_again_at_every_boundary(
    tmp_path: Path, place: Place, restic: Path
) -> None:
    steps = boundaries(place)
    assert len(steps) >= 11, steps
    rounds = (steps * (AT_BOUNDARIES // len(steps) + 1))[:AT_BOUNDARIES]
    with ThreadPoolExecutor(WORKERS) as pool:
        shares = [(tmp_path / f"worker{n}", rounds[n::WORKERS]) for n in range(WORKERS)]
        for done in [pool.submit(swept, folder, restic, share) for folder, share in shares]:
            done.result()


def test_killed_once_at_each_boundary_the_whole_oracle_holds(place: Place) -> None:
    place.real_messenger = True
    for step in boundaries(place):
        good = place.good()
        place.fresh = True
        assert place.run("--kill-at", step).code == -signal.SIGKILL, step
        place.fresh = False
        place.still_restores(good)
        place.nothing_half()
        place.next_run_is_clean()
        killed = place.records()[-2]
        if step == "done":
            assert killed["outcome"] == "ok"
            continue
        assert killed["outcome"] == "died" and killed["exit_code"] == 2, step
        assert killed["notified"], step
        assert killed["run"] in str(place.receiver.heard[good.heard :]), step


def test_killed_at_any_moment(place: Place) -> None:
    """Also in the middle of restic, of a record, of a start."""
    moments = random.Random(7)  # noqa: S311 - the same moments each time
    whole: dict[bool, float] = {}  # seconds of a run
    for place.fresh in (True, False):
        begun = time.monotonic()
        good: Good = place.good()
        whole[place.fresh] = time.monotonic() - begun
    snapshots = place.snapshots()
    for number in range(AT_ANY_MOMENT):
        place.fresh = number % 8 == 0
        process = place.start()
        time.sleep(moments.uniform(0.1, 1.0) * whole[place.fresh])
        process.kill()
        place.finish(process)
        snapshots = unhurt(place, snapshots)
    place.next_run_is_clean()
    place.still_restores(good)
