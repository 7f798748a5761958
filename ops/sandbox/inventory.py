"""The generated half of inventory/sandbox/: keys, who may come in, secrets, the recovery file.

Nothing that exists is overwritten but developers.toml, which follows the key.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from ops import escrow
from ops.errors import ServiceError
from ops.sandbox.build import alone
from ops.sandbox.layout import (
    CLIENTS,
    DEPUTY_IPV4,
    ENVIRONMENT,
    GATEWAY_IPV4,
    GATEWAY_IPV6,
    HOST_IPV4,
    KEY,
    PATTERN,
    ipv4,
)
from ops.settings import ensure_secrets, load_environment

DEVELOPERS = """\
# Made by `stackroom sandbox up`: this machine operates, the machine "allowed" develops.

[operators.you]
addresses = ["{gateway_ipv4}", "{gateway_ipv6}"]
keys = ["{key}"]

[operators.deputy]
addresses = ["{deputy_ipv4}"]
keys = ["{deputy_key}"]

[developers.dora]
addresses = ["{dora_ipv4}", "{dora_ipv6}"]
"""


def make_key(key: Path = KEY) -> str:
    """The public key of the sandbox's login, made at the first call. One line."""
    public = key.with_suffix(".pub")
    with alone("keys"):
        _make_key(key, public)
    return public.read_text(encoding="ascii").strip()


def _make_key(key: Path, public: Path) -> None:
    if not (key.is_file() and public.is_file()):
        key.parent.mkdir(parents=True, exist_ok=True)
        key.unlink(missing_ok=True)
        done = subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "stackroom-sandbox", "-f", key],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServiceError(f"ssh-keygen could not write {key}: {done.stderr.strip()}")


def write_environment(public_key: str, deputy_key: str, folder: Path = ENVIRONMENT) -> None:
    """developers.toml for these keys, every secret that is not there yet (0600), and the recovery
    file, which is made anew when any of them has changed."""
    if folder == ENVIRONMENT != PATTERN:
        _copy_pattern(folder)
    dora_ipv4, dora_ipv6 = CLIENTS["allowed"]
    _write_if_changed(
        folder / "developers.toml",
        DEVELOPERS.format(
            gateway_ipv4=GATEWAY_IPV4,
            gateway_ipv6=GATEWAY_IPV6,
            key=public_key,
            deputy_key=deputy_key,
            deputy_ipv4=DEPUTY_IPV4,
            dora_ipv4=dora_ipv4,
            dora_ipv6=dora_ipv6,
        ),
    )
    ensure_secrets(folder)
    environment = load_environment(folder)
    if not escrow.inspect(environment).is_current:
        escrow.create(environment)


def _copy_pattern(folder: Path) -> None:
    """The committed half, for a machine at other addresses."""
    folder.mkdir(exist_ok=True)
    _write_if_changed(folder / "settings.toml", (PATTERN / "settings.toml").read_text("utf-8"))
    hosts = (PATTERN / "hosts.py").read_text("utf-8")
    _write_if_changed(folder / "hosts.py", hosts.replace(ipv4(10, "sandbox"), HOST_IPV4))


def forget_host_keys(folder: Path = ENVIRONMENT) -> None:
    """A host that is made anew has new keys; the old ones would refuse it."""
    (folder / "known_hosts").unlink(missing_ok=True)


def remove_environment(folder: Path = ENVIRONMENT) -> None:
    """Take away what write_environment and the first login made."""
    made = ("developers.toml", "secrets.toml", "known_hosts", escrow.FILE_NAME, escrow.NOTE_NAME)
    for name in made:
        (folder / name).unlink(missing_ok=True)


def _write_if_changed(path: Path, content: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        path.write_text(content, encoding="utf-8")
