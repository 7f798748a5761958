"""restic, by its own program: one repository, each call under a deadline, each failure in words.

It removes snapshots by id only and never by a policy, and never makes a repository anew where one
has been. Its environment is made from scratch, and the password stays in its file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ops.clients import restic_access as access
from ops.clients import restic_words as words
from ops.clients.child import Ended, OnLine, run_child
from ops.errors import BackupError, LockedError, ServiceError, StackroomError, UnreachableError
from ops.settings.host import RESTIC_PASSWORD, Credentials, Repository

NO_REPOSITORY, LOCKED, WRONG_PASSWORD = 10, 11, 12
# restic's exit codes; one that is not here is a failure all the same
CODES = {1: "failed", 2: "crashed", 3: "could not read all files", 130: "was interrupted"}
SAFETY = "safety"  # the tag of what a restore was about to replace
LISTING = 5  # times `timeout`: what reads or removes many small files

OnBytes = Callable[[int, int], None]  # done, total


class NoRepositoryError(ServiceError):
    """Nothing was ever stored at this address, or what was is gone."""


@dataclass(frozen=True)
class Stored:
    """What a backup came to. `added_bytes` is what the repository has grown by."""

    snapshot: str
    added_bytes: int
    total_bytes: int
    seconds: float


@dataclass(frozen=True)
class Snapshot:
    """`time` is aware UTC; `run` is empty where the snapshot has no tag run=<run>; `safety`: it is
    of what a restore was about to replace."""

    id: str
    time: datetime
    run: str
    path: str
    host: str
    safety: bool = False


class Restic:
    """One repository. `cache` is a folder of ours; `timeout` seconds are for what is quick.

    Every method raises MissingToolError (no restic, too old, no ssh or rclone), SettingsError (a
    credential is missing or empty), UnreachableError (no answer in time), LockedError (somebody
    else works on it; a stale lock is removed and does not count), ServiceError (wrong password or
    keys, read-only, no space) or BackupError (what is stored is damaged).
    """

    def __init__(
        self,
        repository: Repository,
        credentials: Credentials,
        *,
        host: str,
        cache: Path,
        timeout: float = 60,
    ) -> None:
        self.name: str = repository.name
        self._repository = repository
        self._credentials = credentials
        self._host = host
        self._cache = cache
        self._timeout = timeout
        self._access = access.Access(repository, credentials, cache)
        self._version = ""

    def version(self) -> str:
        """Such as "0.18.0". Raises MissingToolError where it is missing or older than 0.17.1."""
        if not self._version:
            self._version = access.version_of(access.program(), self._timeout)
        return self._version

    def open(self, *, create: bool = True) -> None:
        """See that the repository answers and the password opens it; make it where there is none.

        A local folder that holds anything is never made a repository: what was there may be the
        backups. That a disk is not mounted cannot be seen from here; with `create` the caller says
        that nothing was ever stored at this address.
        """
        ended = self._call("cat", "config", "--no-lock")
        absent = ended.code == NO_REPOSITORY or words.bucket_is_missing(ended.stderr)
        if absent and create:
            self._make()
            return
        self._need_success("cat config", ended)

    def backup(
        self,
        folder: Path,
        run: str,
        *,
        timeout: float,
        safety: bool = False,
        on_bytes: OnBytes = lambda done, total: None,
    ) -> Stored:
        """Store a folder under the tags run=<run> and, where it is one, `safety`; and read back
        that it is there.

        Any exit code but 0 is a failure, also 3: files that could not be read.
        """
        if not folder.is_absolute() or folder.is_symlink() or not folder.is_dir():
            raise BackupError(f"{folder} is no folder that can be stored")
        begun = time.monotonic()
        summary: dict[str, Any] = {}

        def on_line(line: str) -> None:
            message = _message(line)
            if message.get("message_type") == "summary":
                summary.update(message)
            elif message.get("message_type") == "status":
                on_bytes(message.get("bytes_done", 0), message.get("total_bytes", 0))

        tags = ("--tag", f"run={run}", *(("--tag", SAFETY) if safety else ()))
        tagged = (*tags, "--host", self._host)
        self._work("backup", *tagged, "--", str(folder), timeout=timeout, on_line=on_line)
        total = summary.get("total_bytes_processed", 0)
        on_bytes(total, total)
        snapshot = str(summary.get("snapshot_id", ""))
        there = self._snapshots(snapshot) if snapshot else []
        found = [(x.id, x.run, x.path, x.safety) for x in there]
        if found != [(snapshot, run, str(folder), safety)]:
            raise ServiceError(f"{self._who()}: restic reported success, but has no such snapshot")
        return Stored(
            snapshot,
            summary.get("data_added_packed", summary.get("data_added", 0)),
            total,
            time.monotonic() - begun,
        )

    def snapshots(self) -> list[Snapshot]:
        """All that can be read, oldest first. `check` tells of those that cannot."""
        return self._snapshots()

    def restore(
        self,
        snapshot: str,
        target: Path,
        *,
        include: Sequence[str] = (),
        timeout: float,
        on_bytes: OnBytes = lambda done, total: None,
        more: bool = False,
    ) -> None:
        """Lay the stored folder's content directly into `target`, which is made, or empty.

        `include` names files or folders relative to the stored folder: only these, and each has to
        be there. `more`: the target holds what an earlier call for the same snapshot has left.
        restic compares each part it reads with its hash; to compare whole files with the manifest
        is the caller's. A target that was empty is empty again after a failure.
        """
        if not more and target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ServiceError(f"{target} is not empty: nothing was restored", f"ls -la {target}")
        found = self._snapshots(snapshot)
        if len(found) != 1:
            raise ServiceError(
                f"{self._who()}: there is no snapshot {snapshot[:8]}", "stackroom backup list"
            )
        target.mkdir(parents=True, exist_ok=True, mode=0o700)

        def on_line(line: str) -> None:
            message = _message(line)
            if message.get("message_type") == "status":
                on_bytes(message.get("bytes_restored", 0), message.get("total_bytes", 0))

        chosen = [part for path in include for part in ("--include", _literally(path))]
        what = [*self._lock_option(), f"{found[0].id}:{found[0].path}"]
        try:
            self._work(
                *("restore", "--target", str(target), *chosen, *what),
                timeout=timeout,
                on_line=on_line,
            )
            missing = [path for path in include if not os.path.lexists(target / path)]
            if missing:
                raise BackupError(f"{self._who()}: {snapshot[:8]} does not hold {missing[0]}")
        except BaseException:
            if not more:
                _empty(target)
            raise

    def check(self, subset: tuple[int, int] | None, *, timeout: float) -> None:
        """Check the structure; with (k, n) also read the k-th of n parts of all data.

        (1, 1) reads everything. Raises BackupError for what is damaged. Stale locks are the
        caller's to remove before (`unlock`).
        """
        for left in self._cache.glob("restic-check-cache-*"):  # of one that was killed
            shutil.rmtree(left, ignore_errors=True)
        reading = [f"--read-data-subset={subset[0]}/{subset[1]}"] if subset else []
        self._work("check", *reading, timeout=timeout)

    def forget(self, ids: Sequence[str], *, dry_run: bool) -> list[str]:
        """Remove these snapshots, full ids, and return those that are (or would be) gone.

        Their data stay until `prune`. An id that is not there is passed over; to remove every
        snapshot of the repository is refused. restic reports success also where the far side
        refuses the removal, so what is left is listed again: ServiceError.
        """
        if not ids:
            return []
        before = [found.id for found in self.snapshots()]
        going = [found for found in before if found in ids]
        if not going:
            return []
        if going == before:
            raise BackupError(
                f"{self._who()}: every backup in it would be removed: nothing was",
                "stackroom backup list",
            )
        options = ["--dry-run"] if dry_run else []
        ended = self._work("forget", *options, "--", *going, timeout=self._timeout * LISTING)
        if not dry_run:
            left = set(going) & {found.id for found in self.snapshots()}
            if left:
                raise ServiceError(
                    f"{self._who()}: {len(left)} backups were not removed:"
                    f" {self._last_words(ended)[0]}",
                    "an append-only repository is pruned on its far side",
                )
        return going

    def prune(self, *, timeout: float) -> None:
        """Free the space of what was forgotten."""
        self._work("prune", timeout=timeout)

    def unlock(self) -> None:
        """Remove stale locks: of processes of this machine that are gone, or 30 minutes old."""
        self._need_success("unlock", self._call("unlock", timeout=self._timeout * LISTING))

    def _make(self) -> None:
        if self._access.kind == "local":
            folder = Path(self._repository.url)
            access.clear_for_a_repository(folder, self._who())
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._need_success("init", self._call("init"))

    def _snapshots(self, *ids: str) -> list[Snapshot]:
        for one in ids:
            if not re.fullmatch(r"[0-9a-f]{8,64}", one):
                raise ServiceError(f"{one!r} is no id of a snapshot", "stackroom backup list")
        ended = self._call("snapshots", "--no-lock", *ids, timeout=self._timeout * LISTING)
        self._need_success("snapshots", ended)
        try:
            found = [_snapshot(entry) for entry in json.loads(ended.stdout) or []]
        except (ValueError, KeyError, TypeError):
            raise ServiceError(f"{self._who()}: restic's list cannot be read") from None
        return sorted(found, key=lambda snapshot: snapshot.time)

    def _work(
        self, verb: str, *arguments: str, timeout: float, on_line: OnLine | None = None
    ) -> Ended:
        """A call that needs a lock; a stale one is removed once, and the call made again."""
        begun = time.monotonic()
        ended = self._call(verb, *arguments, timeout=timeout, on_line=on_line)
        if ended.code == LOCKED:
            self.unlock()
            left = max(timeout - (time.monotonic() - begun), 1.0)
            ended = self._call(verb, *arguments, timeout=left, on_line=on_line)
        self._need_success(verb, ended)
        return ended

    def _call(
        self, *arguments: str, timeout: float | None = None, on_line: OnLine | None = None
    ) -> Ended:
        self.version()
        environment = self._access.environment()
        seconds = self._timeout if timeout is None else timeout
        with self._access.options() as options:
            ended = run_child(
                [access.program(), "--json", *options, *arguments],
                environment,
                timeout=seconds,
                on_line=on_line,
                give_up=words.Patience().is_over,
            )
        if ended.late:
            reason, known = self._last_words(ended)
            raise UnreachableError(
                f"{self._who()}: restic {arguments[0]} did not end in {seconds:g} s: {reason}",
                known.hint if known else "stackroom doctor",
            )
        return ended

    def _need_success(self, doing: str, ended: Ended) -> None:
        if ended.code != 0 or ended.given_up:
            raise self._error(doing, ended)

    def _error(self, doing: str, ended: Ended) -> StackroomError:
        who = self._who()
        reason, known = self._last_words(ended)
        if ended.code == WRONG_PASSWORD:
            return ServiceError(
                f"{who}: wrong password: the credential {RESTIC_PASSWORD} in"
                f" {self._credentials.folder} does not open it",
                "the recovery file of the escrow holds the right one",
            )
        if ended.code == LOCKED:
            return LockedError(
                f"{who}: somebody else is at work on it: {reason}",
                "wait for it to end; stackroom backup unlock removes what a killed one left",
            )
        if ended.code == NO_REPOSITORY:
            return NoRepositoryError(
                f"{who}: there is none",
                "look whether its disk is mounted and its address is right: stackroom doctor",
            )
        if known is not None:
            return type(known)(f"{who}: {known.message}: {reason}", known.hint)
        code = CODES.get(ended.code, f"ended with {ended.code}")
        return ServiceError(f"{who}: {doing}: restic {code}: {reason}", "stackroom doctor")

    def _last_words(self, ended: Ended) -> tuple[str, StackroomError | None]:
        said = [*self._access.asides(), *ended.stderr]
        return words.meaning(said, self._access.secrets())

    def _lock_option(self) -> list[str]:
        """For what only reads: it goes without a lock where none can be written."""
        if self._access.kind != "local" or access.can_be_locked(Path(self._repository.url)):
            return []
        return ["--no-lock"]

    def _who(self) -> str:
        return f"the repository {self.name} ({self._repository.url})"


def _message(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _snapshot(entry: dict[str, Any]) -> Snapshot:
    tags = entry.get("tags") or []
    runs = [tag.removeprefix("run=") for tag in tags if tag.startswith("run=")]
    return Snapshot(
        id=entry["id"],
        time=datetime.fromisoformat(entry["time"]).astimezone(UTC),
        run=runs[0] if runs else "",
        path=entry["paths"][0],
        host=entry.get("hostname", ""),
        safety=SAFETY in tags,
    )


def _literally(path: str) -> str:
    """A path of the stored folder as a pattern that matches nothing else."""
    escaped = re.sub(r"([*?\[\]\\])", r"\\\1", path.strip("/"))
    return f"/{escaped}"


def _empty(folder: Path) -> None:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
