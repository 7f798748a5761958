"""Notices and pings over real HTTP: what arrives, and what a receiver that misbehaves cannot do."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ops.backup import post
from ops.backup.job import Job, carry_out
from ops.backup.messenger import TRIES
from ops.backup.notices import finished, started
from ops.backup.post import ping_id
from ops.backup.records import Record, read_records
from ops.errors import BackupError
from ops.render.files import ROOT
from ops.settings.host import Credentials, HostConfig

CANARY = "canary-0123456789abcdef"  # in every address: whoever reads it may write there
BOUND = 30.0
GRACE = 10.0  # for a machine that is busy with other things
NOW = datetime.now(UTC)

pytestmark = pytest.mark.services


class Receiver(ThreadingHTTPServer):
    """Answers by the first part of the path: ok, broken, moved, silent, drip, flaky."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.arrived = threading.Event()
        self.over = threading.Event()

    def address(self, how: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.server_port}/{how}/{CANARY}"

    def of(self, method: str) -> list[tuple[str, dict[str, Any]]]:
        return [(path, body) for made, path, body in self.requests if made == method]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        self.server.requests.append((self.command, self.path, body))
        self.server.arrived.set()
        getattr(self, self.path.split("/")[1])()

    do_POST = do_GET

    def ok(self) -> None:
        self._answer(200)

    def broken(self) -> None:
        self._answer(500)

    def moved(self) -> None:
        self._answer(302, self.path)

    def silent(self) -> None:
        self.server.over.wait(120)

    def drip(self) -> None:
        """A byte a second: no read ever times out."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not self.server.over.wait(1):
            self.wfile.write(b"x")

    def flaky(self) -> None:
        self._answer(200 if len(self.server.requests) > 2 else 503)

    def _answer(self, status: int, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    return HostConfig(
        environment="team",
        stack="qdrant",
        stackroom="0123456789ab",
        base=tmp_path / "base",
        repositories=[],
        sources=[],
        timeout_hours=1,
    )


@pytest.fixture
def tell_to(tmp_path: Path) -> Callable[..., Credentials]:
    """`tell_to(ping, *notices)`: the credential that names these addresses."""

    def write(ping: str, *urls: str) -> Credentials:
        folder = tmp_path / "secrets"
        folder.mkdir(exist_ok=True)
        pings = {"backup": ping} if ping else {}
        document = {"urls": list(urls), "pings": pings}
        (folder / "notices").write_text(json.dumps(document), encoding="utf-8")
        return Credentials(folder)

    return write


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bounds, sooner."""
    monkeypatch.setattr(post, "PATIENCE_SECONDS", 5.0)
    monkeypatch.setattr(post, "BOUND_SECONDS", 7.0)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def failed_record(**facts: Any) -> Record:
    given = {
        "outcome": "failed",
        "exit_code": 2,
        "error": "Qdrant does not answer",
        "trigger": "timer",
        "finished": NOW + timedelta(seconds=151),
        "details": {"log": "a log that nobody outside needs"},
    }
    return Record(kind="backup", run="20261121T023000Z-00000a", started=NOW, **{**given, **facts})


