"""Environments to render: every edge mode, with and without an api, on every kind of address."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rendered import APIS, CPUS, MACHINES, MEMORY_MIB, MODES, Rendered, RenderSettings

from ops.render.stack import render_stack
from ops.settings import load_environment


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
