"""What a run does when nothing is wrong; every fault is measured against it."""

from __future__ import annotations

import json
import os

from place import Place, assert_manifest

STEPS = [
    "start",
    "preflight",
    "collect:api",
    "publish:sync",
    "publish:manifest",
    "publish:retire",
    "publish:replace",
    "publish:clear",
    "store:local",
    "record",
    "done",
]


def test_a_run_publishes_stores_and_records(place: Place) -> None:
    good = place.good()
    assert_manifest(place.current)
    place.still_restores(good)
    place.tidy()
    (record,) = place.records()
    assert record["outcome"] == "ok" and record["exit_code"] == 0 and not record["error"]
    assert record["bytes"] > 100_000 and record["items"] == 1
    manifest = json.loads((place.current / "manifest.json").read_text())
    assert manifest["run"] == record["run"]
    assert manifest["tools"]["restic"]
    (snapshot,) = json.loads(place.ask("snapshots"))
    assert snapshot["tags"] == [f"run={record['run']}"] and snapshot["id"] == good.snapshot
    assert not place.receiver.heard, "a good run is nobody's news"


def test_each_boundary_is_told_once_and_in_order(place: Place) -> None:
    listed = place.folder / "steps"
    place.run("--steps", str(listed))
    steps = [step for step in listed.read_text().splitlines() if "/" not in step]
    assert steps == STEPS


def test_only_the_owner_can_read_what_lies_there(place: Place) -> None:
    place.good()
    assert place.base.stat().st_mode & 0o077 == 0
    assert place.current.stat().st_mode & 0o077 == 0
    for record in (place.base / "records").iterdir():
        assert record.stat().st_mode & 0o077 == 0
    assert os.access(place.base, os.R_OK)


def test_an_unchanged_backup_adds_almost_nothing(place: Place) -> None:
    place.good()
    first = place.records()[-1]["repositories"][0]["added_bytes"]
    place.good()
    again = place.records()[-1]["repositories"][0]["added_bytes"]
    assert again < first / 2
