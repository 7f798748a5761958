"""Runs that are stopped, collide, take too long, or lack what they need."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from place import PASSWORD, Place

pytestmark = pytest.mark.services


def processes_of(place: Place) -> list[str]:
    """Command lines of whatever still runs for this place; those of forks do not name it."""
    assert place.fresh
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(place.folder) in words:
            found.append(words)
    return found


def slow_restic(place: Place, verb: str) -> str:
    """A restic that never ends `verb`, and is the real one for anything else."""
    program = place.folder / "slow-restic"
    program.write_text(
        "#!/bin/sh\n"
        f'for word; do [ "$word" = {verb} ] && exec tail -f {place.folder}/data/*/*; done\n'
        f'exec {place.restic} "$@"\n'
    )
    program.chmod(0o755)
    return str(program)


def wait_for(what: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("step", ["collect:api", "publish:replace", "store:local"])
def test_a_signal_ends_it_in_order(place: Place, number: signal.Signals, step: str) -> None:
    good = place.good()
    done = place.run("--kill-at", step, "--signal", str(int(number)))
    assert done.code == 128 + number
    assert done.record and done.record["error"] == f"stopped by {number.name}"
    assert done.record["exit_code"] == 128 + number
    place.survives(done, good)
    place.next_run_is_clean()


def test_a_signal_while_restic_works_ends_restic_too(place: Place) -> None:
    good = place.good()
    place.fresh = True
    process = place.start(STACKROOM_RESTIC=slow_restic(place, "backup"))
    wait_for(lambda: any("tail -f" in line for line in processes_of(place)))
    process.terminate()
    done = place.finish(process)
    assert done.code == 143
    assert processes_of(place) == []
    place.fresh = False
    place.survives(done, good)
    place.next_run_is_clean()


def test_a_signal_after_the_result_changes_nothing(place: Place) -> None:
    """The record is written; what is left are notices."""
    done = place.run("--kill-at", "done", "--signal", str(int(signal.SIGTERM)))
    assert done.code == 0
    assert done.record and done.record["outcome"] == "ok"


def test_two_runs_at_once(place: Place) -> None:
    good = place.good()
    go = place.folder / "go"
    first = place.start("--wait-at", "collect:api", "--until", str(go))
    wait_for(lambda: list(place.base.glob(".partial-*")))
    before = sorted(map(str, place.base.rglob("*")))
    second = place.finish(place.start())
    assert second.code == 5
    assert f"(process {first.pid})" in second.stderr and "a backup" in second.stderr
    assert sorted(map(str, place.base.rglob("*"))) == before, "it left something"
    check = place.finish(place.start("--verb", "check"))
    assert check.code == 5, "a check waits its turn as well"
    go.touch()
    assert place.finish(first).code == 0
    place.still_restores(good)
    place.tidy()


@pytest.mark.parametrize("where", ["in our own code", "in restic"])
def test_a_run_that_takes_longer_than_it_may(place: Place, where: str) -> None:
    good = place.good()
    place.fresh = True
    place.config["timeout_hours"] = 8 / 3600
    if where == "in restic":
        done = place.run(STACKROOM_RESTIC=slow_restic(place, "backup"))
    else:
        never = str(place.folder / "never")
        done = place.run("--wait-at", "collect:api", "--until", never)
        assert done.record and "ended after" in done.record["error"]
    assert done.code == 2 and processes_of(place) == []
    place.fresh = False
    place.survives(done, good)
    del place.config["timeout_hours"]
    place.next_run_is_clean()


def test_a_clock_five_years_ahead_loses_nothing_and_is_spoken_of_afterwards(place: Place) -> None:
    good = place.good()
    ahead = place.run("--days-ahead", "1826")
    assert ahead.code == 0, ahead.stderr
    place.still_restores(good)
    assert place.run().code == 1
    warned = next(record for record in place.records() if record["outcome"] == "warning")
    assert "the clock says" in warned["error"]
    assert warned["repositories"][0]["ok"], "the data are backed up all the same"
    place.noticed(good)
    place.still_restores(good)
    assert len(place.snapshots()) == 3


def test_a_clock_a_day_behind_is_spoken_of_and_the_data_are_backed_up(place: Place) -> None:
    good = place.good()
    assert place.run("--days-ahead", "-1").code == 1
    warned = next(record for record in place.records() if record["outcome"] == "warning")
    assert "the clock says" in warned["error"]
    assert warned["repositories"][0]["ok"]
    place.noticed(good)
    place.still_restores(good)
    place.next_run_is_clean()


@pytest.mark.parametrize(
    ("password", "words"),
    [("another password", "password"), ("", "is empty"), (None, "is missing")],
)
def test_a_wrong_an_empty_and_a_missing_repository_password(
    place: Place, password: str | None, words: str
) -> None:
    good = place.good()
    place.secrets["password"] = password  # type: ignore[assignment]
    done = place.run()
    assert done.record and words in done.record["error"]
    assert PASSWORD not in done.stderr + json.dumps(done.record)
    place.survives(done, good)
    place.secrets.clear()
    place.next_run_is_clean()


def test_without_restic(place: Place) -> None:
    good = place.good()
    done = place.run(STACKROOM_RESTIC=str(place.folder / "nowhere"))
    assert done.code == 7
    place.survives(done, good)
    place.next_run_is_clean()


def test_with_a_restic_that_is_too_old(place: Place) -> None:
    good = place.good()
    old = place.folder / "old-restic"
    old.write_text("#!/bin/sh\necho restic 0.16.4 compiled with go1.21.6 on linux/amd64\n")
    old.chmod(0o755)
    done = place.run(STACKROOM_RESTIC=str(old))
    assert done.code == 7
    assert done.record and "0.16.4" in done.record["error"]
    place.survives(done, good)
    place.next_run_is_clean()


def test_a_source_that_is_gone(place: Place) -> None:
    good = place.good()
    (place.folder / "data").rename(place.folder / "elsewhere")
    done = place.run()
    assert done.record and str(place.folder / "data") in done.record["error"]
    place.survives(done, good)
    (place.folder / "elsewhere").rename(place.folder / "data")
    place.next_run_is_clean()


def test_a_receiver_of_notices_that_hangs_changes_no_result(place: Place) -> None:
    good = place.good()
    place.real_messenger = True
    place.receiver.hang.set()
    (place.folder / "data").rename(place.folder / "elsewhere")
    done = place.run("--patience", "5")
    assert done.code not in (0, 124), done.stderr
    assert done.record and done.record["outcome"] == "failed" and not done.record["notified"]
    place.still_restores(good)
    place.receiver.hang.clear()
    (place.folder / "elsewhere").rename(place.folder / "data")
    place.next_run_is_clean()
    told = [str(heard) for heard in place.receiver.heard]
    assert any(done.record["run"] in text for text in told), "it is made up for at the next start"


def test_a_repository_that_is_gone_is_not_replaced_by_an_empty_one(place: Place) -> None:
    """As where its disk is not mounted: a new repository would look well and hold one backup."""
    good = place.good()
    place.repository.rename(place.folder / "unmounted")
    done = place.run()
    assert done.code != 0
    assert not (place.repository / "config").exists()
    if place.repository.exists():
        os.rmdir(place.repository)  # noqa: PTH106 - an empty mount point may be there
    (place.folder / "unmounted").rename(place.repository)
    place.survives(done, good)
    place.next_run_is_clean()
