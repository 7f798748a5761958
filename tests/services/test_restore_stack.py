"""A whole stack comes back byte for byte, or what ran before still runs; never something between.

Real restic, real containers; Qdrant is the stand-in, or the image STACKROOM_QDRANT_IMAGE names.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killing import Killer, Step, Work
from live_stack import LiveStack, docker, live_stack

from ops.backup import qdrant as qdrant_collector
from ops.backup.manifest import new_run
from ops.backup.records import Record, read_records
from ops.backup.source import Event
from ops.errors import BackupError, StackroomError
from ops.restore import live as live_room
from ops.restore import switch
from ops.restore.drill import drill
from ops.restore.journal import Journal, pending, place
from ops.restore.whole import confirm, restore_stack, undo

pytestmark = pytest.mark.services


def be_soon_content(change: Callable[[object, str, object], None] = setattr) -> None:
    """A container without a health check has to run for so long before it counts as started."""
    change(live_room, "STEADY_SECONDS", 0.5)


@pytest.fixture
def stack(tmp_path: Path, restic: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveStack]:
    be_soon_content(monkeypatch.setattr)
    with live_stack(tmp_path) as stack:
        yield stack
        assert stack.left_over() == []


def restore(stack: LiveStack, **choice: Any) -> Record:
    return restore_stack(stack.config, stack.credentials, **choice)


def kept(stack: LiveStack) -> list[str]:
    """What lies beside the live data."""
    return sorted(
        path.name
        for volume in (stack.storage, stack.library)
        for path in stack.mounted(volume).parent.iterdir()
        if path.name.startswith("_data.")
    )


def test_a_spoilt_stack_comes_back_and_the_old_data_stay_until_confirmed(stack: LiveStack) -> None:
    good = stack.data()
    backup = stack.back_up()
    owners = [stack.mounted(v).stat() for v in (stack.storage, stack.library)]
    stack.spoil()
    assert stack.data() != good
    spoilt = stack.data()

    record = restore(stack, replace=True)
    assert stack.data() == good
    assert (record.outcome, record.kind, record.subject) == ("ok", "restore", backup)
    assert record.details["switched"] == ["qdrant", "library"]
    assert record.details["left"] == ["settings"]
    assert all(c["ok"] for c in record.details["comparisons"])
    for before, volume in zip(owners, (stack.storage, stack.library), strict=True):
        now = stack.mounted(volume).stat()
        assert (now.st_uid, now.st_gid, now.st_mode) == (
            before.st_uid,
            before.st_gid,
            before.st_mode,
        )
    assert kept(stack) == [f"_data.before-{record.run}"] * 2
    stack.add("books", range(100, 101))  # it takes writes, and keeps them
    docker("restart", stack.qdrant)
    stack.wait()
    assert len(stack.data()["books"]) == 61

    # the safety backup is of what was replaced
    safety = record.details["safety"]
    assert safety in {r.run for r in read_records(stack.config.base, "backup")}
    with pytest.raises(BackupError, match="not confirmed") as error:
        restore(stack, run=safety, replace=True)
    assert "restore confirm" in error.value.hint
    confirm(stack.config)
    assert kept(stack) == []
    restore(stack, run=safety, replace=True)
    assert stack.data() == spoilt


def test_an_undo_brings_back_what_ran_before(stack: LiveStack) -> None:
    good = stack.data()
    run = stack.back_up()
    stack.spoil()
    spoilt = stack.data()
    record = restore(stack, replace=True)
    undo(stack.config, stack.credentials)
    stack.wait()
    assert stack.data() == spoilt
    assert kept(stack) == [f"_data.undone-{record.run}"] * 2
    confirm(stack.config)
    assert kept(stack) == [] and stack.data() == spoilt
    # the newest backup is now of the spoilt data, which nobody means by the latest
    assert read_records(stack.config.base, "backup")[-1].details["safety"] is True
    assert restore(stack, replace=True).subject == run
    assert stack.data() == good


ANNAS, BOBS, CAROLS = (f"00000000-0000-4000-8000-00000000000{number}" for number in "123")


def who_comes_in(stack: LiveStack) -> set[str]:
    found = {token: stack.status(token) for token in (ANNAS, BOBS, CAROLS)}
    assert set(found.values()) <= {200, 401, 403}, found
    return {token for token, status in found.items() if status == 200}


def test_those_who_may_come_in_are_the_same_after_a_restore_and_after_its_undo(
    stack: LiveStack,
) -> None:
    stack.let_in(ANNAS, BOBS)
    run = stack.back_up()
    kept_names = [path.name for path in (stack.config.base / "current" / "qdrant").iterdir()]
    assert kept_names and not any("stackroom_access" in name for name in kept_names)
    drilled = drill(stack.config, stack.credentials, source="local", run=run)
    assert drilled.outcome == "ok"
    stack.spoil()
    stack.let_in(ANNAS, CAROLS)  # bob is removed, carol comes
    record = restore(stack, run=run, replace=True)
    assert record.outcome == "ok" and len(stack.data()["books"]) == 60
    assert who_comes_in(stack) == {ANNAS, CAROLS}
    docker("restart", stack.qdrant)
    stack.wait()
    assert who_comes_in(stack) == {ANNAS, CAROLS}
    stack.let_in(CAROLS)
    told = undo(stack.config, stack.credentials)
    stack.wait()
    assert "refused" not in told and who_comes_in(stack) == {CAROLS}


def test_a_backup_that_holds_access_points_does_not_bring_them_back(
    stack: LiveStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a version made it that knew nothing of them, or somebody else's."""
    stack.let_in(ANNAS, BOBS)
    with monkeypatch.context() as other:
        other.setattr(qdrant_collector, "ACCESS_COLLECTION", "")
        run = stack.back_up()
    items = [path.name for path in (stack.config.base / "current" / "qdrant").iterdir()]
    assert any("stackroom_access" in name for name in items)
    stack.let_in(ANNAS)
    drilled = drill(stack.config, stack.credentials, source="local", run=run)
    assert drilled.outcome == "ok"
    subjects = [each["subject"] for each in drilled.details["comparisons"]]
    assert not any("stackroom_access" in subject for subject in subjects)
    record = restore(stack, run=run, replace=True)
    assert record.outcome == "ok" and who_comes_in(stack) == {ANNAS}


