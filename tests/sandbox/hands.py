"""What a person does at the keyboard, and eyes that look past the code under test.

The verbs run as programs; the machine is looked at through the engine, never over Stackroom's SSH.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.render.files import ROOT
from ops.sandbox import layout
from ops.sandbox.layout import KEY, NAME, ipv4, ipv6
from ops.settings import Environment

HOST, HOST_IPV6 = ipv4(10), ipv6(10)
STACKROOM = Path(sys.executable).with_name("stackroom")
INVENTORY = layout.ENVIRONMENT.parent
ENVIRONMENT = layout.ENVIRONMENT.name
CHANGED = f"{ENVIRONMENT}-changed"  # of changed_environment()
QDRANT, EDGE = "stackroom-qdrant-1", "stackroom-edge-1"

# what `sshd -T` has to say of the drop-in
HARDENED = {
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "authenticationmethods": "publickey",
    "permitrootlogin": "without-password",
    "permitemptypasswords": "no",
    "permituserenvironment": "no",
    "x11forwarding": "no",
    "allowagentforwarding": "no",
    "allowtcpforwarding": "local",
    "permittunnel": "no",
    "gatewayports": "no",
    "maxauthtries": "6",
    "logingracetime": "30",
}

Done = subprocess.CompletedProcess[str]


def stackroom(*arguments: str, environment: str = ENVIRONMENT, timeout: float = 300) -> Done:
    """One verb, as it is typed."""
    return subprocess.run(
        [str(STACKROOM), "-e", environment, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def plan(environment: str = ENVIRONMENT) -> set[str]:
    """The steps that would change something; the exit code has to agree with them."""
    done = stackroom("plan", "--json", environment=environment)
    assert done.returncode in (0, 2), done.stderr
    changes = set(json.loads(done.stdout)["changes"])
    assert done.returncode == (2 if changes else 0), done.stdout
    return changes


def deploy(*options: str, environment: str = ENVIRONMENT) -> Done:
    # a first one brings gigabytes of images, on a machine that runs every other test
    return stackroom("deploy", "--yes", *options, environment=environment, timeout=800)


def on_host(command: str, *, check: bool = True, timeout: float = 120) -> str:
    """A shell command on the machine, through the engine: past SSH and the firewall."""
    return subprocess.run(
        ["docker", "exec", NAME, "sh", "-c", command],
        capture_output=True,
        text=True,
        check=check,
        timeout=timeout,
    ).stdout.strip()


def holds(command: str) -> bool:
    """Whether a shell command succeeds on the machine."""
    done = subprocess.run(["docker", "exec", NAME, "sh", "-c", command], capture_output=True)
    return done.returncode == 0


def inspect(container: str) -> dict[str, Any]:
    """What the machine's own Docker says of a container."""
    found: list[dict[str, Any]] = json.loads(on_host(f"docker inspect {container}"))
    return found[0]


def healthy(container: str) -> bool:
    """Whether the machine's Docker finds the container well; False without Docker too."""
    state = on_host(f"docker inspect -f '{{{{.State.Health.Status}}}}' {container}", check=False)
    return state == "healthy"


def qdrant(environment: Environment, method: str, path: str, body: Any = None) -> Any:
    """A request to Qdrant from the machine itself; the key goes through standard input."""
    key = environment.settings.secrets.qdrant_api_key.get_secret_value()
    options = [
        f'url = "http://127.0.0.1:6333{path}"',
        f'request = "{method}"',
        f'header = "api-key: {key}"',
        'header = "Content-Type: application/json"',
        *([f"data = {json.dumps(json.dumps(body))}"] if body is not None else []),
    ]
    done = subprocess.run(
        ["docker", "exec", "-i", NAME, "curl", "-sS", "-m", "30", "-K", "-"],
        input="\n".join(options),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait for something to become true; the seconds it took. Fails by name.

    The longer it takes, the less often it is asked: each question costs a busy machine a program.
    """
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(min(1.0, 0.1 + waited / 10))
    return time.monotonic() - started


def ssh(command: str, *options: str) -> Done:
    """A fresh login, with nothing remembered of an earlier one."""
    return subprocess.run(
        [
            *("ssh", "-F", "none", "-i", str(KEY), "-o", "IdentitiesOnly=yes"),
            *("-o", "BatchMode=yes", "-o", "ControlPath=none", "-o", "ConnectTimeout=3"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", *options, f"root@{HOST}", command),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def chain(tool: str, name: str) -> list[str]:
    """The rules of a live chain; `tool` is iptables or ip6tables."""
    lines = on_host(f"{tool} -S {name}").splitlines()
    return [line for line in lines if line.startswith("-A")]


@contextlib.contextmanager
def changed_environment(**edits: Callable[[str], str]) -> Iterator[str]:
    """A copy of the environment with edited files: settings=..., developers=...; its name."""
    folder = INVENTORY / CHANGED
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(layout.ENVIRONMENT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    try:
        for name, edit in edits.items():
            path = folder / f"{name}.toml"
            before = path.read_text(encoding="utf-8")
            after = edit(before)
            assert after != before, f"the edit of {name} changes nothing"
            path.write_text(after, encoding="utf-8")
        yield folder.name
    finally:
        shutil.rmtree(folder)


@dataclass
class Attempt:
    """A running deploy with every line it prints and the time (epoch) it came."""

    process: subprocess.Popen[str]
    lines: list[tuple[float, str]] = field(default_factory=list)

    @classmethod
    def start(cls, *options: str, environment: str = ENVIRONMENT) -> Attempt:
        process = subprocess.Popen(
            [str(STACKROOM), "-e", environment, "deploy", "--yes", *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a group of its own, to be killed as one
        )
        attempt = cls(process)
        threading.Thread(target=attempt._read, daemon=True).start()
        return attempt

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append((time.time(), line.rstrip()))

    @property
    def output(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def kill_when(self, sign: str, seconds: float) -> bool:
        """SIGKILL to everything it started, as soon as the shell command `sign` holds on the
        machine. False: it ended before."""
        # one program that watches; it ends with its standard input, for which `read` waits
        script = f"until {sign}; do read -rt 0.1; [ $? -gt 128 ] || exit 1; done"
        command = ["docker", "exec", "-i", NAME, "bash", "-c", script]
        deadline = time.monotonic() + seconds
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet) as watch:
            while watch.poll() is None and self.process.poll() is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            assert watch.poll() in (None, 0), "nobody watched"
            seen = watch.poll() == 0 and self.process.poll() is None
            if seen:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        return seen

    def wait(self, seconds: float = 300) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
