"""A kit of mode `internal` as printed: the rendered edge in a real Caddy, over IPv4 and IPv6.

Behind it stands a server that judges tokens; the kit is made for this machine's loopback.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import running_edge
import stacks

from ops.developers.kit import make_kit, write_kit
from ops.developers.tokens import mint
from ops.render.files import ROOT
from ops.settings import Settings, load_environment
from ops.settings.people import ACCESS_COLLECTION
from ops.settings.rights import values_in_force

sys.path.insert(0, str(ROOT / "tests" / "contract"))
from stand_in_process import StandIn, make

KEY = secrets.token_urlsafe(32)
TOKEN_ID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"
SECRETS = f"""\
[secrets]
qdrant_api_key = "{KEY}"
api_token = "{"t" * 32}"
restic_password = "{"r" * 32}"
"""
SETTINGS = """\
[edge]
mode = "internal"
port = {port}

[collections.team_memory.vectors]
fast-all-minilm-l6-v2 = {{ size = 384, distance = "cosine" }}
"""
# what mcp-server-qdrant does with what it is given: address and key, and nothing about CAs
LIKE_THE_MCP_SERVER = """\
import asyncio, os
from qdrant_client import AsyncQdrantClient, models

async def use():
    client = AsyncQdrantClient(
        location=os.environ["QDRANT_URL"], api_key=os.environ["QDRANT_API_KEY"], path=None
    )
    name = os.environ["COLLECTION_NAME"]
    assert await client.collection_exists(name)
    vector = {"fast-all-minilm-l6-v2": [1.0] * 384}
    point = models.PointStruct(id=7, vector=vector, payload={"document": "a note"})
    await client.upsert(name, [point])
    found = await client.query_points(name, query=[1.0] * 384, using="fast-all-minilm-l6-v2")
    print([point.payload["document"] for point in found.points])

asyncio.run(use())
"""


@dataclass
class Served:
    """The unpacked kit of bob, who writes, and the programs it finds."""

    folder: Path
    programs: Path
    server: StandIn

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """In the kit's folder, with an environment that knows of no CA."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env={"PATH": f"{self.programs}:/usr/bin:/bin", "HOME": str(self.programs)}
            | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    stand_in = make(tmp_path_factory.mktemp("qdrant"), KEY)
    stand_in.start()
    named = {"fast-all-minilm-l6-v2": {"size": 384, "distance": "Cosine"}}
    bodies: dict[str, Any] = {
        "team_memory": {"vectors": named},
        ACCESS_COLLECTION: {"vectors": {"size": 1, "distance": "Cosine"}},
    }
    for path, body in bodies.items():
        put(stand_in, path, body)
    yield stand_in
    assert stand_in.stop() == 0, stand_in.log


def put(server: StandIn, path: str, body: Any) -> None:
    url = f"{server.url}/collections/{path}"
    assert httpx.put(url, json=body, headers={"api-key": KEY}).status_code == 200


def admit(server: StandIn, settings: Settings) -> None:
    """Everybody's tokens, as a deploy does it."""
    for token, (value, name) in values_in_force(settings).items():
        point = {"id": token, "vector": [1], "payload": {"token": value, "developer": name}}
        put(server, f"{ACCESS_COLLECTION}/points?wait=true", {"points": [point]})


