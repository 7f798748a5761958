"""What says who may come in is no matter of backups, and leaves the data that are put aside."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.backup.lock import CHANGES, CHANGES_HOLDER, hold_changes
from ops.backup.manifest import Item, Manifest, QdrantCollection, QdrantFacts, new_run
from ops.deploy import lock as deploys
from ops.errors import LockedError
from ops.render.files import ROOT
from ops.restore.access import strip
from ops.restore.fetch import without_access
from ops.settings.host import BASE, HostConfig, QdrantSource
from ops.settings.people import ACCESS_COLLECTION


def collection(name: str) -> QdrantCollection:
    return QdrantCollection(name=name, item=f"qdrant/{name}.snapshot", count=(1, 1), info={})


def test_a_manifest_promises_nothing_of_access_points() -> None:
    names = ["books", ACCESS_COLLECTION]
    facts = QdrantFacts(
        version="1.19.0",
        image="qdrant",
        collections=[collection(name) for name in names],
        aliases={"library": "books", "doors": ACCESS_COLLECTION},
    )
    now = datetime.now(UTC)
    manifest = Manifest(
        run=new_run(),
        environment="team",
        stack="qdrant",
        stackroom="1",
        started=now,
        published=now,
        items=[Item(path=f"qdrant/{n}.snapshot", size=1, sha256="a" * 64) for n in names],
        sources={"qdrant": facts},
    )
    found = without_access(manifest).sources["qdrant"]
    assert isinstance(found, QdrantFacts)
    assert [each.name for each in found.collections] == ["books"]
    assert found.aliases == {"library": "books"}


def test_a_folder_that_stands_still_gives_its_access_points_up(tmp_path: Path) -> None:
    """As Qdrant lays its collections out; again after a kill in the middle of it."""
    for name in ("books", ACCESS_COLLECTION):
        (tmp_path / "collections" / name / "0").mkdir(parents=True)
        (tmp_path / "collections" / name / "config.json").write_text("{}")
    (tmp_path / f"{ACCESS_COLLECTION}.withdrawn" / "0").mkdir(parents=True)
    for _ in range(2):
        strip(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["collections"]
        assert [path.name for path in (tmp_path / "collections").iterdir()] == ["books"]
    strip(tmp_path / "none")


def test_it_is_the_lock_of_deploys() -> None:
    assert str(BASE.parent) == deploys.FOLDER
    # the shell of a deploy names both files
    source = Path(deploys.__file__).read_text(encoding="utf-8")
    assert f">>{CHANGES}" in source and f">{CHANGES_HOLDER}" in source


def test_a_switch_waits_for_a_deploy_and_then_says_what_is_in_its_way(tmp_path: Path) -> None:
    base = tmp_path / "backup"
    descriptor = os.open(tmp_path / CHANGES, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with (
        pytest.raises(LockedError, match="changing this machine"),
        hold_changes(base, "restore run", patience=0.1),
    ):
        raise AssertionError("it went on")
    os.close(descriptor)
    with hold_changes(base, "restore run", patience=0.1):
        holder = (tmp_path / CHANGES_HOLDER).read_text(encoding="utf-8")
        assert "restore run` here since" in deploys._describe(holder)
    assert not (tmp_path / CHANGES_HOLDER).exists()


@pytest.mark.parametrize("verb", [("create",), ("download", "one.snapshot"), ("run",)])
def test_no_verb_of_the_host_copies_them_or_brings_them_back(
    verb: tuple[str, ...], tmp_path: Path
) -> None:
    config = HostConfig(
        environment="team",
        stack="qdrant",
        stackroom="1",
        base=tmp_path / "base",
        repositories=[],
        sources=[QdrantSource(url="http://127.0.0.1:9", image="qdrant")],
    )
    path = tmp_path / "backup.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "qdrant_api_key").write_text("k" * 32)
    what = ("snapshot", verb[0], ACCESS_COLLECTION, *verb[1:])
    if verb == ("run",):
        what = ("restore", "run", "--collection", ACCESS_COLLECTION, "--yes")
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli.host", "--config", str(path), *what],
        cwd=ROOT,
        env=os.environ | {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")},
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(done.stderr.split())
    assert done.returncode != 0 and "never backed up or restored" in said, said
