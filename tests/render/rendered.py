"""A rendered environment as the tests of this room look at it, and the kinds there are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ops.render.files import RenderedFile
from ops.render.stack import STACK_DIR, Stack
from ops.settings import Environment

MODES = {
    "tunnel": '[edge]\nmode = "tunnel"\n',
    "internal": '[edge]\nmode = "internal"\n',
    "acme": '[edge]\nmode = "acme"\ndomain = "kb.example.com"\nemail = "ops@example.com"\n',
    "external": '[edge]\nmode = "external"\ndomain = "kb.example.com"\n'
    'certificate = "/etc/ssl/kb.pem"\nprivate_key = "/etc/ssl/kb.key"\n',
}
APIS = {
    "no api": "",
    "image": '[api]\nimage = "ghcr.io/example/api:1.4.0"\nport = 8000\n',
    "git": '[api]\ngit = { repository = "https://example.com/api", ref = "feature/x" }\n',
}
MACHINES = {"v4": "198.51.100.10", "v6": "2001:DB8::10", "name": "VM1.example.com"}
MEMORY_MIB, CPUS = 7800, 4


@dataclass(frozen=True)
class Rendered:
    """An environment and its stack; `mode` and `api` say which of the tables above."""

    environment: Environment
    stack: Stack
    mode: str = ""
    api: str = ""

    def file(self, name: str) -> RenderedFile:
        """The one file of this path below the stack's folder."""
        (found,) = [file for file in self.stack.files if file.path == f"{STACK_DIR}/{name}"]
        return found

    def has(self, name: str) -> bool:
        return any(file.path == f"{STACK_DIR}/{name}" for file in self.stack.files)

    def digests(self) -> dict[str, str]:
        return {service.name: service.config_sha256 for service in self.stack.services}

    def write(self, folder: Path) -> Path:
        """The files as they would lie on the host, below `folder`."""
        for file in self.stack.files:
            path = folder / Path(file.path).relative_to(STACK_DIR)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.content, encoding="utf-8")
        return folder


RenderSettings = Callable[..., Rendered]


def tool(name: str) -> str:
    """A program of the virtual environment the tests run in."""
    return str(Path(sys.executable).with_name(name))
