"""A throw-away service on a scratch: started, awaited, stopped in order, judged when it fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from ops.clients import docker
from ops.clients.docker import KILLED, Scratch, confined, inspect
from ops.errors import BackupError, ServiceError, UnprovenError, UnreachableError

START_SECONDS = 180.0
# what an image's entrypoint needs to give its folder away and become its own user
ENTRYPOINT = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID")


def local_image(image: str, digest: str) -> str:
    """The manifest's image by its digest, else by its name. Raises UnprovenError without it."""
    for name in (digest, image):
        if name and inspect("image", name):
            return name
    raise UnprovenError(f"the image {image} is not on this machine", f"docker pull {image}")


def data_folder(image: str, variable: str, default: str) -> str:
    """Where the image's volume goes: the declared one that holds the folder of its data."""
    config = (inspect("image", image) or {"Config": {}})["Config"]
    environment = dict(line.partition("=")[::2] for line in config.get("Env") or [])
    data = PurePosixPath(environment.get(variable) or default)
    for declared in sorted(config.get("Volumes") or {}, key=len, reverse=True):
        if data.is_relative_to(declared):
            return str(declared)
    return str(data)


@contextlib.contextmanager
def serve(
    scratch: Scratch,
    name: str,
    image: str,
    *,
    options: Sequence[str],
    ready: Callable[[str], bool],
) -> Iterator[str]:
    """A running container by name; stopped in order behind the block, or removed at a failure.

    Raises UnprovenError where it does not start, or lacks memory, space or time later, and
    BackupError where it refuses what it is asked to do.
    """
    container = ""
    try:
        container = _start(scratch, name, image, options)
        _await(container, name, ready)
        try:
            yield container
            scratch.stop(container, timeout=300)
        except (ServiceError, UnreachableError) as error:
            raise _judged(container, name, error) from None
    except BaseException:
        if container:
            with contextlib.suppress(ServiceError, UnreachableError):
                docker.remove(container)
        raise


def _start(scratch: Scratch, name: str, image: str, options: Sequence[str]) -> str:
    try:
        return scratch.start(
            name, image, options=[*confined(pids=4096, capabilities=ENTRYPOINT), *options]
        )
    except (ServiceError, UnreachableError) as error:
        raise UnprovenError(
            f"{name}: a throw-away service could not be started: {error.message}", error.hint
        ) from None


def _await(container: str, name: str, ready: Callable[[str], bool]) -> None:
    limit = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(ServiceError, UnreachableError):
            if ready(container):
                return
        if not _state(container).get("Running") or time.monotonic() > limit:
            raise UnprovenError(
                f"{name}: the throw-away service did not start: {_last_words(container)}",
                "free -h; docker info",
            )
        time.sleep(0.3)


def _judged(
    container: str, name: str, error: ServiceError | UnreachableError
) -> BackupError | UnprovenError:
    """Whether the data are bad, or nothing is known of them."""
    state = _state(container)
    why = ""
    if state.get("OOMKilled") or state.get("ExitCode") == KILLED:
        why = "the throw-away service was killed, most likely for want of memory"
    elif "No space left" in error.message:
        why = "there is no space left"
    elif isinstance(error, UnreachableError):
        why = error.message
    if why:
        return UnprovenError(f"{name} could not be rebuilt: {why}", "free -h; df -h")
    return BackupError(f"{name} cannot be rebuilt: {error.message}")


def _state(container: str) -> dict[str, object]:
    found = inspect("container", container) or {"State": {}}
    state: dict[str, object] = found["State"]
    return state


def _last_words(container: str) -> str:
    try:
        logged = docker.docker("logs", "--tail", "5", container).strip().splitlines()
    except (ServiceError, UnreachableError):
        logged = []
    return logged[-1][:200] if logged else "it said nothing"
