"""The one way a collector writes a file of the backup: counted and hashed on its way, then synced.

A file that was not finished is removed; nobody but root can read one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ops.backup.durable import fsync_folder
from ops.backup.manifest import CHUNK, Item
from ops.errors import BackupError

_ZEROS = bytes(CHUNK)
_HOLE = 64 * 1024  # a shorter run of zeros is written out: a seek would cost more


class Sink:
    """A new file `staging / path`, as a context manager. `write` raises BackupError."""

    def __init__(self, staging: Path, path: str) -> None:
        self.size = 0
        self._path = path
        self._target = staging / path
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._target, flags, 0o600), "wb", CHUNK)
        except OSError as error:
            raise self._refused(error) from None
        return self

    def write(self, piece: bytes) -> int:
        """Append. Long runs of zeros become holes: a sparse source stays one."""
        assert self._file is not None  # noqa: S101 - used as a context manager
        self._digest.update(piece)
        self.size += len(piece)
        try:
            if len(piece) >= _HOLE and piece == _ZEROS[: len(piece)]:
                self._file.seek(len(piece), os.SEEK_CUR)
            else:
                self._file.write(piece)
        except OSError as error:
            raise self._refused(error) from None
        return len(piece)

    def tell(self) -> int:
        return self.size

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None  # noqa: S101
        try:
            with self._file as file:
                if kind is None:
                    file.flush()
                    file.truncate(self.size)  # a hole at the end counts too
                    os.fsync(file.fileno())
        except OSError as failed:
            self._target.unlink(missing_ok=True)
            if kind is None:
                raise self._refused(failed) from None
            return
        if kind is not None:
            self._target.unlink(missing_ok=True)
            return
        fsync_folder(self._target.parent)

    def item(self) -> Item:
        """What the manifest says of the file."""
        return Item(path=self._path, size=self.size, sha256=self._digest.hexdigest())

    def _refused(self, error: OSError) -> BackupError:
        return BackupError(
            f"{self._target} cannot be written: {error.strerror}", f"df -h {self._target.parent}"
        )
