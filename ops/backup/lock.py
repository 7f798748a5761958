"""One run at a time on a machine: a lock of the kernel's, which dies with its holder.

So a killed run leaves no lock to break. It never waits for a run to end: the second one gives up.
What must not meet a deploy waits for that one's end, with the deploys' own lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ops.errors import LockedError, ServiceError

# somebody who only looks holds the lock for an instant; a run is not turned away by that
PATIENCE_SECONDS = 0.5
# the lock that every change of the machine holds, in the folder above the backups' own
CHANGES, CHANGES_HOLDER = "deploy.lock", "deploy.holder"
CHANGES_SECONDS = 300.0


@contextlib.contextmanager
def hold(base: Path, doing: str) -> Iterator[None]:
    """Hold `base`'s lock while the block runs.

    Raises LockedError naming the holder, ServiceError where the lock cannot be made.
    """
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _no_lock(base, error) from None
    with _opened(base / "lock") as lock:
        if not _taken(lock, fcntl.LOCK_EX, PATIENCE_SECONDS):
            raise LockedError(_describe(_read(base)), "wait until that is done")
        with _noted(base / "lock.holder", {"pid": os.getpid()}, doing):
            yield


@contextlib.contextmanager
def hold_changes(base: Path, doing: str, *, patience: float = CHANGES_SECONDS) -> Iterator[None]:
    """Keep deploys and changes of who may come in away while the block runs.

    Waits `patience` seconds for one that is under way. Raises LockedError, ServiceError.
    """
    folder = base.parent
    with _opened(folder / CHANGES) as lock:
        if not _taken(lock, fcntl.LOCK_EX, patience):
            raise LockedError(
                "somebody is changing this machine: a deploy, or who may come in",
                "stackroom -e <env> lock  says who; wait until that is done",
            )
        with _noted(folder / CHANGES_HOLDER, {"who": "the machine itself"}, doing):
            yield


def holder(base: Path) -> dict[str, Any] | None:
    """Who holds the lock (`pid`, `doing`, `since`; empty where that is not known), or None."""
    try:
        descriptor = os.open(base / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _taken(descriptor, fcntl.LOCK_SH, 0) else _read(base)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(lock: Path) -> Iterator[int]:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _no_lock(lock.parent, error) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _no_lock(folder: Path, error: OSError) -> ServiceError:
    return ServiceError(f"{folder}: no lock: {error.strerror}", "run it as root")


@contextlib.contextmanager
def _noted(path: Path, who: dict[str, Any], doing: str) -> Iterator[None]:
    """A file beside a lock that is held, which says by whom."""
    told = who | {"doing": doing, "since": datetime.now(UTC).isoformat(timespec="seconds")}
    # only for people: a disk that is full must not be why a run does not even begin
    with contextlib.suppress(OSError):
        path.write_text(json.dumps(told), encoding="utf-8")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _taken(descriptor: int, how: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _read(base: Path) -> dict[str, Any]:
    try:
        found = json.loads((base / "lock.holder").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _describe(found: dict[str, Any]) -> str:
    if not found:
        return "another run holds the lock on this machine"
    return f"a {found['doing']} (process {found['pid']}) has been running since {found['since']}"
