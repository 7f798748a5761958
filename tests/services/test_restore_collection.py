"""One collection comes back under a new name, exactly; whatever fails leaves the live server alone.

Real restic, real containers; Qdrant is the stand-in, or the image STACKROOM_QDRANT_IMAGE names.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killing import Killer, Step, Work
from live_stack import LiveStack, live_stack

from ops.backup.records import Record, read_records
from ops.backup.source import Event, silent
from ops.clients.snapshots import Snapshots
from ops.errors import BackupError, StackroomError
from ops.restore import answers
from ops.restore.collection import restore_collection

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, restic: Path) -> Iterator[LiveStack]:
    with live_stack(tmp_path_factory.mktemp("collection")) as stack:
        stack.back_up()
        yield stack


@pytest.fixture
def stack(filled: LiveStack) -> Iterator[LiveStack]:
    """What a test made is removed again, and what was there before is as it was."""
    before = filled.data()
    yield filled
    assert filled.left_over() == []
    for entry in filled.send("GET", "/collections")["collections"]:
        if entry["name"] not in before:
            filled.send("DELETE", f"/collections/{entry['name']}")
    if filled.data()["aliases"] != before["aliases"]:
        new = {"alias_name": "library", "collection_name": "books"}
        actions = [{"delete_alias": {"alias_name": "library"}}, {"create_alias": new}]
        filled.send("POST", "/collections/aliases", {"actions": actions})
    assert filled.data() == before


def restore(stack: LiveStack, name: str = "books", **choice: Any) -> Record:
    return restore_collection(stack.config, stack.credentials, name, **choice)


def test_a_collection_comes_back_under_a_new_name_exactly(stack: LiveStack) -> None:
    record = restore(stack)
    backup = read_records(stack.config.base, "backup")[0].run
    new = f"books-restored-{backup[:8]}"
    held = stack.data()
    assert held[new] == held["books"] and len(held[new]) == 60
    assert held["aliases"] == {"library": "books"}
    assert (record.outcome, record.kind, record.subject) == ("ok", "restore", backup)
    assert record.details["collection"] == new
    subjects = {c["subject"] for c in record.details["comparisons"] if c["ok"]}
    assert {"qdrant/books: exact count", f"qdrant/{new}: exact count"} <= subjects
    assert stack.send("GET", f"/collections/{new}")["payload_schema"].keys() == {"kind"}
    assert stack.send("GET", f"/collections/{new}/snapshots") == []


def test_named_vectors_come_back_too(stack: LiveStack) -> None:
    restore(stack, "sessions", new_name="sessions-2", source="offsite")
    held = stack.data()
    assert held["sessions-2"] == held["sessions"] and len(held["sessions-2"]) == 20


def test_an_alias_is_switched_at_one_moment(stack: LiveStack) -> None:
    """A reader of the alias meets the one or the other collection at all times."""
    failures: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            answer = stack.http.post("/collections/library/points/count", json={"exact": True})
            if answer.status_code != 200 or answer.json()["result"]["count"] != 60:
                failures.append(answer.status_code)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        record = restore(stack, new_name="books-2", alias="library", replace=True)
    finally:
        done.set()
        reader.join()
    assert failures == []
    assert stack.data()["aliases"] == {"library": "books-2"}
    assert record.details["led_to"] == "books"


def test_a_new_alias_needs_no_leave(stack: LiveStack) -> None:
    restore(stack, new_name="books-3", alias="archive")
    assert stack.data()["aliases"] == {"library": "books", "archive": "books-3"}
    actions = [{"delete_alias": {"alias_name": "archive"}}]
    stack.send("POST", "/collections/aliases", {"actions": actions})


def refused(stack: LiveStack, *, name: str = "books", **choice: Any) -> str:
    """Why, and that the live server is as it was."""
    before = stack.data()
    with pytest.raises(StackroomError) as error:
        restore(stack, name, **choice)
    assert stack.data() == before
    record = read_records(stack.config.base, "restore")[-1]
    assert record.outcome in ("failed", "unproven") and record.exit_code != 0
    assert error.value.hint, "an error says what to do next"
    return error.value.message


@pytest.mark.parametrize("replace", [False, True])
def test_what_exists_is_never_overwritten(stack: LiveStack, replace: bool) -> None:
    assert "already called sessions" in refused(stack, new_name="sessions", replace=replace)
    assert "already called library" in refused(stack, new_name="library", replace=replace)
    assert "cannot take its name" in refused(stack, alias="sessions", replace=replace)


def test_an_alias_that_leads_elsewhere_is_moved_only_with_leave(stack: LiveStack) -> None:
    assert "leads to books" in refused(stack, alias="library")


def test_a_collection_that_no_backup_has(stack: LiveStack) -> None:
    assert "no collection nothing" in refused(stack, name="nothing")


def snapshot_of(folder: Path) -> Path:
    return next((folder / "qdrant").glob("*books*"))


def truncated(folder: Path) -> None:
    os.truncate(snapshot_of(folder), 1000)


def flipped(folder: Path) -> None:
    content = bytearray(snapshot_of(folder).read_bytes())
    content[len(content) // 3] ^= 128
    snapshot_of(folder).write_bytes(content)


@pytest.mark.parametrize("files", [truncated, flipped])
def test_a_damaged_archive_never_reaches_the_live_server(
    stack: LiveStack, files: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was sent")

    monkeypatch.setattr(Snapshots, "upload", never)
    run = stack.store_changed(files=files)
    assert "not what was backed up" in refused(stack, run=run)


def test_data_that_differ_in_the_scratch_never_reach_the_live_server(
    stack: LiveStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was sent")

    def change(manifest: dict[str, Any]) -> None:
        facts = manifest["sources"]["qdrant"]["collections"]
        next(f for f in facts if f["name"] == "books")["count"] = [61, 61]

    monkeypatch.setattr(Snapshots, "upload", never)
    assert "exact count" in refused(stack, run=stack.store_changed(change))


def test_a_version_that_cannot_read_it_is_refused(stack: LiveStack) -> None:
    run = stack.store_changed(
        lambda manifest: manifest["sources"]["qdrant"].update(version="1.99.0")
    )
    assert "cannot read what 1.99.0 gave out" in refused(stack, run=run)


def test_what_differs_on_the_live_server_is_removed_again(
    stack: LiveStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count there is one less than it was in the scratch."""
    counted = answers.exact_count

    def one_less(ask: answers.Ask, collection: str) -> int:
        return counted(ask, collection) - (collection == "books-4")

    monkeypatch.setattr(answers, "exact_count", one_less)
    assert "books-4 is removed again" in refused(stack, new_name="books-4")


