"""Put rebuilt data in the place of the live ones, and back: renames under a durable journal.

The old data stay beside the new until someone confirms. An interrupted switch is finished, where
all the new data were in place, or undone, by whoever comes next; it never stays half done. Whatever
is served in the end, the developers who may come in are those of the moment before.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ops.backup.durable import fsync_folder
from ops.backup.lock import hold, hold_changes
from ops.backup.source import Event, Tell, silent
from ops.errors import BackupError, StackroomError
from ops.restore import access
from ops.restore.journal import (
    CONFIRM,
    UNDO,
    Journal,
    Place,
    entered,
    needed,
    pending,
    remove,
    write,
)
from ops.restore.live import start, stop
from ops.settings.host import Credentials, HostConfig


def switch(
    config: HostConfig, credentials: Credentials, journal: Journal, tell: Tell = silent
) -> str:
    """Stop the services, put the new data in place, start the services, and see that they serve.

    Where they do not, or where anything interrupts it, the old data are put back and the services
    started on them. What a person has to know of the developers' tokens, or "". Raises BackupError
    saying so, LockedError while the machine is being changed, StackroomError of Docker.
    """
    os.sync()  # the rebuilt data are to outlive the renames
    with hold_changes(config.base, "restore run"):
        tell(Event("switch:journal"))
        journal = journal.having([access.read(found, credentials) for found in journal.access])
        write(config, journal)
        try:
            journal = _withdrawn(config, credentials, journal, tell)
            journal = _standing_still(config, journal, tell)
            for found in journal.places:
                _exchange(journal, found, tell)
            journal, told = _serve(config, credentials, journal, tell)
            tell(Event("switch:check"))
            for qdrant in journal.qdrants:
                qdrant.check(credentials)
        except StackroomError as error:
            end = _revert(config, credentials, journal, tell, ours=True)
            raise BackupError(
                f"the restored data did not serve: {error.message}; the data from before are back"
                + (f", but do not serve: {end.failure}" if end.failure else " and served")
                + end.also,
                error.hint,
            ) from None
        except BaseException:
            _revert(config, credentials, journal, tell, ours=True)
            raise
        tell(Event("switch:done"))
        _switched(config, journal)
    return told


def settle(config: HostConfig, credentials: Credentials, tell: Tell = silent) -> str:
    """Finish or undo what was interrupted; what was done, or "". Only for who holds the lock."""
    journal = pending(config)
    if journal is None or (journal.state in ("switched", "undone") and not journal.unstarted):
        return ""
    with hold_changes(config.base, "finish an interrupted restore"):
        return _settle(config, credentials, journal, tell)


def _settle(config: HostConfig, credentials: Credentials, journal: Journal, tell: Tell) -> str:
    if journal.state == "confirming":
        _forget(config, journal)
        return f"the data from before the restore {journal.run} are deleted"
    if journal.state in ("undoing", "undone"):
        end = _undo(config, credentials, journal, tell)
        but = f", but {end.failure}" if end.failure else ""
        return f"the restore {journal.run} is undone{but}{end.also}"
    if journal.state == "switching" and _all_in_place(journal):
        with suppress(StackroomError):
            journal, told = _serve(config, credentials, journal, tell)
            for qdrant in journal.qdrants:
                qdrant.check(credentials)
            _switched(config, journal)
            done = f"the interrupted restore {journal.run} of {journal.backup} is finished"
            return "; ".join(filter(None, [done, told]))
    end = _revert(config, credentials, journal, tell)
    served = f"back, but do not serve: {end.failure}" if end.failure else "served"
    return (
        f"the interrupted restore {journal.run} is undone: the data from before are"
        f" {served}{end.also}"
    )


def confirm(config: HostConfig) -> str:
    """Delete what a restore, or its undoing, has kept. There is no undo of this.

    Raises BackupError where there is nothing to confirm, LockedError.
    """
    with hold(config.base, "restore"):
        journal = needed(config)
        if journal.state not in ("switched", "undone", "confirming"):
            raise BackupError(
                f"the restore {journal.run} was interrupted: nothing of it can be confirmed",
                f"{UNDO}  (or any drill: it settles the restore first)",
            )
        write(config, journal, "confirming")
        _forget(config, journal)
    return f"what the restore {journal.run} had kept is deleted"


def undo(config: HostConfig, credentials: Credentials, tell: Tell = silent) -> str:
    """Serve the data from before the last restore again. The restored ones are kept beside.

    Raises BackupError where there is nothing to undo, or where the data are back and a service
    does not start on them; LockedError, StackroomError of Docker.
    """
    with hold(config.base, "restore"):
        journal = needed(config)
        if journal.state in ("undone", "confirming") and not journal.unstarted:
            done = "undone" if journal.state == "undone" else "confirmed"
            raise BackupError(f"the restore {journal.run} is already {done}", CONFIRM)
        back = _revert if journal.state in ("switching", "reverting", "reverted") else _undo
        with hold_changes(config.base, "restore undo"):
            end = back(config, credentials, journal, tell)
    if end.failure:
        raise BackupError(
            f"the data from before the restore {journal.run} are back, but do not serve:"
            f" {end.failure}{end.also}",
            "docker ps --all; docker logs <the container>",
        )
    return f"the data from before the restore {journal.run} are served again{end.also}"


def _withdrawn(
    config: HostConfig, credentials: Credentials, journal: Journal, tell: Tell
) -> Journal:
    """Every server that can be asked has given up the developers' points; the journal has them."""
    for found in journal.access:
        tell(Event("switch:withdraw", found.source))
        done = access.withdraw(found, credentials)
        journal = journal.having([done if a is found else a for a in journal.access])
    write(config, journal)
    return journal


