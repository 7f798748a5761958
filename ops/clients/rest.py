"""Qdrant over plain REST, without the official client: what the host's own verbs need of it.

A URL means what it says: the scheme is kept, and without a port it is 443 or 80.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from ops.errors import ServiceError, SettingsError, UnreachableError

READ_ATTEMPTS = 3
REASON_LENGTH = 300  # of a refusal: a proxy may answer with a whole page


class RefusedError(ServiceError):
    """Qdrant's refusal of one request; `status` is the HTTP status."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status


class QdrantRest:
    """Plain REST with typed errors. A read that finds no connection is tried 3 times."""

    def __init__(
        self,
        url: str,
        api_key: SecretStr | None,
        *,
        ca_file: Path | None = None,
        timeout: float = 30,
    ) -> None:
        base = checked_url(url)
        self._url = url.rstrip("/")
        self._headers = key_headers(api_key)
        self._http = httpx.Client(base_url=base, verify=verification(ca_file), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def version(self) -> str:
        """The server's version, such as "1.19.0". Needs no key."""
        answer = self._send("GET", "/", None, {})
        try:
            return str(answer.json()["version"])
        except (ValueError, KeyError, TypeError):
            raise ServiceError(f"what answers at {self._url} is no Qdrant server") from None

    def request(self, method: str, path: str, json: Any = None) -> Any:
        """The `result` of Qdrant's answer.

        Raises UnreachableError without an answer, ServiceError for a refusal: a wrong key says so.
        """
        answer = self._send(method, path, json, self._headers)
        return result_of(answer, self._url, f"{method} {path}")

    def probe(self, path: str, headers: Mapping[str, str] | None = None) -> int:
        """The status code of a GET with these headers alone: without the key of this client."""
        return self._send("GET", path, None, headers or {}).status_code

    def _send(
        self, method: str, path: str, json: Any, headers: Mapping[str, str]
    ) -> httpx.Response:
        attempts = Retrying(
            # a write may have arrived although its answer did not: only reads are sent again
            stop=stop_after_attempt(READ_ATTEMPTS if method == "GET" else 1),
            wait=wait_exponential(multiplier=0.1, max=1),
            retry=retry_if_exception_type((httpx.NetworkError, httpx.RemoteProtocolError)),
            reraise=True,
        )
        try:
            return attempts(self._http.request, method, path, json=json, headers=dict(headers))
        except httpx.TransportError as error:
            raise unreachable(self._url, error) from None


def checked_url(url: str) -> httpx.URL:
    """Raises SettingsError for a URL without a scheme or a host."""
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SettingsError(f"{url!r} is no URL of a Qdrant server: {error}") from None
    if base.scheme not in ("https", "http") or not base.host:
        raise SettingsError(
            f"{url!r} is no URL of a Qdrant server", "write it as https://<host>:<port>"
        )
    return base


def verification(ca_file: Path | None) -> ssl.SSLContext | bool:
    """How certificates are checked. Raises SettingsError for a CA file that is none."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{ca_file} is no file of CA certificates: {error}") from None


def key_headers(api_key: SecretStr | None) -> dict[str, str]:
    return {"api-key": api_key.get_secret_value()} if api_key else {}


def unreachable(url: str, error: httpx.TransportError) -> UnreachableError:
    """What came of a request that got no whole answer."""
    if isinstance(error, httpx.TimeoutException):
        return UnreachableError(f"Qdrant at {url} gave no answer in time")
    return UnreachableError(f"Qdrant at {url} cannot be reached: {error}")


def result_of(answer: httpx.Response, url: str, what: str) -> Any:
    """The `result` of an answer that was read. Raises ServiceError for a refusal."""
    if not answer.is_success:
        raise refusal(answer, url, what)
    try:
        return answer.json()["result"]
    except (ValueError, KeyError, TypeError):
        raise ServiceError(f"Qdrant at {url} answered {what} with no result") from None


def refusal(answer: httpx.Response, url: str, what: str) -> RefusedError:
    """The error for an answer that was read and is no success; a wrong key says so."""
    reason, status = reason_of(answer), answer.status_code
    if status == httpx.codes.UNAUTHORIZED:
        return RefusedError(
            status,
            f"Qdrant at {url} refuses the key: {reason}",
            "compare qdrant_api_key in secrets.toml with the key the server was deployed with",
        )
    return RefusedError(status, f"Qdrant refused {what} ({status}): {reason}")


def reason_of(answer: httpx.Response) -> str:
    """Qdrant's own words: JSON from a handler, plain text where the key itself was refused."""
    try:
        return str(answer.json()["status"]["error"])
    except (ValueError, KeyError, TypeError):
        words = " ".join(answer.text.split()) or answer.reason_phrase
        return words[:REASON_LENGTH]