def test_an_upload_that_fails_half_way_leaves_no_collection(
    stack: LiveStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded = Snapshots.upload

    def breaking(self: Snapshots, *arguments: Any, **named: Any) -> None:
        uploaded(self, *arguments, **named)
        raise StackroomError("the connection broke", "try again")

    monkeypatch.setattr(Snapshots, "upload", breaking)
    assert "the connection broke" in refused(stack, new_name="books-5")


@pytest.mark.parametrize("step", ["fetch", "rebuild", "upload", "verify"])
def test_a_restore_that_is_stopped_leaves_no_collection(stack: LiveStack, step: str) -> None:
    def stop_at(event: Event) -> None:
        if event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    before = stack.data()
    with pytest.raises(SystemExit) as stopped:
        restore(stack, new_name="books-6", tell=stop_at)
    assert stopped.value.code == 143
    assert stack.data() == before


def work(stack: LiveStack, **choice: Any) -> Work:
    return Work(restore_collection, (stack.config, stack.credentials, "books"), choice)


@pytest.mark.parametrize("step", ["verify", "alias"])
def test_what_a_killed_restore_had_made_is_taken_by_the_same_one_again(
    stack: LiveStack, killer: Killer, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"books-killed-{step}"
    choice = {"new_name": name, "alias": f"after-{step}"}
    # `verify` is told of the fetched files too: the second time it is the live collection
    killed = Step(step, 2 if step == "verify" else 1)
    assert killer.kill_at(killed, work(stack, **choice))
    assert len(stack.data()[name]) == 60

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was sent again")

    monkeypatch.setattr(Snapshots, "upload", never)
    record = restore(stack, **choice)
    assert record.outcome == "ok" and name in record.details["taken_over"]
    assert stack.data()[name] == stack.data()["books"]
    assert stack.data()["aliases"][f"after-{step}"] == name
    # and it is over: the name is taken like any other
    assert "already called" in refused(stack, **choice)


def test_what_a_killed_restore_left_empty_is_removed_and_made_anew(
    stack: LiveStack, killer: Killer
) -> None:
    assert killer.kill_at(Step("upload"), work(stack, new_name="books-empty"))
    one = {"size": 8, "distance": "Cosine"}
    stack.send("PUT", "/collections/books-empty", {"vectors": one})  # as Qdrant begins
    record = restore(stack, new_name="books-empty")
    assert "books-empty" in record.details["cleared"]
    assert stack.data()["books-empty"] == stack.data()["books"]


def test_what_was_left_and_is_in_use_stays_and_is_told_of(stack: LiveStack, killer: Killer) -> None:
    assert killer.kill_at(Step("upload"), work(stack, new_name="books-used"))
    one = {"size": 8, "distance": "Cosine"}
    stack.send("PUT", "/collections/books-used", {"vectors": one})
    stack.add("books-used", range(1, 3), kind="mine")
    assert "books-used, which a killed restore has left, differs" in refused(
        stack, new_name="books-used"
    )
    record = restore(stack, new_name="books-other")
    assert any("books-used" in remark for remark in record.details["remarks"])
    assert len(stack.data()["books-used"]) == 2


def test_the_live_server_serves_without_an_error_while_bad_and_good_are_restored(
    stack: LiveStack,
) -> None:
    failures: list[int] = []
    done = threading.Event()

    def read() -> None:
        query = {"query": [0.5] * 8, "limit": 3}
        while not done.is_set():
            answer = stack.http.post("/collections/books/points/query", json=query)
            if answer.status_code != 200:
                failures.append(answer.status_code)

    bad = [stack.store_changed(files=files) for files in (truncated, flipped)]
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for run in bad:
            with pytest.raises(BackupError):
                restore(stack, run=run, tell=silent)
        restore(stack, new_name="books-7")
    finally:
        done.set()
        reader.join()
    assert failures == []
