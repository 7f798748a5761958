"""Commands and tunnels on an environment's machine, by the system's own ssh.

Every call opens a fresh connection: a shared one would hide a firewall that shut behind it.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from ops.errors import UnreachableError
from ops.settings import Environment

CONNECT_SECONDS = 10
SSH_FAILED = 255  # ssh(1): its own failure, not the remote command's


@dataclass(frozen=True)
class Completed:
    """What a remote command answered: exit status and both streams as text."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Streaming:
    """A remote command under way: `process` has its streams."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    remote: Remote

    def ended(self) -> Completed:
        """Wait for its end; `stdout` is empty. Raises UnreachableError where ssh itself failed."""
        code = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace")
        if code == SSH_FAILED:
            raise UnreachableError(
                f"the SSH connection to {self.remote.machine.address} broke: {_last_line(said)}",
                f"stackroom -e {self.remote.environment.name} doctor",
            )
        return Completed(code, "", said)


class Remote:
    """The machine of one environment, as root (through sudo where the login is another account)."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.machine = environment.machine

    def ssh_command(self, *options: str) -> list[str]:
        """The argument list up to the destination; what to run there comes behind it."""
        identity = ["-i", self.machine.key, "-o", "IdentitiesOnly=yes"] if self.machine.key else []
        return [
            "ssh",
            *("-o", "BatchMode=yes", "-o", "ControlMaster=no", "-o", "ControlPath=none"),
            *("-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "ServerAliveInterval=15"),
            *("-o", "StrictHostKeyChecking=accept-new"),
            # in quotes: ssh takes a bare path with a space for two files
            *("-o", f'UserKnownHostsFile="{self.environment.known_hosts}"'),
            *("-p", str(self.machine.port), *identity, *options),
            self.machine.login(),
        ]

    def run(self, command: str, *, stdin: str = "", timeout: float = 30) -> Completed:
        """Run a shell command as root.

        Raises UnreachableError when there is no answer within `timeout` seconds or no login.
        """
        try:
            done = subprocess.run(
                [*self.ssh_command(), self._as_root(command)],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnreachableError(
                f"{self.machine.address} gave no answer within {timeout:g} s",
                f"stackroom -e {self.environment.name} doctor",
            ) from None
        if done.returncode == SSH_FAILED:
            raise UnreachableError(
                f"no SSH login as {self.machine.login()}: {_last_line(done.stderr)}",
                "is this machine's address listed in developers.toml, and its key on the host?",
            )
        return Completed(done.returncode, done.stdout, done.stderr)

    def attach(self, command: str, *, terminal: bool, stdin: bool) -> int:
        """Run a shell command as root with this process's own streams; its exit status.

        `terminal`: with one there too, so that it can draw and ask; without `stdin` it reads
        nothing. However long it takes, it is waited for. Raises UnreachableError without a login.
        """
        options = ["-t" if terminal else "-T", "-o", "LogLevel=ERROR"]
        done = subprocess.run(
            [*self.ssh_command(*options), self._as_root(command)],
            stdin=None if stdin else subprocess.DEVNULL,
            check=False,
        )
        if done.returncode == SSH_FAILED:
            raise UnreachableError(
                f"no SSH login as {self.machine.login()}, or the connection broke",
                f"stackroom -e {self.environment.name} doctor",
            )
        return done.returncode

    @contextlib.contextmanager
    def stream(self, command: str, *, stdin: IO[bytes] | int) -> Iterator[Streaming]:
        """A shell command as root whose standard output is read as bytes, as long as it takes.

        `stdin`: an open file, subprocess.DEVNULL, or subprocess.PIPE to write to. Left before its
        end, it is ended. Raises UnreachableError from `Streaming.ended` without a login, or where
        the connection broke.
        """
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [*self.ssh_command("-T", "-o", "LogLevel=ERROR"), self._as_root(command)],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            try:
                yield Streaming(process, errors, self)
            finally:
                process.kill()
                for pipe in (process.stdin, process.stdout):
                    with contextlib.suppress(OSError):
                        if pipe:
                            pipe.close()
                process.wait()

    def _as_root(self, command: str) -> str:
        return command if self.machine.user == "root" else f"sudo -n sh -c {shlex.quote(command)}"

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[int]:
        """A tunnel to 127.0.0.1:`port` on the machine; yields the local port. Closed on exit."""
        local = _free_port()
        tunnel = subprocess.Popen(
            # `cat` ends with our end of the pipe: no tunnel outlives the process that opened it
            [
                *self.ssh_command(
                    *("-o", "ExitOnForwardFailure=yes"),
                    *("-L", f"127.0.0.1:{local}:127.0.0.1:{port}"),
                ),
                "cat",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _wait_for_tunnel(tunnel, local, self.machine.login())
            yield local
        finally:
            tunnel.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                tunnel.wait(5)
            tunnel.kill()
            tunnel.wait()


def _wait_for_tunnel(tunnel: subprocess.Popen[str], port: int, login: str) -> None:
    deadline = time.monotonic() + CONNECT_SECONDS + 5
    while time.monotonic() < deadline:
        if tunnel.poll() is not None:
            reason = _last_line(tunnel.stderr.read() if tunnel.stderr else "")
            raise UnreachableError(f"no SSH tunnel as {login}: {reason}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise UnreachableError(f"no SSH tunnel as {login} within {CONNECT_SECONDS + 5} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "ssh said nothing"
