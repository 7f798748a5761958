"""One request to R2R: sent, tried again where that is safe, and its answer or a typed error.

Who asks is not known here: see session.py.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from ops.clients.r2r.breaker import Breaker
from ops.clients.r2r.errors import (
    BusyError,
    FailedError,
    LimitedError,
    NoAnswerError,
    no_answer,
    refusal,
)
from ops.clients.rest import verification
from ops.errors import SettingsError

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0  # without a byte
WORK_SECONDS = 300.0  # the same, where R2R parses, embeds or asks a model before it answers
REFUSAL_BYTES = 64 * 1024  # of a refusal's text that are read
GATEWAY = (502, 503, 504)  # said by a proxy for an R2R that is not there


@dataclass(frozen=True)
class Patience:
    """How a call is tried again. All but `attempts` in seconds."""

    attempts: int = 4
    first: float = 0.2  # the longest first pause; each next one up to twice as long
    longest: float = 5.0
    # R2R counts requests a minute, and says not when there is room again
    limited_pause: float = 10.0
    limited_in_all: float = 75.0


@dataclass(frozen=True)
class Ask:
    """One request. What is `harmless` changes nothing, and may be sent again though it arrived.
    `files` makes the parts of a multipart body anew for every try; `hidden` is told by no error."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    files: Callable[[], Any] | None = field(default=None, repr=False)
    timeout: float = ANSWER_SECONDS
    harmless: bool = False
    hidden: tuple[str, ...] = field(default=(), repr=False)

    @property
    def what(self) -> str:
        return f"{self.method} {self.path}"


class Wire:
    """Raises RefusedError's kinds for a refusal, NoAnswerError without an answer, OpenError while
    the breaker is open."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        patience: Patience | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        base = checked(url)
        self.url = url.rstrip("/")
        self.patience = patience or Patience()
        self.breaker = breaker or Breaker()
        verify: ssl.SSLContext | bool = verification(ca_file)
        # a compressed stream would keep pieces of an answer back
        self._http = httpx.Client(
            base_url=base, verify=verify, headers={"accept-encoding": "identity"}
        )

    def close(self) -> None:
        self._http.close()

    def answer(
        self, ask: Ask, headers: Mapping[str, str], hidden: tuple[str, ...], *, stream: bool = False
    ) -> httpx.Response:
        """A success, read unless it is streamed: then whoever asked reads and closes it."""
        attempts = Retrying(
            retry=retry_if_exception(lambda error: _worth(error, ask)),
            stop=self._stop,
            wait=self._wait,
            reraise=True,
        )
        return attempts(self._once, ask, headers, (*hidden, *ask.hidden), stream)

    def _once(
        self, ask: Ask, headers: Mapping[str, str], hidden: tuple[str, ...], stream: bool
    ) -> httpx.Response:
        self.breaker.enter(f"R2R at {self.url}")
        try:
            answer = self._sent(ask, headers)
            try:
                if not answer.is_success:
                    answer = _cut(answer)
                elif not stream:
                    answer.read()
            except BaseException:
                answer.close()
                raise
        except (httpx.LocalProtocolError, UnicodeEncodeError):
            self.breaker.leave()  # its text has the header in it, secret and all
            raise SettingsError(
                f"the credentials for R2R at {self.url} hold what no header takes",
                "look for a line break or a letter that is not ASCII in them",
            ) from None
        except httpx.TransportError as error:
            self.breaker.failed()
            raise no_answer(self.url, error) from None
        except BaseException:
            self.breaker.leave()
            raise
        if answer.status_code in GATEWAY:
            self.breaker.failed()
        else:
            self.breaker.answered()
        if not answer.is_success:
            raise refusal(answer, ask.what, hidden)
        return answer

    def _sent(self, ask: Ask, headers: Mapping[str, str]) -> httpx.Response:
        connect = min(CONNECT_SECONDS, ask.timeout)
        request = self._http.build_request(
            ask.method,
            ask.path,
            params=dict(ask.params) or None,
            json=ask.json,
            data=dict(ask.form) if ask.form is not None else None,
            files=ask.files() if ask.files else None,
            headers=dict(headers),
            timeout=httpx.Timeout(ask.timeout, connect=connect),
        )
        return self._http.send(request, stream=True)

    def _stop(self, state: RetryCallState) -> bool:
        if isinstance(_error(state), LimitedError):
            return (state.seconds_since_start or 0) >= self.patience.limited_in_all
        return state.attempt_number >= self.patience.attempts

    def _wait(self, state: RetryCallState) -> float:
        error = _error(state)
        if isinstance(error, LimitedError | BusyError) and error.after is not None:
            return min(error.after, self.patience.limited_in_all)
        if isinstance(error, LimitedError):
            return self.patience.limited_pause
        pauses = wait_random_exponential(self.patience.first, self.patience.longest)
        return pauses(state)


def checked(url: str) -> httpx.URL:
    """Raises SettingsError for a URL without a scheme or a host, or with a password in it."""
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SettingsError(f"this is no URL of an R2R server: {error}") from None
    if base.userinfo:  # it would stand in every message
        raise SettingsError(
            f"the URL of R2R at {base.host} has a name and a password in it", "leave them out"
        )
    if base.scheme not in ("https", "http") or not base.host:
        raise SettingsError(
            f"{url!r} is no URL of an R2R server", "write it as https://<host>:<port>"
        )
    return base


def _worth(error: BaseException, ask: Ask) -> bool:
    """Whether it may help, and cannot hurt, to send it again."""
    harmless = ask.harmless or ask.method == "GET"
    if isinstance(error, NoAnswerError):
        return not error.late and (harmless or not error.arrived)
    if isinstance(error, LimitedError):
        return error.passes
    if isinstance(error, BusyError):
        return True
    return isinstance(error, FailedError) and error.status in GATEWAY and harmless


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _cut(answer: httpx.Response) -> httpx.Response:
    """A refusal with so much of its text as is worth reading, closed."""
    text = b""
    for piece in answer.iter_bytes(REFUSAL_BYTES):
        text += piece
        if len(text) >= REFUSAL_BYTES:
            break
    answer.close()
    return httpx.Response(answer.status_code, headers=_plain(answer), content=text)


def _plain(answer: httpx.Response) -> dict[str, str]:
    kept = ("content-type", "retry-after")
    return {name: answer.headers[name] for name in kept if name in answer.headers}
