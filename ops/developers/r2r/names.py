"""How developers are called in R2R, and their passwords: made from the inventory alone. Pure.

The same files make the same password. None is stored: it is derived from the key with which R2R
signs its own tokens, so whoever could make a password could do without one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from dataclasses import dataclass

from pydantic import SecretStr

from ops.render.r2r_env import secrets_of
from ops.settings import Settings

# a name that the internet never gives to anybody: no mail of R2R reaches a stranger
DOMAIN = "stackroom.internal"
DIGITS = 12  # of the id in developers.toml


@dataclass(frozen=True)
class Wanted:
    """One user that R2R is to have: its present address, and whose collections it shares."""

    email: str
    collections: tuple[str, ...]


def first_email(name: str) -> str:
    """What a user is made with: R2R derives the user's id from it, so one who comes back is the
    same user as before, and owns what they owned."""
    return f"{name}@{DOMAIN}"


def email_of(name: str, token_id: str) -> str:
    """The address to log in with. R2R's tokens name it, and nothing else of the user: with
    another one, every token of before is void."""
    return f"{name}.{token_id.replace('-', '')[:DIGITS]}@{DOMAIN}"


def user_id(name: str) -> uuid.UUID:
    """The id of a developer's user, as R2R 3.6.6 makes it."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, first_email(name))


def name_in(email: str) -> str:
    """Whose address it is; "" for one that is not made here."""
    local, _, domain = email.partition("@")
    return local.partition(".")[0] if domain == DOMAIN else ""


def password_of(settings: Settings, email: str) -> SecretStr:
    """43 letters, digits, - and _; of another address it is another one."""
    key = secrets_of(settings).secret_key.get_secret_value().encode()
    said = f"stackroom developer {settings.r2r.project} {email}".encode()
    digest = hmac.digest(key, said, hashlib.sha256)
    return SecretStr(base64.urlsafe_b64encode(digest).decode().rstrip("="))


def wanted(settings: Settings) -> dict[str, Wanted]:
    """The users that are to be there, by developer: of those with collections, until their day."""
    return {
        name: Wanted(email_of(name, one.token), tuple(one.collections))
        for name, one in settings.current_developers().items()
        if one.collections and one.token
    }
