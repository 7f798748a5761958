"""The pyinfra command line as a child process, and its words as typed errors.

A child, because pyinfra patches the standard library for gevent and the rest of Stackroom uses
threads and asyncio.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ops.errors import DeployError, UnreachableError
from ops.render.files import ROOT
from ops.settings import Environment

# everything, or only who gets in: what a change of people needs
Part = Literal["all", "people"]
SCRIPTS: dict[Part, str] = {"all": "deploy.py", "people": "ops/host/onboard.py"}

# the last line of a traceback, or pyinfra's own summary of it
_RAISED = re.compile(
    r"^(?:(?:pyinfra\.api\.exceptions|ops\.errors)\.\w+|--> \w+ error in .* line \d+):"
    r" (?P<message>.+)$",
    re.MULTILINE,
)
_CONNECTED = re.compile(r"^ *\[[^\]]+\] Connected$", re.MULTILINE)
_NO_CONNECTION = re.compile(
    r"^ *\[[^\]]+\] (?P<message>(?:SSH error|SSH host key error|Could not connect"
    r"|Could not resolve hostname|Authentication error|EOF error).*)$",
    re.MULTILINE,
)
_STEP = "--> Starting operation: "
_LABEL = re.compile(r"^\s*\[[^\]]+\]\s*")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SHOWN_LINES = 20


@dataclass(frozen=True)
class Finished:
    """A finished run: exit status, standard output, and the log without colours."""

    returncode: int
    stdout: str
    log: str


def run_pyinfra(
    environment: Environment,
    *options: str,
    part: Part = "all",
    data: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Finished:
    """Run a part's script on the environment's machine; `on_line` sees each line of the log."""
    command = [sys.executable, "-m", "pyinfra", "--fail-percent", "0", *options]
    for key, value in (data or {}).items():
        command += ["--data", f"{key}={value}"]
    command += [str(environment.folder / "hosts.py"), str(ROOT / SCRIPTS[part])]
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
    )
    assert child.stderr and child.stdout  # noqa: S101 - both were asked for above
    log = []
    try:
        # the log ends when the child does; what it prints on stdout is one short JSON document
        for line in child.stderr:
            clean = _COLOUR.sub("", line.rstrip("\n"))
            log.append(clean)
            on_line(clean)
        stdout = child.stdout.read()
        return Finished(child.wait(), stdout, "\n".join(log))
    except BaseException:
        child.terminate()
        child.wait()
        raise


def failure(environment: Environment, finished: Finished) -> UnreachableError | DeployError:
    """The reason a run failed, as an error with the next command."""
    again = f"stackroom -e {environment.name} deploy, once that is mended"
    refused = _NO_CONNECTION.search(finished.log)
    if refused and not _CONNECTED.search(finished.log):
        return UnreachableError(
            f"{environment.machine.address}: {refused['message']}",
            "can you log in with ssh, from a listed address and with the key of hosts.py?",
        )
    raised = _RAISED.findall(finished.log)
    if raised:
        return DeployError(raised[-1], again)
    return DeployError(_last_words(finished.log), again)


def _last_words(log: str) -> str:
    """The failing step with its last lines; the last lines at all where no step had begun."""
    _, begun, rest = log.rpartition(_STEP)
    lines = [_LABEL.sub("", line).rstrip() for line in rest.splitlines() if line.strip()]
    step = [f"{lines.pop(0)} failed:"] if begun else []
    told = [line for line in lines if not line.startswith("-->")]
    return "\n".join([*step, *told[-_SHOWN_LINES:]]) or "pyinfra failed without a word"