def test_a_new_machine_lets_in_whom_its_own_deploy_has_let_in(stack: LiveStack) -> None:
    stack.let_in(ANNAS, BOBS)
    stack.back_up()
    emptied(stack)
    shutil.rmtree(stack.config.base)
    stack.let_in(ANNAS)  # who was removed since the old machine's last backup
    assert restore(stack, source="offsite").outcome == "ok"
    assert who_comes_in(stack) == {ANNAS} and len(stack.data()["books"]) == 60


def test_where_nobody_can_be_asked_all_are_refused_and_the_record_says_what_to_do(
    stack: LiveStack,
) -> None:
    stack.let_in(ANNAS, BOBS)
    run = stack.back_up()
    docker("stop", stack.qdrant)
    record = restore(stack, run=run, replace=True)
    assert (record.outcome, record.exit_code) == ("warning", 1)
    assert f"stackroom -e {stack.name} deploy" in record.error
    stack.wait()
    assert who_comes_in(stack) == set()
    stack.let_in(ANNAS)
    # it did not run before, and is not started: whoever starts it has to deploy
    assert "deploy" in undo(stack.config, stack.credentials)


def emptied(stack: LiveStack) -> None:
    """As a fresh deploy leaves it: collections without points, and what Caddy makes."""
    for name in ("books", "sessions"):
        stack.send("DELETE", f"/collections/{name}")
    one = {"size": 8, "distance": "Cosine"}
    stack.send("PUT", "/collections/books", {"vectors": one})
    shutil.rmtree(stack.mounted(stack.library) / "shelf")
    stack.write("caddy/instance.uuid", "made by a deploy")


def test_a_new_machine_takes_the_backup_without_replace_and_without_records(
    stack: LiveStack,
) -> None:
    good = stack.data()
    stack.back_up()
    emptied(stack)
    shutil.rmtree(stack.config.base)  # of the old machine nothing is left but the repository
    record = restore(stack, source="offsite")
    assert stack.data() == good
    assert record.details["safety"].startswith("none")


def test_a_new_machine_does_not_take_what_was_about_to_be_replaced(stack: LiveStack) -> None:
    good = stack.data()
    run = stack.back_up()
    stack.spoil()
    restore(stack, replace=True)
    confirm(stack.config)
    stack.spoil()
    restore(stack, replace=True)  # its safety backup is the newest that the repositories have
    confirm(stack.config)
    emptied(stack)
    shutil.rmtree(stack.config.base)
    assert restore(stack, source="offsite").subject == run
    assert stack.data() == good


