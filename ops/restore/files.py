"""A folder's data built anew from its tar, entry by entry, and compared with it.

What a tar says is not trusted: no name leads out of the volume, and no link is followed.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import IO

from ops.backup.manifest import CHUNK, Facts, FilesFacts
from ops.backup.source import Event, Tell
from ops.backup.tree import ROOT, Entry, Kind, Totals, unreadable, walk
from ops.clients.docker import Scratch, mountpoint
from ops.errors import BackupError, UnprovenError
from ops.restore.rehearsal import Comparison
from ops.settings.host import FilesSource

_KINDS: dict[bytes, Kind] = {
    tarfile.DIRTYPE: "folder",
    tarfile.REGTYPE: "file",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "same",
}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_END = bytes(1024)  # a tar ends with two empty blocks
_ZEROS = bytes(CHUNK)


class FilesRehearsal:
    """The counterpart of FilesCollector. It needs no service."""

    def __init__(self, config: FilesSource) -> None:
        self._config = config

    def rehearse(
        self, backup: Path, facts: Facts, scratch: Scratch, volume: str, tell: Tell
    ) -> list[Comparison]:
        """See Rehearsal.rehearse. Owners, modes, times and links are as they were."""
        del scratch  # no service is needed
        if not isinstance(facts, FilesFacts):
            raise TypeError(f"files cannot be rebuilt from {facts.kind}")
        name = self._config.name
        tar, root = backup / facts.item, mountpoint(volume)
        if any(root.iterdir()):
            raise BackupError(f"{root} is not empty: nothing is unpacked over other data")
        tell(Event("rebuild", facts.item))
        found = extract(tar, root)
        os.sync()  # once for all: an fsync for each file would take a hundred times as long
        tell(Event("compare", facts.item))
        difference = first_difference(tar, root)
        return [
            Comparison(
                f"{name}: files", str(facts.files), str(found.files), facts.files == found.files
            ),
            Comparison(
                f"{name}: bytes", str(facts.bytes), str(found.bytes), facts.bytes == found.bytes
            ),
            Comparison(
                f"{name}: each name, owner, mode, time and byte",
                "as in the backup",
                difference or "as in the backup",
                not difference,
            ),
        ]


def extract(tar: Path, root: Path) -> Totals:
    """Unpack into an empty folder. Memory stays flat but for the folders' names and times.

    Raises BackupError for a tar that is cut short, malformed, or leads out of the folder, and
    UnprovenError where there is no space for what is in it.
    """
    files = size = 0
    folders: list[tuple[str, tarfile.TarInfo]] = []
    top = os.open(root, _FOLDER)
    try:
        for member, data in _members(tar):
            name = _inside(tar, member.name)
            try:
                with _parent(top, name) as parent:
                    _make(tar, top, parent, name, member, data)
            except OSError as error:
                raise _not_made(tar, name, error) from None
            except (ValueError, OverflowError) as error:
                raise BackupError(f"{tar} is malformed at {name!r}: {error}") from None
            if member.isdir():
                folders.append((name, member))
            elif member.isreg():
                files, size = files + 1, size + member.size
        # last, deepest first: what is put into a folder changes its time
        for name, member in reversed(folders):
            with _parent(top, name) as parent:
                _dress(parent, _base(name), member)
    finally:
        os.close(top)
    return Totals(files, size)


def holds_files(tar: Path, but: Sequence[str] = ()) -> bool:
    """Whether there is anything but folders, and what lies below the folders `but` ("caddy/").

    Raises BackupError for a tar that is not whole.
    """
    names = (member.name.removeprefix("./") for member, _ in _members(tar) if not member.isdir())
    return any(not name.startswith(tuple(but)) for name in names)


def _members(tar: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Each entry with its data. Raises BackupError for a tar that is not whole."""
    try:
        with tar.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() < len(_END) or file.tell() % tarfile.BLOCKSIZE:
                raise BackupError(f"{tar} is cut short")
            file.seek(-len(_END), os.SEEK_END)
            if file.read() != _END:
                raise BackupError(f"{tar} is cut short")
            file.seek(0)
            with tarfile.open(
                fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
            ) as opened:
                while member := opened.next():
                    if member.size < 0:
                        raise BackupError(f"{tar} is malformed: {member.name!r} has no size")
                    yield member, opened.extractfile(member) if member.isreg() else None
                    opened.members = []  # type: ignore[attr-defined]  # memory must stay flat
            # a header that cannot be read looks like the end to tarfile
            file.seek(opened.offset)
            while piece := file.read(CHUNK):
                if piece.strip(b"\0"):
                    raise BackupError(f"{tar} is malformed at byte {opened.offset}")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BackupError(f"{tar} is malformed: {error}") from None
    except OSError as error:
        raise unreadable(tar, error) from None


