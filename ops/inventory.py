"""A new environment folder from the commented example. Adds what is missing, overwrites nothing."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import TypeAdapter, ValidationError

from ops.errors import SettingsError
from ops.render.files import ROOT
from ops.settings import check_host_address, check_user, ensure_secrets
from ops.settings.explain import words
from ops.settings.people import Address, PublicKey, UserName

INVENTORY = ROOT / "inventory"
_ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


@dataclass
class Created:
    """What `create` did: files written, secrets generated, files left as they were."""

    folder: Path
    written: list[str] = field(default_factory=list)
    generated: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def create(
    name: str, *, address: str, user: str, key: str, operator: str, public_key: str, source: str
) -> Created:
    """Write `inventory/<name>/`, generating every secret that is absent.

    `source` is the address (or CIDR range) the operator comes from. Raises SettingsError for a bad
    name, address, account, operator or key, before anything is written.
    """
    if not _ENVIRONMENT_NAME.fullmatch(name) or name in ("example", "sandbox"):
        raise SettingsError(
            f"{name!r} cannot name an environment", "use a-z, 0-9 and -, for example: production"
        )
    check_host_address(address, "--host")
    check_user(user, "--user")
    operator = _checked(UserName, operator, f"--operator: {operator!r}")
    source = _checked(Address, source, "--from:")
    public_key = _checked(PublicKey, public_key, "--public-key")
    folder = INVENTORY / name
    example = INVENTORY / "example"
    texts = {
        "hosts.py": _hosts(example, address, user, key),
        "settings.toml": (example / "settings.toml").read_text(encoding="utf-8"),
        "developers.toml": _developers(example, operator, public_key, source),
    }
    created = Created(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, text in texts.items():
        path = folder / file_name
        if path.exists():
            created.kept.append(file_name)
        else:
            path.write_text(text, encoding="utf-8")
            created.written.append(file_name)
    created.generated = ensure_secrets(folder)
    return created


def source_address(address: str, user: str, key: str) -> str:
    """The address this machine has in the eyes of the host; empty without a login."""
    identity = ["-i", str(Path(key).expanduser())] if key else []
    try:
        done = subprocess.run(
            [
                *("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
                *("-o", "StrictHostKeyChecking=accept-new", *identity, f"{user}@{address}"),
                "echo $SSH_CONNECTION",
            ],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.split(" ")[0].strip()


def default_public_key() -> str:
    """The first of this account's usual SSH public keys; empty where there is none."""
    for kind in ("ed25519", "ecdsa", "rsa"):
        path = Path.home() / ".ssh" / f"id_{kind}.pub"
        if path.is_file():
            return path.read_text(encoding="utf-8").strip()
    return ""


def _checked(kind: Any, value: str, what: str) -> str:
    """A value in the form the settings will take it in. Never repeats a key: it may be private."""
    try:
        checked: str = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise SettingsError(f"{what} {words(error.errors(include_input=False)[0])}") from None
    return checked


def _hosts(example: Path, address: str, user: str, key: str) -> str:
    path = str(Path(key).expanduser().resolve()) if key else ""
    text = (example / "hosts.py").read_text(encoding="utf-8")
    text = text.replace('address="203.0.113.10"', f"address={_literal(address)}")
    text = text.replace('user="root"', f"user={_literal(user)}")
    return text.replace('key=""', f"key={_literal(path)}")


def _literal(text: str) -> str:
    """A string literal of Python in double quotes, whatever stands in the text."""
    return json.dumps(text, ensure_ascii=False)


def _developers(example: Path, operator: str, public_key: str, source: str) -> str:
    document = tomlkit.parse((example / "developers.toml").read_text(encoding="utf-8"))
    operators = document["operators"]
    person = operators["anna"]
    person["addresses"] = [source]
    person["keys"] = [public_key]
    text = tomlkit.dumps(document)
    return text.replace("[operators.anna]", f"[operators.{operator}]")
