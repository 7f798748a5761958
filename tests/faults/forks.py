"""Runs under test as forks of one process that has imported everything, and done nothing else.

Most of a short run is the imports of its interpreter, and the tests start hundreds. A fork begins
where those end, at the first line of the program: without a thread, a connection or a state of the
runs before. It ends as any interpreter does, and is killed as any process is. `Place.fresh` and
the tests of migrations run the same programs as new processes besides.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import IO

SECONDS = 60.0  # for the parent to import everything, and for it to answer


class Fork:
    """What the tests use of subprocess.Popen, of a process that is another one's child."""

    def __init__(self, report: socket.socket, stderr: int) -> None:
        self._report = report  # its exit code comes here
        self.stderr = os.fdopen(stderr)
        self.returncode: int | None = None
        report.settimeout(SECONDS)
        told, descriptors, _, _ = socket.recv_fds(report, 100, 1)
        self.pid = int(told)
        # by a handle that never means another process, as a number may
        (self._handle,) = descriptors

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative where a signal ended it. Raises TimeoutExpired."""
        if self.returncode is None:
            if not _readable(self._report, timeout):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._report.recv(100))
            self._report.close()
            os.close(self._handle)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Everything it says until it and whatever it started have ended. Raises TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        said = bytearray()
        while True:
            if not _readable(self.stderr, _left(deadline)):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            heard = os.read(self.stderr.fileno(), 65536)
            if not heard:
                break
            said += heard
        self.wait(_left(deadline))
        return None, said.decode()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def _readable(source: socket.socket | IO[str], timeout: float | None) -> bool:
    return bool(select.select([source], [], [], timeout)[0])


def fork(program: str, words: Sequence[str], environment: Mapping[str, str]) -> Fork:
    """Start one of PROGRAMS as the command line `words` would, its own name left out."""
    report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    asked = json.dumps([program, [*words], dict(environment)]).encode()
    with theirs:
        socket.send_fds(_parent(), [asked], [theirs.fileno(), writing])
    os.close(writing)
    return Fork(report, reading)


@cache
def _parent() -> socket.socket:
    """The process that forks; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            # a library of numpy's would start threads at once
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    atexit.register(process.wait, SECONDS)
    atexit.register(ours.close)
    return ours


# the other process ----------------------------------------------------------------------------


def serve(requests: socket.socket) -> str:
    """Fork for each request. Returns in the fork only: the program it is to be from here on."""
    running: dict[int, tuple[int, socket.socket]] = {}  # handle: number, and whom to tell
    while True:
        ready, _, _ = select.select([requests, *running], [], [])
        for handle in set(ready) & set(running):
            process, report = running.pop(handle)
            _, status = os.waitpid(process, 0)
            with report, contextlib.suppress(OSError):  # nobody may be waiting any more
                report.send(str(os.waitstatus_to_exitcode(status)).encode())
            os.close(handle)
        if requests not in ready:
            continue
        asked, descriptors, _, _ = socket.recv_fds(requests, 1_000_000, 2)
        if not asked:
            raise SystemExit(0)
        threads = os.listdir("/proc/self/task")  # noqa: PTH208 - not one object more than it takes
        assert len(threads) == 1, "a fork has one thread, and would wait for the others' locks"
        report, stderr = socket.socket(fileno=descriptors[0]), descriptors[1]
        process = os.fork()
        if process:
            os.close(stderr)
            handle = os.pidfd_open(process)
            socket.send_fds(report, [str(process).encode()], [handle])
            running[handle] = process, report
            continue
        for handle, (_, other) in running.items():
            os.close(handle)
            other.close()
        requests.close()
        report.close()
        os.dup2(stderr, 2)
        os.close(stderr)
        program, sys.argv[1:], environment = json.loads(asked)
        os.environ.clear()
        os.environ.update(environment)
        return str(program)


def main() -> int | None:
    import driver

    import ops.cli
    import ops.cli.migrate
    import ops.cli.operator

    programs: dict[str, Callable[[], int | None]] = {
        "driver": driver.main,
        "stackroom": ops.cli.main,
    }
    gc.freeze()  # what is shared stays shared
    return programs[serve(socket.socket(fileno=int(sys.argv[1])))]()


if __name__ == "__main__":
    raise SystemExit(main())
