"""Docker on this very machine, through its own program: inspect, exec, throw-away services.

Secrets go through standard input or files, never through an argument list or a label.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ops.errors import MissingToolError, ServiceError, UnreachableError

SCRATCH_LABEL = "stackroom.scratch"  # on whatever a throw-away service is made of
QUICK_SECONDS = 60.0


def docker(*arguments: str, stdin: str = "", timeout: float = QUICK_SECONDS) -> str:
    """What `docker ...` prints.

    Raises MissingToolError without Docker, UnreachableError without an answer in `timeout`
    seconds or without a daemon, ServiceError with Docker's last words for anything else.
    """
    try:
        done = subprocess.run(
            ["docker", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise MissingToolError("docker is not installed", "stackroom -e <env> deploy") from None
    except subprocess.TimeoutExpired:
        raise UnreachableError(
            f"docker {arguments[0]} gave no answer within {timeout:g} s", "systemctl status docker"
        ) from None
    if done.returncode != 0:
        raise _failure(arguments, done.stderr)
    return done.stdout


def exec_into(
    container: str, command: Sequence[str], output: IO[bytes], *, timeout: float, user: str = ""
) -> None:
    """Run a command in a container and stream what it prints into an open file.

    Raises as `docker` does; what was written until then is the caller's to remove.
    """
    arguments = ["exec", *(["--user", user] if user else []), container, *command]
    try:
        done = subprocess.run(
            ["docker", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise MissingToolError("docker is not installed", "stackroom -e <env> deploy") from None
    except subprocess.TimeoutExpired:
        raise UnreachableError(
            f"{command[0]} in {container} gave no answer within {timeout:g} s",
            f"docker logs {container}",
        ) from None
    if done.returncode != 0:
        raise _failure(arguments, done.stderr.decode(errors="replace"))


def _failure(arguments: Sequence[str], stderr: str) -> UnreachableError | ServiceError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else "no message"
    if "Cannot connect to the Docker daemon" in stderr:
        return UnreachableError("the Docker daemon does not answer", "systemctl status docker")
    return ServiceError(f"docker {' '.join(arguments[:3])}: {last}")


def inspect(kind: str, name: str) -> dict[str, Any] | None:
    """`docker inspect` of a container, an image, a volume or a network; None where there is none.

    Raises UnreachableError without a daemon.
    """
    try:
        found: list[dict[str, Any]] = json.loads(docker(kind, "inspect", name))
    except ServiceError:
        return None
    return found[0]


def running(container: str) -> dict[str, Any]:
    """The container as Docker describes it. Raises UnreachableError where it does not run."""
    found = inspect("container", container)
    if found is None or not found["State"]["Running"]:
        raise UnreachableError(f"the container {container} does not run", "docker ps --all")
    return found


def image_and_digest(container: str) -> tuple[str, str]:
    """The image's name, and the registry's digest of it or else its id. Raises UnreachableError."""
    found = running(container)
    image = inspect("image", found["Image"]) or {}
    digests = image.get("RepoDigests") or [found["Image"]]
    return found["Config"]["Image"], str(digests[0])


def mountpoint(volume: str) -> Path:
    """The folder of a named volume on this machine. Raises ServiceError where there is none."""
    found = inspect("volume", volume)
    if found is None:
        raise ServiceError(f"there is no volume {volume}", "docker volume ls")
    return Path(found["Mountpoint"])


class Scratch:
    """A place for throw-away services: an internal network of its own, and all that is put on it.

    On exit everything with its label is removed: containers, the network and, unless kept,
    volumes. `remove_all` clears what a killed run has left.
    """

    def __init__(self, purpose: str) -> None:
        self.name = f"stackroom-{purpose}-{uuid.uuid4().hex[:8]}"
        self._label = f"{SCRATCH_LABEL}={self.name}"
        self._kept: set[str] = set()

    def __enter__(self) -> Self:
        docker("network", "create", "--internal", "--label", self._label, self.name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _remove(self._label, self._kept)

    def volume(self, name: str) -> str:
        """A new empty volume; its full name."""
        full = f"{self.name}-{name}"
        docker("volume", "create", "--label", self._label, full)
        return full

    def keep(self, volume: str) -> None:
        """Leave this volume when the scratch goes."""
        self._kept.add(volume)

    def start(
        self,
        name: str,
        image: str,
        *command: str,
        options: Sequence[str] = (),
        timeout: float = 120,
    ) -> str:
        """Start a container on the internal network; its name. Nothing is published."""
        full = f"{self.name}-{name}"
        docker(
            *("run", "--detach", "--name", full, "--network", self.name, "--label", self._label),
            *("--network-alias", name, "--restart", "no"),
            *("--security-opt", "no-new-privileges:true"),
            *options,
            image,
            *command,
            timeout=timeout,
        )
        return full

    def stop(self, container: str, *, timeout: int = 90) -> None:
        """Stop it in order, so that what it holds reaches its volume; then remove it."""
        docker("stop", "--time", str(timeout), container, timeout=timeout + 30)
        docker("rm", "--force", container)

    def address(self, container: str) -> str:
        """The container's IPv4 address on the internal network; this machine reaches it."""
        found = running(container)
        return str(found["NetworkSettings"]["Networks"][self.name]["IPAddress"])


def remove_all() -> None:
    """Remove every scratch that is there: none is ours while the backup lock was free."""
    _remove(SCRATCH_LABEL, set())


def _remove(label: str, kept: set[str]) -> None:
    containers = docker("ps", "--all", "--quiet", "--filter", f"label={label}").split()
    if containers:
        docker("rm", "--force", "--volumes", *containers, timeout=120)
    for volume in docker("volume", "ls", "--quiet", "--filter", f"label={label}").split():
        if volume not in kept:
            docker("volume", "rm", "--force", volume)
    for network in docker("network", "ls", "--quiet", "--filter", f"label={label}").split():
        docker("network", "rm", network)
