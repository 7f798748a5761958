"""A folder as a sorted list of entries, and as a tar. Follows no link and leaves no folder.

Whoever owns the data may rename and link while it is read, so each name is opened relative to the
folder it was found in, never by its whole path.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ops.backup.manifest import CHUNK
from ops.errors import BackupError

ROOT = "."
SHRUNK_NAMED = 20  # files, at most
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# not blocking: a fifo that took the file's name in between must not hold the run
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# gone, or something else now: what the folder held a moment ago is not there to be backed up
_VANISHED = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
_TYPES = {
    "folder": tarfile.DIRTYPE,
    "file": tarfile.REGTYPE,
    "link": tarfile.SYMTYPE,
    "same": tarfile.LNKTYPE,
}
Kind = Literal["folder", "file", "link", "same"]


@dataclass(frozen=True)
class Entry:
    """A name below the root. `target`: of a link its text, of a "same" its first name (hard link).

    `folder` is the open folder it stands in: valid until the next entry is asked for.
    """

    name: str
    kind: Kind
    stat: os.stat_result
    target: str
    folder: int

    def open(self) -> int | None:
        """A descriptor of the file; None where it is no more. Raises OSError."""
        try:
            descriptor = os.open(Path(self.name).name, _FILE, dir_fd=self.folder)
        except OSError as error:
            if error.errno in _VANISHED:
                return None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return descriptor


def walk(root: Path) -> Iterator[Entry]:
    """The root as ".", then all below, sorted by name, each folder before what is in it.

    Sockets, fifos and devices are left out. Raises BackupError for what cannot be read.
    """
    try:
        descriptor = os.open(root, _FOLDER)
    except OSError as error:
        raise unreadable(root, error) from None
    try:
        yield Entry(ROOT, "folder", os.fstat(descriptor), "", descriptor)
        yield from _below(root, "", descriptor, {})
    finally:
        os.close(descriptor)


def _below(
    root: Path, prefix: str, folder: int, seen: dict[tuple[int, int], str]
) -> Iterator[Entry]:
    try:
        bases = sorted(os.listdir(folder))
    except OSError as error:
        raise unreadable(root / prefix, error) from None
    for base in bases:
        name = prefix + base
        try:
            found = os.stat(base, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                descriptor = os.open(base, _FOLDER, dir_fd=folder)
                try:
                    yield Entry(name, "folder", os.fstat(descriptor), "", folder)
                    yield from _below(root, f"{name}/", descriptor, seen)
                finally:
                    os.close(descriptor)
            elif stat.S_ISLNK(found.st_mode):
                yield Entry(name, "link", found, os.readlink(base, dir_fd=folder), folder)
            elif stat.S_ISREG(found.st_mode):
                yield _file(name, found, folder, seen)
        except OSError as error:
            if error.errno not in _VANISHED:
                raise unreadable(root / name, error) from None


def _file(name: str, found: os.stat_result, folder: int, seen: dict[tuple[int, int], str]) -> Entry:
    if found.st_nlink > 1:
        first = seen.setdefault((found.st_dev, found.st_ino), name)
        if first != name:
            return Entry(name, "same", found, first, folder)
    return Entry(name, "file", found, "", folder)


def unreadable(path: Path, error: OSError) -> BackupError:
    """The error for data that are there and cannot be read: the disk, or a right, is amiss."""
    return BackupError(f"{path} cannot be read: {error.strerror}", "journalctl -k -p err")


class Writer(Protocol):
    """Where a tar goes: `Sink`, or any file."""

    def write(self, piece: bytes, /) -> int: ...
    def tell(self) -> int: ...


@dataclass(frozen=True)
class Totals:
    """`files` counts regular files, each once whatever its hard links; `bytes` are theirs.

    `shrunk` names those that had become shorter while they were read, the first of them.
    """

    files: int
    bytes: int
    shrunk: tuple[str, ...] = ()


def write_tar(root: Path, target: Writer, on_bytes: Callable[[int], None]) -> Totals:
    """Write the folder as an uncompressed PAX tar: numeric owners, times to the nanosecond.

    A file that vanishes is left out; one that grows is cut, one that shrinks is filled up with
    zeros, at the size it had when it was opened, and named. `on_bytes` gets the bytes of files so
    far. Raises BackupError for what cannot be read or written.
    """
    files = size = 0
    left_out: set[str] = set()
    shrunk: list[str] = []
    with tarfile.open(
        fileobj=target,  # type: ignore[call-overload]
        mode="w",
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
        copybufsize=CHUNK,
    ) as tar:
        for entry in walk(root):
            kind = entry.kind
            if kind == "same" and entry.target in left_out:
                kind = "file"
            if kind != "file":
                tar.addfile(_header(entry.name, kind, entry.stat, entry.target))
            elif (written := _add_file(tar, root, entry)) is None:
                left_out.add(entry.name)
            else:
                files, size = files + 1, size + written.bytes
                shrunk += written.shrunk[: SHRUNK_NAMED - len(shrunk)]
                on_bytes(size)
            tar.members.clear()  # it would remember every header: memory must stay flat
    return Totals(files, size, tuple(shrunk))


def _add_file(tar: tarfile.TarFile, root: Path, entry: Entry) -> Totals | None:
    try:
        descriptor = entry.open()
    except OSError as error:
        raise unreadable(root / entry.name, error) from None
    if descriptor is None:
        return None
    try:
        found = os.fstat(descriptor)
        reader = _Exactly(descriptor, root / entry.name)
        tar.addfile(_header(entry.name, "file", found, ""), reader)  # type: ignore[arg-type]
    finally:
        os.close(descriptor)
    # a name may be any bytes, and JSON takes text
    name = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
    return Totals(1, found.st_size, (name,) if reader.ended_early else ())


def _header(name: str, kind: Kind, found: os.stat_result, target: str) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type = _TYPES[kind]
    header.mode = stat.S_IMODE(found.st_mode)
    header.uid, header.gid = found.st_uid, found.st_gid
    header.size = found.st_size if kind == "file" else 0
    header.linkname = target
    # a float would lose the last digits
    sign, time = ("-" if found.st_mtime_ns < 0 else ""), abs(found.st_mtime_ns)
    header.pax_headers = {"mtime": f"{sign}{time // 10**9}.{time % 10**9:09d}"}
    return header


class _Exactly:
    """A file as tarfile reads it: as many bytes as asked for, zeros where the file has ended."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self.ended_early = False

    def read(self, wanted: int) -> bytes:
        pieces = []
        while wanted:
            try:
                piece = os.read(self._descriptor, wanted)
            except OSError as error:
                raise unreadable(self._path, error) from None
            if not piece:
                pieces.append(bytes(wanted))
                self.ended_early = True
                break
            pieces.append(piece)
            wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
