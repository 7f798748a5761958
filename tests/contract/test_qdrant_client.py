"""Our client: what a URL means, certificates, typed errors, and which requests are sent again."""

from __future__ import annotations

import ipaddress
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from contract_server import Server
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from ops.clients.qdrant import connect
from ops.clients.rest import QdrantRest
from ops.errors import ServiceError, SettingsError, UnreachableError

KEY = SecretStr("a-key-that-is-long-enough-for-a-jwt-secret")


@pytest.fixture
def rest(server: Server) -> Iterator[QdrantRest]:
    with QdrantRest(server.url, SecretStr(server.key)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("url", "reached"),
    [
        ("https://q.example.com", "https://q.example.com"),
        ("https://q.example.com:6333", "https://q.example.com:6333"),
        ("https://q.example.com:443", "https://q.example.com:443"),
        ("http://127.0.0.1:6333", "http://127.0.0.1:6333"),
        ("http://[2001:db8::5]:6333", "http://[2001:db8::5]:6333"),
    ],
)
def test_a_url_means_what_it_says(url: str, reached: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        opened = connect(url, KEY)
    assert opened.http.client.host == reached
    opened.close()


@pytest.mark.parametrize("url", ["q.example.com", "q.example.com:443", "ftp://q.example.com", ""])
def test_a_url_without_a_scheme_is_refused(url: str) -> None:
    for open_it in (connect, QdrantRest):
        with pytest.raises(SettingsError, match="is no URL of a Qdrant server"):
            open_it(url, KEY)


def test_a_tunnel_is_opened_without_a_warning(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = connect(server.url, SecretStr(server.key))
        opened.get_collections()
    opened.close()


def test_a_key_in_the_clear_to_another_machine_warns() -> None:
    with pytest.warns(UserWarning, match="insecure connection"):
        connect("http://198.51.100.10:6333", KEY).close()


def test_the_version_and_results(rest: QdrantRest, server: Server, collection: str) -> None:
    assert rest.version() == server.send("GET", "/").json()["version"]
    found = rest.request("POST", f"/collections/{collection}/points/count", {"exact": True})
    assert found == {"count": 3}


def test_a_probe_leaves_the_key_at_home(rest: QdrantRest) -> None:
    assert rest.probe("/healthz") == 200
    assert rest.probe("/collections") == 401
    assert rest.probe("/collections", {"api-key": "wrong"}) == 401


def test_a_wrong_key_says_so(server: Server) -> None:
    with (
        QdrantRest(server.url, KEY) as rest,
        pytest.raises(ServiceError, match="refuses the key: Invalid API key or JWT") as refused,
    ):
        rest.request("GET", "/collections")
    assert "secrets.toml" in refused.value.hint
    assert KEY.get_secret_value() not in refused.value.message + refused.value.hint


def test_a_refusal_carries_qdrants_own_words(
    rest: QdrantRest, server: Server, collection: str
) -> None:
    with pytest.raises(ServiceError, match=r"\(404\): Not found: Collection `contract-absent`"):
        rest.request("GET", "/collections/contract-absent")
    scoped = SecretStr(server.token(access=[{"collection": collection, "access": "r"}]))
    with (
        QdrantRest(server.url, scoped) as reader,
        pytest.raises(ServiceError, match=r"\(403\): Forbidden: Global access is required"),
    ):
        reader.request("DELETE", f"/collections/{collection}")
    with pytest.raises(ServiceError, match=r"GET /no-such-path \(404\): Not Found"):
        rest.request("GET", "/no-such-path")


class Flaky(BaseHTTPRequestHandler):
    """Hangs up on the first two requests of each method, then answers."""

    seen: dict[str, int]

    def do_any(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.seen[self.command] = self.seen.get(self.command, 0) + 1
        if self.seen[self.command] <= 2:
            self.close_connection = True
            return
        body = b'{"result": "here", "status": "ok", "time": 0}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_any

    def log_message(self, *_: object) -> None:
        pass


Listener = tuple[int, dict[str, int]]


@pytest.fixture
def listen() -> Iterator[Callable[[ssl.SSLContext | None], Listener]]:
    """Start the flaky server; gives its port and what it has counted."""
    started: list[HTTPServer] = []

    def start(tls: ssl.SSLContext | None = None) -> Listener:
        seen: dict[str, int] = {}
        listener = HTTPServer(("127.0.0.1", 0), type("Counted", (Flaky,), {"seen": seen}))
        if tls:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        started.append(listener)
        return listener.server_port, seen

    yield start
    for listener in started:
        listener.shutdown()
        listener.server_close()


def test_a_read_is_sent_again_and_a_write_is_not(
    listen: Callable[[ssl.SSLContext | None], Listener],
) -> None:
    port, seen = listen(None)
    with QdrantRest(f"http://127.0.0.1:{port}", KEY) as rest:
        assert rest.request("GET", "/collections") == "here"
        with pytest.raises(UnreachableError, match="cannot be reached"):
            rest.request("PUT", "/collections/a", {})
    assert seen == {"GET": 3, "PUT": 1}


def test_nobody_there_is_unreachable(listen: Callable[[ssl.SSLContext | None], Listener]) -> None:
    with (
        QdrantRest("http://127.0.0.1:1", KEY) as rest,
        pytest.raises(UnreachableError, match=r"http://127.0.0.1:1 cannot be reached"),
    ):
        rest.version()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edge")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = tmp_path / "edge.pem"
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + pem)
    return file


def test_only_a_certificate_of_the_ca_file_is_taken(
    listen: Callable[[ssl.SSLContext | None], Listener], certificate: Path, tmp_path: Path
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    port, seen = listen(tls)
    url = f"https://127.0.0.1:{port}"
    with QdrantRest(url, KEY, ca_file=certificate) as rest:
        assert rest.request("GET", "/collections") == "here"
    with (
        QdrantRest(url, KEY) as rest,
        pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        rest.request("GET", "/collections")
    assert seen == {"GET": 3}
    (tmp_path / "empty.pem").touch()
    for wrong in ("empty.pem", "missing.pem"):
        with pytest.raises(SettingsError, match="is no file of CA certificates"):
            connect(url, KEY, ca_file=tmp_path / wrong)
