"""A migration that is killed 50 times at random, and servers that go away under one.

What counts in the end is read by raw HTTP: every point of the source, as it was, and no other.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import Fork, fork
from migrate_data import Dataset
from migrate_pair import REAL, Pair, make_pair, points

from ops.backup.source import Event
from ops.errors import UnreachableError
from ops.migrate.state import find, known

pytestmark = [pytest.mark.services, pytest.mark.slow]

KILLS = 50
POINTS = 40_000 if REAL else 5_000  # a load of some seconds
LONGEST = 1.5  # seconds after its first word until a run is killed
STACKROOM = Path(sys.executable).with_name("stackroom")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with make_pair(tmp_path_factory.mktemp("pair")) as made:
        yield made


@pytest.fixture
def pair(servers: Pair) -> Pair:
    """Both run, whatever the test before has done."""
    target = servers.process
    if target and target.process and target.process.poll() is not None:
        target.start()
    return servers


def same(pair: Pair, name: str, target: str) -> None:
    """Every point, and every setting: indexing is given back too."""
    there, here = points(pair.target, target), points(pair.source, name)
    assert there == here
    configs = [
        server.send("GET", f"/collections/{each}")["config"]
        for server, each in ((pair.source, name), (pair.target, target))
    ]
    assert configs[0] == configs[1]


@pytest.mark.timeout(1800)
def test_fifty_kills_lose_nothing_and_change_nothing(pair: Pair) -> None:
    name = pair.new_name()
    pair.source.fill(name, Dataset("dot", POINTS))
    chance = random.Random(6)  # noqa: S311
    kills, steps, finished, share = 0, [], 0, KILLS // 4
    while kills < KILLS:
        target = pair.new_name()
        state = pair.state / target
        # a pass begins anew after a kill: in every other migration there is none to be killed in
        still = ["--still"] * (finished % 2)
        while True:
            # a quarter while it is made; after its share of kills a migration may end
            longest = 0.1 if chance.random() < 0.25 else LONGEST
            limit = chance.uniform(0, longest) if kills < share * (finished + 1) else None
            # the program itself for one kill in ten, and forks of it for the others
            start = _program if kills % 10 == 0 else _fork
            code = _run(start, pair, name, target, state, limit, still)
            if code is None:
                kills += 1
                stores = known(state)
                steps.append(stores[0].load().moves[0].step if stores else "none")
                continue
            assert code == 0
            break
        finished += 1
        assert find(state).load().phase == "ready"
        same(pair, name, target)
        pair.target.drop(target)
    print(f"{kills} kills in {finished} migrations, at: {sorted(set(steps))}")
    assert "loading" in steps


Start = Callable[[list[str], dict[str, str]], Fork | subprocess.Popen[str]]


def _fork(words: list[str], environment: dict[str, str]) -> Fork:
    return fork("stackroom", words, environment)


def _program(words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [STACKROOM, *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(
    start: Start,
    pair: Pair,
    name: str,
    target: str,
    state: Path,
    limit: float | None,
    more: list[str],
) -> int | None:
    """The verb, killed `limit` seconds after its first word; its exit code, None for a kill."""
    if known(state):
        verb = ["resume", "--state", str(state)]
    else:
        ends = ["--from", pair.source.url, "--to", pair.target.url]
        verb = ["run", *ends, "--collection", name, "--as", target, "--yes"]
        verb += ["--state", str(state), "--mode", "stream", *more]
    process = start(["migrate", *verb], os.environ | pair.keys())
    assert process.stderr is not None
    said = process.stderr.readline()
    if limit is None:
        said += process.stderr.read()
        assert process.wait(120) == 0, said
        return 0
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
    assert code == 0, said + process.stderr.read()
    return code


@pytest.mark.skipif(bool(REAL), reason="a server that somebody else runs is not ours to kill")
def test_a_target_that_is_killed_and_comes_back_is_waited_for(pair: Pair) -> None:
    name, target = pair.new_name(), pair.new_name()
    pair.source.fill(name, Dataset("dot", 4000))
    process = pair.process
    assert process is not None
    back: list[threading.Thread] = []

    def falls(event: Event) -> None:
        if event.step == "load" and event.done > 1000 and not back:
            process.stop(signal.SIGKILL)
            back.append(threading.Timer(1.5, process.start))
            back[0].start()

    pair.move([name], new_name=target, tell=falls)
    assert back
    same(pair, name, target)


@pytest.mark.skipif(bool(REAL), reason="a server that somebody else runs is not ours to kill")
def test_a_target_that_stays_away_ends_the_run_which_goes_on_later(pair: Pair) -> None:
    name, target = pair.new_name(), pair.new_name()
    pair.source.fill(name, Dataset("dot", 4000))
    process = pair.process
    assert process is not None
    gone = False

    def falls(event: Event) -> None:
        nonlocal gone
        if event.step == "load" and event.done > 1000 and not gone:
            gone = True
            process.stop(signal.SIGKILL)

    store, migration = pair.prepared([name], new_name=target)
    with pytest.raises(UnreachableError) as caught:
        pair.go_on(store, tell=falls, patience_seconds=1)
    assert f"stackroom migrate resume {migration.id}" in caught.value.hint
    moved = store.checkpoint(0).moved
    assert 0 < moved < 4000
    process.start()
    pair.go_on(store)
    again = store.checkpoint(0).moved - 4000
    assert 0 <= again < moved, "it goes on, and does not begin anew"
    same(pair, name, target)
