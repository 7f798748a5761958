"""Qdrant's collection snapshots: made, listed, fetched, restored by upload, deleted.

Files are streamed both ways in small pieces, hashed on the way: memory stays flat whatever the
size. Nothing half-fetched is ever left under the name it was asked for. The official client has no
such calls: it takes a whole snapshot into memory, and gives up after 5 seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import SecretStr

from ops.clients.rest import checked_url, key_headers, result_of, unreachable, verification
from ops.errors import BackupError, ServiceError, StackroomError

CHUNK = 1024 * 1024  # bytes that are sent at once; progress is told as often
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0  # without a byte; after that nobody is there
REFUSAL_BYTES = 64 * 1024  # of a refusal's text that are read
# the time in a name, UTC, is when its making began
NAME = re.compile(r".*-\d+-(\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d)\.snapshot", re.DOTALL)

OnBytes = Callable[[int, int], None]  # so many, of so many in all; 0 where that is not known


def unwatched(_: int, __: int) -> None:
    """The `on_bytes` of whoever does not look."""


@dataclass(frozen=True)
class SnapshotInfo:
    """A snapshot as Qdrant lists it. `checksum` is its SHA-256, "" for one that was uploaded or
    is kept in S3; `created` is None where the file system does not tell."""

    name: str
    size: int
    checksum: str
    created: datetime | None

    @property
    def begun(self) -> datetime | None:
        """When its making began: the time in its name."""
        found = NAME.fullmatch(self.name)
        if found is None:
            return None
        try:
            return datetime.strptime(found[1], "%Y-%m-%d-%H-%M-%S").replace(tzinfo=UTC)
        except ValueError:
            return None


class Snapshots:
    """Every call ends: UnreachableError where nothing comes for `silence` seconds (or the call's
    own timeout), ServiceError with Qdrant's own words for a refusal."""

    def __init__(
        self,
        url: str,
        api_key: SecretStr | None,
        *,
        ca_file: Path | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        base = checked_url(url)
        self._url = url.rstrip("/")
        self._silence = silence
        # a compressed download would have no length, and cost the server time
        headers = key_headers(api_key) | {"accept-encoding": "identity"}
        self._http = httpx.Client(base_url=base, verify=verification(ca_file), headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def create(self, collection: str, *, timeout: float) -> SnapshotInfo:
        """Make a snapshot and wait for it, `timeout` seconds at most.

        The server goes on making it when nobody waits any more.
        """
        path = f"{_folder(collection)}?wait=true"
        return _info(self._ask("POST", path, self._timeout(timeout)))

    def list(self, collection: str) -> list[SnapshotInfo]:
        """What there is, newest first; uploaded files are listed if their name ends right."""
        found = self._ask("GET", _folder(collection), self._timeout())
        if not isinstance(found, list):
            raise ServiceError(f"Qdrant at {self._url} lists snapshots in an unknown form")
        return sorted((_info(each) for each in found), key=_age, reverse=True)

    def delete(self, collection: str, name: str) -> None:
        """Delete a snapshot. One that is not there, or whose collection is not, is no error."""
        path = f"{_folder(collection)}/{_quoted(name)}?wait=true"
        self._ask("DELETE", path, self._timeout(), absent_is_fine=True)

    def download(
        self,
        collection: str,
        name: str,
        target: Path,
        *,
        checksum: str = "",
        size: int | None = None,
        on_bytes: OnBytes = unwatched,
    ) -> str:
        """Fetch a snapshot into `target`, durably and for its owner alone; its SHA-256 in hex.

        Raises BackupError where it is not as long as promised, is not what `checksum` says, or
        cannot be written: then there is nothing under `target` but what was there before.
        """
        partial = target.with_name(f"{target.name}.partial")
        path = f"{_folder(collection)}/{_quoted(name)}"
        try:
            with self._streamed(path) as answer:
                found = _received(answer, partial, size, on_bytes)
            if checksum and found != checksum.lower():
                raise BackupError(
                    f"{name} did not arrive as Qdrant made it: the SHA-256 differs",
                    "run it again; if it fails again, look at the memory and the disk",
                )
            partial.replace(target)
            _fsync_folder(target.parent)
        except OSError as error:
            raise BackupError(
                f"{target} cannot be written: {error.strerror}", f"df -h {target.parent}"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        return found

    def upload(
        self,
        collection: str,
        file: Path,
        *,
        checksum: str,
        timeout: float,
        on_bytes: OnBytes = unwatched,
    ) -> None:
        """Restore `collection` from a file: made anew where it is absent, else overwritten.

        `timeout` is for the restoring, after all was sent. Raises BackupError where what arrived
        has not this SHA-256: then nothing was restored. Qdrant's own copy of the file is removed.
        """
        # a name of its own: Qdrant keeps it beside the snapshots, over one of the same name
        name = f"stackroom-upload-{uuid4().hex}.snapshot"
        query = f"wait=true&priority=snapshot{f'&checksum={checksum}' if checksum else ''}"
        head, tail, kind = _multipart(name)
        size = file.stat().st_size
        headers = {"content-type": kind, "content-length": str(len(head) + size + len(tail))}
        content = _sent(head, file, size, tail, on_bytes)
        try:
            path = f"{_folder(collection)}/upload?{query}"
            self._ask("POST", path, self._timeout(timeout), headers=headers, content=content)
        except ServiceError as error:
            self._forget(collection, name)
            if "checksum mismatch" in error.message.lower():
                raise BackupError(
                    f"{file} is not what was backed up: {error.message}", "take another backup"
                ) from None
            raise
        except BaseException:
            self._forget(collection, name)
            raise
        self.delete(collection, name)

    def _forget(self, collection: str, name: str) -> None:
        with contextlib.suppress(StackroomError):
            self.delete(collection, name)

    def _timeout(self, answer: float | None = None) -> httpx.Timeout:
        connect = min(CONNECT_SECONDS, self._silence)
        return httpx.Timeout(self._silence, connect=connect, read=answer or self._silence)

    def _ask(
        self,
        method: str,
        path: str,
        timeout: httpx.Timeout,
        *,
        absent_is_fine: bool = False,
        **request: Any,
    ) -> Any:
        try:
            answer = self._http.request(method, path, timeout=timeout, **request)
        except httpx.TransportError as error:
            raise unreachable(self._url, error) from None
        if absent_is_fine and answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return result_of(answer, self._url, f"{method} {path.partition('?')[0]}")

    @contextlib.contextmanager
    def _streamed(self, path: str) -> Iterator[httpx.Response]:
        try:
            with self._http.stream("GET", path, timeout=self._timeout()) as answer:
                if not answer.is_success:
                    # never the whole of what might be a file
                    text = next(answer.iter_raw(REFUSAL_BYTES), b"")
                    read = httpx.Response(answer.status_code, content=text)
                    result_of(read, self._url, f"GET {path}")
                yield answer
        except httpx.TransportError as error:
            raise unreachable(self._url, error) from None


def _received(answer: httpx.Response, partial: Path, size: int | None, on_bytes: OnBytes) -> str:
    """Write the body into `partial`, synced; its SHA-256. Raises BackupError for a wrong length."""
    promised = int(answer.headers.get("content-length", size or 0))
    known = size is not None or "content-length" in answer.headers
    if "content-encoding" in answer.headers:
        raise ServiceError("something between here and Qdrant compresses a download", "")
    if size is not None and size != promised:
        raise BackupError(f"a snapshot of {size} bytes was made, and {promised} are being sent")
    digest, done, told = hashlib.sha256(), 0, 0
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        try:
            # as they come, 64 KiB at most: gathering them into larger ones costs more than it saves
            for piece in answer.iter_raw():
                digest.update(piece)
                _write(file.fileno(), piece)
                done += len(piece)
                if done - told >= CHUNK or done == promised:
                    told = done
                    on_bytes(done, promised)
        except httpx.RemoteProtocolError:
            raise BackupError(
                f"the download broke off after {done} of {promised} bytes",
                "docker logs --tail 50 stackroom-qdrant-1",
            ) from None
        if known and done != promised:
            raise BackupError(f"the download has {done} bytes; {promised} were promised")
        os.fsync(file.fileno())
    return digest.hexdigest()


def _write(descriptor: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _multipart(name: str) -> tuple[bytes, bytes, str]:
    """What stands before and behind the file, and the content type that says so."""
    boundary = uuid4().hex
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="snapshot"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return (
        head.encode(),
        f"\r\n--{boundary}--\r\n".encode(),
        f"multipart/form-data; boundary={boundary}",
    )


def _sent(head: bytes, file: Path, size: int, tail: bytes, on_bytes: OnBytes) -> Iterator[bytes]:
    yield head
    done = 0
    with file.open("rb") as opened:
        while piece := opened.read(CHUNK):
            yield piece
            done += len(piece)
            on_bytes(done, size)
    yield tail


def _folder(collection: str) -> str:
    return f"/collections/{_quoted(collection)}/snapshots"


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _info(entry: Any) -> SnapshotInfo:
    try:
        given = entry.get("creation_time")
        created = datetime.fromisoformat(given) if given else None
        return SnapshotInfo(
            name=str(entry["name"]),
            size=int(entry["size"]),
            checksum=str(entry.get("checksum") or "").lower(),
            created=created.replace(tzinfo=UTC) if created and not created.tzinfo else created,
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ServiceError(f"Qdrant describes a snapshot in an unknown form: {entry!r}") from None


def _age(info: SnapshotInfo) -> tuple[datetime, str]:
    return info.begun or info.created or datetime.min.replace(tzinfo=UTC), info.name


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
