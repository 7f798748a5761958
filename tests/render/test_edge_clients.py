"""What different clients meet at a real Caddy: by name, by address, with many messages."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from rendered import APIS, MODES, RenderSettings
from running_edge import (
    Upstream,
    free_ports,
    grpc_upstream,
    http_upstream,
    moved_to_loopback,
    running,
)


@dataclass
class Running:
    """An edge on loopback, its own CA (or certificate), and what lies behind it."""

    trusted: Path
    port: int
    api_port: int
    qdrant: Upstream
    calls: Upstream
    api: Upstream

    def status(
        self, name: str, to: str = "127.0.0.1", port: int = 0, **sent: str
    ) -> http.client.HTTPResponse:
        """GET / with the certificate verified for `name`, connected `to` an address."""
        context = ssl.create_default_context(cafile=str(self.trusted))
        connection = http.client.HTTPConnection(to, port or self.port)
        plain = socket.create_connection((to, port or self.port), timeout=10)
        with context.wrap_socket(plain, server_hostname=name) as connection.sock:
            headers = {key.replace("_", "-"): value for key, value in sent.items()}
            connection.request("GET", "/", headers=headers)
            return connection.getresponse()


StartEdge = Callable[..., Running]


@pytest.fixture
def start(
    render: RenderSettings, tmp_path: Path, certificate: tuple[Path, Path]
) -> Iterator[StartEdge]:
    """`start(settings, machine)`: the edge of these settings; `[edge]` must be their last table."""
    with ExitStack() as stack:

        def started(settings: str, machine: str = "127.0.0.1") -> Running:
            port, api_port, health_port = free_ports(3)
            ports = f'port = {port}\napi_port = {api_port}\nmax_body = "1MB"\n'
            text = render(APIS["image"] + settings + ports, machine).file("edge/Caddyfile").content
            servers = stack.enter_context
            qdrant, api = servers(http_upstream()), servers(http_upstream())
            calls = servers(grpc_upstream())
            places = {
                "qdrant:6333": f"127.0.0.1:{qdrant.port}",
                "qdrant:6334": f"127.0.0.1:{calls.port}",
                "api:8000": f"127.0.0.1:{api.port}",
                "127.0.0.1:2020": f"127.0.0.1:{health_port}",
            }
            trusted = tmp_path / "caddy/pki/authorities/local/root.crt"
            if 'mode = "external"' in settings:
                trusted, key = certificate
                places["/etc/caddy/certificate.pem"] = str(trusted)
                places["/etc/caddy/private_key.pem"] = str(key)
                (tmp_path / "caddy/certificates/own/kb").mkdir(parents=True)
                (tmp_path / "caddy/certificates/own/kb/kb.crt").touch()  # nothing to wait for
            text = moved_to_loopback(text, places)
            servers(running(text, tmp_path, [port, api_port, health_port]))
            return Running(trusted, port, api_port, qdrant, calls, api)

        yield started


def test_a_machine_with_an_ipv6_address_proves_that_address(start: StartEdge) -> None:
    edge = start(MODES["internal"], machine="2001:DB8::10")
    for port in (edge.port, edge.api_port):
        answer = edge.status("2001:db8::10", "::1", port)  # an address: TLS sends no server name
        assert answer.status == (200 if port == edge.port else 401)


def test_a_domain_with_an_own_ca_and_the_address_are_both_proven(start: StartEdge) -> None:
    settings = '[edge]\nmode = "internal"\ndomain = "kb.example.com"\n'
    edge = start(settings, machine="198.51.100.10")
    assert edge.status("kb.example.com").status == 200
    assert edge.status("kb.example.com", to="::1").status == 200
    assert edge.status("198.51.100.10").status == 200
    assert edge.status("198.51.100.10", to="::1").status == 200


def test_the_other_address_of_a_machine_is_served_but_not_proven(start: StartEdge) -> None:
    edge = start(MODES["internal"], machine="198.51.100.10")
    assert edge.status("198.51.100.10", to="::1", Host="[::1]").status == 200
    assert edge.qdrant.last().headers["Host"] == "[::1]"
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        edge.status("::1", to="::1")


def test_own_certificate_files_are_served_and_browsers_told_to_stay(start: StartEdge) -> None:
    edge = start(MODES["external"])
    answer = edge.status("kb.example.com")
    assert answer.status == 200
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_no_browser_is_told_to_stay_with_an_address(start: StartEdge) -> None:
    edge = start(MODES["internal"])
    assert "Strict-Transport-Security" not in edge.status("127.0.0.1").headers


def test_many_messages_on_one_connection_are_not_added_up(start: StartEdge) -> None:
    edge = start(MODES["internal"])
    trusted = grpc.ssl_channel_credentials(edge.trusted.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{edge.port}", trusted) as channel:
        call = channel.unary_unary("/qdrant.Points/Upsert")
        assert [call(b"x" * 600_000, timeout=10) for _ in range(5)] == [b"600000"] * 5
    assert len(edge.calls.seen) == 5


def test_the_token_of_the_api_opens_in_either_header(
    start: StartEdge, canaries: dict[str, str]
) -> None:
    edge, token = start(MODES["internal"]), canaries["api_token"]
    for sent in ({"Authorization": f"Bearer {token}"}, {"api_key": token}):
        assert edge.status("127.0.0.1", port=edge.api_port, **sent).status == 200
    wrong = ({}, {"api_key": "*"}, {"api_key": f"Bearer {token}"}, {"api_key": token[:-1]})
    for sent in wrong:
        assert edge.status("127.0.0.1", port=edge.api_port, **sent).status == 401
    assert len(edge.api.seen) == 2


def test_part_of_a_snapshot_may_be_as_large_as_a_whole_one(start: StartEdge) -> None:
    edge = start(MODES["internal"])
    context = ssl.create_default_context(cafile=str(edge.trusted))
    connection = http.client.HTTPSConnection("127.0.0.1", edge.port, context=context, timeout=10)
    path = "/collections/x/shards/0/snapshot/partial/recover"
    connection.request("POST", path, b"x" * 3_000_000)
    assert connection.getresponse().status == 200
    assert edge.qdrant.last().size == 3_000_000
    connection.close()
