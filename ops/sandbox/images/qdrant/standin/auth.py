"""Who asks, and what they may do: keys, JWTs and their access claims, as the real server judges.

A refused key raises KeyRefused; a key that does not reach far enough raises ApiError 403.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jwt
from pydantic import BaseModel, StrictInt, StrictStr, ValidationError

from .config import Config
from .errors import ApiError, KeyRefused

LEEWAY_SECONDS = 30
NO_KEY = "Must provide an API key or an Authorization bearer token"
WRONG_KEY = "Invalid API key or JWT"


class Rule(BaseModel):
    collection: StrictStr
    access: Literal["r", "rw", "prw"]
    payload: Any = None


class Match(BaseModel):
    key: StrictStr
    value: Any


class ValueExists(BaseModel):
    collection: StrictStr
    matches: list[Match]


class Claims(BaseModel):
    exp: StrictInt | None = None
    access: Literal["r", "m"] | list[Rule] = "m"  # no claim at all is full access
    value_exists: ValueExists | None = None
    subject: StrictStr | None = None


@dataclass(frozen=True)
class Identity:
    """An admitted caller. `everywhere` is global access; `rules` names collections instead."""

    auth_type: Literal["None", "ApiKey", "Jwt"]
    everywhere: Literal["r", "m"] | None = None
    rules: Mapping[str, str] = field(default_factory=dict)
    subject: str | None = None

    def need_global(self, *, manage: bool = False) -> None:
        if self.everywhere is None:
            raise _forbidden("Global access is required")
        if manage and self.everywhere != "m":
            raise _forbidden("Global manage access is required")

    def need_collection(self, name: str, *, write: bool = False, whole: bool = False) -> None:
        """`whole`: more than points, which the level "prw" does not include."""
        if self.everywhere:
            if write:
                self.need_global(manage=True)
            return
        level = self.rules.get(name)
        if level is None:
            raise _forbidden(f"Access to collection {name} is required")
        if write and level == "r":
            raise _forbidden(f"Write access to collection {name} is required")
        if whole and level == "prw":
            raise _forbidden(f"Only points access is allowed for collection {name}")

    def sees(self, *names: str) -> bool:
        return self.everywhere is not None or all(name in self.rules for name in names)


def _forbidden(reason: str) -> ApiError:
    return ApiError(403, f"Forbidden: {reason}")


HasPoint = Callable[[str, Mapping[str, Any]], bool]


class Keys:
    """The configured keys. `has_point` looks up a `value_exists` claim; it raises ApiError 404."""

    def __init__(self, config: Config, has_point: HasPoint) -> None:
        self._full = [key for key in (config.api_key, config.alt_api_key) if key]
        self._read_only = config.read_only_api_key
        self._jwt = config.jwt_rbac
        self._has_point = has_point

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Judge the `api-key` or `authorization` header (lower-case names)."""
        if not self._full and not self._read_only:
            return Identity("None", "m")
        given = _given(headers)
        if any(hmac.compare_digest(given.encode(), key.encode()) for key in self._full):
            return Identity("ApiKey", "m")
        if self._read_only and hmac.compare_digest(given.encode(), self._read_only.encode()):
            return Identity("ApiKey", "r")
        if not self._jwt:
            raise KeyRefused(401, WRONG_KEY)
        claims = self._claims(given)
        self._check_value_exists(claims.value_exists)
        if not isinstance(claims.access, list):
            return Identity("Jwt", claims.access, subject=claims.subject)
        rules = {rule.collection: rule.access for rule in claims.access}
        return Identity("Jwt", rules=rules, subject=claims.subject)

    def _claims(self, token: str) -> Claims:
        refusal = KeyRefused(401, WRONG_KEY)
        for key in self._full:
            try:
                claims = Claims.model_validate(_decode(token, key))
            except jwt.ExpiredSignatureError:
                raise KeyRefused(403, "ExpiredSignature") from None
            except jwt.InvalidSignatureError:
                refusal = KeyRefused(403, "InvalidSignature")
            except (jwt.InvalidTokenError, ValidationError):
                refusal = KeyRefused(401, WRONG_KEY)
            else:
                _check_rules(claims)
                return claims
        raise refusal

    def _check_value_exists(self, claim: ValueExists | None) -> None:
        if claim is None:
            return
        refused = "Invalid JWT, stateful validation failed"
        try:
            found = self._has_point(claim.collection, {m.key: m.value for m in claim.matches})
        except ApiError:
            raise KeyRefused(403, refused) from None
        if not found:
            raise KeyRefused(401, refused)


def _given(headers: Mapping[str, str]) -> str:
    if "api-key" in headers:
        return headers["api-key"]
    bearer = headers.get("authorization", "")
    if not bearer.startswith("Bearer "):
        raise KeyRefused(401, NO_KEY)
    return bearer.removeprefix("Bearer ")


def _decode(token: str, key: str) -> Any:
    unchecked = ("aud", "iat", "nbf", "iss", "sub", "jti")  # the real server looks at exp alone
    options: Any = {f"verify_{claim}": False for claim in unchecked}
    return jwt.decode(token, key, algorithms=["HS256"], leeway=LEEWAY_SECONDS, options=options)


def _check_rules(claims: Claims) -> None:
    rules = claims.access if isinstance(claims.access, list) else []
    for index, rule in enumerate(rules):
        if rule.payload is not None:
            reason = "The 'payload' constraint is deprecated and should not be used"
            raise KeyRefused(401, f"access[{index}].payload: {reason}")
        if rule.collection in {earlier.collection for earlier in rules[:index]}:
            reason = "Collection name should be unique"
            raise KeyRefused(401, f"access[{index}].collection: {reason}")
