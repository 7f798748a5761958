"""What a restore is switching, as it lies on the disk: written before each step that it tells of.

It touches neither a service nor a folder of data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ops.backup.durable import fsync_folder, write_durably
from ops.errors import BackupError
from ops.restore.access import Access
from ops.restore.handover import Handover
from ops.restore.live import LiveQdrant
from ops.settings.host import HostConfig

JOURNAL = "restore.json"
CONFIRM = "stackroom restore confirm"
UNDO = "stackroom restore undo"
State = Literal["switching", "reverting", "reverted", "switched", "undoing", "undone", "confirming"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Place(_Model):
    """A folder of live data, and the one that is to take its place, on the same file system."""

    source: str
    live: Path
    new: Path
    old: Path  # where the live data go, and stay until confirmed
    aside: Path  # where the new data go when the old ones come back


class Journal(_Model):
    """What is being switched. `containers` in the order of their start."""

    schema_version: Literal[1] = 1
    run: str  # of the restore
    backup: str
    state: State
    places: list[Place]
    containers: list[str]
    ran: list[str]  # of them, those that ran before
    unstarted: bool = False  # undone, and nobody has yet tried to start them
    qdrants: list[LiveQdrant] = []
    access: list[Access] = []
    handovers: list[Handover] = []  # those that are still to be made

    def having(self, found: list[Access]) -> Journal:
        return self.model_copy(update={"access": found})

    def handed_over(self, done: Handover) -> Journal:
        left = [each for each in self.handovers if each is not done]
        return self.model_copy(update={"handovers": left})


def place(source: str, live: Path, new: Path, run: str) -> Place:
    """The names that a restore's `run` gives to what it puts aside."""
    return Place(
        source=source,
        live=live,
        new=new,
        old=live.with_name(f"{live.name}.before-{run}"),
        aside=live.with_name(f"{live.name}.undone-{run}"),
    )


def pending(config: HostConfig) -> Journal | None:
    """The switch that is under way or not yet confirmed.

    Raises BackupError where the journal cannot be read: nothing may be switched then.
    """
    path = config.base / JOURNAL
    try:
        return Journal.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise BackupError(
            f"{path} cannot be read: a restore was interrupted, and it says where",
            f"less {path}; the old data lie beside the live ones as *.before-*",
        ) from None


def needed(config: HostConfig) -> Journal:
    """The journal of what can be confirmed or undone. Raises BackupError where there is none."""
    journal = pending(config)
    if journal is None:
        raise BackupError("no restore waits to be confirmed or undone", "stackroom backup list")
    return journal


def entered(config: HostConfig, journal: Journal, state: State) -> Journal:
    journal = journal.model_copy(update={"state": state})
    write(config, journal)
    return journal


def write(config: HostConfig, journal: Journal, state: State | None = None) -> None:
    written = journal.model_copy(update={"state": state}) if state else journal
    write_durably(config.base / JOURNAL, written.model_dump_json(indent=1) + "\n")


def remove(config: HostConfig) -> None:
    """Nothing is under way any more."""
    (config.base / JOURNAL).unlink()
    fsync_folder(config.base)
