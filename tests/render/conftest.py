"""Environments to render: any settings, every edge mode, with and without an api."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import stacks
import tomlkit

from ops.settings import Environment, load_environment


@pytest.fixture(scope="session")
def make_environment(
    tmp_path_factory: pytest.TempPathFactory, canaries: dict[str, str], public_key: str
) -> stacks.MakeEnvironment:
    """`make_environment(address=..., secrets=..., **settings)` -> a loaded Environment.

    `secrets` replace the canaries of the same name; None leaves one out.
    """
    people = {"anna": {"addresses": ["198.51.100.20"], "keys": [public_key]}}

    def make(
        address: str = stacks.ADDRESSES[0],
        secrets: dict[str, str | None] | None = None,
        **settings: Any,
    ) -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        wanted = canaries | {"restic_password": "r" * 32} | (secrets or {})
        kept = {k: v for k, v in wanted.items() if v is not None}
        for name, document in {
            "settings": settings,
            "developers": {"operators": people},
            "secrets": {"secrets": kept},
        }.items():
            (folder / f"{name}.toml").write_text(tomlkit.dumps(document), encoding="utf-8")
        (folder / "secrets.toml").chmod(0o600)
        hosts = f"hosts = machines(__file__, address={address!r})\n"
        (folder / "hosts.py").write_text(f"from ops.settings import machines\n\n{hosts}")
        return load_environment(folder)

    return make


@pytest.fixture(scope="session")
def render(make_environment: stacks.MakeEnvironment) -> stacks.Render:
    """`render(memory_mib=..., **what make_environment takes)` -> its stack."""

    def rendered(memory_mib: int = stacks.MEMORY_MIB, **given: Any) -> stacks.Rendered:
        return stacks.rendered(make_environment(**given), memory_mib)

    return rendered


@pytest.fixture(scope="session", params=itertools.product(stacks.MODES, stacks.APIS), ids="-".join)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Every edge mode with every kind of api."""
    mode, api = request.param
    return mode, api


@pytest.fixture(scope="session")
def each_kind(kind: tuple[str, str], render: stacks.Render) -> stacks.Rendered:
    """The stack of every kind."""
    return render(**stacks.case(*kind))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for kb.example.com and its key, named as in the container."""
    folder = tmp_path_factory.mktemp("certificate")
    names = ("-keyout", "private_key.pem", "-out", "certificate.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=kb.example.com"),
            *("-addext", "subjectAltName=DNS:kb.example.com", *names),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder
