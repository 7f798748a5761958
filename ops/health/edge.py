"""Probes from the machine the doctor runs on: the edge as the team meets it, and what must be shut.

A port counts as shut only while SSH answers on the same address: silence alone proves nothing.
"""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ops.clients import edge
from ops.clients.edge import Lifetime, Place
from ops.clients.ssh import Remote
from ops.errors import UnreachableError
from ops.health.collect import PROJECT
from ops.health.model import Status, Verdict, critical, measured, ok, unknown
from ops.health.runner import LOGIN, Check
from ops.settings import Environment, Settings
from ops.settings.model import EdgeMode

CA = "edge.ca"
PORT_SECONDS = 3.0
# Caddy renews when a third is left and looks every ten minutes; exactly a third would cry wolf.
LEFT_WARN = 30.0  # percent of the lifetime
# what a knowledge server has open when somebody made a mistake
COMMON_MISTAKES = (
    *(80, 2019, 2375, 2376, 4000, 5432, 5672, 6333, 6334, 6335, 7077, 7272, 7273, 7274),
    *(8080, 9090, 15672),
)
NO_SCHEMA = "not a schema"  # R2R refuses to read it as the name of one

Socket = tuple[str, int]  # address and port


@dataclass(frozen=True)
class Behind:
    """What the edge leads to: a path that it must refuse to whoever comes without `key`, one that
    it must answer, and whose container is to be looked at when it does not."""

    name: str
    closed: str
    opened: str
    key: str = field(default="", repr=False)

    @property
    def container(self) -> str:
        return f"{PROJECT}-{self.name.lower()}-1"


def behind(settings: Settings) -> Behind:
    """The server of the stack in force."""
    if settings.stack == "r2r":
        return Behind("R2R", "/v3/documents", "/v3/health")
    key = settings.secrets.qdrant_api_key.get_secret_value()
    return Behind("Qdrant", "/collections", "/collections", key)


def edge_checks(environment: Environment, remote: Remote) -> list[Check]:
    """The checks of the edge mode in force, and the ports that must not answer from here."""
    settings, machine = environment.settings, environment.machine
    expected = {machine.port, *settings.edge_ports(), *settings.world_ports()}
    api = [settings.api.port] if settings.api else []
    shut = sorted({*COMMON_MISTAKES, *api} - expected)
    outside = Check("outside.ports", lambda: outside_ports(machine.address, machine.port, shut))
    if settings.edge.mode is EdgeMode.TUNNEL:
        return [Check("edge.tunnel", lambda: ok("no edge by design: SSH tunnels only")), outside]
    place = Place(machine.address, settings.edge.port, environment.edge_name())
    server = behind(settings)
    pem: list[str] = []

    def ca() -> Verdict:
        pem.append(edge.edge_ca(remote))
        return ok(f"own CA, SHA-256 {edge.fingerprint(pem[0])}")

    checks = [
        Check(
            "edge.tls",
            lambda: certificate(place, "".join(pem)),
            seconds=8,
            needs=CA if settings.edge.mode is EdgeMode.INTERNAL else "",
            lost="no trusted TLS",
        ),
        Check("edge.closed", lambda: closed(place, server), seconds=8),
        Check(
            "edge.open", lambda: opened(place, "".join(pem), server), seconds=8, needs="edge.tls"
        ),
        *(
            [Check("edge.header", lambda: header_stripped(place), seconds=8)]
            if settings.stack == "r2r"
            else []
        ),
        outside,
    ]
    if settings.edge.mode is EdgeMode.INTERNAL:
        checks.insert(0, Check(CA, ca, seconds=10, needs=LOGIN, lost="the CA is not known"))
    return checks


def certificate(place: Place, ca: str) -> Verdict:
    """Life left first: an expired certificate is untrusted too, and the date is the better news."""
    verdict = life_left(edge.certificate_lifetime(place), datetime.now(UTC))
    if verdict.status is not Status.CRITICAL:
        edge.verify(place, edge.trust(ca))
    return verdict


