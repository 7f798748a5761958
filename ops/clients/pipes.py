"""Bytes out of and into a command in a container: in pieces, with an outer timeout, none hanging.

A command whose other end is gone dies of it in the container too: nothing goes on unseen.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import IO, Self

from ops.errors import MissingToolError, ServiceError, UnreachableError

PIECE = 1024 * 1024  # bytes


def pull(
    container: str,
    command: Sequence[str],
    write: Callable[[bytes], object],
    *,
    timeout: float,
    user: str = "",
) -> None:
    """Run a command and hand on what it prints, piece by piece.

    Raises ServiceError with its last words where it fails, UnreachableError where it has not ended
    after `timeout` seconds, and whatever `write` raises; the command is ended in any case.
    """
    with _Running(container, command, subprocess.DEVNULL, timeout, user=user) as running:
        while piece := running.output.read(PIECE):
            write(piece)
        running.wait()


def push(
    container: str,
    command: Sequence[str],
    file: IO[bytes],
    *,
    timeout: float,
    user: str = "",
) -> str:
    """Run a command with an open file as its standard input; what it prints. Raises as `pull`."""
    with _Running(container, command, file, timeout, user=user) as running:
        printed = running.output.read()
        running.wait()
    return printed.decode(errors="replace")


class Dialogue:
    """A command that is asked and answers, line by line, until it is left. Raises as `pull`."""

    def __init__(self, container: str, command: Sequence[str], *, timeout: float) -> None:
        self._running = _Running(container, command, subprocess.PIPE, timeout)

    def __enter__(self) -> Self:
        self._running.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.__exit__(kind, error, trace)

    def ask(self, text: str, end: str) -> list[str]:
        """Send `text`; the lines that come back before the line `end`."""
        given = self._running.process.stdin
        assert given is not None  # noqa: S101 - opened above
        with contextlib.suppress(BrokenPipeError):  # it has died: what it said comes below
            given.write(text.encode())
            given.flush()
        lines: list[str] = []
        for line in self._running.output:
            if (said := line.decode(errors="replace").rstrip("\n")) == end:
                return lines
            lines.append(said)
        self._running.wait()
        raise self._running.failure("it ended in the middle of a talk")


class _Running:
    """A `docker exec` that is killed when its time is up, or when it is left before its end."""

    def __init__(
        self,
        container: str,
        command: Sequence[str],
        given: IO[bytes] | int,
        timeout: float,
        *,
        user: str = "",
    ) -> None:
        self._container = container
        self._what = _program(command)
        self._timeout = timeout
        self._late = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        interactive = ["--interactive"] if given != subprocess.DEVNULL else []
        user_option = ["--user", user] if user else []
        try:
            self.process = subprocess.Popen(
                ["docker", "exec", *interactive, *user_option, container, *command],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except FileNotFoundError:
            self._errors.close()
            raise MissingToolError("docker is not installed", "stackroom -e <env> deploy") from None
        assert self.process.stdout is not None  # noqa: S101 - opened above
        self.output: IO[bytes] = self.process.stdout
        self._timer = threading.Timer(timeout, self._too_late)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def _too_late(self) -> None:
        self._late = True
        self.process.kill()

    def wait(self) -> None:
        """Until it has ended; raises where it did not end well."""
        code = self.process.wait()
        if self._late:
            raise UnreachableError(
                f"{self._what} in {self._container} did not end within {self._timeout:g} s",
                f"docker logs {self._container}",
            )
        if code != 0:
            raise self.failure(f"exit code {code}")

    def failure(self, otherwise: str) -> ServiceError:
        """With its last line on standard error."""
        self._errors.seek(0)
        lines = self._errors.read()[-4096:].decode(errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        return ServiceError(
            f"{self._what} in {self._container}: {said[-1] if said else otherwise}",
            f"docker logs {self._container}",
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        for stream in _streams(self.process):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            # with its standard input closed, a dialogue ends by itself
            self.process.wait(timeout=10 if kind is None else 0.1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._errors.close()


def _streams(process: subprocess.Popen[bytes]) -> Iterator[IO[bytes]]:
    yield from (stream for stream in (process.stdin, process.stdout) if stream)


def _program(command: Sequence[str]) -> str:
    """The program's name: what stands behind `env NAME=value ...`."""
    rest = [part for part in command if part != "env" and "=" not in part]
    return rest[0] if rest else command[0]
