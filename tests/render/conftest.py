"""Environments to render: every edge mode, with and without an api, on every kind of address."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.render.files import RenderedFile
from ops.render.stack import STACK_DIR, Stack, render_stack
from ops.settings import Environment, load_environment

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
MACHINES = {"v4": "198.51.100.10", "v6": "2001:DB8::10", "name": "vm1.example.com"}
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


@pytest.fixture
def render(write_environment: Callable[..., Path]) -> RenderSettings:
    """`render(settings, machine, ...)`: the stack of settings.toml's text on that machine."""

    def rendered(
        settings: str = "",
        machine: str = MACHINES["v4"],
        memory_mib: int = MEMORY_MIB,
        **files: str,
    ) -> Rendered:
        hosts = (
            "from ops.settings import machines\n\n"
            f"hosts = machines(__file__, address={machine!r})\n"
        )
        environment = load_environment(write_environment(settings, hosts=hosts, **files))
        return Rendered(environment, render_stack(environment, memory_mib, CPUS))

    return rendered


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return MACHINES[request.param]


@pytest.fixture(params=[(mode, api) for mode in MODES for api in APIS], ids=lambda p: "-".join(p))
def each_kind(
    request: pytest.FixtureRequest,
    render: RenderSettings,
    kinds: dict[tuple[str, str], Rendered],
) -> Rendered:
    """Every edge mode with every kind of api."""
    mode, api = request.param
    if request.param not in kinds:
        done = render(MODES[mode] + APIS[api])
        kinds[request.param] = Rendered(done.environment, done.stack, mode, api)
    return kinds[request.param]


@pytest.fixture(scope="session")
def kinds() -> dict[tuple[str, str], Rendered]:
    """What `each_kind` has rendered: it is frozen, so once is enough."""
    return {}


def tool(name: str) -> str:
    """A program of the virtual environment the tests run in."""
    return str(Path(sys.executable).with_name(name))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for kb.example.com, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "kb.pem", folder / "kb.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=kb.example.com", "-addext"),
            *("subjectAltName=DNS:kb.example.com", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
