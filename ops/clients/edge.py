"""The edge as a TLS server: its own CA, its certificate, one request. Changes nothing."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx
from cryptography import x509

from ops.clients.ssh import Remote
from ops.errors import ServiceError, UnreachableError

CONTAINER = "stackroom-edge-1"
CA_PATH = "/data/caddy/pki/authorities/local/root.crt"
SECONDS = 5.0


@dataclass(frozen=True)
class Place:
    """Where the edge listens, and the name (a domain or an address) its certificate is for."""

    address: str
    port: int
    name: str


@dataclass(frozen=True)
class Lifetime:
    """The span in which a certificate is valid; aware, UTC."""

    begin: datetime
    end: datetime


def edge_ca(remote: Remote) -> str:
    """The root certificate of the edge's own CA, as PEM (mode `internal`).

    Raises UnreachableError without a login, ServiceError when the edge has none.
    """
    done = remote.run(f"docker exec {CONTAINER} cat {CA_PATH}")
    if done.returncode or "BEGIN CERTIFICATE" not in done.stdout:
        said = (done.stderr.strip() or "no certificate there").splitlines()[-1]
        raise ServiceError(
            f"the edge shows no CA certificate: {said}",
            f"on the host: docker logs -n 50 {CONTAINER}",
        )
    return done.stdout


def fingerprint(pem: str) -> str:
    """SHA-256 of the certificate as browsers show it: `AA:BB:...`."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest().hex(":").upper()


def trust(ca: str = "") -> ssl.SSLContext:
    """Verifies against this CA (PEM) and no other, or against the system's where it is empty."""
    return ssl.create_default_context(cadata=ca or None)


def unverified() -> ssl.SSLContext:
    """Takes any certificate: for looking at one, and for requests that carry no secret."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def certificate_lifetime(place: Place) -> Lifetime:
    """Read from the served certificate, trusted or not. Raises UnreachableError."""
    certificate = x509.load_der_x509_certificate(_handshake(place, unverified()))
    return Lifetime(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def verify(place: Place, context: ssl.SSLContext) -> None:
    """A verified handshake. Raises ServiceError when the certificate is not trusted for the name,
    UnreachableError when nobody answers."""
    _handshake(place, context)


def request(place: Place, context: ssl.SSLContext, path: str, key: str = "") -> int:
    """GET a path over TLS and return the status code. Raises as `verify` does."""
    return ask(place, context, path, key)[0]


def ask(
    place: Place,
    context: ssl.SSLContext,
    path: str,
    key: str = "",
    *,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """GET a path over TLS: the status code and the text. Raises as `verify` does."""
    sent = {"host": f"{place.name}:{place.port}", **(headers or {})}
    host = f"[{place.address}]" if ":" in place.address else place.address
    try:
        with httpx.Client(verify=context, timeout=SECONDS, trust_env=False) as client:
            answer = client.get(
                f"https://{host}:{place.port}{path}",
                headers=sent | ({"api-key": key} if key else {}),
                extensions={"sni_hostname": place.name.strip("[]")},
            )
    except httpx.HTTPError as error:
        # the kind only: a message of httpx may quote the header that holds the key
        raise _silent(place, type(error).__name__) from None
    return answer.status_code, answer.text


def _handshake(place: Place, context: ssl.SSLContext) -> bytes:
    """The served certificate, DER."""
    try:
        with (
            socket.create_connection((place.address, place.port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=place.name.strip("[]")) as secure,
        ):
            return secure.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError as error:
        raise ServiceError(
            f"the edge's certificate is not trusted for {place.name}: {error.verify_message}",
            "is edge.mode or edge.domain newer than the last deploy? stackroom deploy",
        ) from None
    except OSError as error:
        raise _silent(place, str(error) or type(error).__name__) from None


def _silent(place: Place, reason: str) -> UnreachableError:
    return UnreachableError(
        f"the edge at {place.address} port {place.port} does not answer: {reason}",
        "is this machine's address listed in developers.toml?",
    )
