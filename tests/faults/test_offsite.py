"""The second repository fails: never green, never at the cost of the first one, and it recovers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from place import Place
from servers import S3Server, new_bucket, s3_server
from test_full_disks import grow

pytestmark = pytest.mark.services
# how long a repository may be silent here: a minute in earnest
QUICK = ("--answer-seconds", "6")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(server: S3Server) -> S3Server:
    """It runs, whatever the test before has left."""
    if server.process is None:
        server.start()
    return server


@pytest.fixture
def bucket() -> str:
    return new_bucket()


@pytest.fixture
def offsite_place(place: Place, s3: S3Server, bucket: str) -> Place:
    """Its far repository is there, and empty; in `test_both_take_the_same_backup` it is not."""
    s3.rclone("copy", str(place.repository), f":s3:{bucket}/restic")
    place.config["repositories"] = [
        {"name": "local", "url": str(place.repository)},
        {"name": "offsite", "url": s3.repository(bucket)},
    ]
    place.secrets["offsite_env"] = s3.offsite_env
    return place


def offsite_failed(place: Place, *options: str) -> str:
    """A run whose local result is good and whose off-site one is not; what was said."""
    heard, before = len(place.receiver.heard), place.snapshots()
    done = place.run(*QUICK, *options)
    assert done.code == 1, done.stderr
    assert done.record and done.record["outcome"] == "warning"
    local, offsite = done.record["repositories"]
    assert local["ok"] and not offsite["ok"] and offsite["error"]
    assert place.snapshots() == [*before, local["snapshot"]]
    assert len(place.receiver.heard) == heard + 1
    place.tidy()
    return str(offsite["error"])


def test_both_take_the_same_backup(offsite_place: Place, s3: S3Server) -> None:
    offsite_place.config["repositories"][1]["url"] = s3.repository()
    offsite_place.good()
    local, offsite = offsite_place.records()[-1]["repositories"]
    assert (local["name"], offsite["name"]) == ("local", "offsite")
    assert local["ok"] and offsite["ok"] and offsite["snapshot"] != local["snapshot"]


def test_the_server_is_killed_in_the_middle_of_an_upload(
    offsite_place: Place, s3: S3Server, bucket: str
) -> None:
    good = offsite_place.good()
    grow(offsite_place, 1)
    offsite_place.config["timeout_hours"] = 45 / 3600
    go, listed = offsite_place.folder / "go", offsite_place.folder / "steps"
    step = "store:offsite/offsite"  # restic has begun to tell of bytes
    before = len(offsite_place.receiver.heard)
    process = offsite_place.start(
        *QUICK, "--wait-at", step, "--until", str(go), "--steps", str(listed)
    )
    while not listed.exists() or step not in listed.read_text():
        assert process.poll() is None, process.communicate()[1]
    s3.stop(signal.SIGKILL)
    go.touch()
    done = offsite_place.finish(process)
    assert done.code == 1, done.stderr
    assert done.record and [r["ok"] for r in done.record["repositories"]] == [True, False]
    assert len(offsite_place.receiver.heard) > before
    offsite_place.still_restores(good)
    s3.start()
    del offsite_place.config["timeout_hours"]
    offsite_place.next_run_is_clean()
    everything = offsite_place.run("--full", kind="check")
    assert everything.code == 0, everything.stderr


def test_the_server_is_down(offsite_place: Place, s3: S3Server) -> None:
    good = offsite_place.good()
    s3.stop(signal.SIGKILL)
    offsite_failed(offsite_place)
    offsite_place.still_restores(good)
    s3.start()
    offsite_place.next_run_is_clean()


def test_a_wrong_secret(offsite_place: Place, s3: S3Server) -> None:
    good = offsite_place.good()
    wrong = s3.offsite_env.replace(s3.secret_key, "not-the-secret-of-this-account")
    offsite_place.secrets["offsite_env"] = wrong
    said = offsite_failed(offsite_place)
    assert "not-the-secret" not in said and s3.secret_key not in said
    offsite_place.still_restores(good)
    offsite_place.secrets["offsite_env"] = s3.offsite_env
    offsite_place.next_run_is_clean()


def test_a_bucket_that_is_gone_is_not_made_anew(
    offsite_place: Place, s3: S3Server, bucket: str
) -> None:
    """A new one would hold one backup, and look well."""
    good = offsite_place.good()
    s3.remove_bucket(bucket)
    offsite_failed(offsite_place)
    assert bucket not in s3.rclone("lsf", ":s3:").stdout
    offsite_place.still_restores(good)
    # a new address is a decision, and a new beginning
    offsite_place.config["repositories"][1]["url"] = s3.repository()
    offsite_place.next_run_is_clean()


def test_the_local_one_fails_and_the_far_one_takes_it(offsite_place: Place) -> None:
    offsite_place.good()
    hidden = offsite_place.folder / "unmounted"
    offsite_place.repository.rename(hidden)
    done = offsite_place.run(*QUICK)
    assert done.code == 1, done.stderr
    assert done.record and [r["ok"] for r in done.record["repositories"]] == [False, True]
    if offsite_place.repository.exists():
        os.rmdir(offsite_place.repository)  # noqa: PTH106 - only if it is empty
    hidden.rename(offsite_place.repository)
    offsite_place.next_run_is_clean()


def test_critical_once_two_periods_have_gone_by(offsite_place: Place, s3: S3Server) -> None:
    good = offsite_place.good()
    s3.stop(signal.SIGKILL)
    offsite_failed(offsite_place)
    late = offsite_place.run(*QUICK, "--days-ahead", "2.1")
    s3.start()
    assert late.code == 2
    assert late.record and late.record["outcome"] == "warning", "the local one is good all the same"
    assert late.record["exit_code"] == 2 and "2.1 days" in late.record["error"]
    offsite_place.still_restores(good)


def test_none_takes_it(offsite_place: Place, s3: S3Server, tmp_path: Path) -> None:
    good = offsite_place.good()
    s3.stop(signal.SIGKILL)
    offsite_place.repository.rename(tmp_path / "unmounted")
    done = offsite_place.run(*QUICK)
    s3.start()
    if offsite_place.repository.exists():
        os.rmdir(offsite_place.repository)  # noqa: PTH106 - only if it is empty
    (tmp_path / "unmounted").rename(offsite_place.repository)
    offsite_place.survives(done, good)
    offsite_place.next_run_is_clean()
