"""Qdrant over its REST: the official client, opened right, and the few calls it lacks.

A URL means what it says: the scheme is kept, and without a port it is 443 or 80. The official
client alone would take 6333, and https wherever a key is given without a scheme.
"""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr
from qdrant_client import QdrantClient
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from ops.errors import ServiceError, SettingsError, UnreachableError

READ_ATTEMPTS = 3
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def connect(
    url: str, api_key: SecretStr | None, *, ca_file: Path | None = None, timeout: int = 30
) -> QdrantClient:
    """The official client for `url`, with certificates checked against `ca_file` where given.

    `timeout` in seconds. Nothing is sent yet. Raises SettingsError for a URL without a scheme or
    a host, and for a CA file that is none.
    """
    base = _checked_url(url)
    with warnings.catch_warnings():
        if base.host in LOOPBACK:  # a tunnel, or the host itself: nobody between
            warnings.filterwarnings("ignore", message="Api key is used with an insecure")
        return QdrantClient(
            url=url,
            port=None,  # the URL's own, or that of its scheme; never 6333 unasked
            api_key=api_key.get_secret_value() if api_key else None,
            timeout=timeout,
            check_compatibility=False,  # it would ask from a thread and print its own warnings
            verify=_verify(ca_file),
        )


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
        base = _checked_url(url)
        self._url = url.rstrip("/")
        self._headers = {"api-key": api_key.get_secret_value()} if api_key else {}
        self._http = httpx.Client(base_url=base, verify=_verify(ca_file), timeout=timeout)

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
        answer = self._send("GET", "/", None, {}).json()
        return str(answer["version"])

    def request(self, method: str, path: str, json: Any = None) -> Any:
        """The `result` of Qdrant's answer.

        Raises UnreachableError without an answer, ServiceError for a refusal: a wrong key says so.
        """
        answer = self._send(method, path, json, self._headers)
        if answer.is_success:
            return answer.json()["result"]
        raise self._refusal(answer, f"{method} {path}")

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
        except httpx.TimeoutException:
            raise UnreachableError(f"Qdrant at {self._url} gave no answer in time") from None
        except httpx.TransportError as error:
            raise UnreachableError(f"Qdrant at {self._url} cannot be reached: {error}") from None

    def _refusal(self, answer: httpx.Response, what: str) -> ServiceError:
        reason = _reason(answer)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            return ServiceError(
                f"Qdrant at {self._url} refuses the key: {reason}",
                "compare qdrant_api_key in secrets.toml with the key the server was deployed with",
            )
        return ServiceError(f"Qdrant refused {what} ({answer.status_code}): {reason}")


def _checked_url(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SettingsError(f"{url!r} is no URL of a Qdrant server: {error}") from None
    if base.scheme not in ("https", "http") or not base.host:
        raise SettingsError(
            f"{url!r} is no URL of a Qdrant server", "write it as https://<host>:<port>"
        )
    return base


def _verify(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{ca_file} is no file of CA certificates: {error}") from None


def _reason(answer: httpx.Response) -> str:
    """Qdrant's own words: JSON from a handler, plain text where the key itself was refused."""
    try:
        return str(answer.json()["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return answer.text.strip() or answer.reason_phrase
