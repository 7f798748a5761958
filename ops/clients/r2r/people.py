"""R2R's users, their API keys, and the collections they share. Members of a collection see what is
in it; only its owner and superusers change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ops.clients.r2r.models import Collection, Document, Key, Message, NewKey, User
from ops.clients.r2r.session import Page, Session
from ops.clients.r2r.wire import Ask

USERS = "/v3/users"
# R2R mails that a password was changed before it answers, and gives a mail server 30 seconds
MAIL_SECONDS = 90.0
COLLECTIONS = "/v3/collections"


class RouteLimits(BaseModel):
    """Requests to one path: those of R2R's settings where None. It counts POST and DELETE alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    route_per_min: int | None = Field(default=None, ge=1)
    monthly_limit: int | None = Field(default=None, ge=1)


class Limits(BaseModel):
    """What one user may do. R2R heeds `route_per_min` only inside of `route_overrides`, which goes
    by the path as it is asked for, such as "/v3/documents"; superusers have no limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    global_per_min: int | None = Field(default=None, ge=1)
    monthly_limit: int | None = Field(default=None, ge=1)
    route_overrides: Mapping[str, RouteLimits] = Field(default_factory=dict)


class Users:
    def __init__(self, session: Session) -> None:
        self._session = session

    def me(self) -> User:
        return self._session.result(Ask("GET", f"{USERS}/me"), User)

    def get(self, user: UUID) -> User:
        return self._session.result(Ask("GET", f"{USERS}/{user}"), User)

    def page(self, offset: int = 0, limit: int = 100) -> Page[User]:
        """For superusers only."""
        return self._session.page(Ask("GET", USERS), User, offset, limit)

    def every(self) -> Iterator[User]:
        """For superusers only."""
        return self._session.every(Ask("GET", USERS), User)

    def create(
        self, email: str, password: SecretStr, *, name: str = "", verified: bool = False
    ) -> User:
        """`verified` for superusers only. Raises BadRequestError where the address has a user."""
        secret = password.get_secret_value()
        body: dict[str, Any] = {"email": email, "password": secret}
        body |= {"name": name} if name else {}
        body |= {"is_verified": True} if verified else {}
        return self._session.result(Ask("POST", USERS, json=body, hidden=(secret,)), User)

    def update(
        self,
        user: UUID,
        *,
        name: str | None = None,
        superuser: bool | None = None,
        limits: Limits | None = None,
    ) -> User:
        """Change what is given. All but the name is for superusers only."""
        narrowed = limits.model_dump(exclude_none=True) if limits else None
        body = {"name": name, "is_superuser": superuser, "limits_overrides": narrowed}
        given = {key: value for key, value in body.items() if value is not None}
        return self._session.result(Ask("POST", f"{USERS}/{user}", json=given), User)

    def delete(self, user: UUID, *, password: SecretStr | None = None) -> None:
        """The user's documents stay. Anyone but a superuser needs the user's password."""
        secret = password.get_secret_value() if password else None
        ask = Ask("DELETE", f"{USERS}/{user}", json={"password": secret}, hidden=(secret or "",))
        self._session.done(ask)

    def change_password(self, password: SecretStr) -> None:
        """Of the user who is logged in. Tokens that were given before stay good."""
        old, new = self._session.login.password.get_secret_value(), password.get_secret_value()
        body = {"current_password": old, "new_password": new}
        path = f"{USERS}/change-password"
        ask = Ask("POST", path, json=body, hidden=(old, new), timeout=MAIL_SECONDS)
        self._session.result(ask, Message)
        self._session.changed(password)

    def reset_password(self, token: SecretStr, password: SecretStr) -> None:
        """Of the user whom R2R's database has the token for. Raises BadRequestError for a token
        that is nobody's, or too old. Tokens that were given before stay good."""
        shown, new = token.get_secret_value(), password.get_secret_value()
        body = {"reset_token": shown, "new_password": new}
        path = f"{USERS}/reset-password"
        ask = Ask("POST", path, json=body, hidden=(shown, new), timeout=MAIL_SECONDS)
        self._session.result(ask, Message)

    def collections(self, user: UUID) -> Iterator[Collection]:
        return self._session.every(Ask("GET", f"{USERS}/{user}/collections"), Collection)

    def create_key(self, user: UUID, *, name: str = "", description: str = "") -> NewKey:
        body = {"name": name or None, "description": description or None}
        return self._session.result(Ask("POST", f"{USERS}/{user}/api-keys", json=body), NewKey)

    def keys(self, user: UUID) -> Iterator[Key]:
        return self._session.every(Ask("GET", f"{USERS}/{user}/api-keys"), Key, "key_id")

    def delete_key(self, user: UUID, key: UUID) -> None:
        self._session.done(Ask("DELETE", f"{USERS}/{user}/api-keys/{key}"))


class Collections:
    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, name: str, description: str = "") -> Collection:
        """Raises ConflictError where this user has one of this name."""
        body = {"name": name, "description": description or None}
        return self._session.result(Ask("POST", COLLECTIONS, json=body), Collection)

    def get(self, collection: UUID) -> Collection:
        return self._session.result(Ask("GET", f"{COLLECTIONS}/{collection}"), Collection)

    def named(self, name: str, owner: UUID | None = None) -> Collection:
        """The user's own of this name; another `owner`'s for superusers only."""
        params = {"owner_id": str(owner)} if owner else {}
        path = f"{COLLECTIONS}/name/{quote(name, safe='')}"
        return self._session.result(Ask("GET", path, params), Collection)

    def page(self, offset: int = 0, limit: int = 100, *, own: bool = False) -> Page[Collection]:
        """Those the user is a member of, or with `own` owns; a superuser sees all."""
        return self._session.page(self._listed(own), Collection, offset, limit)

    def every(self, *, own: bool = False) -> Iterator[Collection]:
        return self._session.every(self._listed(own), Collection)

    def update(self, collection: UUID, *, name: str = "", description: str = "") -> Collection:
        body = {"name": name, "description": description}
        given = {key: value for key, value in body.items() if value}
        ask = Ask("POST", f"{COLLECTIONS}/{collection}", json=given)
        return self._session.result(ask, Collection)

    def delete(self, collection: UUID) -> None:
        """The documents in it stay."""
        self._session.done(Ask("DELETE", f"{COLLECTIONS}/{collection}"))

    def members(self, collection: UUID) -> Iterator[User]:
        return self._session.every(Ask("GET", f"{COLLECTIONS}/{collection}/users"), User)

    def add_member(self, collection: UUID, user: UUID) -> None:
        self._session.done(Ask("POST", f"{COLLECTIONS}/{collection}/users/{user}"))

    def remove_member(self, collection: UUID, user: UUID) -> None:
        self._session.done(Ask("DELETE", f"{COLLECTIONS}/{collection}/users/{user}"))

    def documents(self, collection: UUID) -> Iterator[Document]:
        return self._session.every(Ask("GET", f"{COLLECTIONS}/{collection}/documents"), Document)

    def add_document(self, collection: UUID, document: UUID) -> None:
        """Raises ConflictError where it is in there already."""
        ask = Ask("POST", f"{COLLECTIONS}/{collection}/documents/{document}")
        self._session.result(ask, Message)

    def remove_document(self, collection: UUID, document: UUID) -> None:
        self._session.done(Ask("DELETE", f"{COLLECTIONS}/{collection}/documents/{document}"))

    @staticmethod
    def _listed(own: bool) -> Ask:
        return Ask("GET", COLLECTIONS, {"owner_only": "true"} if own else {})
