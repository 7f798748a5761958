"""Who asks: a login whose tokens are renewed, or an API key; never both in one request.

A login costs one slow request and then 5 ms each; an API key is hashed anew at every request and
costs half a second each: for many requests log in. No secret is ever in a message or a repr.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from ops.clients.r2r.errors import AbsentError, UnauthorizedError
from ops.clients.r2r.models import Success, Tokens
from ops.clients.r2r.wire import Ask, Wire
from ops.errors import ServiceError

PAGE = 1000  # the most that R2R gives at once
EARLY_SECONDS = 10.0  # a token is renewed so long before it runs out

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Login:
    """A user's e-mail address and password."""

    email: str
    password: SecretStr


@dataclass(frozen=True)
class ApiKey:
    """As it was shown once, when it was made."""

    key: SecretStr


Credentials = Login | ApiKey | None


@dataclass(frozen=True)
class Page(Generic[M]):
    """Some of what there is, and how many there are in all."""

    items: list[M]
    total: int


@dataclass
class _Held:
    access: SecretStr
    refresh: SecretStr
    ends: float = field(default=float("inf"))  # seconds since 1970, by R2R's clock


class Session:
    """Sends what is asked as one user. Safe to share between threads: tokens are renewed once."""

    def __init__(self, wire: Wire, credentials: Credentials) -> None:
        self.wire = wire
        self._credentials = credentials
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def __repr__(self) -> str:
        return f"Session({self.wire.url!r}, {self._credentials!r})"

    @property
    def login(self) -> Login:
        if not isinstance(self._credentials, Login):
            raise ServiceError("this needs a login with a password, and there is none")
        return self._credentials

    def changed(self, password: SecretStr) -> None:
        """The user has this password from now on."""
        self._credentials = Login(self.login.email, password)

    def start(self) -> None:
        """Log in now. Raises UnauthorizedError for a wrong address or password."""
        with self._lock:
            self._held = self._logged_in(self.login)

    def stop(self) -> None:
        """Log out: the access token is void from now on. R2R keeps no list of refresh tokens, and
        the one that was given stays good until it runs out."""
        held, self._held = self._held, None
        if held:
            secret = held.access.get_secret_value()
            ask = Ask("POST", "/v3/users/logout")
            self.wire.answer(ask, _bearer(secret), (secret,))

    def open(self, ask: Ask, *, stream: bool = False) -> httpx.Response:
        """The answer to `ask`. A token that ran out is renewed, and it is asked once more."""
        if isinstance(self._credentials, ApiKey):
            key = self._credentials.key.get_secret_value()
            return self.wire.answer(ask, {"x-api-key": key}, (key,), stream=stream)
        if self._credentials is None:
            return self.wire.answer(ask, {}, (), stream=stream)
        token = self._token()
        try:
            return self.wire.answer(ask, _bearer(token), (token,), stream=stream)
        except UnauthorizedError:
            token = self._token(stale=token)
            return self.wire.answer(ask, _bearer(token), (token,), stream=stream)

    def result(self, ask: Ask, kind: type[M]) -> M:
        """R2R's `results`. Raises ServiceError where they have not the form of `kind`."""
        return self._parsed(ask, kind, self._envelope(ask).get("results"))

    def done(self, ask: Ask) -> None:
        """Raises ServiceError where R2R answers that it did not do it."""
        if not self.result(ask, Success).success:
            raise ServiceError(f"R2R answered {ask.what} without having done it")

    def page(self, ask: Ask, kind: type[M], offset: int, limit: int, inside: str = "") -> Page[M]:
        """One page; `inside` names where R2R puts the list, where it is not `results` itself."""
        if offset < 0 or not 1 <= limit <= PAGE:
            raise ValueError(f"offset must be 0 or more and limit 1 to {PAGE}")
        ask = _with(ask, {"offset": offset, "limit": limit})
        envelope = self._envelope(ask)
        try:
            found = envelope["results"][inside] if inside else envelope["results"]
            total = int(envelope["total_entries"])
        except (KeyError, TypeError, ValueError):
            found, total = None, 0
        if not isinstance(found, list):
            raise _strange(ask, "no list, or no total_entries")
        return Page([self._parsed(ask, kind, each) for each in found], total)

    def every(self, ask: Ask, kind: type[M], key: str = "id", inside: str = "") -> Iterator[M]:
        """All there is, a page at a time, each once: what comes new in between moves the others
        back. What is deleted meanwhile may hide as many from it."""
        seen: set[Any] = set()
        offset = 0
        while True:
            page = self.page(ask, kind, offset, PAGE, inside)
            for item in page.items:
                name = getattr(item, key)
                if name not in seen:
                    seen.add(name)
                    yield item
            offset += len(page.items)
            if not page.items or offset >= page.total:
                return

    def _envelope(self, ask: Ask) -> dict[str, Any]:
        answer = self.open(ask)
        try:
            said = answer.json()
        except ValueError:
            raise _strange(ask, "no JSON") from None
        if not isinstance(said, dict) or "results" not in said:
            raise _strange(ask, "no results")
        return said

    @staticmethod
    def _parsed(ask: Ask, kind: type[M], found: Any) -> M:
        try:
            return kind.model_validate(found)
        except ValidationError as error:  # never its text: it repeats what was answered
            fields = {".".join(str(part) for part in each["loc"]) for each in error.errors()}
            raise _strange(ask, f"{kind.__name__}: {', '.join(sorted(fields))}") from None

    def _token(self, *, stale: str = "") -> str:
        """An access token that is good as far as one can see, and is not the `stale` one."""
        with self._lock:
            held = self._held
            if held is None:
                held = self._logged_in(self.login)
            elif held.access.get_secret_value() == stale or held.ends - time.time() < EARLY_SECONDS:
                held = self._renewed(held)
            self._held = held
            return held.access.get_secret_value()

    def _renewed(self, held: _Held) -> _Held:
        secret = held.refresh.get_secret_value()
        # a bare string, and R2R forgets the old one: sent again it would be refused
        ask = Ask("POST", "/v3/users/refresh-token", json=secret, hidden=(secret,))
        try:
            return self._given(ask)
        except UnauthorizedError:
            return self._logged_in(self.login)

    def _logged_in(self, login: Login) -> _Held:
        secret = login.password.get_secret_value()
        ask = Ask(
            "POST",
            "/v3/users/login",
            form={"username": login.email, "password": secret},
            hidden=(secret,),
            harmless=True,
        )
        try:
            return self._given(ask)
        except (UnauthorizedError, AbsentError) as error:
            raise UnauthorizedError(
                f"R2R at {self.wire.url} refuses the login of {login.email}",
                "compare its password with secrets.toml",
                status=error.status,
            ) from None

    def _given(self, ask: Ask) -> _Held:
        answer = self.wire.answer(ask, {}, ())
        try:
            tokens = Tokens.model_validate(answer.json()["results"])
        except (ValueError, KeyError, TypeError):  # ValidationError is a ValueError
            raise _strange(ask, "no tokens") from None
        access = tokens.access_token.token
        return _Held(access, tokens.refresh_token.token, _ends(access.get_secret_value()))


def _with(ask: Ask, params: dict[str, Any]) -> Ask:
    return Ask(ask.method, ask.path, {**ask.params, **params}, timeout=ask.timeout)


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _ends(token: str) -> float:
    """When a JWT runs out; never, where it does not say. R2R alone checks the signature."""
    try:
        middle = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        ends = float(claims["exp"])
    except (IndexError, ValueError, KeyError, TypeError):
        return float("inf")
    # a life shorter than twice the margin would be renewed at every request: then 401 tells
    return ends if ends - time.time() > 2 * EARLY_SECONDS else float("inf")


def _strange(ask: Ask, how: str) -> ServiceError:
    return ServiceError(f"R2R answered {ask.what} in an unknown form ({how})")
