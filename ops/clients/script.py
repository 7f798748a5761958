"""A Python script of our own modules, sent to the python3 of an environment's machine.

Nothing is left behind there: the script comes over standard input, and one JSON line goes back.
"""

from __future__ import annotations

import importlib.resources
import json
import shlex
from typing import Any

from ops.clients.ssh import Remote
from ops.errors import ServiceError

_SHARED = "ops.clients.on_host"
_START = """\
import sys, types
for _name, _text in {parts!r}:
    _module = sys.modules[_name] = types.ModuleType(_name)
    exec(compile(_text, _name, "exec"), _module.__dict__)
exec(compile({text!r}, {name!r}, "exec"))
"""


def program(name: str, *parts: str) -> str:
    """The module `name` as one script that runs without this package.

    It may import ops/clients/on_host.py and `parts`, and each part those before it, in the form
    `from <part> import <name>`.
    """
    told = [(part, _text(part)) for part in (_SHARED, *parts)]
    return _START.format(parts=told, text=_text(name), name=name)


def _text(module: str) -> str:
    package, _, name = module.rpartition(".")
    return importlib.resources.files(package).joinpath(f"{name}.py").read_text("utf-8")


def run(
    remote: Remote, source: str, question: Any = None, *, timeout: float, failed: str
) -> dict[str, Any]:
    """What a script prints there. It gets `question`, where there is one, as JSON.

    Raises UnreachableError without a login, ServiceError, with `failed` in it, when the machine
    has no python3.
    """
    command = "python3 -"
    if question is not None:
        command += f" {shlex.quote(json.dumps(question))}"
    answer = remote.run(command, stdin=source, timeout=timeout)
    try:
        found: dict[str, Any] = json.loads(answer.stdout)
    except ValueError:
        said = (answer.stderr.strip() or answer.stdout.strip() or "nothing").splitlines()[-1]
        raise ServiceError(
            f"the login works, but {failed}: {said}",
            "the host needs python3, and sudo without a password for this login",
        ) from None
    return found
