"""The contract of a backup: what a staging folder holds, and what has to be true of it restored.

A folder without a readable manifest is not a backup. A newer schema is refused, never guessed.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ops.errors import BackupError

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
CHUNK = 1024 * 1024  # bytes read at once: memory stays flat whatever the size
_RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError("must be a relative path inside the backup")
    return path


class Item(_Model):
    """One file of the backup: path below the staging folder, size in bytes, SHA-256 in hex."""

    path: Annotated[str, AfterValidator(_inside)]
    size: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Point(_Model):
    """A sampled point as Qdrant gives it: `vector` a list, or lists by name."""

    id: int | str
    vector: Any
    payload: dict[str, Any] | None = None


class KnownQuery(_Model):
    """An exact search and its answers, best first. `using` names the vector; "" the unnamed."""

    vector: list[float]
    using: str = ""
    limit: int
    answers: list[tuple[int | str, float]]  # id, score


class QdrantCollection(_Model):
    """A collection's snapshot and what it has to hold.

    `count` is the exact number of points before and after the snapshot: the same number where
    nothing was written meanwhile. Samples and queries are those that no write had touched.
    """

    name: str
    item: str  # path of the snapshot's Item
    count: tuple[int, int]
    info: dict[str, Any]  # `config` and `payload_schema` as GET /collections/{name} gave them
    samples: list[Point] = []
    queries: list[KnownQuery] = []


class QdrantFacts(_Model):
    kind: Literal["qdrant"] = "qdrant"
    version: str  # such as "1.19.0"
    image: str
    digest: str = ""
    collections: list[QdrantCollection]
    aliases: dict[str, str]  # alias -> collection


class FilesFacts(_Model):
    """One tar, numeric owners. `files` counts regular files, `bytes` their sizes together.

    `shrunk` names files (the first of them) that became shorter while they were read: they have
    the length from before, and end in zeros. Where there is none, earlier versions read this too.
    """

    kind: Literal["files"] = "files"
    item: str
    files: int
    bytes: int
    volume: str = ""
    path: str = ""
    shrunk: Annotated[list[str], Field(exclude_if=lambda names: not names)] = []


class VectorColumn(_Model):
    """Some vectors of a column of pgvector's, by their rows' primary keys as Postgres writes them.

    `sums`: the MD5 of each as text. `nearest`: to some of them the nearest rows of the whole table,
    best first, with their Euclidean distances.
    """

    name: str  # "schema.table.column"
    sums: dict[str, str]
    nearest: dict[str, list[tuple[str, float]]]


def _empty(found: Any) -> bool:
    return not found


class PostgresDatabase(_Model):
    """A dump in custom format, with the exact rows of each table "schema.table".

    `object_sums`: by its number the MD5 of what some large objects begin with. Where there are no
    samples, earlier versions read this too.
    """

    name: str
    item: str
    rows: dict[str, tuple[int, int]] = {}  # before and after the dump, as with Qdrant's count
    large_objects: tuple[int, int] = (0, 0)
    vectors: Annotated[list[VectorColumn], Field(exclude_if=_empty)] = []
    object_sums: Annotated[dict[str, str], Field(exclude_if=_empty)] = {}


class PostgresFacts(_Model):
    kind: Literal["postgres"] = "postgres"
    version: str
    image: str
    digest: str = ""
    globals: str  # path of the Item of pg_dumpall --globals-only
    databases: list[PostgresDatabase]


class RabbitmqFacts(_Model):
    """Definitions only: messages are not backed up."""

    kind: Literal["rabbitmq"] = "rabbitmq"
    version: str
    image: str
    digest: str = ""
    item: str
    counts: dict[str, int] = {}  # of queues, exchanges, bindings, users, vhosts, policies


Facts = Annotated[
    QdrantFacts | FilesFacts | PostgresFacts | RabbitmqFacts, Field(discriminator="kind")
]


class Manifest(_Model):
    schema_version: Literal[1] = 1
    run: Annotated[str, Field(pattern=_RUN.pattern)]
    environment: str
    stack: str
    stackroom: str
    started: AwareDatetime
    published: AwareDatetime
    tools: dict[str, str] = {}  # restic, docker: versions
    items: list[Item]
    sources: dict[str, Facts]  # by the source's name, which is also its folder

    def size(self) -> int:
        """Bytes of all items together."""
        return sum(item.size for item in self.items)

    def item(self, path: str) -> Item:
        """Raises BackupError for a path that the manifest does not list."""
        for item in self.items:
            if item.path == path:
                return item
        raise BackupError(f"the manifest of {self.run} names {path} but lists no such item")


def new_run(now: datetime | None = None) -> str:
    """An id that sorts by time: 20261121T023000Z-1a2b3c."""
    return f"{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def is_run(text: str) -> bool:
    return bool(_RUN.fullmatch(text))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a staging or restored folder.

    Raises BackupError where it is missing, unreadable, inconsistent or of a newer schema.
    """
    path = folder / FILE_NAME
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BackupError(f"{folder} has no {FILE_NAME}: this is not a backup") from None
    except (OSError, ValueError) as error:
        raise BackupError(f"{path} cannot be read: {error}") from None
    found = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise BackupError(
            f"{path} has schema {found}, and this Stackroom knows {SCHEMA_VERSION}",
            "use the Stackroom that made it, or a newer one",
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BackupError(f"{path}: {where}: {first['msg']}") from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def verify_items(folder: Path, manifest: Manifest) -> None:
    """Every listed file is there with its size and SHA-256, and no other file is.

    Raises BackupError naming the first file that is not as the manifest says.
    """
    listed = {item.path for item in manifest.items} | {FILE_NAME}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    if extra := sorted(there - listed):
        raise BackupError(f"{folder / extra[0]} is not listed in the manifest")
    for item in manifest.items:
        path = folder / item.path
        if not path.is_file():
            raise BackupError(f"{path} is listed in the manifest and is missing")
        if (size := path.stat().st_size) != item.size:
            raise BackupError(f"{path} has {size} bytes; the manifest says {item.size}")
        if sha256_of(path) != item.sha256:
            raise BackupError(f"{path} is not what was backed up: its SHA-256 differs")
