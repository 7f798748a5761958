"""The rendered Caddyfile in a real Caddy on loopback, before two small upstreams that remember.

Only places are changed: names of containers become loopback ports, and no other interface is
listened on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import http.server
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import stacks

UPSERT = "/qdrant.Points/Upsert"
BOTH = ("127.0.0.1", "::1")


@dataclass
class Seen:
    """A request as it arrived at an upstream; `size` counts the bytes of the body."""

    path: str
    headers: dict[str, str]
    size: int


@dataclass
class Upstream:
    """A server that answers every request, and keeps its port while it is stopped and started.

    Of HTTP it answers 200, and closes without an answer on /break; of gRPC an Upsert's size.
    """

    port: int
    serve: Callable[[Upstream], contextlib.AbstractContextManager[None]]
    seen: list[Seen] = field(default_factory=list)
    answering: threading.Event = field(default_factory=threading.Event)
    waiting: set[int] = field(default_factory=set)
    running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def take(self, seen: Seen) -> None:
        """Remember a request, and let it wait while nothing is answered."""
        self.seen.append(seen)
        self.waiting.add(id(seen))
        self.answering.wait(60)  # or a test that fails would keep the run from its end
        self.waiting.discard(id(seen))

    def last(self) -> Seen:
        return self.seen[-1]

    def start(self) -> None:
        self.answering.set()
        self.running.enter_context(self.serve(self))

    def stop(self) -> None:
        """As a service stops in order: it listens no more, then answers what it has."""
        self.running.close()

    def stop_while_it_answers(self, clients: int) -> None:
        """Stop it once each of `clients`, which send one request after another, waits for it.

        Whoever connects in the moment a listening socket closes is cut off by the kernel; so
        nobody is.
        """
        self.answering.clear()
        deadline = time.monotonic() + 20
        while len(self.waiting) < clients:
            if time.monotonic() > deadline:
                self.answering.set()  # or every later test would wait for it
                raise AssertionError(f"{len(self.waiting)} of {clients} came")
            time.sleep(0.01)
        stopping = threading.Thread(target=self.stop)
        stopping.start()
        while listens(self.port) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.answering.set()  # and each sends its next one, to a port that is shut
        stopping.join()


def listens(port: int) -> bool:
    """Whether anything on this machine listens on the port, asked without a connection."""
    tables = (Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    rows = (line.split() for table in tables for line in table)
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


@contextlib.contextmanager
def upstream(
    serve: Callable[[Upstream], contextlib.AbstractContextManager[None]],
) -> Iterator[Upstream]:
    made = Upstream(free_ports(1)[0], serve)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def over_http(upstream: Upstream) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            upstream.take(Seen(self.path, dict(self.headers.items()), self._read()))
            if self.path.startswith("/break"):
                return
            with contextlib.suppress(ConnectionError):  # Caddy is gone where it refused the body
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.send_header("Set-Cookie", self.headers.get("Cookie", "none=0"))
                self.end_headers()
                self.wfile.write(b"ok")

        do_POST = do_PUT = do_DELETE = do_GET

        def _read(self) -> int:
            if self.headers.get("Transfer-Encoding") == "chunked":
                return sum(iter(self._chunk, 0))
            left = int(self.headers.get("Content-Length", 0))
            size = 0
            while part := self.rfile.read(min(left - size, 65536)):
                size += len(part)
            return size

        def _chunk(self) -> int:
            try:
                size = int(self.rfile.readline() or b"0", 16)
            except ValueError:  # cut off
                return 0
            return len(self.rfile.read(size + 2)[:size])

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = False  # closing waits for what is being answered
        request_queue_size = 128

    with Server(("127.0.0.1", upstream.port), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield
        server.shutdown()


@contextlib.contextmanager
def over_grpc(upstream: Upstream) -> Iterator[None]:
    """A gRPC server without TLS whose Upsert answers the size of the message."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        upstream.take(Seen("", metadata, len(request)))
        return str(len(request)).encode()

    # a port that is shared with a server that is going leads some connections to nobody
    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=options)
    methods = {"Upsert": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("qdrant.Points", methods),)
    )
    bind(server, f"127.0.0.1:{upstream.port}")
    server.start()
    yield
    server.stop(10).wait()