def test_an_empty_backup_is_restored_only_by_its_name(stack: LiveStack) -> None:
    emptied(stack)
    run = stack.back_up()
    before = stack.data()
    with pytest.raises(BackupError, match="holds no point, no row and no file") as error:
        restore(stack, replace=True)
    assert f"--run {run}" in error.value.hint
    untouched(stack, before)
    assert restore(stack, run=run, replace=True).outcome == "ok"


def untouched(stack: LiveStack, before: dict[str, Any]) -> None:
    assert stack.data() == before
    assert kept(stack) == []
    assert pending(stack.config) is None


def test_data_that_are_there_are_not_replaced_unasked(stack: LiveStack) -> None:
    stack.back_up()
    backups = len(read_records(stack.config.base, "backup"))
    before = stack.data()
    with pytest.raises(BackupError, match="not empty: qdrant: the collection books") as error:
        restore(stack)
    assert "--replace" in error.value.hint
    for name in ("books", "sessions"):
        stack.send("DELETE", f"/collections/{name}")
    with pytest.raises(BackupError, match=r"not empty: library: the file shelf/one\.txt"):
        restore(stack)
    assert kept(stack) == [] and stack.files() == before["files"]
    assert len(read_records(stack.config.base, "backup")) == backups


def test_what_cannot_be_restored_touches_nothing(stack: LiveStack) -> None:
    stack.back_up()

    def flip(folder: Path) -> None:
        path = next((folder / "qdrant").glob("*books*"))
        content = bytearray(path.read_bytes())
        content[-10] ^= 1
        path.write_bytes(content)

    def lie(manifest: dict[str, Any]) -> None:
        manifest["sources"]["qdrant"]["collections"][0]["count"] = [1000, 1000]

    def age(manifest: dict[str, Any]) -> None:
        manifest["sources"]["qdrant"]["version"] = "1.99.0"

    runs = {
        "SHA-256": stack.store_changed(files=flip),
        "rebuilt data differ": stack.store_changed(lie),
        "cannot read what 1.99.0": stack.store_changed(age),
    }
    before = stack.data()
    started = docker("inspect", "--format", "{{.State.StartedAt}}", stack.qdrant, stack.api)
    for words, run in runs.items():
        with pytest.raises(BackupError, match=words):
            restore(stack, run=run, replace=True)
        untouched(stack, before)
    assert started == docker("inspect", "--format", "{{.State.StartedAt}}", stack.qdrant, stack.api)


def test_no_safety_backup_no_restore_unless_the_service_is_down(stack: LiveStack) -> None:
    good = stack.data()
    run = stack.back_up()
    stack.spoil()
    before = stack.data()
    for name in ("local", "offsite"):
        (stack.folder / name).chmod(0o500)
    password = stack.folder / "credentials" / "restic_password"
    # the settings are gone, so the safety backup fails; the repositories answer
    shutil.rmtree(stack.folder / "settings")
    assert password.exists()
    with pytest.raises(BackupError, match="safety backup failed") as error:
        restore(stack, run=run, replace=True)
    assert error.value.hint
    untouched(stack, before)

    docker("stop", stack.qdrant)
    with pytest.raises(BackupError, match="it does not answer"):
        restore(stack, run=run)
    record = restore(stack, run=run, replace=True)
    assert record.details["safety"].startswith("none: qdrant did not answer")
    assert stack.data() == good
    assert len(kept(stack)) == 2


