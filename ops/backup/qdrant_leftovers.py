"""What a killed run left on the Qdrant server: snapshots that would fill its disk.

The intention to make one is on disk before it is asked for, and its name as soon as that is known.
A snapshot is removed only if it was not there before, and begun when ours was asked for.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError

from ops.backup.durable import write_durably
from ops.clients.snapshots import SnapshotInfo, Snapshots
from ops.errors import StackroomError

# a snapshot bears the second in which the server began it
EARLIEST, LATEST = timedelta(seconds=-2), timedelta(seconds=30)
# after that the server makes nothing any more that it was asked for; a collection may come back
UNNAMED_KEPT, NAMED_KEPT = timedelta(days=2), timedelta(days=60)


class Note(BaseModel):
    """One snapshot that was asked for; `name` is "" until the server has answered."""

    collection: str
    asked: AwareDatetime
    before: list[str]
    name: str = ""

    def is_ours(self, found: SnapshotInfo) -> bool:
        if self.name:
            return found.name == self.name
        begun = found.begun
        return (
            found.name not in self.before
            and begun is not None
            and EARLIEST <= begun - self.asked <= LATEST
        )


_NOTES = TypeAdapter(list[Note])


def _now() -> datetime:
    return datetime.now(UTC)


class Leftovers:
    """The notes of one source, in one file. Raises OSError where it cannot be written."""

    def __init__(self, file: Path, now: Callable[[], datetime] = _now) -> None:
        self._file = file
        self._now = now
        self._notes: list[Note] = []
        # a file that cannot be read tells nothing; it is written anew
        with contextlib.suppress(OSError, ValidationError):
            self._notes = _NOTES.validate_json(file.read_bytes())

    def asking(self, collection: str, before: list[str]) -> Note:
        """To be called before a snapshot is asked for."""
        note = Note(collection=collection, asked=self._now(), before=before)
        self._notes.append(note)
        self._save()
        return note

    def made(self, note: Note, name: str) -> None:
        note.name = name
        self._save()

    def remove(self, snapshots: Snapshots, note: Note) -> None:
        """Delete what the note is about. Raises StackroomError; then the note stays."""
        if not note.name:
            ours = [found for found in snapshots.list(note.collection) if note.is_ours(found)]
            if len(ours) != 1:  # not there yet, or more than one can be told apart
                return
            note.name = ours[0].name
        # made in the same second as somebody else's, it took that one's name: it is theirs
        if note.name not in note.before:
            snapshots.delete(note.collection, note.name)
        self._notes.remove(note)
        self._save()

    def remove_quietly(self, snapshots: Snapshots, note: Note) -> None:
        """As `remove`; where it fails, the next run tries again and says so."""
        with contextlib.suppress(StackroomError, OSError):
            self.remove(snapshots, note)

    def clear(self, snapshots: Snapshots, collections: list[str]) -> None:
        """Delete what earlier runs left in these collections. Raises StackroomError."""
        for note in list(self._notes):
            if note.collection in collections:
                self.remove(snapshots, note)
            kept = NAMED_KEPT if note.name else UNNAMED_KEPT
            if note in self._notes and abs(self._now() - note.asked) > kept:
                self._notes.remove(note)
                self._save()

    def _save(self) -> None:
        if self._notes:
            notes = [note.model_dump(mode="json") for note in self._notes]
            write_durably(self._file, json.dumps(notes) + "\n")
        else:
            self._file.unlink(missing_ok=True)