def life_left(life: Lifetime, now: datetime) -> Verdict:
    """Percent of its lifetime a certificate has used up; expired is critical."""
    left = (life.end - now).total_seconds()
    used = 100.0 * (1 - left / (life.end - life.begin).total_seconds())
    if left <= 0:
        summary = f"the certificate expired at {life.end:%Y-%m-%d %H:%M} UTC"
    else:
        summary = f"valid for {_span(left)} more, {100 - used:.0f} % of its lifetime"
    return measured(
        summary,
        used,
        100 - LEFT_WARN,
        100,
        "the edge should have renewed it: on the host, docker logs -n 50 stackroom-edge-1",
    )


def _span(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds > 2 * 86400 else f"{seconds / 3600:.1f} h"


def closed(place: Place, server: Behind) -> Verdict:
    """Asked over any certificate, for no secret is sent: a bad one must not hide an open door."""
    code = edge.request(place, edge.unverified(), server.closed)
    return refusal("without a key" if server.key else "without a login", code, server.container)


def opened(place: Place, ca: str, server: Behind) -> Verdict:
    code = edge.request(place, edge.trust(ca), server.opened, server.key)
    if code == 200:
        return ok("answers the key over TLS" if server.key else f"{server.name} answers over TLS")
    refused = bool(server.key) and code in (401, 403)
    cause = "the key on the host is another one" if refused else f"{server.name} is not behind it"
    return critical(
        f"the edge answers {code} to {'the right key' if server.key else server.opened}",
        f"{cause}: stackroom -e {{environment}} deploy",
    )


def header_stripped(place: Place) -> Verdict:
    """Whoever could send X-Project-Name to R2R would choose a schema of the database."""
    headers = {"x-project-name": NO_SCHEMA}
    code, _ = edge.ask(place, edge.unverified(), "/v3/health", headers=headers)
    if code == 200:
        return ok("X-Project-Name does not get through")
    if code == 400:
        return critical(
            "X-Project-Name gets through to R2R: whoever sends it chooses the schema",
            "stackroom -e {environment} deploy",
        )
    return unknown(f"/v3/health answers {code} with X-Project-Name: nothing is proven")


def refusal(asked: str, code: int, container: str) -> Verdict:
    """A request that must be refused, and how it was answered."""
    if code in (401, 403):
        return ok(f"refused {asked} ({code})")
    if 200 <= code < 300:
        return critical(
            f"OPEN: answers {code} {asked}",
            f"close it first: on the host, docker stop {container}; then look at its key",
        )
    return unknown(f"answers {code} {asked}: not refused, not served")


def outside_ports(address: str, control: int, ports: Collection[int]) -> Verdict:
    """None of `ports` may answer on any address of the machine; `control` (SSH) must."""
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnreachableError(f"{address} has no address: {error}") from None
    addresses = sorted({str(each[4][0]) for each in found})
    answering = answering_sockets(
        ((each, port) for each in addresses for port in {control, *ports}), PORT_SECONDS
    )
    strange = sorted(port for _, port in answering if port != control)
    if strange:
        return critical(
            f"open to this machine: {', '.join(map(str, dict.fromkeys(strange)))}",
            "on the host, docker ps and ss -tlnp show whose; stackroom -e {environment} deploy",
        )
    proven = [each for each in addresses if (each, control) in answering]
    if not proven:
        return unknown(
            f"port {control} does not answer either: nothing is proven",
            "is this machine's address listed in developers.toml?",
        )
    return ok(f"{len(ports)} ports do not answer on {', '.join(proven)}")


def answering_sockets(sockets: Iterable[Socket], seconds: float) -> set[Socket]:
    """Those that accept a TCP connection within `seconds`, tried all at once."""
    answering: set[Socket] = set()
    with selectors.DefaultSelector() as selector:
        for target in sockets:
            probe = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
            probe.setblocking(False)
            code = probe.connect_ex(target)
            if code in (0, errno.EINPROGRESS):
                selector.register(probe, selectors.EVENT_WRITE, target)
            else:
                probe.close()
        end = time.monotonic() + seconds
        while selector.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                probe = key.fileobj  # type: ignore[assignment]
                selector.unregister(probe)
                if probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    answering.add(key.data)
                probe.close()
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return answering
