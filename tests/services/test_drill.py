"""A drill proves a backup, or says what is wrong with it, or that it could not tell; never more.

Real restic, real containers; Qdrant is the stand-in, or the image STACKROOM_QDRANT_IMAGE names.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killing import Killer, Step, Work
from live_stack import LiveStack, docker, live_stack

from ops.backup.records import Record, read_records
from ops.backup.source import Event, silent
from ops.errors import BackupError, StackroomError, UnprovenError
from ops.restore import qdrant as qdrant_room
from ops.restore.drill import drill

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, restic: Path) -> Iterator[LiveStack]:
    with live_stack(tmp_path_factory.mktemp("drill")) as stack:
        stack.back_up()
        yield stack


@pytest.fixture(autouse=True)
def nothing_is_touched_or_left(stack: LiveStack) -> Iterator[None]:
    """Whatever a drill finds: the live service is as before, and nothing of the drill remains."""
    before = stack.data()
    yield
    assert stack.data() == before
    assert stack.left_over() == []


def last_record(stack: LiveStack) -> Record:
    return read_records(stack.config.base, "drill")[-1]


def facts_of(manifest: dict[str, Any], collection: str = "books") -> dict[str, Any]:
    found: list[dict[str, Any]] = manifest["sources"]["qdrant"]["collections"]
    return next(facts for facts in found if facts["name"] == collection)


def test_a_good_backup_is_proven_from_each_repository_in_turn(stack: LiveStack) -> None:
    steps: list[str] = []
    records = [
        drill(stack.config, stack.credentials, tell=lambda event: steps.append(event.step))
        for _ in range(3)
    ]
    turns = [record.details["repository"] for record in records]
    assert sorted(turns[:2]) == ["local", "offsite"] and turns[2] == turns[0]
    for record in records:
        assert (record.outcome, record.exit_code, record.error) == ("ok", 0, "")
        assert record.subject == read_records(stack.config.base, "backup")[0].run
        details = record.details
        assert set(details["seconds"]) == {"fetch", "verify", "rebuild", "compare", "total"}
        assert 0 < details["rto_seconds"] == details["seconds"]["total"]
        assert details["size"] == record.bytes > 0
        found = {c["subject"]: c for c in details["comparisons"]}
        assert all(c["ok"] for c in found.values())
        assert found["qdrant/books: exact count"]["found"] == "60"
        assert found["qdrant: alias library"]["found"] == "books"
        assert any("sampled points" in subject for subject in found)
        assert any("query" in subject for subject in found)
        assert any(subject.startswith("library") for subject in found)
        assert any(subject.startswith("settings") for subject in found)
    assert {"fetch", "verify", "rebuild", "compare"} <= set(steps)


def test_what_was_written_down_of_a_drill_holds_no_secret(stack: LiveStack) -> None:
    record = drill(stack.config, stack.credentials, source="local")
    folder = stack.config.base / "records"
    text = (folder / f"{record.run}.drill.json").read_text()
    assert stack.key not in text and "a-password" not in text


def tampered_payload(manifest: dict[str, Any]) -> None:
    facts_of(manifest)["samples"][0]["payload"] = {"kind": "forged"}


def tampered_vector(manifest: dict[str, Any]) -> None:
    point = facts_of(manifest, "sessions")["samples"][0]
    point["vector"]["text"][0] += 0.001


def tampered_count(manifest: dict[str, Any]) -> None:
    facts_of(manifest)["count"] = [61, 61]


def tampered_answer(manifest: dict[str, Any]) -> None:
    answers = facts_of(manifest)["queries"][0]["answers"]
    answers[0][0], answers[1][0] = answers[1][0], answers[0][0]


def tampered_alias(manifest: dict[str, Any]) -> None:
    manifest["sources"]["qdrant"]["aliases"]["library"] = "nowhere"


def tampered_index(manifest: dict[str, Any]) -> None:
    facts_of(manifest)["info"]["payload_schema"]["author"] = {"data_type": "keyword"}


def tampered_files(manifest: dict[str, Any]) -> None:
    manifest["sources"]["library"]["files"] += 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (tampered_payload, "qdrant/books: sampled points"),
        (tampered_vector, "qdrant/sessions: sampled points"),
        (tampered_count, "qdrant/books: exact count"),
        (tampered_answer, "qdrant/books: query 1"),
        (tampered_alias, "qdrant: alias library"),
        (tampered_index, "qdrant/books: payload indexes"),
        (tampered_files, "library"),
    ],
)
def test_data_that_are_not_what_the_manifest_says_fail_the_drill(
    stack: LiveStack, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    run = stack.store_changed(change)
    record = drill(stack.config, stack.credentials, source="local", run=run)
    assert (record.outcome, record.exit_code, record.subject) == ("failed", 2, run)
    wrong = [c["subject"] for c in record.details["comparisons"] if not c["ok"]]
    assert len(wrong) == 1 and wrong[0].startswith(what), wrong
    assert what in record.error
    assert last_record(stack) == record


def refused(stack: LiveStack, kind: type[StackroomError], **choice: str) -> Record:
    """The record of a drill that raises this."""
    with pytest.raises(kind) as error:
        drill(stack.config, stack.credentials, **{"source": "local"} | choice)
    record = last_record(stack)
    assert record.error == error.value.message
    expected = ("unproven", 3) if kind is UnprovenError else ("failed", 2)
    assert (record.outcome, record.exit_code) == expected
    return record


def snapshot_of(folder: Path) -> Path:
    return next((folder / "qdrant").glob("*books*"))


def truncated(folder: Path) -> None:
    path = snapshot_of(folder)
    os.truncate(path, path.stat().st_size // 2)


def flipped(folder: Path) -> None:
    path = snapshot_of(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def missing(folder: Path) -> None:
    snapshot_of(folder).unlink()


def unlisted(folder: Path) -> None:
    (folder / "qdrant" / "more").write_text("x")


def headless(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("files", "word"),
    [
        (truncated, "bytes"),
        (flipped, "SHA-256"),
        (missing, "missing"),
        (unlisted, "not listed"),
        (headless, "manifest"),
    ],
)
def test_files_that_are_not_what_the_manifest_says_are_refused(
    stack: LiveStack, files: Callable[[Path], None], word: str
) -> None:
    run = stack.store_changed(files=files)
    assert word in refused(stack, BackupError, run=run).error


def test_a_manifest_of_a_newer_schema_is_refused_before_the_rest_is_fetched(
    stack: LiveStack,
) -> None:
    run = stack.store_changed(lambda manifest: manifest.update(schema_version=2))
    steps: list[str] = []
    with pytest.raises(BackupError, match="schema 2"):
        drill(
            *(stack.config, stack.credentials),
            source="local",
            run=run,
            tell=lambda event: steps.append(event.step),
        )
    assert "verify" not in steps


def test_a_snapshot_that_the_server_refuses_fails_the_drill(stack: LiveStack) -> None:
    """Whole, as its hashes say; and yet nothing that Qdrant could read."""

    def change(manifest: dict[str, Any]) -> None:
        path = facts_of(manifest)["item"]
        item = next(item for item in manifest["items"] if item["path"] == path)
        item |= {"size": 4096, "sha256": hashlib.sha256(b"x" * 4096).hexdigest()}

    run = stack.store_changed(change, lambda folder: snapshot_of(folder).write_bytes(b"x" * 4096))
    assert "qdrant/books cannot be rebuilt" in refused(stack, BackupError, run=run).error


def test_an_image_that_is_not_there_proves_nothing(stack: LiveStack) -> None:
    run = stack.store_changed(
        lambda manifest: manifest["sources"]["qdrant"].update(image="stackroom.invalid/absent:v1")
    )
    assert "stackroom.invalid/absent:v1" in refused(stack, UnprovenError, run=run).error


def test_too_little_memory_proves_nothing(
    stack: LiveStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant_room, "available_memory", lambda: 100 * 1024**2)
    assert "memory" in refused(stack, UnprovenError).error


def test_a_server_that_runs_out_of_memory_proves_nothing(
    stack: LiveStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant_room.QdrantRehearsal, "_memory", lambda _: 7 * 1024**2)
    assert refused(stack, UnprovenError).outcome == "unproven"


def test_too_little_space_proves_nothing(stack: LiveStack) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["items"][0]["size"] = 10**15

    run = stack.store_changed(change)
    assert "MiB free" in refused(stack, UnprovenError, run=run).error


def test_a_repository_that_is_not_there_proves_nothing_and_had_its_turn(
    stack: LiveStack,
) -> None:
    away = stack.folder / "away"
    (stack.folder / "offsite").rename(away)
    try:
        assert refused(stack, UnprovenError, source="offsite").details["repository"] == "offsite"
        assert drill(stack.config, stack.credentials).details["repository"] == "local"
    finally:
        away.rename(stack.folder / "offsite")


def test_a_run_that_is_not_stored_proves_nothing(stack: LiveStack) -> None:
    refused(stack, UnprovenError, run="20200101T000000Z-abcdef")


STEPS = ("fetch", "verify", "rebuild", "compare")


@pytest.mark.parametrize("step", STEPS)
def test_a_drill_killed_at_any_step_is_cleared_away_by_the_next(
    stack: LiveStack, killer: Killer, step: str
) -> None:
    work = Work(drill, (stack.config, stack.credentials))
    assert killer.kill_at(Step(step), work)
    assert stack.left_over() != [], "killed too early to leave anything"
    assert drill(stack.config, stack.credentials).outcome == "ok"
    died = read_records(stack.config.base, "drill")[-2]
    assert died.outcome == "died"


@pytest.mark.parametrize("step", STEPS)
def test_a_drill_that_is_stopped_clears_up_after_itself(stack: LiveStack, step: str) -> None:
    def stop_at(event: Event) -> None:
        if event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        drill(stack.config, stack.credentials, tell=stop_at)
    assert stopped.value.code == 143
    assert last_record(stack).error == "stopped by SIGTERM"


def test_another_environment_on_this_engine_is_left_alone(stack: LiveStack) -> None:
    other = ("--label", "stackroom.scratch=other", "--label", "stackroom.owner=another")
    volume = docker("volume", "create", *other)
    try:
        drill(stack.config, stack.credentials, tell=silent)
        assert docker("volume", "inspect", "--format", "{{.Name}}", volume) == volume
    finally:
        docker("volume", "rm", volume)
