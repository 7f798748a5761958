"""What a person wrote behind --from or --to, opened: an environment, a URL, or a local folder.

A key comes from the environment's secrets.toml or from a variable; never from the command line.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from ops.clients.rest import checked_url
from ops.clients.ssh import Remote
from ops.errors import SettingsError, UnreachableError
from ops.migrate.server import Server
from ops.migrate.side import Side
from ops.settings import Environment, load_environment
from ops.settings.stacks import need_qdrant

End = Literal["from", "to"]
PORT = 6333
KEYS: dict[End, str] = {"from": "STACKROOM_FROM_KEY", "to": "STACKROOM_TO_KEY"}
CAS: dict[End, str] = {"from": "STACKROOM_FROM_CA", "to": "STACKROOM_TO_CA"}


@dataclass(frozen=True)
class Place:
    """One end as it was named. `environment` where it is one."""

    end: End
    text: str
    kind: Literal["environment", "url", "folder"]
    environment: Environment | None = None


def place(end: End, text: str, inventory: Path) -> Place:
    """Raises SettingsError for what is none of the three."""
    if "://" in text:
        url = checked_url(text)
        if url.userinfo or url.query or url.fragment:
            raise SettingsError(
                f"--{end}: the URL holds more than a server's address",
                f"give the key in the variable {KEYS[end]}",
            )
        return Place(end, text.rstrip("/"), "url")
    if "/" not in text and (inventory / text / "settings.toml").is_file():
        environment = load_environment(inventory / text)
        need_qdrant(f"migrate --{end}", environment.name, environment.settings.stack)
        return Place(end, text, "environment", environment)
    path = Path(text).expanduser()
    if path.is_dir():
        return Place(end, str(path.resolve()), "folder")
    known = sorted(each.parent.name for each in inventory.glob("*/settings.toml"))
    listed = ", ".join(name for name in known if name != "example") or "none yet"
    raise SettingsError(
        f"--{end} {text} is no environment ({listed}), no URL and no folder",
        "give an environment's name, https://<host>:<port>, or the path of a local folder",
    )


@contextlib.contextmanager
def opened(where: Place) -> Iterator[Side]:
    """The end, with its tunnel where it has one. Closed on leaving.

    Raises SettingsError, LockedError, UnreachableError; nothing was written.
    """
    if where.kind == "folder":
        # a second of every verb's start otherwise: it brings the official client
        from ops.migrate.folder import Folder

        side: Side = Folder(Path(where.text))
    elif where.environment is not None:
        side = _of_environment(where.environment)
    else:
        key = os.environ.get(KEYS[where.end], "")
        ca = os.environ.get(CAS[where.end], "")
        side = Server(
            where.text,
            where.text,
            SecretStr(key) if key else None,
            ca_file=Path(ca) if ca else None,
            key_hint=f"its key comes from the variable {KEYS[where.end]}",
        )
    with contextlib.closing(side):
        yield side


def _of_environment(environment: Environment) -> Server:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(Remote(environment).forward(PORT))
        return Server(
            environment.name,
            f"http://127.0.0.1:{port}",
            environment.settings.secrets.qdrant_api_key,
            key_hint="compare qdrant_api_key in secrets.toml with what was deployed",
            held=stack.pop_all(),
        )


def free_bytes(where: Place) -> int | None:
    """What is free on the disk of the server's data; None where nobody can say."""
    if where.environment is None:
        return None
    command = (
        "folder=$(docker volume inspect -f '{{.Mountpoint}}' stackroom_qdrant_storage) && "
        'df -B1 --output=avail "$folder" | tail -n 1'
    )
    with contextlib.suppress(UnreachableError, ValueError):
        return int(Remote(where.environment).run(command).stdout.strip())
    return None