def test_data_that_do_not_serve_are_taken_back(
    stack: LiveStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebuilt storage is broken after it was proven: the live container cannot open it."""
    stack.back_up()
    stack.spoil()
    before = stack.data()
    monkeypatch.setattr(live_room, "HEALTHY_SECONDS", 20.0)

    broken: list[Path] = []

    def tell(event: Event) -> None:
        if event.step == "switch:start" and not broken:
            broken.append(stack.mounted(stack.storage))
            shutil.rmtree(broken[0])
            broken[0].mkdir(mode=0o000)

    with pytest.raises(BackupError, match=r"did not serve.*data from before are back"):
        restore(stack, replace=True, tell=tell)
    stack.wait()
    untouched(stack, before)
    assert read_records(stack.config.base, "restore")[-1].outcome == "failed"


def test_points_that_are_missing_on_the_live_service_are_noticed(
    stack: LiveStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.back_up()
    stack.spoil()
    before = stack.data()
    counted = live_room.answers.exact_count

    def tell(event: Event) -> None:
        if event.step == "switch:check":
            monkeypatch.setattr(
                live_room.answers, "exact_count", lambda ask, name: counted(ask, name) - 1
            )

    with pytest.raises(BackupError, match="instead of"):
        restore(stack, replace=True, tell=tell)
    monkeypatch.undo()
    stack.wait()
    untouched(stack, before)


def test_killed_at_any_step_of_the_switch_all_is_old_or_all_is_new(
    stack: LiveStack, killer: Killer
) -> None:
    """Real containers; the rebuilt data are copies of the good ones, made anew for each kill."""
    folders = {name: stack.mounted(name) for name in (stack.storage, stack.library)}
    good = stack.data()
    docker("stop", stack.qdrant)
    for folder in folders.values():
        subprocess.run(["cp", "-a", folder, folder.with_name("good")], check=True)
    docker("start", stack.qdrant)
    stack.wait()
    stack.spoil()
    spoilt = stack.data()
    places = [
        place(name, folder, folder.with_name("rebuilt"), new_run())
        for name, folder in folders.items()
    ]
    counts = {"books": (60, 60), "sessions": (20, 20)}
    journal = Journal(
        run=new_run(),
        backup=new_run(),
        state="switching",
        places=places,
        containers=[stack.qdrant, stack.api],
        ran=[stack.qdrant, stack.api],
        qdrants=[live_room.LiveQdrant(url=stack.url, counts=counts)],
    )
    stack.config.base.mkdir()
    switching = Work(
        switch.switch,
        (stack.config, stack.credentials, journal),
        before=be_soon_content,
    )
    finished = []
    for number in range(1, 100):
        for each in places:
            subprocess.run(["cp", "-a", each.live.with_name("good"), each.new], check=True)
        if not killer.kill_at(Step("switch:", number), switching):
            break
        told = switch.settle(stack.config, stack.credentials)
        stack.wait()
        now = stack.data()
        assert now in (good, spoilt), number
        assert ("finished" in told) is (now == good), number
        finished.append(now == good)
        assert docker("inspect", "--format", "{{.State.Running}}", stack.api) == "true"
        if now == good:
            undo(stack.config, stack.credentials)
            confirm(stack.config)
            stack.wait()
        assert pending(stack.config) is None
        assert kept(stack) == [], number
        assert stack.data() == spoilt
        for each in places:
            shutil.rmtree(each.new, ignore_errors=True)
    stack.wait()
    assert stack.data() == good
    # the journal, two stopped, two renames each, two started, the check and the end: killed at each
    assert finished == [False] * 7 + [True] * 4


def test_a_restore_that_was_killed_is_settled_and_cleared_by_the_next(
    stack: LiveStack, killer: Killer
) -> None:
    good = stack.data()
    run = stack.back_up()
    stack.spoil()
    arguments = (stack.config, stack.credentials)
    work = Work(restore_stack, arguments, {"run": run, "replace": True})
    assert killer.kill_at(Step("switch:", 5), work)
    assert stack.left_over() != []
    record = restore(stack, run=run, replace=True)
    assert stack.data() == good
    died = read_records(stack.config.base, "restore")[-2]
    assert (died.outcome, record.outcome) == ("died", "ok")


@pytest.mark.parametrize("step", ["switch:retire", "switch:check"])
def test_a_restore_that_is_stopped_puts_the_old_data_back(stack: LiveStack, step: str) -> None:
    stack.back_up()
    stack.spoil()
    before = stack.data()

    def stop_at(event: Event) -> None:
        if event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        restore(stack, replace=True, tell=stop_at)
    assert stopped.value.code == 143
    stack.wait()
    untouched(stack, before)


def test_a_volume_on_another_file_system_is_refused_before_anything_stops(
    stack: LiveStack,
) -> None:
    stack.back_up()
    library = stack.mounted(stack.library)
    docker("stop", stack.api)
    held = stack.data()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", library], check=True)
    try:
        with pytest.raises(StackroomError, match="another file system"):
            restore(stack, replace=True)
    finally:
        subprocess.run(["umount", library], check=True)
    docker("start", stack.api)
    untouched(stack, held)
