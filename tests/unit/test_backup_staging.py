"""Always one whole published backup, or none; a half swap is finished or undone."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.backup import staging
from ops.backup.manifest import FilesFacts, Item, Manifest, new_run, read_manifest, verify_items
from ops.backup.run import remarks_on
from ops.backup.source import Event
from ops.errors import BackupError

OLD, NEW = b"what was", b"what is now"


class Killed(BaseException):
    """Nothing of ours runs after it, as after SIGKILL."""


def collected(base: Path, content: bytes) -> Manifest:
    run = new_run()
    folder = staging.make(base, run) / "library"
    folder.mkdir()
    (folder / "files.tar").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    now = datetime.now(UTC)
    return Manifest(
        run=run,
        environment="team",
        stack="qdrant",
        stackroom="abc",
        started=now,
        published=now,
        items=[Item(path="library/files.tar", size=len(content), sha256=digest)],
        sources={"library": FilesFacts(item="library/files.tar", files=1, bytes=len(content))},
    )


def published(base: Path) -> bytes:
    """What `current` holds, once it is shown to be what its manifest says."""
    verify_items(base / "current", read_manifest(base / "current"))
    assert sorted(path.name for path in base.iterdir()) == ["current"]
    return (base / "current/library/files.tar").read_bytes()


def killing(step: str):  # type: ignore[no-untyped-def]
    def tell(event: Event) -> None:
        if event.step == step:
            raise Killed

    return tell


def test_a_published_folder_holds_its_manifest_and_replaces_the_one_before(tmp_path: Path) -> None:
    staging.publish(tmp_path, collected(tmp_path, OLD))
    assert published(tmp_path) == OLD
    staging.publish(tmp_path, collected(tmp_path, NEW))
    assert published(tmp_path) == NEW


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("publish:sync", OLD),
        ("publish:manifest", OLD),
        ("publish:retire", OLD),
        ("publish:replace", NEW),  # between the two renames: the new one is whole
        ("publish:clear", NEW),
    ],
)
def test_after_a_kill_at_each_step_there_is_the_old_one_or_the_new_one(
    tmp_path: Path, step: str, left: bytes
) -> None:
    staging.publish(tmp_path, collected(tmp_path, OLD))
    with pytest.raises(Killed):
        staging.publish(tmp_path, collected(tmp_path, NEW), killing(step))
    staging.tidy(tmp_path)
    assert published(tmp_path) == left


@pytest.mark.parametrize("damage", ["no manifest", "half a manifest", "an item is missing"])
def test_a_half_swap_to_something_incomplete_is_undone(tmp_path: Path, damage: str) -> None:
    staging.publish(tmp_path, collected(tmp_path, OLD))
    with pytest.raises(Killed):
        staging.publish(tmp_path, collected(tmp_path, NEW), killing("publish:replace"))
    (partial,) = tmp_path.glob(".partial-*")
    manifest = partial / "manifest.json"
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "half a manifest":
        manifest.write_bytes(manifest.read_bytes()[:80])
    else:
        (partial / "library/files.tar").unlink()
    staging.tidy(tmp_path)
    assert published(tmp_path) == OLD


@pytest.mark.parametrize("step", ["publish:sync", "publish:manifest", "publish:replace"])
def test_a_first_run_that_was_killed_publishes_nothing(tmp_path: Path, step: str) -> None:
    with pytest.raises(Killed):
        staging.publish(tmp_path, collected(tmp_path, NEW), killing(step))
    staging.tidy(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_its_collector_did_not_announce_is_not_published(tmp_path: Path) -> None:
    manifest = collected(tmp_path, NEW)
    (tmp_path / f".partial-{manifest.run}/library/more").write_bytes(b"?")
    with pytest.raises(BackupError, match="library/more is not as its collector said"):
        staging.publish(tmp_path, manifest)
    assert not (tmp_path / "current").exists()


def test_an_item_of_another_size_is_not_published(tmp_path: Path) -> None:
    manifest = collected(tmp_path, NEW)
    (tmp_path / f".partial-{manifest.run}/library/files.tar").write_bytes(NEW[:-1])
    with pytest.raises(BackupError, match=r"library/files.tar is not as its collector said"):
        staging.publish(tmp_path, manifest)
    assert not (tmp_path / "current").exists()


def test_a_file_that_shrank_is_told_of_and_no_warning(tmp_path: Path) -> None:
    manifest = collected(tmp_path, OLD)
    assert remarks_on(manifest) == []
    facts = manifest.sources["library"].model_copy(update={"shrunk": ["app.log"]})
    manifest = manifest.model_copy(update={"sources": {"library": facts}})
    assert "shrunk" in manifest.model_dump_json()
    (remark,) = remarks_on(manifest)
    assert "library" in remark and "app.log" in remark and "ends in zeros" in remark
