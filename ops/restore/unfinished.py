"""What a killed restore of a collection has left on the live server: found, and gone on with.

It deletes nothing that holds a point: a copy that is whole is taken as it is, any other is told of.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ops.backup.durable import write_durably
from ops.errors import BackupError
from ops.restore import answers
from ops.restore.answers import Ask
from ops.restore.evidence import differences
from ops.restore.rehearsal import Comparison

NAME = "restore-collection.json"


class Unfinished(BaseModel):
    """The collection `target` was absent when the restore began to make it, out of `backup`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backup: str  # run
    collection: str  # its name there
    target: str

    @property
    def told(self) -> str:
        """What a person has to know."""
        return (
            f"a killed restore of {self.collection} has left the collection {self.target}: look at"
            f" it, and delete it: DELETE {answers.path_of(self.target)}"
        )


def begin(base: Path, making: Unfinished) -> None:
    """To be called before the live server is told to make it. Raises OSError."""
    write_durably(base / NAME, making.model_dump_json() + "\n")


def end(base: Path) -> None:
    """It is made, or removed again."""
    (base / NAME).unlink(missing_ok=True)


def left(base: Path, ask: Ask) -> Unfinished | None:
    """What a killed restore was making and the server has. Raises StackroomError of Qdrant."""
    try:
        found = Unfinished.model_validate_json((base / NAME).read_bytes())
    except (OSError, ValidationError):  # one that cannot be read tells nothing
        return None
    return found if found.target in answers.collections(ask) else None


def clear(found: Unfinished, ask: Ask) -> bool:
    """Delete it where it is empty: whether it did. Raises StackroomError of Qdrant.

    Killed between its making and its filling; one with points may be somebody's by now.
    """
    if found.target in answers.aliases(ask).values() or answers.exact_count(ask, found.target):
        return False
    ask("DELETE", answers.path_of(found.target), None)
    return True


def refuse(found: Unfinished, comparisons: list[Comparison]) -> None:
    """Raises BackupError for one that is not what the backup holds. It stays."""
    if wrong := differences(comparisons):
        raise BackupError(
            f"the collection {found.target}, which a killed restore has left, differs: {wrong}",
            f"look at it; then --as <another name>, or DELETE {answers.path_of(found.target)}",
        )