def messengers() -> list[int]:
    """The children of this process that carry messages now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        parent = int(stat.rpartition(")")[2].split()[1])
        if parent == os.getpid() and any(word.endswith(b"messenger.py") for word in words):
            found.append(int(folder.name))
    return found


def test_a_failure_arrives_as_ping_and_notice(
    config: HostConfig, receiver: Receiver, tell_to: Callable[..., Credentials]
) -> None:
    credentials = tell_to(receiver.address("ok"), receiver.address("ok", "json"))
    record = failed_record()
    started(credentials, record)
    assert finished(config, credentials, record) is True
    rid = ping_id(record.run)
    assert [path for path, _ in receiver.of("GET")] == [
        f"/ok/{CANARY}/start?rid={rid}",
        f"/ok/{CANARY}/2?rid={rid}",
    ]
    ((_, notice),) = receiver.of("POST")
    assert notice["title"] == "stackroom team: backup failed"
    assert notice["message"].startswith("Qdrant does not answer\n")
    assert notice["type"] == "failure"
    assert "stackroom -e team backup show" in notice["message"]
    assert "a log" not in json.dumps(notice)
    assert CANARY not in json.dumps(notice)


def test_what_fails_at_first_is_tried_again(
    config: HostConfig, receiver: Receiver, tell_to: Callable[..., Credentials]
) -> None:
    credentials = tell_to("", receiver.address("flaky", "json"))
    assert finished(config, credentials, failed_record()) is True
    assert len(receiver.of("POST")) == 3


def test_one_address_that_hangs_does_not_keep_the_others_from_it(
    config: HostConfig,
    receiver: Receiver,
    tell_to: Callable[..., Credentials],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(post, "PATIENCE_SECONDS", 12.0)
    addresses = [receiver.address(how, "json") for how in ("silent", "drip", "ok")]
    assert finished(config, tell_to(receiver.address("silent"), *addresses), failed_record())
    assert [path for path, _ in receiver.of("POST") if path.startswith("/ok")]
    told = [record.getMessage() for record in caplog.records if record.name == post.log.name]
    assert told == [
        "notice address 1 (json) did not take the notice",
        "notice address 2 (json) did not take the notice",
        "the dead man's switch did not take the ping",
    ]


@pytest.mark.parametrize("how", ["refused", "silent", "drip", "broken", "moved", "no service"])
def test_whatever_the_receiver_does_takes_no_longer_and_changes_nothing(
    config: HostConfig,
    receiver: Receiver,
    tell_to: Callable[..., Credentials],
    hurried: None,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    how: str,
) -> None:
    """The whole job, as a timer runs it: its record and its error are those of the work."""
    caplog.set_level(logging.DEBUG)
    if how == "refused":
        base = f"://127.0.0.1:{closed_port()}/{CANARY}"
        ping, notice = f"http{base}", f"json{base}"
    elif how == "no service":
        ping, notice = f"https://no-such-host.invalid/{CANARY}", f"nosuchservice://{CANARY}"
    else:
        ping, notice = receiver.address(how), receiver.address(how, "json")

    def work(job: Job) -> Record:
        raise BackupError("Qdrant does not answer", "stackroom doctor")

    began = time.monotonic()
    with pytest.raises(BackupError, match="Qdrant does not answer"):
        carry_out("backup", config, tell_to(ping, notice), work, trigger="timer")
    took = time.monotonic() - began
    (record,) = read_records(config.base)
    assert (record.outcome, record.exit_code, record.error) == (
        "failed",
        2,
        "Qdrant does not answer",
    )
    assert record.notified is False
    assert took < 2 * post.BOUND_SECONDS + GRACE  # the start's ping, and the end's
    assert messengers() == []
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err + caplog.text


def test_a_redirect_is_not_followed(
    config: HostConfig, receiver: Receiver, tell_to: Callable[..., Credentials], hurried: None
) -> None:
    """It would carry the text of the notice to wherever it points."""
    finished(config, tell_to(receiver.address("moved")), failed_record())
    assert 1 <= len(receiver.of("GET")) <= TRIES
    receiver.requests.clear()
    finished(config, tell_to("", receiver.address("moved", "json")), failed_record())
    assert 1 <= len(receiver.requests) <= TRIES


def test_a_messenger_that_does_nothing_any_more_is_killed(
    config: HostConfig, receiver: Receiver, tell_to: Callable[..., Credentials], hurried: None
) -> None:
    """Stopped, it cannot keep its own deadline."""
    answers: list[bool] = []
    credentials = tell_to("", receiver.address("silent", "json"))
    thread = threading.Thread(
        target=lambda: answers.append(finished(config, credentials, failed_record()))
    )
    thread.start()
    assert receiver.arrived.wait(30)
    (child,) = messengers()
    os.kill(child, signal.SIGSTOP)
    thread.join(post.BOUND_SECONDS + GRACE)
    assert answers == [False]
    assert messengers() == []


def test_no_address_is_in_an_argument_list_or_an_environment(
    config: HostConfig, receiver: Receiver, tell_to: Callable[..., Credentials], hurried: None
) -> None:
    credentials = tell_to(receiver.address("silent"), receiver.address("silent", "json"))
    thread = threading.Thread(target=lambda: finished(config, credentials, failed_record()))
    thread.start()
    assert receiver.arrived.wait(30)
    (child,) = messengers()
    for name in ("cmdline", "environ"):
        text = (Path("/proc") / str(child) / name).read_bytes()
        assert text
        assert CANARY.encode() not in text
    thread.join()


SCRIPT = """
import logging, sys, threading
from pathlib import Path
from ops.backup.notices import finished
from ops.backup.records import Record
from ops.settings.host import Credentials, HostConfig
config = HostConfig.model_validate_json(sys.stdin.readline())
record = Record.model_validate_json(sys.stdin.readline())
credentials = Credentials(Path(sys.argv[1]))
logging.basicConfig(level=logging.DEBUG)
tell = lambda: finished(config, credentials, record)
thread = threading.Thread(target=tell, daemon=True)
thread.start()
thread.join(None if sys.argv[2] == "wait" else 2)
print("the result", flush=True)
sys.exit(2)
"""


@pytest.mark.parametrize("patience", ["wait", "leave"])
def test_the_interpreter_ends_with_its_own_code_and_prints_no_address(
    config: HostConfig,
    receiver: Receiver,
    tell_to: Callable[..., Credentials],
    patience: str,
) -> None:
    """Whoever waits has the promised bound; whoever leaves is kept by no thread of a library."""
    credentials = tell_to(receiver.address("silent"), receiver.address("drip", "json"))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(credentials.folder), patience],
        input=f"{config.model_dump_json()}\n{failed_record().model_dump_json()}\n",
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=BOUND + 3 * GRACE,
    )
    took = time.monotonic() - began
    assert (done.returncode, done.stdout) == (2, "the result\n")
    assert CANARY not in done.stderr
    assert took < (BOUND if patience == "wait" else 2) + GRACE
