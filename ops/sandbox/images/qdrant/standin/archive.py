"""The stand-in's own form of a collection snapshot: a tar that ends in its own SHA-256.

It holds the record of the collection and the shard's files without their holes; the real server
cannot read it, and the stand-in none of the real server's. Written and read in pieces.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PIECE = 1024 * 1024
MARK = b"stand-in "  # and 64 hexadecimal digits: the SHA-256 of all that stands before
RECORD = "record.json"


class Malformed(Exception):
    """Not a snapshot, or not the whole of one, or not as it was written."""


def pack(target: Path, record: dict[str, Any], folder: Path) -> None:
    """Write a snapshot of a shard's folder, which nobody may change meanwhile. Raises OSError."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        head = json.dumps({"record": record, "files": sizes}).encode()
        _add(tar, RECORD, io.BytesIO(head), len(head))
        for path in paths:
            with path.open("rb") as file:
                for start, end in _extents(file.fileno()):
                    file.seek(start)
                    _add(tar, f"{start}/{path.relative_to(folder)}", file, end - start)
    mark = MARK + sha256_of(target).encode()
    with target.open("ab") as file:
        file.write(mark)


def unpack(source: Path, folder: Path) -> dict[str, Any]:
    """The record; the shard's files are laid into the new folder.

    Raises Malformed before anything is laid, OSError.
    """
    length = source.stat().st_size - len(MARK) - 64
    with source.open("rb") as file:
        file.seek(max(length, 0))
        if length < 0 or file.read() != MARK + _hashed(source, length).encode():
            raise Malformed
    with tarfile.open(source, "r:") as tar:
        head = json.loads(tar.extractfile(RECORD).read())  # type: ignore[union-attr]
        for name, size in head["files"].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("wb") as file:
                file.truncate(size)
        for member in tar:
            if member.name != RECORD:
                start, _, name = member.name.partition("/")
                _lay(tar, member, folder / name, int(start))
    record: dict[str, Any] = head["record"]
    return record


def sha256_of(path: Path) -> str:
    return _hashed(path, path.stat().st_size)


def _hashed(path: Path, length: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while length and (piece := file.read(min(PIECE, length))):
            digest.update(piece)
            length -= len(piece)
    return digest.hexdigest()


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are no holes."""
    start, size = 0, os.fstat(descriptor).st_size
    while start < size:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:  # a hole up to the end
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
        start = end


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes], size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    tar.addfile(entry, file)


def _lay(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, start: int) -> None:
    held = tar.extractfile(member)
    with path.open("r+b") as file:
        file.seek(start)
        while held and (piece := held.read(PIECE)):
            file.write(piece)
