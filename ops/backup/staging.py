"""The staging folder: written out of sight, complete with its manifest, then published by renames.

`current` is whole at every moment or not there. What a killed run left is finished or undone by
`tidy`, never guessed: a folder without its manifest is not a backup.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ops.backup.durable import fsync_folder, write_durably
from ops.backup.manifest import FILE_NAME, Manifest, read_manifest
from ops.backup.source import Event, Tell, silent
from ops.errors import BackupError

CURRENT = "current"
_PARTIAL = ".partial-"
_OLD = ".old-"


def current(base: Path) -> Path:
    """Where the last published backup lies; the same path for every run, as restic wants it."""
    return base / CURRENT


def make(base: Path, run: str) -> Path:
    """A new empty folder for a run's files, on the file system that it is published on."""
    partial = base / f"{_PARTIAL}{run}"
    partial.mkdir(mode=0o700)
    return partial


def publish(base: Path, manifest: Manifest, tell: Tell = silent) -> Path:
    """Complete the run's folder with its manifest and make it `current`; its path.

    Raises BackupError where the folder does not hold exactly what the manifest lists, OSError.
    """
    partial, old = base / f"{_PARTIAL}{manifest.run}", base / f"{_OLD}{manifest.run}"
    tell(Event("publish:sync"))
    _assert_whole(partial, manifest)
    _sync(partial)
    tell(Event("publish:manifest"))
    write_durably(partial / FILE_NAME, manifest.model_dump_json(indent=1) + "\n")
    fsync_folder(base)
    tell(Event("publish:retire"))
    if current(base).exists():
        current(base).rename(old)
    tell(Event("publish:replace"))
    partial.rename(current(base))
    fsync_folder(base)
    tell(Event("publish:clear"))
    _remove(old)
    return current(base)


def tidy(base: Path) -> None:
    """Bring the folder back to `current` alone. Only for whoever holds the lock. Raises OSError.

    Between the two renames of a swap there is no `current`: it is then the new one where that is
    complete, else the old one again.
    """
    if not current(base).exists():
        for old in sorted(base.glob(f"{_OLD}*"), reverse=True):
            new = base / f"{_PARTIAL}{old.name.removeprefix(_OLD)}"
            (new if _complete(new) else old).rename(current(base))
            fsync_folder(base)
            break
    for left in (*base.glob(f"{_PARTIAL}*"), *base.glob(f"{_OLD}*")):
        _remove(left)
    for left in (base / "records").glob(".*.new"):
        left.unlink(missing_ok=True)


def _complete(folder: Path) -> bool:
    try:
        _assert_whole(folder, read_manifest(folder))
    except BackupError:
        return False
    return True


def _assert_whole(folder: Path, manifest: Manifest) -> None:
    """By names and sizes; the content was hashed as it was written."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    there = {str(path.relative_to(folder)): path.lstat().st_size for path in files}
    there.pop(FILE_NAME, None)
    listed = {item.path: item.size for item in manifest.items}
    if wrong := sorted(set(there.items()) ^ set(listed.items())):
        raise BackupError(f"{folder / wrong[0][0]} is not as its collector said: {manifest.run}")


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    fsync_folder(folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
