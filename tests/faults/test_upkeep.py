"""Check finds what is damaged, prune removes only what it may, and neither runs on a guess."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from place import PASSWORD, Place, assert_manifest, hashes

from ops.backup.manifest import read_manifest, verify_items
from ops.errors import BackupError

pytestmark = pytest.mark.services


def packs(place: Place) -> list[Path]:
    return sorted(path for path in (place.repository / "data").rglob("*") if path.is_file())


def flip(path: Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(len(content))  # noqa: S311
    content[place] ^= 1 << seed % 8
    path.chmod(0o600)
    path.write_bytes(content)


def restores(place: Place, snapshot: str) -> bool:
    """Whether restic, asked without any of our code, gives it back."""
    target = place.folder / "restored"
    shutil.rmtree(target, ignore_errors=True)
    try:
        place.ask("restore", f"{snapshot}:{place.current}", "--target", str(target))
        assert_manifest(target)
    except (AssertionError, OSError, ValueError):
        return False
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return True


# check ---------------------------------------------------------------------------------------


def test_four_checks_read_every_part_once(place: Place) -> None:
    place.good()
    parts = []
    for _ in range(5):
        done = place.run(kind="check")
        assert done.code == 0, done.stderr
        assert done.record
        parts.append(done.record["details"]["local"]["subset"])
    assert parts == [[1, 4], [2, 4], [3, 4], [4, 4], [1, 4]]


@pytest.mark.parametrize("seed", range(5))
def test_a_flipped_bit_is_found_within_four_checks_and_never_restores(
    place: Place, seed: int
) -> None:
    good = place.good()
    everything = packs(place)
    for pack in everything:  # whichever part it falls into, and whatever it holds
        flip(pack, seed)
    codes = [place.run(kind="check").code for _ in range(4)]
    assert 2 in codes
    assert any(record["outcome"] == "failed" for record in place.records("check"))
    place.noticed(good)
    assert not restores(place, good.snapshot)


def test_a_truncated_pack_is_found_at_once_and_never_restores(place: Place) -> None:
    good = place.good()
    largest = max(packs(place), key=lambda path: path.stat().st_size)
    largest.chmod(0o600)
    os.truncate(largest, largest.stat().st_size // 2)
    done = place.run("--full", kind="check")
    assert done.code == 2
    assert done.record and not done.record["details"]["local"]["ok"]
    place.noticed(good)
    assert not restores(place, good.snapshot)


def test_a_lock_that_a_killed_check_left_heals_by_itself(place: Place) -> None:
    place.good()
    stuck = subprocess.Popen(
        [str(place.restic), "--repo", str(place.repository), "--no-cache", "backup", "--stdin"],
        env={"PATH": os.environ["PATH"], "RESTIC_PASSWORD": PASSWORD},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    locks = place.repository / "locks"
    while not [path for path in locks.iterdir() if "-tmp-" not in path.name]:
        assert stuck.poll() is None
    stuck.send_signal(signal.SIGKILL)
    stuck.wait()
    assert list(locks.iterdir()), "its lock is still there"
    done = place.run(kind="check")
    assert done.code == 0, done.stderr
    assert not list(locks.iterdir())


# what comes back is verified, whatever the repository says ------------------------------------


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def newer_schema(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(document | {"schema_version": 2}))


def half_a_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def truncated(folder: Path) -> None:
    archive = max(folder.rglob("*.tar"), key=lambda path: path.stat().st_size)
    os.truncate(archive, archive.stat().st_size - 512)


def flipped(folder: Path) -> None:
    flip(max(folder.rglob("*.tar"), key=lambda path: path.stat().st_size), 11)


def missing(folder: Path) -> None:
    max(folder.rglob("*.tar"), key=lambda path: path.stat().st_size).unlink()


def more(folder: Path) -> None:
    (folder / "api/somebody-elses").write_text("?")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_manifest, "this is not a backup"),
        (newer_schema, "has schema 2, and this Stackroom knows 1"),
        (half_a_manifest, "cannot be read"),
        (truncated, "the manifest says"),
        (flipped, "is not what was backed up"),
        (missing, "is missing"),
        (more, "is not listed"),
    ],
)
def test_a_damaged_folder_is_refused(place: Place, damage: object, words: str) -> None:
    place.good()
    copy = Path(shutil.copytree(place.current, place.folder / "copy"))
    verify_items(copy, read_manifest(copy))
    damage(copy)  # type: ignore[operator]
    with pytest.raises(BackupError, match=words):
        verify_items(copy, read_manifest(copy))


def test_a_current_without_its_manifest_is_replaced_by_the_next_run(place: Place) -> None:
    good = place.good()
    (place.current / "manifest.json").unlink()
    place.still_restores(good)
    place.next_run_is_clean()


# prune ---------------------------------------------------------------------------------------


def age(place: Place, days: list[int]) -> list[str]:
    """Good backups of these days before now, as the nights of a year would have left them; the
    snapshots' ids. restic is given the time, and the record is dated alike."""
    place.good()
    pattern = place.records()[-1]
    made = [pattern["repositories"][0]["snapshot"]]
    for day in sorted(days):
        at = datetime.now(UTC) - timedelta(days=day)
        run = f"{at:%Y%m%dT%H%M%SZ}-{day:06x}"
        done = subprocess.run(
            [
                *(str(place.restic), "--no-cache", "--json", "--repo", str(place.repository)),
                *("backup", str(place.current), "--tag", f"run={run}", "--host", "faults"),
                *("--time", f"{at:%Y-%m-%d %H:%M:%S}"),
            ],
            env={"PATH": os.environ["PATH"], "RESTIC_PASSWORD": PASSWORD, "TZ": "UTC"},
            capture_output=True,
            text=True,
            check=True,
        )
        snapshot = json.loads(done.stdout.splitlines()[-1])["snapshot_id"]
        record = json.loads(json.dumps(pattern))
        record |= {"run": run, "started": at.isoformat(), "finished": at.isoformat()}
        record["repositories"][0]["snapshot"] = snapshot
        (place.base / f"records/{run}.backup.json").write_text(json.dumps(record))
        made.insert(0, snapshot)
    return made


