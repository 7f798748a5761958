"""A program that must never outlive its time or its caller: one child, under a deadline.

It gets the environment it is given and nothing of ours. When we are killed the kernel kills it too.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.errors import MissingToolError

GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL: time to take its locks away
KEPT_LINES = 60  # of standard error
LONGEST_LINE = 2000
_POLL_SECONDS = 0.5
# who died before the kernel was asked to tell of it is missed by it: then there is another parent
_STILL_OURS = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'

OnLine = Callable[[str], None]


@dataclass(frozen=True)
class Ended:
    """How it ended. `code` is negative for a signal; `late`: at its deadline; `given_up`: by us."""

    code: int
    stdout: str
    stderr: list[str]  # the last lines
    late: bool = False
    given_up: bool = False


def run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    timeout: float,
    on_line: OnLine | None = None,
    give_up: Callable[[str], bool] | None = None,
) -> Ended:
    """Run a program to its end, or to `timeout` seconds.

    `on_line` is given each line of standard output, which then is not kept; `give_up` each line of
    standard error, and "" twice a second: True ends the program now. Whatever leaves this
    function, also a signal that became an exception, the program and all it started are gone. Call
    it from a thread that stays: the kernel takes the end of that thread for our end.
    Raises MissingToolError where it cannot be started.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise MissingToolError("setpriv is not installed", "apt-get install util-linux")
    deadline = time.monotonic() + timeout
    try:
        process = subprocess.Popen(
            [
                *(setpriv, "--pdeathsig", "KILL", "--"),
                *("/bin/sh", "-c", _STILL_OURS, "sh", str(os.getpid()), *command),
            ],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise MissingToolError(f"{setpriv} cannot be started: {error.strerror}") from None
    try:
        reader = _Reader(process, on_line, give_up)
        late = not reader.read_until(deadline)
        if not late and not reader.given_up:
            process.wait()
    finally:
        _end(process)
    return Ended(process.returncode, reader.stdout, list(reader.stderr), late, reader.given_up)


class _Reader:
    """Both streams at once, in the caller's own thread: no callback comes from elsewhere."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        on_line: OnLine | None,
        give_up: Callable[[str], bool] | None,
    ) -> None:
        assert process.stdout and process.stderr  # noqa: S101 - for the type checker
        self._process = process
        self._out, self._err = process.stdout.fileno(), process.stderr.fileno()
        self._rest = {self._out: b"", self._err: b""}
        self._on_line, self._give_up = on_line, give_up
        self._kept: list[bytes] = []
        self.stderr: deque[str] = deque(maxlen=KEPT_LINES)
        self.given_up = False

    @property
    def stdout(self) -> str:
        return b"".join(self._kept).decode(errors="replace")

    def read_until(self, deadline: float) -> bool:
        """Whether it ended, or was given up, before the deadline."""
        with selectors.DefaultSelector() as selector:
            for descriptor in self._rest:
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map() and not self.given_up:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                ended = self._process.poll() is not None
                ready = selector.select(0 if ended else min(remaining, _POLL_SECONDS))
                if ended and not ready:
                    break  # something it started still holds the stream
                for key, _ in ready:
                    if not self._read(key.fd):
                        selector.unregister(key.fd)
                self._ask("")
        return self.given_up or self._ended_by(deadline)

    def _ended_by(self, deadline: float) -> bool:
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            return False
        return True

    def _read(self, descriptor: int) -> bool:
        chunk = os.read(descriptor, 65536)
        if descriptor == self._out and self._on_line is None:
            self._kept.append(chunk)
            return bool(chunk)
        *lines, rest = (self._rest[descriptor] + chunk).split(b"\n")
        if not chunk and rest:
            lines, rest = [rest], b""
        self._rest[descriptor] = rest
        for line in lines:
            self._line(descriptor, line.decode(errors="replace").strip())
        return bool(chunk)

    def _line(self, descriptor: int, line: str) -> None:
        if not line:
            return
        if descriptor == self._out:
            if self._on_line:
                self._on_line(line)
            return
        self.stderr.append(line[:LONGEST_LINE])
        self._ask(line)

    def _ask(self, line: str) -> None:
        if self._give_up and self._give_up(line):
            self.given_up = True


def _end(process: subprocess.Popen[bytes]) -> None:
    """The program, its group, and what it started in groups of their own (ssh, rclone)."""
    try:
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
    finally:
        for pid in _session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _session(leader: int) -> list[int]:
    """The processes of the session that this process began."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # pid (name, which may hold anything) state ppid pgrp session
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[3]) == leader:
                found.append(int(stat.parent.name))
    return found