def bind(server: grpc.Server, to: str) -> None:
    """Listen there as soon as the one before has gone."""
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(RuntimeError):
            if server.add_insecure_port(to):
                return
        assert time.monotonic() < deadline, f"{to} stays taken"
        time.sleep(0.02)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Edge:
    """A running Caddy; `folder` holds its log, `name` is what clients verify by default."""

    pid: int
    folder: Path
    trusted: Path
    name: str
    port: int
    api_port: int
    health_port: int
    qdrant: Upstream
    qdrant_grpc: Upstream
    api: Upstream

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def connect(
        self, to: str = BOTH[0], port: int = 0, name: str = "", alpn: str = "http/1.1"
    ) -> ssl.SSLSocket:
        """A connection verified for `name`. TLS sends no server name where that is an address."""
        context = ssl.create_default_context(cafile=str(self.trusted))
        context.set_alpn_protocols([alpn])
        plain = socket.create_connection((to, port or self.port), timeout=10)
        return context.wrap_socket(plain, server_hostname=name or self.name)

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
        to: str = BOTH[0],
        port: int = 0,
        name: str = "",
    ) -> Answer:
        connection = http.client.HTTPConnection(to, port or self.port)
        with self.connect(to, port, name) as connection.sock:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def channel(self, to: str = "ipv4:127.0.0.1") -> grpc.Channel:
        options: list[tuple[str, Any]] = [("grpc.ssl_target_name_override", self.name)]
        options += [("grpc.max_send_message_length", -1)]
        trusted = grpc.ssl_channel_credentials(self.trusted.read_bytes())
        return grpc.secure_channel(f"{to}:{self.port}", trusted, options)

    def call(self, size: int, to: str = "ipv4:127.0.0.1", **metadata: str) -> bytes:
        """A gRPC call with a message of `size` bytes. Raises grpc.RpcError."""
        sent = [(key.replace("_", "-"), value) for key, value in metadata.items()]
        with self.channel(to) as channel:
            answer: bytes = channel.unary_unary(UPSERT)(b"x" * size, timeout=10, metadata=sent)
            return answer


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [place.getsockname()[1] for place in sockets]
    for place in sockets:
        place.close()
    return ports


def moved_to_loopback(text: str, places: dict[str, str]) -> str:
    """The Caddyfile with other places; one that does not stand in it fails."""
    places = places | {"admin off": f"admin off\n\tdefault_bind {' '.join(BOTH)}"}
    for old, new in places.items():
        assert old in text, f"{old} is not in the Caddyfile"
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def running(
    render: stacks.Render,
    folder: Path,
    address: str,
    own: Path | None = None,
    held: str = "60s",
    **edge: Any,
) -> Iterator[Edge]:
    """The edge of a machine in front of an api, with `edge` settings and a limit of 1 MB.

    `own` is the folder of the team's certificate; without it, Caddy makes a CA of its own. `held`
    is how long a request waits for a service that does not listen.
    """
    port, api_port, health_port = ports = free_ports(3)
    settings = edge | {"port": port, "api_port": api_port, "max_body": "1MB"}
    api_settings = {"image": "ghcr.io/example/api:1.4.0", "port": 8000}
    rendered = render(address=address, edge=settings, api=api_settings)
    trusted = folder / "caddy/pki/authorities/local/root.crt"
    with (
        upstream(over_http) as qdrant,
        upstream(over_http) as api,
        upstream(over_grpc) as qdrant_grpc,
    ):
        places = {
            "qdrant:6333": f"127.0.0.1:{qdrant.port}",
            "qdrant:6334": f"127.0.0.1:{qdrant_grpc.port}",
            "api:8000": f"127.0.0.1:{api.port}",
            "127.0.0.1:2020": f"127.0.0.1:{health_port}",
            "lb_try_duration 60s": f"lb_try_duration {held}",
        }
        made = 2 if edge.get("domain") else 1  # certificates
        if own:
            trusted, made = own / "certificate.pem", 0
            places["/etc/caddy/"] = f"{own}/"
        text = moved_to_loopback(rendered.text("edge/Caddyfile"), places)
        with _caddy(text, folder, ports, made) as pid:
            name = edge.get("domain") or address.lower()
            started = Edge(
                pid, folder, trusted, name, port, api_port, health_port, qdrant, qdrant_grpc, api
            )
            _proves_itself(started)
            yield started


def _proves_itself(edge: Edge) -> None:
    """Wait: a certificate that lies in its folder is not yet one that Caddy shows."""
    deadline = time.monotonic() + 20
    while True:
        try:
            for port in (edge.port, edge.api_port):
                edge.connect(port=port).close()
        except ssl.SSLCertVerificationError:
            return  # it shows one: whether it is right, the tests say
        except (ssl.SSLError, ConnectionError):
            assert time.monotonic() < deadline, edge.log()
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def _caddy(text: str, folder: Path, ports: list[int], made: int) -> Iterator[int]:
    """Caddy with this Caddyfile, once every port answers and it has `made` certificates."""
    path = folder / "Caddyfile"
    path.write_text(text, encoding="utf-8")
    environment = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [stacks.tool("caddy"), "run", "--config", str(path), "--adapter", "caddyfile"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while not (
            all(map(_listens, ports))
            and len(list(folder.glob("caddy/certificates/*/*/*.crt"))) >= made
        ):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.closing(socket.socket()) as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0