def test_prune_removes_the_oldest_and_what_stays_is_whole(place: Place) -> None:
    made = age(place, [500, 480, 3, 2, 1])
    assert place.run(kind="check").code == 0
    told = place.run("--dry-run", kind="prune")
    assert told.code == 0, told.stderr
    assert told.record and len(told.record["details"]["local"]["removed"]) == 1
    assert place.snapshots() == made, "a dry run only tells"
    done = place.run(kind="prune")
    assert done.code == 0, done.stderr
    assert place.snapshots() == made[1:], "a quarter at most at once"
    assert place.run(kind="prune").code == 0
    assert place.snapshots() == made[2:]
    assert place.run(kind="prune").code == 0
    assert place.snapshots() == made[2:], "nothing more"
    assert restores(place, made[-1])
    place.ask("check", "--read-data")
    place.next_run_is_clean()


def test_the_last_drilled_one_stays_however_old(place: Place) -> None:
    made = age(place, [500, 480, 3, 2, 1])
    oldest = json.loads(min((place.base / "records").glob("*.backup.json")).read_text())
    drill = oldest | {"kind": "drill", "subject": oldest["run"], "repositories": []}
    (place.base / f"records/{oldest['run']}.drill.json").write_text(json.dumps(drill))
    assert place.run(kind="check").code == 0
    for _ in range(3):
        assert place.run(kind="prune").code == 0
    assert place.snapshots() == [made[0], *made[2:]]


@pytest.mark.parametrize("why", ["never checked", "check failed", "check too old", "backup failed"])
def test_prune_removes_nothing_without_a_verified_success(place: Place, why: str) -> None:
    made = age(place, [500, 480, 3, 2, 1])
    records = place.base / "records"
    if why != "never checked":
        assert place.run(kind="check").code == 0
        (file,) = records.glob("*.check.json")
        record = json.loads(file.read_text())
        if why == "check failed":
            record["details"]["local"]["ok"] = False
        if why == "check too old":
            record["started"] = (datetime.now(UTC) - timedelta(days=9)).isoformat()
        file.write_text(json.dumps(record))
    if why == "backup failed":
        (place.folder / "data").rename(place.folder / "elsewhere")
        assert place.run().code != 0
    done = place.run(kind="prune")
    assert done.code == 1
    assert done.record and done.record["outcome"] == "warning"
    assert "nothing was removed" in done.record["error"]
    assert place.snapshots() == made


def test_an_append_only_repository_is_left_alone(place: Place) -> None:
    made = age(place, [500, 480, 1])
    assert place.run(kind="check").code == 0
    place.config["repositories"] = [
        {"name": "local", "url": str(place.repository), "append_only": True}
    ]
    done = place.run(kind="prune")
    assert done.code == 0
    assert done.record and "append-only" in done.record["details"]["local"]["note"]
    assert place.snapshots() == made


def test_a_prune_that_is_killed_half_way_is_finished_by_the_next(place: Place) -> None:
    made = age(place, [500, 480, 3, 2, 1])
    assert place.run(kind="check").code == 0
    process = place.start("--verb", "prune")
    while made[0] in (left := place.snapshots()) and process.poll() is None:
        pass
    process.kill()
    place.finish(process, "prune")
    assert left[-1] == made[-1] and restores(place, made[-1])
    deadline = time.monotonic() + 120  # its restic may still be going, and holds the lock till then
    while "locked" in (checked := place.run(kind="check")).stderr and time.monotonic() < deadline:
        time.sleep(1)
    assert checked.code == 0, checked
    assert place.run(kind="prune").code == 0
    assert place.run(kind="prune").code == 0
    assert place.snapshots() == made[2:]
    place.ask("check", "--read-data")
    assert hashes(place.current)
