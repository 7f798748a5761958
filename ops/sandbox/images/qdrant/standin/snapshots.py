"""Collection snapshots as files: made, listed, found, deleted, restored from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from . import archive
from .errors import ApiError, lacking, not_found
from .store import Store


class Snapshots:
    """One folder a collection, below one folder for all. Raises ApiError."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._temporary = folder / "tmp"  # on the same disk, so that a rename is enough
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)

    def create(self, name: str) -> dict[str, Any]:
        """Make one; its description."""
        name = self._real(name)
        collection = self._store.get(name)
        now = datetime.now(UTC)
        target = self._folder / name / f"{name}-{self._store.peer}-{now:%Y-%m-%d-%H-%M-%S}.snapshot"
        with self._draft() as draft:
            with collection.frozen():
                archive.pack(draft, collection.record, collection.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            _checksum(target).write_text(archive.sha256_of(draft))
            draft.rename(target)
        return _described(target)

    def list(self, name: str) -> list[dict[str, Any]]:
        folder = self._folder / self._real(name)
        if not folder.is_dir():
            return []
        return [_described(path) for path in folder.iterdir() if path.suffix == ".snapshot"]

    def path(self, name: str, snapshot: str) -> Path:
        """The file of a snapshot, which lies in the collection's folder and nowhere else."""
        folder = self._folder / self._real(name)
        path = folder / snapshot
        if Path(snapshot).name != snapshot:
            raise not_found(f"Snapshot {snapshot} not found")
        if not folder.is_dir():
            raise not_found(f"Snapshot directory: ./{folder} not found")
        if path.is_symlink() or not path.is_file():
            raise not_found(f"Snapshot {snapshot} not found")
        return path

    def delete(self, name: str, snapshot: str) -> bool:
        path = self.path(name, snapshot)
        path.unlink(missing_ok=True)
        _checksum(path).unlink(missing_ok=True)
        return True

    def recover(self, name: str, location: str, checksum: str | None) -> bool:
        """Restore from a file that lies in the folder of all snapshots."""
        path = self._located(location)
        if checksum and (found := archive.sha256_of(path)) != checksum.lower():
            words = f"Snapshot checksum mismatch: expected {checksum}, got {found}"
            raise ApiError(400, f"Wrong input: {words}")
        return self._restore(name, path)

    @contextmanager
    def upload(self) -> Iterator[Path]:
        """A path for what is received; gone afterwards, unless it was kept."""
        with self._draft() as draft:
            yield draft

    def restore_uploaded(self, name: str, file: Path, given: str, checksum: str | None) -> bool:
        """Restore from a received file, which is kept beside the snapshots."""
        if checksum and (found := archive.sha256_of(file)) != checksum.lower():
            raise ApiError(400, f"Checksum mismatch: expected {found}, actual {checksum}")
        kept = self._folder / name / (given or str(uuid4()))
        kept.parent.mkdir(parents=True, exist_ok=True)
        file.rename(kept)
        return self._restore(name, kept)

    def _real(self, name: str) -> str:
        """By name or alias. Raises ApiError 404."""
        self._store.get(name)
        return self._store.aliases.get(name, name)

    def _located(self, location: str) -> Path:
        url = urlsplit(location)
        if url.scheme in ("http", "https"):
            raise lacking("restoring by URL")
        if url.scheme != "file":
            words = f"URL {location} with scheme {url.scheme} is not supported"
            raise ApiError(400, f"Bad request: {words}")
        if url.netloc not in ("", "localhost"):
            words = "Invalid snapshot URI, file path must be absolute or on localhost"
            raise ApiError(400, f"Bad request: {words}")
        path = Path(unquote(url.path))
        if not path.exists():
            raise ApiError(400, f'Bad request: Snapshot file "{path}" does not exist')
        folder = self._folder.resolve()
        if not path.resolve().is_relative_to(folder):
            words = f'Snapshot file path must be inside the snapshots directory "{folder}"'
            raise ApiError(403, f"Forbidden: {words}")
        return path.resolve()

    def _restore(self, name: str, path: Path) -> bool:
        folder = self._store.new_folder()
        try:
            record = archive.unpack(path, folder)
            self._store.restore(name, record, folder)
        except archive.Malformed:
            words = "File IO error: Malformed tar archive, reached unknown entry"
            raise ApiError(500, f"Service internal error: {words}") from None
        finally:
            self._store.forget_folder(folder)
        return True

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """A temporary file; a full disk comes out as the real server says it."""
        draft = self._temporary / uuid4().hex
        try:
            yield draft
        except OSError as error:
            words = f"{error.strerror} (os error {error.errno})"
            raise ApiError(500, f"Service internal error: {words}") from None
        finally:
            draft.unlink(missing_ok=True)


def _checksum(path: Path) -> Path:
    return path.with_name(f"{path.name}.checksum")


def _described(path: Path) -> dict[str, Any]:
    told = path.stat()
    born = time.gmtime(getattr(told, "st_birthtime", told.st_ctime))
    parts = {
        "name": path.name,
        "creation_time": time.strftime("%Y-%m-%dT%H:%M:%S", born),
        "size": told.st_size,
    }
    sidecar = _checksum(path)
    return parts | ({"checksum": sidecar.read_text()} if sidecar.is_file() else {})