def _standing_still(config: HostConfig, journal: Journal, tell: Tell) -> Journal:
    """With all services stopped, and written down when they had been started before."""
    stop(journal.containers, tell)
    journal = journal.having([access.stopped(found) for found in journal.access])
    write(config, journal)
    return journal


def _switched(config: HostConfig, journal: Journal) -> None:
    """From here on the server that runs knows the points, and nobody else does."""
    write(config, journal.having([found.unknown() for found in journal.access]), "switched")


def _serve(
    config: HostConfig, credentials: Credentials, journal: Journal, tell: Tell
) -> tuple[Journal, str]:
    """Start the services on the new data; what a person has to know of the tokens, or ""."""
    well = True
    for container in journal.containers:
        start([container], tell)
        well = _give(credentials, journal, container, tell, back=False) and well
        journal = _hand_over(config, journal, container, tell)
    return journal, "" if well else access.lost(config.environment)


def _hand_over(config: HostConfig, journal: Journal, container: str, tell: Tell) -> Journal:
    """Once for each: from the next start on others write, and what they delete is no loss."""
    for found in journal.handovers:
        if found.container == container:
            tell(Event("switch:handover", container))
            found.make()
            journal = journal.handed_over(found)
            write(config, journal)
    return journal


def _give(
    credentials: Credentials, journal: Journal, container: str, tell: Tell, *, back: bool
) -> bool:
    well = True
    for found in journal.access:
        if found.container == container:
            tell(Event("switch:access", found.source))
            well = access.give(found, credentials, back=back) and well
    return well


def _exchange(journal: Journal, found: Place, tell: Tell) -> None:
    tell(Event("switch:retire", found.source))
    found.live.rename(found.old)
    fsync_folder(found.live.parent)
    _strip(journal, found)
    tell(Event("switch:place", found.source))
    found.new.rename(found.live)
    fsync_folder(found.live.parent)


def _strip(journal: Journal, found: Place) -> None:
    """Old data that come back know of no token, however they went."""
    if found.source in {each.source for each in journal.access}:
        access.strip(found.old)


def _all_in_place(journal: Journal) -> bool:
    return all(
        found.live.exists() and found.old.exists() and not found.new.exists()
        for found in journal.places
    )


class _End(NamedTuple):
    """Why not every service runs, and what else a person has to know; "" where all is well."""

    failure: str
    told: str

    @property
    def also(self) -> str:
        return f"; {self.told}" if self.told else ""


def _revert(
    config: HostConfig,
    credentials: Credentials,
    journal: Journal,
    tell: Tell,
    *,
    ours: bool = False,
) -> _End:
    """Back to the old data, and no trace of the new ones: the backup still has them.

    That the data are back is written first: services that cannot start on them must not keep later
    restores and drills from going on. `ours`: the process that began the switch is this one.
    """
    retired = {found.source for found in journal.places if found.old.exists()}
    journal = journal.having(
        access.to_give_back(journal.access, credentials, retired, ours=ours)
        if journal.state == "switching"
        else access.read_again(journal.access, credentials)
    )
    if journal.state != "reverted":
        journal = entered(config, journal, "reverting")
        journal = _put_back(config, journal, tell)
        journal = entered(config, journal, "reverted")
    end = _start_again(config, credentials, journal, tell)
    for found in journal.places:
        _remove(found.aside)
    remove(config)
    return end


def _undo(config: HostConfig, credentials: Credentials, journal: Journal, tell: Tell) -> _End:
    """Back to the old data, beside the new ones; the answer is that of `_revert`."""
    if journal.state == "switched":
        journal = journal.having([access.read(found, credentials) for found in journal.access])
    else:
        journal = journal.having(access.read_again(journal.access, credentials))
    if journal.state != "undone":
        journal = entered(config, journal, "undoing")
        journal = _put_back(config, journal, tell)
        journal = journal.model_copy(update={"unstarted": True})
        journal = entered(config, journal, "undone")
    end = _start_again(config, credentials, journal, tell)
    journal = journal.having([found.unknown() for found in journal.access])
    write(config, journal.model_copy(update={"unstarted": False}), "undone")
    return end


def _start_again(
    config: HostConfig, credentials: Credentials, journal: Journal, tell: Tell
) -> _End:
    """Start what ran before, each whatever becomes of the others."""
    failures = []
    # what is not started is given nothing: whoever starts it finds every token refused
    well = all(f.container in journal.ran or not f.points for f in journal.access)
    for container in journal.ran:
        try:
            start([container], tell)
            well = _give(credentials, journal, container, tell, back=True) and well
        except StackroomError as error:
            failures.append(error.message)
            well = well and container not in {found.container for found in journal.access}
    told = "" if well else access.lost(config.environment)
    return _End("; ".join(failures), told)


def _put_back(config: HostConfig, journal: Journal, tell: Tell) -> Journal:
    """From any point of a switch, and from any point of itself. Leaves the services stopped."""
    journal = _standing_still(config, journal, tell)
    for found in journal.places:
        if not found.old.exists():
            continue  # it was not retired yet, or is back already
        tell(Event("switch:aside", found.source))
        if found.live.exists():
            found.live.rename(found.aside)
            fsync_folder(found.live.parent)
        _strip(journal, found)
        tell(Event("switch:back", found.source))
        found.old.rename(found.live)
        fsync_folder(found.live.parent)
    return journal


def _forget(config: HostConfig, journal: Journal) -> None:
    for found in journal.places:
        _remove(found.old)
        _remove(found.aside)
    remove(config)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
