"""This machine's Docker engine, by its command line. Knows nothing of Stackroom's stacks."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ops.errors import MissingToolError, ServiceError
from ops.render.files import ROOT

INSTALL = "apt-get install docker.io docker-cli iptables  (docker-cli is its own package on Debian)"
DOCKERD_LOG = ROOT / ".stackroom" / "dockerd.log"
DOCKERD_PID = ROOT / ".stackroom" / "dockerd.pid"
SYSTEMD = Path("/run/systemd/system")  # where systemd runs, starting services is its business
START_SECONDS = 30
PULL_ANSWER_SECONDS = 20
PULL_SECONDS = 900


def docker(*arguments: str, timeout: float = 120) -> str:
    """The answer of one docker command, stripped.

    Raises ServiceError with the engine's own last line, MissingToolError without a client.
    """
    done = attempt(*arguments, timeout=timeout)
    if done.returncode != 0:
        raise ServiceError(f"docker {arguments[0]}: {last_line(done.stderr)}")
    return done.stdout.strip()


def attempt(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The same for commands that may fail: exit status and both streams."""
    try:
        return subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise MissingToolError("there is no docker command on this machine", INSTALL) from None
    except subprocess.TimeoutExpired:
        raise ServiceError(f"docker {arguments[0]} took more than {timeout:.0f} s") from None


def inspect(kind: str, name: str) -> dict[str, Any] | None:
    """What the engine knows of a container, image, network or volume; None: it has none."""
    done = attempt(kind, "inspect", name)
    if done.returncode != 0:
        if "no such" in done.stderr.lower() or "not found" in done.stderr.lower():
            return None
        raise ServiceError(f"docker {kind} inspect {name}: {last_line(done.stderr)}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found[0]


def labels(image: dict[str, Any]) -> dict[str, str]:
    """The labels of an inspected image."""
    return (image.get("Config") or {}).get("Labels") or {}


def listed(*arguments: str) -> list[str]:
    """One entry per line of a docker listing command."""
    return docker(*arguments).split()


def pull(image: str) -> str:
    """Try to pull once. Returns "" or why not; a registry that gives no answer is left soon."""
    with subprocess.Popen(
        ["docker", "pull", image], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            # the first line comes when the registry has answered
            answered, _, _ = select.select([process.stdout or 0], [], [], PULL_ANSWER_SECONDS)
            if not answered:
                process.kill()
            _, complaint = process.communicate(timeout=PULL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"not here after {PULL_SECONDS} s"
    if not answered:
        return f"no answer within {PULL_ANSWER_SECONDS} s"
    return last_line(complaint) if process.returncode else ""


def engine_answers() -> bool:
    """Whether a Docker engine answers this user."""
    return shutil.which("docker") is not None and attempt("version", timeout=20).returncode == 0


def start_engine() -> int | None:
    """Start an installed engine where nothing else would: no systemd and no engine answering.

    Returns the pid of the dockerd it started, None when there was nothing to do. It keeps
    running; its log and pid are in .stackroom/dockerd.{log,pid}. Raises MissingToolError when it
    does not come up.
    """
    if engine_answers() or SYSTEMD.is_dir() or not shutil.which("dockerd"):
        return None
    DOCKERD_LOG.parent.mkdir(parents=True, exist_ok=True)
    with DOCKERD_LOG.open("ab") as log:
        process = subprocess.Popen(
            ["dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if engine_answers():
            DOCKERD_PID.write_text(f"{process.pid}\n", encoding="ascii")
            return process.pid
        time.sleep(0.3)
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    raise MissingToolError(f"the Docker engine did not start; its log is {DOCKERD_LOG}", INSTALL)


def build(
    tag: str, context: Path, arguments: dict[str, str], labelled: Sequence[str], log: Path
) -> None:
    """Build an image; everything the build says goes to `log`. Raises ServiceError."""
    command = ["docker", "build", "--tag", tag]
    for label in labelled:
        command += ["--label", label]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        # buildx's default builder is the engine itself: it sees the images built here before
        done = subprocess.run(
            [*command, str(context)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "BUILDX_BUILDER": "default"},
            check=False,
        )
    if done.returncode != 0:
        reason = last_line(log.read_text(encoding="utf-8", errors="replace"))
        raise ServiceError(f"the image {tag} could not be built: {reason}", f"less {log}")


def last_line(text: str) -> str:
    """What a command said last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
