"""A target whose disk fills up, for real: nothing is lost, and the run goes on when there is room.

Beside it, what a kill in a further pass leaves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from migrate_data import Dataset, Rest, running_stand_in
from migrate_pair import REAL, Pair, make_pair, points
from servers import remount, small_disk

from ops.backup.source import Event
from ops.migrate.run import SMALL
from ops.migrate.server import BusyError
from ops.migrate.state import find

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(bool(REAL), reason="the disk of somebody else's server is not ours to fill"),
]
STACKROOM = Path(sys.executable).with_name("stackroom")


def test_a_disk_that_fills_up_ends_the_run_and_costs_no_point(tmp_path: Path) -> None:
    """Qdrant refuses every write when less than twice its log (64 MiB) is free."""
    (tmp_path / "a").mkdir()
    with (
        small_disk(tmp_path / "b", "90m") as disk,
        running_stand_in(tmp_path / "a") as one,
        running_stand_in(disk) as other,
    ):
        ends = Rest(one.url, one.key), Rest(other.url, other.key)
        pair = Pair(*ends, tmp_path / "state", tmp_path / "inventory", other)
        pair.source.fill("books", Dataset("dot", 50, large=36, large_bytes=900_000))
        before = points(pair.source, "books")
        store, migration = pair.prepared(["books"])
        with pytest.raises(BusyError, match="No space left on device") as caught:
            pair.go_on(store, patience_seconds=0)
        assert f"stackroom migrate resume {migration.id}" in caught.value.hint
        moved = store.checkpoint(0).moved
        assert 0 < moved < 50
        assert points(pair.target, "books").items() <= before.items()
        waited: list[str] = []

        def grows(event: Event) -> None:
            if event.step == "wait" and not waited:
                remount(disk, ["size=400m"])
            if event.step == "wait":
                waited.append(event.item)

        pair.go_on(store, tell=grows)
        assert waited and all("No space left" in each for each in waited)
        assert store.checkpoint(0).moved - 50 < moved, "it went on, and did not begin anew"
        assert points(pair.target, "books") == before == points(pair.source, "books")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with make_pair(tmp_path) as made:
        yield made


def test_a_kill_in_a_further_pass_loses_nothing(pair: Pair) -> None:
    """A pass keeps no checkpoint: it is done anew, and finds right what was put right before."""
    name, target = pair.new_name(), pair.new_name()
    data = Dataset("dot", 3000)
    pair.source.fill(name, data)
    store, _ = pair.prepared([name], new_name=target)

    def ends(event: Event) -> None:
        if event.step.startswith("pass"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # all is loaded, and no pass was made
        pair.go_on(store, tell=ends)
    ids = data.ids()
    changed = [{"id": each, "vector": [float(n)] * 16} for n, each in enumerate(ids[::3])]
    pair.source.put(name, *changed)
    pair.source.delete(name, *ids[1::30])
    wrong = len(changed) + len(ids[1::30])
    assert _different(pair, name, target) == wrong > SMALL

    with _resumed(pair, store.folder.parent) as process:
        assert process.stderr is not None
        assert any(line.strip().startswith("pass 1") for line in process.stderr)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert find(store.folder.parent).load().moves[0].step == "settling"

    def stops(event: Event) -> None:
        if event.step.startswith("pass") and event.done:
            raise KeyboardInterrupt

    left = [wrong, _different(pair, name, target)]
    for _ in range(3):  # the next one sees right what was put right before
        with pytest.raises(KeyboardInterrupt):
            pair.go_on(store, tell=stops, workers=1)
        left.append(_different(pair, name, target))
    assert left == sorted(left, reverse=True) and 0 < left[-1] < wrong
    pair.go_on(store)
    assert store.load().phase == "ready"
    assert points(pair.target, target) == points(pair.source, name)


def _different(pair: Pair, name: str, target: str) -> int:
    here, there = points(pair.source, name), points(pair.target, target)
    return sum(1 for each in here.keys() | there.keys() if here.get(each) != there.get(each))


def _resumed(pair: Pair, state: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [STACKROOM, "migrate", "resume", "--state", str(state), "--workers", "1"],
        env=os.environ | pair.keys(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
