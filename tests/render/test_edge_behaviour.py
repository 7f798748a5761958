"""What the rendered Caddyfile does with requests, asked of a real Caddy on loopback."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import stacks
from running_edge import BOTH, UPSERT, Edge, running

NAME = "198.51.100.10"  # what the certificate is for
LIMIT = 1_000_000  # max_body = "1MB"
GRPC_FRAME = 5  # bytes before a message
ELSEWHERE = "192.0.2.9"  # an address that a client makes up


@pytest.fixture(scope="module")
def edge(render: stacks.Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with running(render, tmp_path_factory.mktemp("edge"), NAME) as started:
        yield started


# -- TLS and names ---------------------------------------------------------------------------


@pytest.mark.parametrize("to", BOTH)
@pytest.mark.parametrize("api", [False, True])
def test_a_client_without_a_server_name_gets_the_certificate_of_the_address(
    edge: Edge, to: str, api: bool
) -> None:
    with edge.connect(to, edge.api_port if api else 0) as connection:
        certificate = connection.getpeercert()
    assert certificate
    assert certificate["subjectAltName"] == (("IP Address", NAME),)


def test_the_ca_of_somebody_else_does_not_verify_it(edge: Edge) -> None:
    context = ssl.create_default_context()
    with (
        socket.create_connection((BOTH[0], edge.port), timeout=10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname=NAME)


@pytest.mark.parametrize("to", BOTH)
@pytest.mark.parametrize("host", [NAME, "kb.example.org", "[2001:db8::10]:443", "localhost"])
def test_any_name_of_the_machine_is_served(edge: Edge, to: str, host: str) -> None:
    assert edge.ask("/collections", to=to, headers={"Host": host}).body == b"ok"


def test_the_other_address_of_a_machine_is_served_but_not_proven(edge: Edge) -> None:
    assert edge.ask("/", to="::1", headers={"Host": "[::1]"}).status == 200
    assert edge.qdrant.last().headers["Host"] == "[::1]"
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        edge.connect(to="::1", name="::1")


def test_a_machine_with_an_ipv6_address_proves_that_address(
    render: stacks.Render, tmp_path: Path
) -> None:
    with running(render, tmp_path, "2001:DB8::10") as edge:
        assert edge.name == "2001:db8::10"  # an address: TLS sends no server name
        assert edge.ask("/", to="::1").status == 200
        assert edge.ask("/", to="::1", port=edge.api_port).status == 401


def test_a_domain_with_an_own_ca_and_the_address_are_both_proven(
    render: stacks.Render, tmp_path: Path
) -> None:
    with running(render, tmp_path, NAME, mode="internal", domain="kb.example.com") as edge:
        for name in ("kb.example.com", NAME):
            for to in BOTH:
                assert edge.ask("/", to=to, name=name).status == 200


def test_own_certificate_files_are_served_and_browsers_told_to_stay(
    render: stacks.Render, tmp_path: Path, certificate: Path
) -> None:
    chosen = stacks.case("external", "none")["edge"]
    with running(render, tmp_path, NAME, certificate, **chosen) as edge:
        answer = edge.ask("/", name="kb.example.com")
        assert answer.status == 200
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_no_browser_is_told_to_stay_with_an_address(edge: Edge) -> None:
    assert "Strict-Transport-Security" not in edge.ask("/").headers


def test_http_2_and_1_are_spoken_and_nothing_over_udp(edge: Edge) -> None:
    for protocol, chosen in (("h2", "h2"), ("http/1.1", "http/1.1")):
        with edge.connect(alpn=protocol) as connection:
            assert connection.selected_alpn_protocol() == chosen
    assert "Alt-Svc" not in edge.ask("/").headers
    assert sockets(edge.pid, "udp") == set()


def test_it_listens_on_its_ports_and_has_no_admin_endpoint(edge: Edge) -> None:
    expected = {(address, port) for address in BOTH for port in (edge.port, edge.api_port)}
    assert sockets(edge.pid, "tcp") == expected | {("127.0.0.1", edge.health_port)}


def test_plain_http_is_not_passed_on(edge: Edge) -> None:
    before = len(edge.qdrant.seen)
    with socket.create_connection((BOTH[0], edge.port), timeout=10) as plain:
        plain.sendall(b"GET /collections HTTP/1.1\r\nHost: kb\r\n\r\n")
        assert b" 400 " in plain.recv(200).splitlines()[0]
    assert len(edge.qdrant.seen) == before


def test_the_health_check_of_the_container_finds_its_page(
    edge: Edge, render: stacks.Render
) -> None:
    command = render(**stacks.case("internal", "none")).services["edge"]["healthcheck"]["test"]
    assert command[:2] == ["CMD", "wget"]
    assert command[-1] == "http://127.0.0.1:2020/health"
    with socket.create_connection((BOTH[0], edge.health_port), timeout=10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:2020\r\n\r\n")
        assert b" 200 " in plain.recv(200).splitlines()[0]


# -- sizes -----------------------------------------------------------------------------------


def test_a_body_of_the_limit_passes_whole(edge: Edge) -> None:
    answer = edge.ask("/collections/x/points", method="PUT", body=b"x" * LIMIT)
    assert answer.status == 200
    assert edge.qdrant.last().size == LIMIT


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "path",
    [
        "/collections/x/points",
        "/snapshots/upload",
        "/collections/x/snapshots/upload/more",
        "/collections/x/y/snapshots/upload",
        "/collections/x/points?a=/collections/x/snapshots/upload",
    ],
)
def test_a_larger_one_is_refused_and_never_arrives_whole(
    edge: Edge, path: str, chunked: bool
) -> None:
    size = LIMIT + 1
    edge.qdrant.seen.clear()
    body = iter([b"x" * size]) if chunked else b"x" * size
    assert edge.ask(path, method="PUT", body=body).status == 413
    assert all(request.size < size for request in edge.qdrant.seen)


def test_the_api_has_the_same_limit(edge: Edge, canaries: dict[str, str]) -> None:
    right = {"Authorization": f"Bearer {canaries['api_token']}"}
    for size, status in ((LIMIT, 200), (LIMIT + 1, 413)):
        body = b"x" * size
        answer = edge.ask("/x", method="POST", body=body, headers=right, port=edge.api_port)
        assert answer.status == status


@pytest.mark.parametrize(
    "path",
    [
        "/collections/x/snapshots/upload",
        "/collections/x/snapshots/upload?priority=snapshot&wait=true",
        "/collections/a%20b/snapshots/upload",
        "/collections/x/shards/0/snapshots/upload",
        "/collections/x/shards/0/snapshot/partial/recover",
    ],
)
def test_a_snapshot_of_any_size_passes_whole(edge: Edge, path: str) -> None:
    answer = edge.ask(path, method="POST", body=b"x" * (3 * LIMIT))
    assert answer.status == 200
    assert edge.qdrant.last().path == path
    assert edge.qdrant.last().size == 3 * LIMIT


# -- gRPC ------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["ipv4:127.0.0.1", "ipv6:[::1]"])
def test_grpc_reaches_its_own_port(edge: Edge, to: str) -> None:
    before = len(edge.qdrant.seen)
    assert edge.call(10, to, api_key="some-key") == b"10"
    assert edge.qdrant_grpc.last().headers["api-key"] == "some-key"
    assert len(edge.qdrant.seen) == before


def test_a_grpc_message_has_the_same_limit(edge: Edge) -> None:
    assert edge.call(LIMIT - GRPC_FRAME) == str(LIMIT - GRPC_FRAME).encode()
    before = len(edge.qdrant_grpc.seen)
    with pytest.raises(grpc.RpcError, match="413"):
        edge.call(LIMIT - GRPC_FRAME + 1)
    assert len(edge.qdrant_grpc.seen) == before


def test_many_messages_on_one_connection_are_not_added_up(edge: Edge) -> None:
    before = len(edge.qdrant_grpc.seen)
    with edge.channel() as channel:
        call = channel.unary_unary(UPSERT)
        assert [call(b"x" * 600_000, timeout=10) for _ in range(5)] == [b"600000"] * 5
    assert len(edge.qdrant_grpc.seen) == before + 5


# -- while a service starts anew -------------------------------------------------------------


def test_what_comes_while_nobody_listens_waits_and_arrives_whole_and_once(
    edge: Edge, canaries: dict[str, str]
) -> None:
    right = {"Authorization": f"Bearer {canaries['api_token']}"}
    rest: list[dict[str, Any]] = [
        {"path": "/collections/x/points/query", "method": "POST", "body": b"x" * 300},
        {"path": "/collections/x/points", "method": "PUT", "body": b"x" * LIMIT},
        {"path": "/collections/x/points/1", "method": "PUT", "body": iter([b"x" * 9000] * 9)},
        {"path": "/collections/x/snapshots/upload", "method": "POST", "body": b"x" * 3 * LIMIT},
        {"path": "/collections", "method": "GET"},
        {"path": "/collections/y", "method": "DELETE"},
        {"path": "/v1", "method": "POST", "body": b"x", "headers": right, "port": edge.api_port},
    ]
    services = (edge.qdrant, edge.qdrant_grpc, edge.api)
    for service in services:
        service.stop()
        service.seen.clear()
    with concurrent.futures.ThreadPoolExecutor(len(rest) + 1) as pool:
        asked = [pool.submit(lambda each=each: edge.ask(**each).status) for each in rest]
        called = pool.submit(edge.call, 5000)
        time.sleep(0.6)
        assert not any(each.done() for each in (*asked, called))
        for service in services:
            service.start()
        assert [each.result(20) for each in asked] == [200] * len(rest)
        assert called.result(20) == b"5000"
    sizes = sorted((seen.path, seen.size) for seen in edge.qdrant.seen)
    assert sizes == [
        ("/collections", 0),
        ("/collections/x/points", LIMIT),
        ("/collections/x/points/1", 81_000),
        ("/collections/x/points/query", 300),
        ("/collections/x/snapshots/upload", 3 * LIMIT),
        ("/collections/y", 0),
    ]
    assert [seen.size for seen in (*edge.qdrant_grpc.seen, *edge.api.seen)] == [5000, 1]


@pytest.mark.parametrize("grpc_too", [False, True])
def test_no_request_of_a_busy_team_fails_while_qdrant_is_restarted(
    edge: Edge, grpc_too: bool
) -> None:
    service, clients = (edge.qdrant_grpc if grpc_too else edge.qdrant), 6
    service.seen.clear()
    ended = threading.Event()

    def post_without_end() -> list[object]:
        answers: list[object] = []
        while not ended.is_set():
            path = "/collections/x/points/query"
            answers.append(
                call(b"x" * 700, timeout=30)
                if grpc_too
                else edge.ask(path, method="POST", body=b"x" * 700).body
            )
        return answers

    with edge.channel() as channel, concurrent.futures.ThreadPoolExecutor(clients) as pool:
        call = channel.unary_unary(UPSERT)
        loops = [pool.submit(post_without_end) for _ in range(clients)]
        try:
            for _ in range(3):
                service.stop_while_it_answers(clients)
                time.sleep(0.3)
                service.start()
        finally:
            ended.set()
        answers = [answer for loop in loops for answer in loop.result(30)]
    assert set(answers) == {b"700" if grpc_too else b"ok"}
    assert len(service.seen) == len(answers) >= 4 * clients


def test_no_connection_is_kept_that_a_stopping_qdrant_would_wait_for(edge: Edge) -> None:
    edge.ask("/collections")
    assert edge.qdrant.last().headers["Connection"] == "close"


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_what_was_sent_is_never_sent_again(edge: Edge, method: str) -> None:
    before = len(edge.qdrant.seen)
    answer = edge.ask("/break", method=method, body=b"" if method == "GET" else b"x")
    assert answer.status == 502
    assert len(edge.qdrant.seen) == before + 1


def test_a_service_that_stays_away_is_not_waited_for_without_end(
    render: stacks.Render, tmp_path: Path
) -> None:
    with running(render, tmp_path, NAME, held="1s") as edge:
        edge.qdrant.stop()
        edge.qdrant_grpc.stop()
        assert edge.ask("/collections/x/points/query", method="POST", body=b"x").status == 502
        with pytest.raises(grpc.RpcError, match="502"):
            edge.call(10)


# -- who is let through, and what is told of them --------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/", "/health", "/v1/search?q=x", "/../x"])
def test_the_api_is_closed_on_every_path_without_its_token(
    edge: Edge, canaries: dict[str, str], path: str, method: str
) -> None:
    before = len(edge.api.seen)
    answer = edge.ask(path, method=method, port=edge.api_port)
    assert answer.status == 401
    assert answer.headers["Www-Authenticate"] == "Bearer"
    assert len(edge.api.seen) == before
    right = {"Authorization": f"Bearer {canaries['api_token']}"}
    answer = edge.ask(path, method=method, headers=right, port=edge.api_port)
    assert (answer.status, answer.body) == (200, b"ok")
    assert len(edge.api.seen) == before + 1


def test_a_wrong_token_opens_nothing(edge: Edge, canaries: dict[str, str]) -> None:
    token = canaries["api_token"]
    wrong = ["Bearer", "Bearer ", f"Bearer {token}x", f"Bearer {token[:-1]}", f"Basic {token}"]
    wrong += [token, f"Bearer {token.upper()}", f"Bearer {canaries['qdrant_api_key']}", "Bearer *"]
    before = len(edge.api.seen)
    for header, value in [
        *(("Authorization", value) for value in wrong),
        *(("api-key", value) for value in ("*", f"Bearer {token}", token[:-1])),
    ]:
        assert edge.ask("/", headers={header: value}, port=edge.api_port).status == 401, value
    assert len(edge.api.seen) == before


def test_the_token_opens_in_the_header_of_qdrants_clients_too(
    edge: Edge, canaries: dict[str, str]
) -> None:
    before = len(edge.api.seen)
    headers = {"api-key": canaries["api_token"]}
    assert edge.ask("/", headers=headers, port=edge.api_port).status == 200
    assert len(edge.api.seen) == before + 1


def test_a_token_in_the_query_opens_nothing(edge: Edge, canaries: dict[str, str]) -> None:
    token = canaries["api_token"]
    for name in ("token", "api-key", "authorization"):
        path = f"/?{name}={token}"
        assert edge.ask(path, port=edge.api_port).status == 401


def test_the_address_of_a_client_is_its_own_whatever_it_says(edge: Edge) -> None:
    said = {"X-Forwarded-For": ELSEWHERE, "X-Forwarded-Proto": "http", "X-Forwarded-Host": "x"}
    for to in BOTH:
        edge.ask("/collections", to=to, headers=said)
        headers = edge.qdrant.last().headers
        assert headers["X-Forwarded-For"] == to
        assert headers["X-Forwarded-Proto"] == "https"
        assert ELSEWHERE not in repr(headers)
    edge.call(1, x_forwarded_for=ELSEWHERE)
    assert edge.qdrant_grpc.last().headers["x-forwarded-for"] == BOTH[0]


def test_keys_reach_the_upstream_and_never_the_log(edge: Edge, canaries: dict[str, str]) -> None:
    key, token = canaries["qdrant_api_key"], canaries["api_token"]
    cookie = "session=canary-cookie-0123456789"
    carried = {"api-key": key, "Authorization": f"Bearer {token}", "Cookie": cookie}
    query = f"?api-key={key}&token={token}&wait=true"
    for path in ("/logged", "/logged/snapshots/upload", "/break/logged"):
        for port in (edge.port, edge.api_port):
            edge.ask(path + query, headers=carried, port=port)
    edge.ask("/refused" + query, headers={"api-key": key, "Cookie": cookie}, port=edge.api_port)
    edge.call(1, api_key=key, authorization=f"Bearer {token}")
    assert edge.qdrant.seen[-2].headers["Api-Key"] == key
    log = edge.log()
    for path in ("/logged", "/break/logged", "/refused", "/qdrant.Points/Upsert"):
        assert path in log
    assert '"status":502' in log
    for secret in (*canaries.values(), cookie.partition("=")[2]):
        assert secret not in log


def sockets(pid: int, protocol: str) -> set[tuple[str, int]]:
    """(address, port) of what a process listens on, as the kernel tells it."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(link.readlink()))
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    listening = "0A" if protocol == "tcp" else "07"
    found = set()
    for table in (protocol, f"{protocol}6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[index] for index in (1, 3, 9))
            if inode in inodes and state == listening:
                address, port = local.split(":")
                words = bytes.fromhex(address)
                packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                found.add((str(ipaddress.ip_address(packed)), int(port, 16)))
    return found
