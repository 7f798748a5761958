"""The edge's probes against real TLS servers on loopback, with certificates made for each test."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import ipaddress
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ops.clients import edge as client
from ops.clients.edge import Lifetime, Place
from ops.clients.ssh import Completed
from ops.errors import ServiceError, UnreachableError
from ops.health import edge
from ops.health.edge import Behind
from ops.health.model import Status

KEY = "the-right-key-of-this-test"
QDRANT = Behind("Qdrant", "/collections", "/collections", KEY)
R2R = Behind("R2R", "/v3/documents", "/v3/health")
NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Authority:
    """A CA for one test; makes leaf certificates for 127.0.0.1."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def leaf(self, folder: Path, begin: datetime, end: datetime) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            _builder("edge", "stack room CA", key, begin, end)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        path = folder / "leaf.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    name = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]) for cn in (subject, issuer)]
    return (
        x509.CertificateBuilder()
        .subject_name(name[0])
        .issuer_name(name[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    begin, end = NOW - timedelta(days=9), NOW + timedelta(days=999)
    certificate = (
        _builder("stack room CA", "stack room CA", key, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


class Guarded(http.server.BaseHTTPRequestHandler):
    """Refuses whoever has no key, as Qdrant does; `server.mood` changes that."""

    def do_GET(self) -> None:
        mood = getattr(self.server, "mood", "")
        right = self.headers.get("api-key") == KEY
        self.send_response(int(mood) if mood else 200 if right else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(
    chain: Path, mood: str = "", kind: type[http.server.BaseHTTPRequestHandler] = Guarded
) -> Iterator[Place]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.mood = mood  # type: ignore[attr-defined]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield Place("127.0.0.1", server.server_address[1], "127.0.0.1")
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def ca() -> Authority:
    return authority()


@pytest.fixture
def fresh(ca: Authority, tmp_path: Path) -> Path:
    return ca.leaf(tmp_path, NOW - timedelta(days=1), NOW + timedelta(days=80))


def test_a_fresh_certificate_of_the_own_ca(ca: Authority, fresh: Path) -> None:
    with serving(fresh) as place:
        verdict = edge.certificate(place, ca.pem)
    assert verdict.status is Status.OK
    assert "80 days" in verdict.summary or "79 days" in verdict.summary


def test_a_certificate_in_its_last_third(ca: Authority, tmp_path: Path) -> None:
    leaf = ca.leaf(tmp_path, NOW - timedelta(days=80), NOW + timedelta(days=10))
    with serving(leaf) as place:
        verdict = edge.certificate(place, ca.pem)
    assert verdict.status is Status.WARNING


def test_an_expired_certificate(ca: Authority, tmp_path: Path) -> None:
    end = NOW - timedelta(hours=1)
    with serving(ca.leaf(tmp_path, NOW - timedelta(days=80), end)) as place:
        verdict = edge.certificate(place, ca.pem)
    assert verdict.status is Status.CRITICAL
    assert f"expired at {end:%Y-%m-%d %H:%M} UTC" in verdict.summary


def test_a_certificate_of_another_ca_is_not_trusted(fresh: Path) -> None:
    with serving(fresh) as place, pytest.raises(ServiceError, match="not trusted for 127"):
        edge.certificate(place, authority().pem)
    with serving(fresh) as place, pytest.raises(ServiceError, match="not trusted"):
        edge.certificate(place, "")  # the system's list does not know it either


def test_a_certificate_for_another_name_is_not_trusted(ca: Authority, fresh: Path) -> None:
    with serving(fresh) as place:
        other = Place(place.address, place.port, "knowledge.example.com")
        with pytest.raises(ServiceError, match=r"not trusted for knowledge\.example\.com"):
            edge.certificate(other, ca.pem)


@pytest.mark.parametrize(
    ("hours_left", "status"),
    [(12, "OK"), (3.7, "OK"), (3.5, "WARNING"), (0.1, "WARNING"), (0, "CRITICAL")],
)
def test_life_is_judged_as_a_share_of_the_lifetime(hours_left: float, status: str) -> None:
    life = Lifetime(NOW, NOW + timedelta(hours=12))  # the edge's own CA signs for 12 hours
    assert edge.life_left(life, life.end - timedelta(hours=hours_left)).status.name == status


def test_closed_without_and_open_with_the_key(ca: Authority, fresh: Path) -> None:
    with serving(fresh) as place:
        assert edge.closed(place, QDRANT).status is Status.OK
        assert edge.opened(place, ca.pem, QDRANT).status is Status.OK
        assert (
            edge.opened(place, ca.pem, replace(QDRANT, key="another key")).status is Status.CRITICAL
        )


@pytest.mark.parametrize(
    ("mood", "without_key", "with_key"),
    [
        ("200", Status.CRITICAL, Status.OK),
        ("204", Status.CRITICAL, Status.CRITICAL),
        ("403", Status.OK, Status.CRITICAL),
        ("502", Status.UNKNOWN, Status.CRITICAL),
    ],
)
def test_other_answers(
    ca: Authority, fresh: Path, mood: str, without_key: Status, with_key: Status
) -> None:
    with serving(fresh, mood) as place:
        assert edge.closed(place, QDRANT).status is without_key
        assert edge.opened(place, ca.pem, QDRANT).status is with_key


class Reader(Guarded):
    """R2R behind an edge: it reads X-Project-Name, unless the edge took it out (`mood`)."""

    def do_GET(self) -> None:
        mood = getattr(self.server, "mood", "")
        named = self.headers.get("x-project-name", "") and mood != "stripped"
        closed = self.path == "/v3/documents"
        self.send_response(502 if mood == "502" else 400 if named else 401 if closed else 200)
        self.send_header("content-length", "0")
        self.end_headers()


@pytest.mark.parametrize(
    ("mood", "closed", "opened", "stripped"),
    [
        ("stripped", Status.OK, Status.OK, Status.OK),
        ("", Status.OK, Status.OK, Status.CRITICAL),
        ("502", Status.UNKNOWN, Status.CRITICAL, Status.UNKNOWN),
    ],
)
def test_r2r_behind_the_edge(
    ca: Authority, fresh: Path, mood: str, closed: Status, opened: Status, stripped: Status
) -> None:
    with serving(fresh, mood, Reader) as place:
        assert edge.closed(place, R2R).status is closed
        assert edge.opened(place, ca.pem, R2R).status is opened
        assert edge.header_stripped(place).status is stripped


def test_an_open_r2r_names_its_own_container(fresh: Path) -> None:
    with serving(fresh, "200") as place:
        verdict = edge.closed(place, R2R)
    assert verdict.status is Status.CRITICAL
    assert "docker stop stackroom-r2r-1" in verdict.hint


def test_an_open_door_is_seen_through_an_expired_certificate(ca: Authority, tmp_path: Path) -> None:
    leaf = ca.leaf(tmp_path, NOW - timedelta(days=80), NOW - timedelta(days=1))
    with serving(leaf, "200") as place:
        assert edge.closed(place, QDRANT).status is Status.CRITICAL


def test_the_key_is_not_sent_to_an_untrusted_edge(fresh: Path) -> None:
    with serving(fresh, "200") as place, pytest.raises(UnreachableError):
        edge.opened(place, authority().pem, QDRANT)


def test_a_key_that_no_header_can_hold_is_not_repeated(ca: Authority, fresh: Path) -> None:
    with serving(fresh) as place, pytest.raises(UnreachableError) as caught:
        edge.opened(place, ca.pem, replace(QDRANT, key="canary-key\n"))
    assert "canary" not in str(caught.value) + caught.value.hint
    assert caught.value.__cause__ is None


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError, match="does not answer"):
        edge.closed(Place("127.0.0.1", unused_port(), "127.0.0.1"), QDRANT)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_ports_that_do_not_answer_while_ssh_does() -> None:
    with listening() as control:
        verdict = edge.outside_ports("127.0.0.1", control, [unused_port()])
    assert verdict.status is Status.OK


def test_a_port_that_answers() -> None:
    with listening() as control, listening() as stray:
        verdict = edge.outside_ports("127.0.0.1", control, [unused_port(), stray])
    assert verdict.status is Status.CRITICAL
    assert verdict.summary == f"open to this machine: {stray}"


def test_silence_alone_proves_nothing() -> None:
    verdict = edge.outside_ports("127.0.0.1", unused_port(), [unused_port()])
    assert verdict.status is Status.UNKNOWN


def test_a_name_without_an_address() -> None:
    with pytest.raises(UnreachableError, match="has no address"):
        edge.outside_ports("no-such-host.invalid", 22, [80])


class Answers:
    """Stands where the SSH login would: gives one answer and keeps the command."""

    def __init__(self, answer: Completed) -> None:
        self.answer = answer
        self.command = ""

    def run(self, command: str, **_: Any) -> Completed:
        self.command = command
        return self.answer


def test_the_ca_is_read_from_the_edge_container(ca: Authority) -> None:
    remote: Any = Answers(Completed(0, ca.pem, ""))
    assert client.edge_ca(remote) == ca.pem
    assert remote.command == (
        "docker exec stackroom-edge-1 cat /data/caddy/pki/authorities/local/root.crt"
    )


@pytest.mark.parametrize(
    "answer",
    [Completed(1, "", "Error: No such container: stackroom-edge-1\n"), Completed(0, "", "")],
)
def test_an_edge_without_a_ca_says_so(answer: Completed) -> None:
    remote: Any = Answers(answer)
    with pytest.raises(ServiceError, match="no CA certificate"):
        client.edge_ca(remote)


def test_the_fingerprint_is_the_one_openssl_shows(ca: Authority) -> None:
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256"],
        input=ca.pem,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert client.fingerprint(ca.pem) == shown.partition("=")[2]
    der = ca.certificate.public_bytes(serialization.Encoding.DER)
    assert client.fingerprint(ca.pem).replace(":", "").lower() == hashlib.sha256(der).hexdigest()
