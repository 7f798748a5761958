"""A disk that fills up while a run writes: in staging and in the repository, five times each."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from place import Place
from servers import remount, small_disk

pytestmark = pytest.mark.services
SEEDS = range(5)
DATA = 6_000_000  # bytes of new data that each run wants to store
# until a refusal that restic repeats is believed, and until it has ended after one: 4 s, and 15
SOON = ("--restic-patience", "1", "--restic-failed", "4")


@pytest.fixture
def disk(place: Place, request: pytest.FixtureRequest) -> Iterator[Path]:
    """64 MB under the folder of the place that the test names."""
    folder = place.folder / request.param
    aside = place.folder / "aside"
    if folder.exists():
        folder.rename(aside)
    with small_disk(folder, "64m") as mounted:
        if aside.exists():
            shutil.copytree(aside, mounted, dirs_exist_ok=True)
        yield mounted


def grow(place: Place, seed: int) -> None:
    (place.folder / "data/new.bin").write_bytes(random.Random(seed).randbytes(DATA))  # noqa: S311


def leave(disk: Path, free: int) -> Path:
    """Fill a disk up to `free` bytes; the file to remove afterwards."""
    filler = disk / "somebody-elses.bin"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(shutil.disk_usage(disk).free - free, 4096))
    return filler


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("disk", ["base"], indirect=True)
def test_staging_fills_up(place: Place, disk: Path, seed: int) -> None:
    """After the preflight, by somebody else's writing."""
    good = place.good()
    grow(place, seed)
    go = place.folder / "go"
    process = place.start("--wait-at", "collect:api", "--until", str(go))
    while not list(place.base.glob(".partial-*")):
        assert process.poll() is None
    filler = leave(disk, random.Random(seed).randrange(0, DATA))  # noqa: S311
    go.touch()
    done = place.finish(process)
    filler.unlink()
    assert done.code != 0 and "No space left" in done.stderr, done.stderr
    place.still_restores(good)
    place.nothing_half()
    place.tidy()
    place.noticed(good)
    place.next_run_is_clean()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("disk", ["repository"], indirect=True)
def test_the_repository_fills_up(place: Place, disk: Path, seed: int) -> None:
    good = place.good()
    grow(place, seed)
    filler = leave(disk, random.Random(seed).randrange(0, DATA))  # noqa: S311
    done = place.run(*SOON)
    place.survives(done, good)
    filler.unlink()
    place.next_run_is_clean()
    place.ask("check", "--read-data")


@pytest.mark.parametrize("disk", ["base"], indirect=True)
def test_too_little_room_is_said_before_anything_is_written(place: Place, disk: Path) -> None:
    good = place.good()
    grow(place, 0)
    filler = leave(disk, DATA)
    before = place.current.stat().st_mtime_ns
    steps = place.folder / "steps"
    done = place.run("--steps", str(steps))
    assert done.record and "free and the backup needs" in done.record["error"]
    assert "collect:api" not in steps.read_text()
    assert place.current.stat().st_mtime_ns == before
    filler.unlink()
    place.survives(done, good)
    place.next_run_is_clean()


@pytest.mark.parametrize("disk", ["repository"], indirect=True)
def test_a_read_only_repository(place: Place, disk: Path) -> None:
    good = place.good()
    remount(disk, ["ro"])
    done = place.run(*SOON)
    remount(disk, ["rw"])
    place.survives(done, good)
    place.next_run_is_clean()
