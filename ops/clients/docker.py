"""Docker on this very machine, through its own program: inspect, exec, throw-away services.

Secrets go through standard input or files, never through an argument list or a label.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ops.errors import MissingToolError, ServiceError, UnprovenError, UnreachableError

SCRATCH_LABEL = "stackroom.scratch"  # on whatever a throw-away service is made of
OWNER_LABEL = "stackroom.owner"  # the environment: two of them may share one engine
QUICK_SECONDS = 60.0
PULL_SECONDS = 1800.0
REMOVE_SECONDS = 120.0
KILLED = 137  # a container's exit code after SIGKILL: it did not stop in order


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


def _failure(arguments: Sequence[str], stderr: str) -> UnreachableError | ServiceError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("See 'docker", "Run 'docker"))]
    last = said[-1] if said else "no message"
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


def need_image(image: str, *, pull: bool) -> None:
    """See to it that an image is on this machine.

    Raises UnprovenError where it is not, and may not or cannot be pulled.
    """
    if inspect("image", image):
        return
    if not pull:
        raise UnprovenError(
            f"the image {image} is not on this machine, and is not to be pulled",
            f"docker pull {image}",
        )
    try:
        docker("pull", "--quiet", image, timeout=PULL_SECONDS)
    except (ServiceError, UnreachableError) as error:
        raise UnprovenError(
            f"the image {image} is not on this machine and cannot be pulled: {error.message}",
            f"docker pull {image}  (or docker load it from another machine)",
        ) from None


def remove(container: str) -> None:
    """End it and take it away with its own volumes; one that is going or gone is no error.

    Raises UnreachableError, ServiceError where it stays.
    """
    limit = time.monotonic() + REMOVE_SECONDS
    try:
        docker("rm", "--force", "--volumes", container, timeout=REMOVE_SECONDS)
    except ServiceError as error:
        # somebody else has begun to: a killed run's own `docker rm`, which the daemon finishes
        going = "already in progress" in error.message
        while inspect("container", container) is not None:
            if not going or time.monotonic() > limit:
                raise
            time.sleep(0.2)


def confined(
    *, memory: int = 0, cpus: float = 0, pids: int = 512, capabilities: Sequence[str] = ()
) -> list[str]:
    """Options for `Scratch.start`: no capability but those named, and less than the live service.

    `memory` in bytes and `cpus` are upper limits, 0 for none; whoever else wants the processor
    comes first in any case.
    """
    return [
        *("--cap-drop", "ALL", *(f"--cap-add={name}" for name in capabilities)),
        *("--pids-limit", str(pids), "--cpu-shares", "128"),
        *(("--memory", str(memory)) if memory else ()),
        *(("--cpus", f"{cpus:g}") if cpus else ()),
    ]


class Scratch:
    """A place for throw-away services: an internal network of its own, and all that is put on it.

    On exit everything with its label is removed: containers, the network and, unless kept,
    volumes. `remove_all` clears what a killed run of the same owner has left.
    """

    def __init__(self, purpose: str, *, owner: str = "stackroom") -> None:
        self.name = f"stackroom-{purpose}-{uuid.uuid4().hex[:8]}"
        self._label = f"{SCRATCH_LABEL}={self.name}"
        self._labels = ("--label", self._label, "--label", f"{OWNER_LABEL}={owner}")
        self._kept: set[str] = set()

    def __enter__(self) -> Self:
        docker("network", "create", "--internal", *self._labels, self.name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _remove((self._label,), self._kept)

    def volume(self, name: str) -> str:
        """A new empty volume; its full name."""
        full = f"{self.name}-{name}"
        docker("volume", "create", *self._labels, full)
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
        """Start a container on the internal network; its name. Nothing is published or pulled."""
        full = f"{self.name}-{name}"
        docker(
            *("run", "--detach", "--name", full, "--network", self.name, *self._labels),
            *("--network-alias", name, "--restart", "no", "--pull", "never"),
            *("--security-opt", "no-new-privileges:true"),
            *("--log-driver", "json-file", "--log-opt", "max-size=10m"),
            *options,
            image,
            *command,
            timeout=timeout,
        )
        return full

    def stop(self, container: str, *, timeout: int = 90) -> None:
        """Stop it in order, so that what it holds reaches its volume; then remove it.

        Raises ServiceError where it had to be killed, or was before.
        """
        docker("stop", "--time", str(timeout), container, timeout=timeout + 30)
        state = (inspect("container", container) or {"State": {}})["State"]
        remove(container)
        if state.get("ExitCode") == KILLED:
            why = "ran out of memory" if state.get("OOMKilled") else f"did not stop in {timeout} s"
            raise ServiceError(f"the throw-away service {container} {why}", "free -h")

    def address(self, container: str) -> str:
        """The container's IPv4 address on the internal network; this machine reaches it."""
        found = running(container)
        return str(found["NetworkSettings"]["Networks"][self.name]["IPAddress"])


def remove_all(owner: str) -> None:
    """Remove every scratch of that owner: none is in use while the owner's backup lock is held."""
    _remove((SCRATCH_LABEL, f"{OWNER_LABEL}={owner}"), set())


def _remove(labels: Sequence[str], kept: set[str]) -> None:
    filters = [part for label in labels for part in ("--filter", f"label={label}")]
    for container in docker("ps", "--all", "--quiet", *filters).split():
        remove(container)
    for volume in docker("volume", "ls", "--quiet", *filters).split():
        if volume not in kept:
            docker("volume", "rm", "--force", volume)
    for network in docker("network", "ls", "--quiet", *filters).split():
        docker("network", "rm", network)
