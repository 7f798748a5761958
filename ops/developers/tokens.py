"""A developer's token for Qdrant, made from the inventory alone: the same files, the same token.

Nothing is sent and nothing is stored: the server judges the signature, and lets a token in only
while its id and its rights stand in ACCESS_COLLECTION: with other rights it is another token.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import jwt
from pydantic import SecretStr

from ops.errors import SettingsError
from ops.settings import Settings
from ops.settings.people import ACCESS_COLLECTION, Developer
from ops.settings.rights import rules, value_of

ALGORITHM = "HS256"


def new_token_id() -> str:
    """A random UUID. It is no secret: it names a token, it does not open anything."""
    return str(uuid.uuid4())


def claims(
    settings: Settings, name: str, token_id: str, *, until: datetime | None = None
) -> dict[str, Any]:
    """What the token says, as Qdrant reads it (its JWT claims of 1.17 and later).

    `until`: an end other than the last day's, for a proof that it is refused while it lasts.
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
    if until is None and developer.is_expired():
        raise SettingsError(
            f"the last day of {name} was {developer.expires}", "set a later one in developers.toml"
        )
    return {
        "exp": int((until or end).timestamp()),
        "subject": name,
        "access": rules(settings, developer),
        "value_exists": {
            "collection": ACCESS_COLLECTION,
            "matches": [{"key": "token", "value": value_of(settings, developer, token_id)}],
        },
    }


def mint(
    settings: Settings, name: str, token_id: str = "", *, until: datetime | None = None
) -> SecretStr:
    """The signed token of a developer: the live one, or the one with that id.

    `until` is as for `claims`. Raises SettingsError as `claims` does.
    """
    token_id = token_id or _holder(settings, name).token
    key = settings.secrets.newest_qdrant_key()
    signed = claims(settings, name, token_id, until=until)
    return SecretStr(jwt.encode(signed, key.get_secret_value(), ALGORITHM))


def _holder(settings: Settings, name: str) -> Developer:
    developer = settings.developers.get(name)
    if developer is None:
        raise SettingsError(
            f"there is no developer {name}", "stackroom developer list names those there are"
        )
    return developer
