"""A whole environment in a temporary folder, so that a test changes the one thing it is about."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops.cli import common

if TYPE_CHECKING:
    from r2r_live import R2rStack

# what must never be seen in a message, a log or a rendered file that is not secret
CANARIES = {
    "qdrant_api_key": "canary-qdrant-key-0123456789abcdefghij",
    "qdrant_alt_api_key": "canary-other-key-0123456789abcdefghijk",
    "api_token": "canary-api-token-0123456789abcdefghijkl",
    "mistral_api_key": "canary-mistral-key",
}
PUBLIC_KEY = "ssh-ed25519 {} anna@laptop".format(
    base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()
)
HOSTS = """\
from ops.settings import machines

hosts = machines(__file__, address="198.51.100.10")
"""
DEVELOPERS = f"""\
[operators.anna]
addresses = ["198.51.100.20", "2001:db8::20"]
keys = ["{PUBLIC_KEY}"]

[developers.bob]
addresses = ["198.51.100.128/25", "2001:db8:b0b::/48"]
"""
# read by the host's own verbs, and never part of the stack
HOST_CANARIES = {"restic_password": "canary-restic-password-0123456789abcde"}
SECRETS = "[secrets]\n" + "".join(
    f'{name} = "{value}"\n' for name, value in (CANARIES | HOST_CANARIES).items()
)

WriteEnvironment = Callable[..., Path]


@pytest.fixture
def write_environment(tmp_path: Path) -> WriteEnvironment:
    """`write_environment(settings=..., developers=..., secrets=..., hosts=...)` -> its folder.

    Each argument is a file's text; what is not given is valid.
    """

    def write(
        settings: str = 'stack = "qdrant"\n',
        developers: str = DEVELOPERS,
        secrets: str = SECRETS,
        hosts: str = HOSTS,
    ) -> Path:
        folder = tmp_path / "inventory" / "team"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.toml").write_text(settings, encoding="utf-8")
        (folder / "developers.toml").write_text(developers, encoding="utf-8")
        (folder / "hosts.py").write_text(hosts, encoding="utf-8")
        (folder / "secrets.toml").write_text(secrets, encoding="utf-8")
        (folder / "secrets.toml").chmod(0o600)
        return folder

    return write


@pytest.fixture(scope="session")
def canaries() -> dict[str, str]:
    """The secrets of `write_environment` by name."""
    return dict(CANARIES)


@pytest.fixture(scope="session")
def public_key() -> str:
    """One line of a .pub file."""
    return PUBLIC_KEY


@pytest.fixture(scope="session")
def r2r(tmp_path_factory: pytest.TempPathFactory) -> Iterator[R2rStack]:
    """One R2R stack for all folders of a run; a test that stops a part of it starts it again.

    It is here because each conftest.py that imports a fixture gets one of its own.
    """
    from r2r_live import r2r_stack  # of the few tests that need it

    with r2r_stack(tmp_path_factory.mktemp("r2r")) as stack:
        yield stack


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """A verb that lost its reader is silent to the end of its process: here, of all tests."""
    yield
    common.err.quiet = False
