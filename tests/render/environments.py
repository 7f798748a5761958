"""Fixtures: loaded environments of any settings, once for all tests of this room."""

from __future__ import annotations

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
        kept = {k: v for k, v in (canaries | (secrets or {})).items() if v is not None}
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
def any_environment(make_environment: stacks.MakeEnvironment) -> Environment:
    """One with an edge and an api."""
    return make_environment(**stacks.case("internal", "image"))