def _inside(tar: Path, name: str) -> str:
    """The name, normalized. Raises BackupError where it leads anywhere but below."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise BackupError(f"{tar} leads out of its folder: {name!r}")
    return "/".join(parts) or ROOT


def _base(name: str) -> str:
    return PurePosixPath(name).name or ROOT


@contextmanager
def _parent(top: int, name: str) -> Iterator[int]:
    """The open folder that holds the name; no link on the way to it is followed."""
    descriptor = os.dup(top)
    try:
        for part in PurePosixPath(name).parts[:-1]:
            below = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _make(
    tar: Path,
    top: int,
    parent: int,
    name: str,
    member: tarfile.TarInfo,
    data: IO[bytes] | None,
) -> None:
    base = _base(name)
    kind = _KINDS.get(member.type)
    if kind == "folder":
        if name != ROOT:
            os.mkdir(base, 0o700, dir_fd=parent)
        return
    if kind == "same":
        first = _inside(tar, member.linkname)
        with _parent(top, first) as there:
            os.link(_base(first), base, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)
        return
    if kind == "link":
        os.symlink(member.linkname, base, dir_fd=parent)
    elif kind == "file" and data is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(base, flags, 0o600, dir_fd=parent), "wb", CHUNK) as file:
            _copy(tar, name, data, file, member.size)
    else:
        raise BackupError(f"{tar} holds something that is no file, folder or link: {name!r}")
    _dress(parent, base, member)


def _copy(tar: Path, name: str, data: IO[bytes], file: IO[bytes], size: int) -> None:
    left = size
    while left:
        piece = data.read(min(CHUNK, left))
        if not piece:
            raise BackupError(f"{tar} is cut short in {name!r}")
        if len(piece) == CHUNK and piece == _ZEROS:
            file.seek(CHUNK, os.SEEK_CUR)  # a hole stays one
        else:
            file.write(piece)
        left -= len(piece)
    file.flush()
    file.truncate(size)


def _dress(parent: int, base: str, member: tarfile.TarInfo) -> None:
    """Owner first: changing it takes the bits away that run a program as another user."""
    os.chown(base, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
    if not member.issym():
        os.chmod(base, stat.S_IMODE(member.mode), dir_fd=parent)
    time = _nanoseconds(member)
    os.utime(base, ns=(time, time), dir_fd=parent, follow_symlinks=False)


def _nanoseconds(member: tarfile.TarInfo) -> int:
    try:
        return int(Decimal(member.pax_headers.get("mtime", str(member.mtime))) * 10**9)
    except InvalidOperation:
        raise BackupError(f"the time of {member.name!r} is none") from None


def _not_made(tar: Path, name: str, error: OSError) -> BackupError | UnprovenError:
    if error.errno in (28, 122):  # ENOSPC, EDQUOT: that says nothing about the backup
        return UnprovenError(f"{tar} could not be unpacked: {error.strerror}", "df -h")
    return BackupError(f"{tar} cannot be unpacked at {name!r}: {error.strerror}")


def first_difference(tar: Path, root: Path) -> str:
    """Where the folder is not what the tar says, read side by side; "" where it is nowhere."""
    for packed, entry in zip_longest(_members(tar), walk(root)):
        if packed is None:
            return f"{entry.name!r} is too many"
        member, data = packed
        if entry is None:
            return f"{member.name!r} is missing"
        if _inside(tar, member.name) != entry.name:
            return f"{entry.name!r} stands where {member.name!r} should"
        if (wanted := _described(member)) != (found := _describe(entry)):
            return f"{entry.name!r} is {found}, not {wanted}"
        if data is not None and not _same_bytes(data, entry):
            return f"{entry.name!r} has other bytes"
    return ""


def _described(member: tarfile.TarInfo) -> tuple[object, ...]:
    kind = _KINDS.get(member.type)
    if kind == "same":  # all else is its first name's
        return (kind, member.linkname)
    mode = 0o777 if kind == "link" else stat.S_IMODE(member.mode)
    size = member.size if kind == "file" else 0
    target = member.linkname if kind == "link" else ""
    return (kind, f"{mode:o}", member.uid, member.gid, size, _nanoseconds(member), target)


def _describe(entry: Entry) -> tuple[object, ...]:
    found = entry.stat
    if entry.kind == "same":
        return (entry.kind, entry.target)
    mode = 0o777 if entry.kind == "link" else stat.S_IMODE(found.st_mode)
    size = found.st_size if entry.kind == "file" else 0
    time = found.st_mtime_ns
    return (entry.kind, f"{mode:o}", found.st_uid, found.st_gid, size, time, entry.target)


def _same_bytes(data: IO[bytes], entry: Entry) -> bool:
    descriptor = entry.open()
    if descriptor is None:
        return False
    with os.fdopen(descriptor, "rb") as file:
        while wanted := data.read(CHUNK):
            if file.read(len(wanted)) != wanted:
                return False
    return True
