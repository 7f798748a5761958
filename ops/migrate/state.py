"""A migration as a folder on the operator's machine: what was decided, and how far it is.

<id>/migration.json, <n>-ranges.json (written once) and <n>-checkpoint.json for each collection,
files.json for mode reindex; each replaced as a whole and synced. No key, no payload and no vector
is ever in it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ops.backup.durable import write_durably
from ops.backup.lock import hold
from ops.errors import ServiceError, SettingsError
from ops.migrate.ranges import Checkpoint, Range
from ops.migrate.side import PointId

BASE = Path(".stackroom/migrations")
DOCUMENT = "migration.json"
SAVE_SECONDS = 0.5  # between checkpoints: what is lost to a kill is moved again, unchanged

Step = Literal["planned", "creating", "loading", "settling", "finishing", "ready"]
Phase = Literal["running", "ready", "cut over", "undone", "confirmed"]
Mode = Literal["stream", "snapshot", "reindex"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Move(_Model):
    """One collection. `deferred`: settings of the target that are put back after the load.
    `snapshot`: the file that the source must not keep; `uploading`: this migration makes the target
    of it. `left`: differences of the last pass."""

    name: str
    target: str
    points: int
    step: Step = "planned"
    deferred: dict[str, Any] = {}
    snapshot: str = ""
    uploading: bool = False
    passes: int = 0
    left: int | None = None


class Library(_Model):
    """What mode reindex brings: files, and what the api's index job made of them. `put`: files put
    right, all passes together. `before` and `after` it: points of the target's collections."""

    files: int
    bytes: int
    step: Literal["copying", "indexing", "ready"] = "copying"
    put: int = 0
    job: list[str] = []
    tries: int = 0
    code: int | None = None
    before: dict[str, int] = {}
    after: dict[str, int] = {}


class Switch(_Model):
    """An alias of the target, and where it led before: "" where it was not there."""

    alias: str
    target: str
    led_to: str = ""


class Migration(_Model):
    """The whole of it. `source` and `destination` are as the person wrote them. `switching`: the
    aliases may be led already, though the phase does not say so yet."""

    schema_version: Literal[1] = 1
    id: str
    source: str
    destination: str
    mode: Mode
    created: datetime
    phase: Phase = "running"
    live: bool = True
    moves: list[Move]
    library: Library | None = None
    switches: list[Switch] = []
    switching: bool = False


def new_id() -> str:
    """Such as 20261121-140000-1f3a: in order of time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


class Store:
    """The folder of one migration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, migration: Migration) -> None:
        try:
            self.folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise _unwritten(self.folder, error) from None
        self.save(migration)

    def save(self, migration: Migration) -> None:
        _write(self.folder / DOCUMENT, migration.model_dump_json(indent=2) + "\n")

    def load(self) -> Migration:
        """Raises SettingsError where it is not there, or is not whole."""
        path = self.folder / DOCUMENT
        try:
            return Migration.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SettingsError(
                f"there is no migration in {self.folder}", "stackroom migrate status"
            ) from None
        except (OSError, ValueError, ValidationError) as error:
            raise SettingsError(f"{path} cannot be read: {type(error).__name__}") from None

    def save_ranges(self, number: int, ranges: list[Range]) -> None:
        entries = [[each.start, each.end, each.points] for each in ranges]
        _write(self._ranges(number), json.dumps({"ranges": entries}) + "\n")

    def ranges(self, number: int) -> list[Range] | None:
        """None where they were not cut yet."""
        document = self._read(self._ranges(number))
        return None if document is None else [Range(*each) for each in document["ranges"]]

    def save_checkpoint(self, number: int, checkpoint: Checkpoint) -> None:
        _write(self._checkpoint(number), json.dumps(checkpoint.to_json()) + "\n")

    def checkpoint(self, number: int) -> Checkpoint:
        document = self._read(self._checkpoint(number))
        try:
            return Checkpoint() if document is None else Checkpoint.from_json(document)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise SettingsError(f"{self._checkpoint(number)} is no checkpoint") from None

    def save_files(self, ours: dict[str, list[str]]) -> None:
        _write(self._files, json.dumps(ours) + "\n")

    def files(self) -> dict[str, list[str]]:
        """By path, the marks of what this migration put there: see copying."""
        return self._read(self._files) or {}

    @contextlib.contextmanager
    def held(self, doing: str) -> Iterator[None]:
        """Raises LockedError while another process is at this migration."""
        with hold(self.folder, doing):
            yield

    @property
    def _files(self) -> Path:
        return self.folder / "files.json"

    def _ranges(self, number: int) -> Path:
        return self.folder / f"{number}-ranges.json"

    def _checkpoint(self, number: int) -> Path:
        return self.folder / f"{number}-checkpoint.json"

    def _read(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path} cannot be read: {type(error).__name__}") from None


def _write(path: Path, text: str) -> None:
    """Raises ServiceError; the old content then stays."""
    try:
        write_durably(path, text)
    except OSError as error:
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> ServiceError:
    return ServiceError(f"{path} cannot be written: {error.strerror}", "df -h; ls -ld its folder")


class Saver:
    """Saves a checkpoint now and then. Not for several threads at once."""

    def __init__(self, store: Store, number: int, checkpoint: Checkpoint) -> None:
        self._store, self._number, self._checkpoint = store, number, checkpoint
        self._saved = time.monotonic()

    def advance(self, number: int, following: PointId | None, points: int) -> None:
        self._checkpoint.advance(number, following, points)
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        self._store.save_checkpoint(self._number, self._checkpoint)
        self._saved = time.monotonic()


def find(base: Path, wanted: str = "") -> Store:
    """The migration `wanted`, or the newest. Raises SettingsError where there is none."""
    if wanted:
        if "/" in wanted or wanted.startswith("."):
            raise SettingsError(f"{wanted} is no id of a migration", "stackroom migrate status")
        return Store(base / wanted)
    listed = known(base)
    if not listed:
        raise SettingsError(f"there is no migration in {base}", "stackroom migrate plan --help")
    return listed[-1]


def known(base: Path) -> list[Store]:
    """All migrations, oldest first."""
    return [Store(path.parent) for path in sorted(base.glob(f"*/{DOCUMENT}"))]
