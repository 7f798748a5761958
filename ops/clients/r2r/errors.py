"""What R2R refuses, by kind: one class a status, R2R's own words, and never a secret in them."""

from __future__ import annotations

from typing import Any

import httpx

from ops.errors import ServiceError, UnreachableError

REASON_LENGTH = 300  # of a refusal: a proxy may answer with a whole page
LIMITS_HINT = "wait a minute, or raise the user's limits_overrides"


class RefusedError(ServiceError):
    """R2R's refusal of one request; `status` is the HTTP status."""

    status = 0

    def __init__(self, message: str, hint: str = "", *, status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status or type(self).status


class BadRequestError(RefusedError):
    """400: also for two kinds of credentials in one request."""

    status = 400


class UnauthorizedError(RefusedError):
    """401: no credentials, wrong ones, or a token that ran out or was logged out."""

    status = 401


class ForbiddenError(RefusedError):
    """403: not this user's, or for superusers only, or more than the user may have."""

    status = 403


class AbsentError(RefusedError):
    """404: not there, or not this user's to see."""

    status = 404


class ConflictError(RefusedError):
    """409: there already, or being ingested. A document must be deleted before it is sent again."""

    status = 409


class TooLargeError(RefusedError):
    """413: more than max_upload_size_by_type allows this extension."""

    status = 413


class UnsupportedError(RefusedError):
    """415: an extension that R2R has no parser for."""

    status = 415


class InvalidError(RefusedError):
    """422: a field is missing or has the wrong form; the message says where."""

    status = 422


class LimitedError(RefusedError):
    """429: too many requests. `after` in seconds where the answer says so; `passes` is False for
    the limit of a month, which no waiting helps."""

    status = 429
    after: float | None = None
    passes = True


class FailedError(RefusedError):
    """5xx: R2R, or what it needs, failed."""

    status = 500


class BusyError(FailedError):
    """503: nothing was done; `after` in seconds where the answer says so."""

    status = 503
    after: float | None = None


class NoAnswerError(UnreachableError):
    """No whole answer came. `arrived` is False where the request surely never got there."""

    def __init__(self, message: str, hint: str = "", *, arrived: bool, late: bool = False) -> None:
        super().__init__(message, hint)
        self.arrived = arrived
        self.late = late


KINDS: dict[int, type[RefusedError]] = {
    kind.status: kind
    for kind in (
        BadRequestError,
        UnauthorizedError,
        ForbiddenError,
        AbsentError,
        ConflictError,
        TooLargeError,
        UnsupportedError,
        InvalidError,
        LimitedError,
        BusyError,
    )
}
HINTS = {
    401: "compare the credentials with secrets.toml",
    413: "max_upload_size_by_type of R2R's settings says how large a file may be",
    429: LIMITS_HINT,
    500: "docker logs --tail 50 stackroom-r2r-1",
}

# R2R passes on what it was told, in words that name nothing a person could look at
WORDS = {
    # LiteLLM without a database, to a key that is not its own
    "no_db_connection": "LiteLLM does not take R2R's key: deploy both with the litellm_master_key"
    " of secrets.toml",
    # whatever ends the reading of an upload; with a good client that is a full disk
    "error parsing the body": "R2R has no room for this upload now: send fewer large files at once,"
    " or take a larger r2r.profile",
}


def refusal(answer: httpx.Response, what: str, hidden: tuple[str, ...] = ()) -> RefusedError:
    """The error for an answer that was read and is no success. What is `hidden` is not told."""
    status = answer.status_code
    kind = KINDS.get(status, FailedError if status >= 500 else RefusedError)
    reason = without(reason_of(answer), hidden)
    hint = HINTS.get(status, HINTS[500] if status >= 500 else "")
    hint = next((known for word, known in WORDS.items() if word in reason), hint)
    error = kind(f"R2R refused {what} ({status}): {reason}", hint, status=status)
    if isinstance(error, LimitedError | BusyError):
        error.after = _after(answer)
    if isinstance(error, LimitedError):
        error.passes = "monthly" not in reason.lower()
    return error


def no_answer(url: str, error: httpx.TransportError) -> NoAnswerError:
    """What came of a request that got no whole answer."""
    arrived = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    if isinstance(error, httpx.TimeoutException):
        return NoAnswerError(f"R2R at {url} gave no answer in time", arrived=arrived, late=True)
    words = f": {error}" if str(error) else ""
    return NoAnswerError(f"R2R at {url} cannot be reached{words}", arrived=arrived)


def reason_of(answer: httpx.Response) -> str:
    """R2R's own words. Of a 422 only where and what: it repeats what was sent, passwords too."""
    try:
        said = answer.json()
        found = said.get("message") or said.get("detail")
        words = _told(found) if found else answer.reason_phrase
    except (ValueError, AttributeError):
        words = answer.text or answer.reason_phrase
    return " ".join(words.split())[:REASON_LENGTH]


def without(words: str, hidden: tuple[str, ...]) -> str:
    for secret in hidden:
        if secret:
            words = words.replace(secret, "[hidden]")
    return words


def _told(found: Any) -> str:
    if isinstance(found, list):
        return "; ".join(_told(each) for each in found)
    if isinstance(found, dict):
        where = ".".join(str(part) for part in found.get("loc", ()))
        words = str(found.get("msg") or found.get("message") or "no reason given")
        return f"{where}: {words}" if where else words
    return str(found)


def _after(answer: httpx.Response) -> float | None:
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):  # a date is not worth parsing: the usual pauses do
        return None
