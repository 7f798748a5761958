"""The R2R stack's side of the measurements: work for its host, and the user of R2R who does it."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ops.clients.edge import edge_ca
from ops.clients.r2r import R2R, Login
from ops.clients.r2r.models import Document
from ops.clients.r2r.people import Limits, RouteLimits
from ops.clients.ssh import Remote
from ops.render.r2r_env import secrets_of
from ops.sandbox.layout import HOST_IPV4, NAME
from ops.settings import Environment

DRIVER = Path(__file__).with_name("r2r_driver.py")
EDGE, DIRECT = "through the edge", "R2R directly"
UNLIMITED = 100_000_000
COUNTED = ("/v3/documents", "/v3/retrieval/search")  # what R2R counts by path

Json = dict[str, Any]


def on_host(work: str, seconds: float, **given: Any) -> Any:
    """One of the driver's works, on the host itself. Raises AssertionError with what it said."""
    done = subprocess.run(
        ["docker", "exec", "-i", NAME, "python3", "-c", DRIVER.read_text(encoding="utf-8")],
        input=json.dumps({"work": work, **given}),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{work}: {done.stderr[-3000:]}"
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Server:
    """The deployed stack: R2R as its administrator asks it, and both ways to it from its host."""

    admin: R2R
    sides: dict[str, Json]

    def documents(self, user: Login) -> list[Document]:
        (owner,) = (each.id for each in self.admin.users.every() if each.email == user.email)
        return [each for each in self.admin.documents.every() if each.owner_id == owner]


@contextlib.contextmanager
def server(environment: Environment) -> Iterator[Server]:
    settings = environment.settings
    url = f"https://{environment.edge_name()}:{settings.edge.port}"
    login = Login(settings.r2r.admin_email, secrets_of(settings).admin_password)
    pem = edge_ca(Remote(environment))
    edge = {"host": HOST_IPV4, "port": settings.edge.port, "ca": pem}
    direct = {"host": "127.0.0.1", "port": 7272, "ca": ""}
    with tempfile.TemporaryDirectory(prefix="stackroom-bench-") as folder:
        ca_file = Path(folder, "ca.pem")
        ca_file.write_text(pem, encoding="ascii")
        with R2R(url, login, ca_file=ca_file) as admin:
            yield Server(admin, {EDGE: edge, DIRECT: direct})


@contextlib.contextmanager
def reader(stack: Server) -> Iterator[Login]:
    """A user whose requests R2R does not limit. Gone at the end, with all they brought."""
    login = Login(f"bench-{secrets.token_hex(6)}@example.com", SecretStr(secrets.token_urlsafe(24)))
    user = stack.admin.users.create(login.email, login.password, name="bench", verified=True)
    try:
        route = RouteLimits(route_per_min=UNLIMITED, monthly_limit=UNLIMITED)
        limits = Limits(
            global_per_min=UNLIMITED,
            monthly_limit=UNLIMITED,
            route_overrides=dict.fromkeys(COUNTED, route),
        )
        stack.admin.users.update(user.id, limits=limits)
        yield login
    finally:
        for document in stack.documents(login):
            stack.admin.documents.delete(document.id)
        stack.admin.users.delete(user.id)
