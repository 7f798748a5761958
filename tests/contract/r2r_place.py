"""The real R2R that the contract is held against, and who asks it: an admin and two users.

STACKROOM_R2R_URL names one that runs, STACKROOM_R2R_ADMIN and STACKROOM_R2R_PASSWORD its superuser,
and STACKROOM_R2R_SECRET_KEY the key that it signs tokens with. Else one is started.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import BaseModel, SecretStr
from r2r_live import R2rStack

from ops.clients.r2r import R2R, Login
from ops.clients.r2r.errors import AbsentError
from ops.clients.r2r.models import Collection, User
from ops.clients.r2r.people import Limits, RouteLimits

NAMES = ("URL", "ADMIN", "PASSWORD", "SECRET_KEY")
MANY = 100_000
BUSY = ("/v3/documents", "/v3/collections", "/v3/retrieval/search", "/v3/retrieval/rag")
ROOMY = Limits(
    global_per_min=MANY,
    monthly_limit=MANY,
    route_overrides={route: RouteLimits(route_per_min=MANY) for route in BUSY},
)


@dataclass(frozen=True)
class Place:
    """`url` without a slash at its end; `secret_key` of its tokens."""

    url: str
    admin: Login
    secret_key: str = field(repr=False)

    def raw(self, method: str, path: str, token: str = "", **request: Any) -> httpx.Response:
        """A request without any code of ours."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        headers |= request.pop("headers", {})
        return httpx.request(method, self.url + path, headers=headers, timeout=120, **request)

    def token(self, login: Login, kind: str = "access_token") -> str:
        form = {"username": login.email, "password": login.password.get_secret_value()}
        answer = self.raw("POST", "/v3/users/login", data=form)
        return str(answer.json()["results"][kind]["token"])

    def results(self, method: str, path: str, token: str, **request: Any) -> Any:
        answer = self.raw(method, path, token, **request)
        assert answer.is_success, answer.text
        return answer.json()["results"]


@dataclass(frozen=True)
class Person:
    """A user with a collection of their own, and a client that is logged in as them."""

    r2r: R2R
    login: Login
    user: User
    team: Collection

    @property
    def id(self) -> UUID:
        return self.user.id


def same(found: BaseModel, raw: dict[str, Any], *, absent: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Every field of the model was really answered, and as it is read."""
    seen = found.model_dump(mode="json", by_alias=True)
    assert set(seen) - set(raw) == absent
    for name in set(seen) & set(raw):
        if isinstance(raw[name], dict | list):
            continue  # of a model of its own
        read = str(seen[name]).replace("+00:00", "Z") if seen[name] is not None else None
        given = str(raw[name]).replace("+00:00", "Z") if raw[name] is not None else None
        assert read == given or "**" in str(read), name


@pytest.fixture(scope="session")
def r2r_place(request: pytest.FixtureRequest) -> Place:
    given = {name: os.environ.get(f"STACKROOM_R2R_{name}", "") for name in NAMES}
    if given["URL"]:
        missing = [name for name, value in given.items() if not value]
        assert not missing, f"STACKROOM_R2R_{missing[0]} is missing beside STACKROOM_R2R_URL"
        login = Login(given["ADMIN"], SecretStr(given["PASSWORD"]))
        return Place(given["URL"].rstrip("/"), login, given["SECRET_KEY"])
    stack: R2rStack = request.getfixturevalue("r2r")  # started only where none is named
    login = Login(stack.admin_email, SecretStr(stack.secrets.admin_password))
    return Place(stack.url, login, stack.secrets.r2r_secret_key)


@pytest.fixture(scope="session")
def admin(r2r_place: Place) -> Iterator[R2R]:
    with R2R(r2r_place.url, r2r_place.admin) as opened:
        yield opened


@pytest.fixture(scope="session")
def anna(r2r_place: Place, admin: R2R) -> Iterator[Person]:
    with person(r2r_place, admin, "anna") as made:
        yield made


@pytest.fixture(scope="session")
def bob(r2r_place: Place, admin: R2R) -> Iterator[Person]:
    with person(r2r_place, admin, "bob") as made:
        yield made


@contextlib.contextmanager
def person(place: Place, admin: R2R, name: str) -> Iterator[Person]:
    """A new user, gone afterwards with all that is theirs."""
    email = f"{name}-{secrets.token_hex(6)}@example.com"
    login = Login(email, SecretStr(secrets.token_urlsafe(18)))
    user = admin.users.create(email, login.password, name=name)
    admin.users.update(user.id, limits=ROOMY)
    with R2R(place.url, login) as r2r:
        try:
            yield Person(r2r, login, user, r2r.collections.create(f"{name}'s team"))
        finally:
            for document in r2r.documents.every(own=True):
                with contextlib.suppress(AbsentError):
                    r2r.documents.delete(document.id)
            for collection in r2r.collections.every(own=True):
                with contextlib.suppress(Exception):  # its own first one cannot be deleted
                    r2r.collections.delete(collection.id)
            with contextlib.suppress(AbsentError):
                admin.users.delete(user.id)
