"""A latest backup of nothing is not restored unasked."""

from __future__ import annotations

import io
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.backup.manifest import (
    Facts,
    FilesFacts,
    Manifest,
    PostgresDatabase,
    PostgresFacts,
    QdrantCollection,
    QdrantFacts,
)
from ops.errors import BackupError
from ops.restore.fetch import Fetched
from ops.restore.live import Live
from ops.restore.whole import _refuse_empty
from ops.settings.host import FilesSource, PostgresSource

RUN = "20261121T023000Z-1a2b3c"
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def qdrant(**counts: int) -> QdrantFacts:
    collections = [
        QdrantCollection(name=name, item=f"qdrant/{name}", count=(count, count), info={})
        for name, count in counts.items()
    ]
    return QdrantFacts(version="1.19.0", image="qdrant", collections=collections, aliases={})


def postgres(**rows: int) -> PostgresFacts:
    found = {f"public.{name}": (count, count) for name, count in rows.items()}
    database = PostgresDatabase(name="app", item="postgres/app.dump", rows=found)
    return PostgresFacts(version="17", image="postgres", globals="g", databases=[database])


class Stack:
    """A fetched backup, and the live stack that is to take it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.live: dict[str, Live] = {}
        self.sources: dict[str, Facts] = {}

    def files(self, name: str, *paths: str, rendered: bool = False) -> None:
        with tarfile.open(self.folder / name, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in paths:
                member = tarfile.TarInfo(path)
                if path.endswith("/"):
                    member.type = tarfile.DIRTYPE
                tar.addfile(member, io.BytesIO())
        folder = None if rendered else self.folder
        self.live[name] = Live(FilesSource(name=name, volume=name), folder, [])
        self.sources[name] = FilesFacts(item=name, files=len(paths), bytes=0, volume=name)

    def refuse_empty(self) -> None:
        manifest = Manifest(
            run=RUN,
            environment="team",
            stack="qdrant",
            stackroom="1",
            started=NOW,
            published=NOW,
            items=[],
            sources=self.sources,
        )
        _refuse_empty(Fetched(self.folder, manifest, {}), self.live)


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """As a stack that has lost its data: what a deploy makes is all that is left of it."""
    stack = Stack(tmp_path)
    stack.sources["qdrant"] = qdrant(books=0)
    stack.files("edge", "caddy/", "caddy/instance.uuid")
    stack.files("settings", "settings.toml", rendered=True)
    return stack


def test_a_backup_of_what_a_deploy_makes_alone_is_refused(stack: Stack) -> None:
    words = "no point, no row and no file; nothing was touched"
    with pytest.raises(BackupError, match=words) as error:
        stack.refuse_empty()
    assert f"--run {RUN}" in error.value.hint and "backup list" in error.value.hint
    stack.sources["qdrant"] = qdrant()
    for empty in (postgres(), postgres(users=0)):
        stack.sources["rows"] = empty
        with pytest.raises(BackupError):
            stack.refuse_empty()


def test_rows_and_files_that_a_deploy_makes_are_no_data(stack: Stack) -> None:
    source = PostgresSource(name="rows", container="postgres", data=["public.documents"])
    stack.live["rows"] = Live(source, stack.folder, [])
    stack.sources["rows"] = postgres(users=1, documents=0)
    stack.files("keys", "server.yaml")
    stack.live["keys"] = Live(FilesSource(name="keys", deployed=True), stack.folder, [])
    with pytest.raises(BackupError):
        stack.refuse_empty()
    stack.sources["rows"] = postgres(users=1, documents=1)
    stack.refuse_empty()


def test_one_point_one_file_or_one_row_is_a_backup(stack: Stack) -> None:
    stack.sources["qdrant"] = qdrant(books=0, sessions=1)
    stack.refuse_empty()
    stack.sources["qdrant"] = qdrant()
    stack.files("library", "shelf/", "shelf/one.txt")
    stack.refuse_empty()
    stack.files("library", "shelf/")
    stack.sources["rows"] = postgres(users=1)
    stack.refuse_empty()
