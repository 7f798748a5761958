"""A machine's worth of backup in a temporary folder, and the one oracle of all faults.

The oracle reads with restic itself and hashlib, not with the code under test.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cheap_repository import lay_repository
from forks import Fork, fork
from servers import PASSWORD, credentials

DRIVER = Path(__file__).with_name("driver.py")
QUICK_MESSENGER = Path(__file__).with_name("quick_messenger.py")
CONTENT = {
    "notes/plan.md": b"# plan\n" * 64,
    "library/book.bin": random.Random(1).randbytes(300_000),  # noqa: S311 - not to be compressed
}
Process = Fork | subprocess.Popen[str]
RUN_SECONDS = 180  # no run of these tests takes that long; one that hangs has failed


class Receiver:
    """Hears what is sent to it, as JSON, on loopback. `hang` makes it silent instead."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.hang = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if outer.hang.is_set():
                    time.sleep(120)
                outer.heard.append(json.loads(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"json://127.0.0.1:{self._server.server_port}/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class Run:
    """How a run under test ended."""

    code: int
    stderr: str
    record: dict[str, Any] | None  # the newest of its kind


@dataclass
class Place:
    """`folder/base` is the backup's base, `folder/repository` the local repository."""

    folder: Path
    restic: Path
    receiver: Receiver
    sources: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    fresh: bool = False  # a run is an interpreter of its own, and no fork
    real_messenger: bool = False

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def current(self) -> Path:
        return self.base / "current"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lay_repository(self.restic, self.repository, PASSWORD)

    def write(self) -> None:
        """Lay configuration and credentials as they are now."""
        repositories = self.config.get("repositories") or [
            {"name": "local", "url": str(self.repository)}
        ]
        document = {
            "environment": "faults",
            "stack": "qdrant",
            "stackroom": "test",
            "base": str(self.base),
            "sources": self.sources,
            "offsite_expected": False,
            "timeout_hours": 0.05,
        } | self.config
        document["repositories"] = repositories
        (self.folder / "backup.json").write_text(json.dumps(document))
        shutil.rmtree(self.folder / "credentials", ignore_errors=True)
        given = {"password": PASSWORD, "notices": json.dumps({"urls": [self.receiver.url]})}
        # None: the credential is not there at all
        present = {name: text for name, text in (given | self.secrets).items() if text is not None}
        without = present.pop("password", None)
        credentials(self.folder / "credentials", password=without or "", **present)
        if without is None:
            (self.folder / "credentials/restic_password").unlink()

    def start(self, *options: str, **environment: str) -> Process:
        """Start a run; `finish` waits for it."""
        self.write()
        words = [str(self.folder / "backup.json"), str(self.folder / "credentials")]
        words += options
        if not self.real_messenger:
            words += ["--messenger", str(QUICK_MESSENGER)]
        given = os.environ | {"STACKROOM_RESTIC": str(self.restic)} | environment
        if not self.fresh:
            return fork("driver", words, given)
        return subprocess.Popen(
            [sys.executable, str(DRIVER), *words],
            env=given,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: Process, kind: str = "backup") -> Run:
        try:
            _, stderr = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"the run hangs: {process.communicate()[1]}") from None
        records = self.records(kind)
        return Run(process.returncode, stderr, records[-1] if records else None)

    def run(self, *options: str, kind: str = "backup", **environment: str) -> Run:
        """A whole run of `kind`."""
        return self.finish(self.start("--verb", kind, *options, **environment), kind)

    def records(self, kind: str = "backup") -> list[dict[str, Any]]:
        """What was recorded, oldest first."""
        found = (self.base / "records").glob(f"*.{kind}.json")
        return sorted((json.loads(path.read_text()) for path in found), key=lambda r: r["started"])

    # the oracle --------------------------------------------------------------------------------

    def ask(self, *arguments: str, repository: str = "") -> str:
        """restic itself, without any lock of its own, on the local repository."""
        done = subprocess.run(
            [
                *(str(self.restic), "--no-cache", "--no-lock", "--json"),
                *("--repo", repository or str(self.repository), *arguments),
            ],
            env={"PATH": os.environ["PATH"], "RESTIC_PASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def snapshots(self) -> list[str]:
        """Full ids of what is in the local repository, oldest first."""
        found = json.loads(self.ask("snapshots"))
        return [one["id"] for one in sorted(found, key=lambda one: one["time"])]

    def good(self) -> Good:
        """A run that goes well, to be what every later fault must leave alone."""
        done = self.run()
        assert done.code == 0, done.stderr
        assert done.record and done.record["outcome"] == "ok"
        snapshot = done.record["repositories"][0]["snapshot"]
        return Good(snapshot, hashes(self.current), len(self.receiver.heard))

    def still_restores(self, good: Good) -> None:
        """The good backup comes back byte for byte, and is what its own manifest says."""
        target = self.folder / "restored"
        shutil.rmtree(target, ignore_errors=True)
        self.ask("restore", f"{good.snapshot}:{self.current}", "--target", str(target))
        assert hashes(target) == good.files
        assert_manifest(target)
        shutil.rmtree(target)

    def nothing_half(self) -> None:
        """`current` is whole; or, where two renames were cut apart, it comes back by itself."""
        if self.current.exists():
            assert_manifest(self.current)
        else:
            assert list(self.base.glob(".old-*")), "there is neither a backup nor its old name"

    def noticed(self, good: Good) -> dict[str, Any]:
        """The notice that came since; exactly what was sent."""
        assert len(self.receiver.heard) > good.heard, "no notice came"
        return self.receiver.heard[-1]

    def next_run_is_clean(self) -> None:
        done = self.run()
        assert done.code == 0, done.stderr
        assert done.record and done.record["outcome"] == "ok", done.record
        assert_manifest(self.current)
        self.tidy()
        assert all(record["outcome"] != "running" for record in self.records())

    def tidy(self) -> None:
        """Nothing lies about."""
        left = {path.name for path in self.base.iterdir()}
        # notes of what may still lie on a Qdrant server that did not answer
        assert left <= {"cache", "current", "lock", "records", "qdrant.snapshots.json"}, left
        assert not list((self.base / "records").glob(".*"))

    def survives(self, done: Run, good: Good, outcome: str = "failed") -> None:
        """The whole oracle for a run that ended by itself."""
        assert done.code != 0, done.stderr
        assert done.record and done.record["outcome"] == outcome, (done.record, done.stderr)
        assert done.record["finished"] and done.record["error"]
        self.still_restores(good)
        self.nothing_half()
        self.tidy()
        self.noticed(good)
        assert "Traceback" not in done.stderr


@dataclass(frozen=True)
class Good:
    """A good backup: restic's id, each file's SHA-256 by path, and the notices heard by then."""

    snapshot: str
    files: dict[str, str]
    heard: int


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 by relative path of every file below."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def assert_manifest(folder: Path) -> None:
    """What lies here is what the manifest beside it lists: no more, no less, bit by bit."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found = hashes(folder)
    found.pop("manifest.json")
    assert found == {item["path"]: item["sha256"] for item in manifest["items"]}


def lay(folder: Path) -> Path:
    """The data of a files source."""
    for name, content in CONTENT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@contextmanager
def receiver() -> Iterator[Receiver]:
    opened = Receiver()
    try:
        yield opened
    finally:
        opened.close()
