"""Put rebuilt data in the place of the live ones, and back: renames under a durable journal.

The old data stay beside the new until someone confirms. An interrupted switch is finished, where
all the new data were in place, or undone, by whoever comes next; it never stays half done.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ops.backup.durable import fsync_folder, write_durably
from ops.backup.lock import hold
from ops.backup.source import Event, Tell, silent
from ops.errors import BackupError, StackroomError
from ops.restore.live import LiveQdrant, start, stop
from ops.settings.host import Credentials, HostConfig

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


def switch(
    config: HostConfig, credentials: Credentials, journal: Journal, tell: Tell = silent
) -> None:
    """Stop the services, put the new data in place, start the services, and see that they serve.

    Where they do not, or where anything interrupts it, the old data are put back and the services
    started on them. Raises BackupError saying so, StackroomError of Docker.
    """
    os.sync()  # the rebuilt data are to outlive the renames
    tell(Event("switch:journal"))
    _write(config, journal)
    try:
        stop(journal.containers, tell)
        for found in journal.places:
            _exchange(found, tell)
        start(journal.containers, tell)
        tell(Event("switch:check"))
        for qdrant in journal.qdrants:
            qdrant.check(credentials)
    except StackroomError as error:
        failure = _revert(config, journal, tell)
        raise BackupError(
            f"the restored data did not serve: {error.message}; the data from before are back"
            + (f", but do not serve: {failure}" if failure else " and served"),
            error.hint,
        ) from None
    except BaseException:
        _revert(config, journal, tell)
        raise
    tell(Event("switch:done"))
    _write(config, journal, "switched")


def settle(config: HostConfig, credentials: Credentials, tell: Tell = silent) -> str:
    """Finish or undo what was interrupted; what was done, or "". Only for who holds the lock."""
    journal = pending(config)
    if journal is None or (journal.state in ("switched", "undone") and not journal.unstarted):
        return ""
    if journal.state == "confirming":
        _forget(config, journal)
        return f"the data from before the restore {journal.run} are deleted"
    if journal.state in ("undoing", "undone"):
        failure = _undo(config, journal, tell)
        return f"the restore {journal.run} is undone" + (f", but {failure}" if failure else "")
    if journal.state == "switching" and _all_in_place(journal):
        with suppress(StackroomError):
            start(journal.containers, tell)
            for qdrant in journal.qdrants:
                qdrant.check(credentials)
            _write(config, journal, "switched")
            return f"the interrupted restore {journal.run} of {journal.backup} is finished"
    failure = _revert(config, journal, tell)
    return f"the interrupted restore {journal.run} is undone: the data from before are " + (
        f"back, but do not serve: {failure}" if failure else "served"
    )


def confirm(config: HostConfig) -> str:
    """Delete what a restore, or its undoing, has kept. There is no undo of this.

    Raises BackupError where there is nothing to confirm, LockedError.
    """
    with hold(config.base, "restore"):
        journal = _needed(config)
        if journal.state not in ("switched", "undone", "confirming"):
            raise BackupError(
                f"the restore {journal.run} was interrupted: nothing of it can be confirmed",
                f"{UNDO}  (or any drill: it settles the restore first)",
            )
        _write(config, journal, "confirming")
        _forget(config, journal)
    return f"what the restore {journal.run} had kept is deleted"


def undo(config: HostConfig, tell: Tell = silent) -> str:
    """Serve the data from before the last restore again. The restored ones are kept beside.

    Raises BackupError where there is nothing to undo, or where the data are back and a service
    does not start on them; LockedError, StackroomError of Docker.
    """
    with hold(config.base, "restore"):
        journal = _needed(config)
        if journal.state in ("undone", "confirming") and not journal.unstarted:
            done = "undone" if journal.state == "undone" else "confirmed"
            raise BackupError(f"the restore {journal.run} is already {done}", CONFIRM)
        back = _revert if journal.state in ("switching", "reverting", "reverted") else _undo
        failure = back(config, journal, tell)
    if failure:
        raise BackupError(
            f"the data from before the restore {journal.run} are back, but do not serve: {failure}",
            "docker ps --all; docker logs <the container>",
        )
    return f"the data from before the restore {journal.run} are served again"


def _needed(config: HostConfig) -> Journal:
    journal = pending(config)
    if journal is None:
        raise BackupError("no restore waits to be confirmed or undone", "stackroom backup list")
    return journal


def _exchange(found: Place, tell: Tell) -> None:
    tell(Event("switch:retire", found.source))
    found.live.rename(found.old)
    fsync_folder(found.live.parent)
    tell(Event("switch:place", found.source))
    found.new.rename(found.live)
    fsync_folder(found.live.parent)


def _all_in_place(journal: Journal) -> bool:
    return all(
        found.live.exists() and found.old.exists() and not found.new.exists()
        for found in journal.places
    )


def _revert(config: HostConfig, journal: Journal, tell: Tell) -> str:
    """Back to the old data, and no trace of the new ones: the backup still has them.

    Why not every service runs on them, or "". That the data are back is written first: services
    that cannot start on them must not keep later restores and drills from going on.
    """
    if journal.state != "reverted":
        _write(config, journal, "reverting")
        _put_back(journal, tell)
        _write(config, journal, "reverted")
    failure = _start_again(journal, tell)
    for found in journal.places:
        _remove(found.aside)
    (config.base / JOURNAL).unlink()
    fsync_folder(config.base)
    return failure


def _undo(config: HostConfig, journal: Journal, tell: Tell) -> str:
    """Back to the old data, beside the new ones; the answer is that of `_revert`."""
    if journal.state != "undone":
        _write(config, journal, "undoing")
        _put_back(journal, tell)
        _write(config, journal.model_copy(update={"unstarted": True}), "undone")
    failure = _start_again(journal, tell)
    _write(config, journal.model_copy(update={"unstarted": False}), "undone")
    return failure


def _start_again(journal: Journal, tell: Tell) -> str:
    """Start what ran before, each whatever becomes of the others; what does not run, or ""."""
    failures = []
    for container in journal.ran:
        try:
            start([container], tell)
        except StackroomError as error:
            failures.append(error.message)
    return "; ".join(failures)


def _put_back(journal: Journal, tell: Tell) -> None:
    """From any point of a switch, and from any point of itself. Leaves the services stopped."""
    stop(journal.containers, tell)
    for found in journal.places:
        if not found.old.exists():
            continue  # it was not retired yet, or is back already
        tell(Event("switch:aside", found.source))
        if found.live.exists():
            found.live.rename(found.aside)
            fsync_folder(found.live.parent)
        tell(Event("switch:back", found.source))
        found.old.rename(found.live)
        fsync_folder(found.live.parent)


def _forget(config: HostConfig, journal: Journal) -> None:
    for found in journal.places:
        _remove(found.old)
        _remove(found.aside)
    (config.base / JOURNAL).unlink()
    fsync_folder(config.base)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _write(config: HostConfig, journal: Journal, state: State | None = None) -> None:
    written = journal.model_copy(update={"state": state}) if state else journal
    write_durably(config.base / JOURNAL, written.model_dump_json(indent=1) + "\n")