@pytest.fixture(scope="module", params=["127.0.0.1", "::1"], ids=["IPv4", "IPv6"])
def served(
    server: StandIn,
    public_key: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("team")
    port, health = running_edge.free_ports(2)
    last_day = datetime.now(UTC).date() + timedelta(days=90)
    (folder / "settings.toml").write_text(SETTINGS.format(port=port))
    (folder / "developers.toml").write_text(
        f'[operators.anna]\naddresses = ["192.0.2.1"]\nkeys = ["{public_key}"]\n'
        '[developers.bob]\naddresses = ["198.51.100.7"]\ncollections = ["team_memory"]\n'
        f'access = "write"\nexpires = {last_day}\ntoken = "{TOKEN_ID}"\n'
    )
    (folder / "secrets.toml").write_text(SECRETS)
    (folder / "secrets.toml").chmod(0o600)
    address = request.param
    (folder / "hosts.py").write_text(
        f"from ops.settings import machines\n\nhosts = machines(__file__, address={address!r})\n"
    )
    environment = load_environment(folder)
    admit(server, environment.settings)
    rendered = stacks.rendered(environment, stacks.MEMORY_MIB)
    places = {
        "qdrant:6333": f"127.0.0.1:{server.http_port}",
        "qdrant:6334": f"127.0.0.1:{server.grpc_port}",
        "127.0.0.1:2020": f"127.0.0.1:{health}",
    }
    text = running_edge.moved_to_loopback(rendered.text("edge/Caddyfile"), places)
    with running_edge._caddy(text, folder, [port, health], 1):
        ca = (folder / "caddy/pki/authorities/local/root.crt").read_text()
        token = mint(environment.settings, "bob")
        kit = make_kit(environment, "bob", ca_pem=ca, secret=token)
        write_kit(kit, folder / "the kit")
        programs = folder / "programs"
        programs.mkdir()
        yield Served(folder / "the kit", programs, server)


def test_the_check_succeeds(served: Served) -> None:
    done = served.run("sh", "check.sh")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok      team_memory: about ")


def test_the_line_with_curl_works_as_printed(served: Served) -> None:
    page = (served.folder / "README.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("printf "))

    done = served.run("sh", "-c", line)

    assert '"team_memory"' in done.stdout, done.stderr


@pytest.mark.slow
def test_the_snippet_trusts_the_edges_own_ca(served: Served) -> None:
    done = served.run(sys.executable, "example.py")

    # not a warning either, such as of a version asked without that CA
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_without_that_ca_neither_goes_through(served: Served) -> None:
    """And what is told is not to send anything: somebody may sit between."""
    other = served.programs.parent / "other kit"
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(other)
    shutil.copytree(served.folder, other)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", other / "ca.pem")

    check = served.run("sh", str(other / "check.sh"))
    snippet = served.run(sys.executable, str(other / "example.py"))

    assert check.returncode == 1
    assert "what answers is not the server of this kit: send it nothing" in check.stderr
    assert "CERTIFICATE_VERIFY_FAILED" in snippet.stderr


@pytest.fixture
def uvx(served: Served) -> Callable[[], None]:
    """`uvx` is played by the client that mcp-server-qdrant uses, opened as it opens it."""

    def install() -> None:
        program = served.programs / "uvx"
        (served.programs / "like.py").write_text(LIKE_THE_MCP_SERVER)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{served.programs}/like.py"\n')
        program.chmod(0o755)

    return install


@pytest.mark.slow
@pytest.mark.parametrize("own_bundle", [False, True], ids=["the system's CAs", "the company's"])
def test_claudes_server_reaches_it_and_the_rest_of_the_world(
    served: Served, uvx: Callable[[], None], tmp_path: Path, own_bundle: bool
) -> None:
    """It can be told one file of CAs only, and fetches its model from the internet."""
    uvx()
    public = Path("/etc/ssl/certs/ca-certificates.crt")
    if own_bundle:
        # one without a line end, as some are
        public = tmp_path / "company.pem"
        made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        files = ("-nodes", "-subj", "/CN=company", "-keyout", os.devnull, "-out", str(public))
        subprocess.run([*made, *files], check=True, capture_output=True)
        public.write_text(public.read_text().rstrip())

    done = served.run("sh", "mcp.sh", **({"SSL_CERT_FILE": str(public)} if own_bundle else {}))

    assert "['a note']" in done.stdout, done.stderr
    bundle = (served.folder / "ca-bundle.pem").read_text()
    assert bundle.startswith(public.read_text())
    assert bundle.endswith((served.folder / "ca.pem").read_text())
    assert bundle.count("-----END CERTIFICATE-----\n") == bundle.count("BEGIN CERTIFICATE")


def test_the_bundle_does_not_grow(served: Served) -> None:
    twice = ". ./env.sh && . ./env.sh && grep -c BEGIN ca-bundle.pem"
    once = served.run("sh", "-c", ". ./env.sh && grep -c BEGIN ca-bundle.pem").stdout

    assert served.run("sh", "-c", twice).stdout == once
    assert not list(served.folder.glob("ca-bundle.pem.*"))
