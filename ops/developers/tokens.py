"""A developer's token for Qdrant, made from the inventory alone: the same files, the same token.

Nothing is sent and nothing is stored: the server judges the signature, and lets a token in only
while its id stands in ACCESS_COLLECTION.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import jwt
from pydantic import SecretStr

from ops.errors import SettingsError
from ops.settings import Settings
from ops.settings.people import ACCESS_COLLECTION, Developer

ALGORITHM = "HS256"
# the least that does it: "prw" writes points, and neither indexes nor snapshots like "rw"
RIGHTS = {"read": "r", "write": "prw"}


def new_token_id() -> str:
    """A random UUID. It is no secret: it names a token, it does not open anything."""
    return str(uuid.uuid4())


def claims(settings: Settings, name: str, token_id: str) -> dict[str, Any]:
    """What the token says, as Qdrant reads it (its JWT claims of 1.17 and later).

    Raises SettingsError for somebody who can have no token: unknown, without collections or an
    id, or whose last day has passed.
    """
    developer = _holder(settings, name)
    end = developer.ends()
    if not developer.collections or end is None:
        # a token without `access` would be one for everything
        raise SettingsError(
            f"{name} has no collections, and a token is for collections",
            "name them in developers.toml (collections and expires)",
        )
    if not token_id:
        raise SettingsError(f"{name} has no token yet", f"stackroom developer rotate {name}")
    if developer.is_expired():
        raise SettingsError(
            f"the last day of {name} was {developer.expires}", "set a later one in developers.toml"
        )
    return {
        "exp": int(end.timestamp()),
        "subject": name,
        "access": [
            {"collection": wanted, "access": RIGHTS[developer.access]}
            for wanted in reachable_names(settings, developer.collections)
        ],
        "value_exists": {
            "collection": ACCESS_COLLECTION,
            "matches": [{"key": "token", "value": token_id}],
        },
    }


def mint(settings: Settings, name: str, token_id: str = "") -> SecretStr:
    """The signed token of a developer: the live one, or the one with that id.

    Raises SettingsError as `claims` does.
    """
    token_id = token_id or _holder(settings, name).token
    key = settings.secrets.newest_qdrant_key()
    return SecretStr(
        jwt.encode(claims(settings, name, token_id), key.get_secret_value(), ALGORITHM)
    )


def reachable_names(settings: Settings, named: Iterable[str]) -> list[str]:
    """The collections and aliases a person named, and each one's declared aliases; no name twice.

    Qdrant looks for a rule under the name that was asked for, so an alias needs one of its own;
    whoever was given an alias alone does not get the collection behind it.
    """
    names: list[str] = []
    for name in named:
        declared = settings.collections.get(name)
        names += [name, *(declared.aliases if declared else [])]
    return list(dict.fromkeys(names))


def _holder(settings: Settings, name: str) -> Developer:
    developer = settings.developers.get(name)
    if developer is None:
        raise SettingsError(
            f"there is no developer {name}", "stackroom developer list names those there are"
        )
    return developer
