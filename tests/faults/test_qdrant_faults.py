"""A Qdrant that is down, refuses, hangs, lies or is full: the stand-in on its own engine.

After each fault no snapshot may be left on the server: they would fill its disk, night by night.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator

import pytest
from contract_server import Server
from place import Place
from proxy import Proxy, proxy
from servers import small_disk
from stand_in_process import StandIn, make
from test_full_disks import SEEDS, leave

pytestmark = pytest.mark.services
KEY = "the-key-of-this-qdrant-0123456789"
COLLECTION = "books"
SNAPSHOTS = f"/collections/{COLLECTION}/snapshots"
SILENCE = ("--silence", "2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    folder = tmp_path_factory.mktemp("server")
    with small_disk(folder / "snapshots", "256m"):
        made = make(folder, KEY)
        made.start()
        fill(made)
        try:
            yield made
        finally:
            if made.process and made.process.poll() is None:
                made.stop(signal.SIGKILL)


@pytest.fixture
def stand_in(server: StandIn) -> Iterator[StandIn]:
    """It runs, whatever the test before has done, and holds no snapshot before and after."""
    if server.process is None or server.process.poll() is not None:
        server.start()
    assert left_on(server) == []
    yield server
    assert server.process is None or server.process.poll() is not None or left_on(server) == []


def fill(stand_in: StandIn) -> None:
    server = Server(stand_in.url, "", KEY)
    kind = {"vectors": {"size": 8, "distance": "Cosine"}}
    server.result("PUT", f"/collections/{COLLECTION}", kind)
    chance = random.Random(3)  # noqa: S311
    points = [
        {"id": n, "vector": [chance.random() for _ in range(8)], "payload": {"n": n}}
        for n in range(200)
    ]
    server.result("PUT", f"/collections/{COLLECTION}/points?wait=true", {"points": points})


@pytest.fixture
def between(stand_in: StandIn) -> Iterator[Proxy]:
    with proxy(stand_in.url) as opened:
        yield opened


@pytest.fixture
def qdrant_place(place: Place, between: Proxy) -> Place:
    """The files source, and a Qdrant behind the proxy."""
    source = {"kind": "qdrant", "url": between.url, "container": "", "volume": "", "image": "none"}
    place.sources.append(source)
    place.secrets["qdrant_api_key"] = KEY
    return place


def left_on(stand_in: StandIn) -> list[str]:
    found = Server(stand_in.url, "", KEY).result("GET", SNAPSHOTS)
    return [snapshot["name"] for snapshot in found]


def test_a_good_run_holds_the_collection_and_leaves_nothing(
    qdrant_place: Place, stand_in: StandIn
) -> None:
    good = qdrant_place.good()
    assert f"qdrant/{COLLECTION}.snapshot" in good.files
    assert left_on(stand_in) == []
    qdrant_place.still_restores(good)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("error 500", ("GET", "/collections")),
        ("error 500", ("POST", SNAPSHOTS)),
        ("error 500", ("GET", f"{SNAPSHOTS}/")),
        ("hang", ("GET", "/collections")),
        ("hang", ("GET", f"{SNAPSHOTS}/")),
        ("hang half-way", ("GET", f"{SNAPSHOTS}/")),
        ("cut half-way", ("GET", f"{SNAPSHOTS}/")),
        ("too short", ("GET", f"{SNAPSHOTS}/")),
        ("too long", ("GET", f"{SNAPSHOTS}/")),
        ("another byte", ("GET", f"{SNAPSHOTS}/")),
    ],
)
def test_what_goes_wrong_between(
    qdrant_place: Place,
    stand_in: StandIn,
    between: Proxy,
    fault: str,
    where: tuple[str, str],
) -> None:
    good = qdrant_place.good()
    between.fault, between.where = fault, where
    done = qdrant_place.run(*SILENCE)
    assert between.hits
    qdrant_place.survives(done, good)
    between.fault = ""
    qdrant_place.next_run_is_clean()
    assert left_on(stand_in) == []


def test_it_is_down(qdrant_place: Place, stand_in: StandIn) -> None:
    good = qdrant_place.good()
    stand_in.stop()
    done = qdrant_place.run()
    qdrant_place.survives(done, good)
    stand_in.start()
    qdrant_place.next_run_is_clean()


def test_it_is_killed_while_a_snapshot_is_fetched(qdrant_place: Place, stand_in: StandIn) -> None:
    good = qdrant_place.good()
    go = qdrant_place.folder / "go"
    listed = qdrant_place.folder / "steps"
    step = f"collect:qdrant:download/{COLLECTION}"
    process = qdrant_place.start(
        *SILENCE, "--wait-at", step, "--until", str(go), "--steps", str(listed)
    )
    while not listed.exists() or step not in listed.read_text():
        assert process.poll() is None, process.communicate()[1]
    stand_in.stop(signal.SIGKILL)
    go.touch()
    done = qdrant_place.finish(process)
    qdrant_place.survives(done, good)
    stand_in.start()
    qdrant_place.next_run_is_clean()
    assert left_on(stand_in) == [], "what the killed server still had is removed by the next run"


@pytest.mark.parametrize(
    ("key", "words"), [("wrong", "refuses the key"), ("", "is empty"), (None, "is missing")]
)
def test_a_wrong_an_empty_and_a_missing_key(
    qdrant_place: Place, key: str | None, words: str
) -> None:
    good = qdrant_place.good()
    qdrant_place.secrets["qdrant_api_key"] = key  # type: ignore[assignment]
    done = qdrant_place.run()
    assert done.record and words in done.record["error"]
    qdrant_place.survives(done, good)
    qdrant_place.secrets["qdrant_api_key"] = KEY
    qdrant_place.next_run_is_clean()


@pytest.mark.parametrize("seed", SEEDS)
def test_its_snapshot_folder_is_full(qdrant_place: Place, stand_in: StandIn, seed: int) -> None:
    good = qdrant_place.good()
    size = (qdrant_place.current / f"qdrant/{COLLECTION}.snapshot").stat().st_size
    disk = stand_in.folder / "snapshots"
    room = random.Random(seed).randrange(0, size - 8192)  # noqa: S311
    filler = leave(disk, room)
    done = qdrant_place.run()
    filler.unlink()
    qdrant_place.survives(done, good)
    qdrant_place.next_run_is_clean()
    assert left_on(stand_in) == []
    used = shutil.disk_usage(disk).used
    assert used < size, "half a snapshot is left on the server"


def test_killed_at_each_boundary_of_it_nothing_stays_on_the_server(
    qdrant_place: Place, stand_in: StandIn
) -> None:
    listed = qdrant_place.folder / "steps"
    assert qdrant_place.run("--steps", str(listed)).code == 0
    steps = [step for step in listed.read_text().splitlines() if "collect:qdrant" in step]
    assert len(steps) >= 5
    good = qdrant_place.good()
    for step in steps:
        assert qdrant_place.run("--kill-at", step).code == -signal.SIGKILL, step
        qdrant_place.nothing_half()
        qdrant_place.still_restores(good)
        qdrant_place.next_run_is_clean()
        assert left_on(stand_in) == [], step
