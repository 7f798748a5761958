"""Eyes and hands for the R2R stack on the throw-away host: past Stackroom, past its client."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import Any

from hands import HOST, NAME, inspect, on_host

from ops.clients.edge import edge_ca
from ops.clients.ssh import Remote
from ops.settings import Environment

SERVICES = ("postgres", "litellm", "r2r", "edge")
CONTAINERS = [f"stackroom-{name}-1" for name in SERVICES]
R2R, EDGE, POSTGRES, LITELLM = (f"stackroom-{n}-1" for n in ("r2r", "edge", "postgres", "litellm"))


def identities() -> dict[str, tuple[str, str]]:
    """Which containers run, since when: equal only if nobody touched them."""
    found = {name: inspect(name) for name in CONTAINERS}
    return {name: (each["Id"], each["State"]["StartedAt"]) for name, each in found.items()}


def curl(*lines: str, on: str = NAME) -> tuple[int, Any]:
    """One request from the machine itself: status, and the body, read where it is JSON.

    What is secret stands in the lines, which go through standard input.
    """
    done = subprocess.run(
        ["docker", "exec", "-i", on, "curl", "-sS", "-m", "60", "-w", "\n%{http_code}", "-K", "-"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    body, _, status = done.stdout.rpartition("\n")
    with contextlib.suppress(ValueError):
        return int(status), json.loads(body)
    return int(status), body


def direct(path: str, *lines: str) -> tuple[int, Any]:
    """R2R on the host's loopback, where tunnels lead."""
    return curl(f'url = "http://127.0.0.1:7272{path}"', *lines)


def at_edge(environment: Environment, path: str, *lines: str) -> tuple[int, Any]:
    """R2R behind the edge; the machine's own certificate store does not know its CA."""
    pem = edge_ca(Remote(environment))
    subprocess.run(
        ["docker", "exec", "-i", NAME, "sh", "-c", "cat >/root/edge-ca.pem"],
        input=pem,
        text=True,
        check=True,
    )
    return curl(f'url = "https://{HOST}{path}"', 'cacert = "/root/edge-ca.pem"', *lines)


def login(email: str, password: str) -> tuple[int, Any]:
    fields = (f'data-urlencode = "username={email}"', f'data-urlencode = "password={password}"')
    return direct("/v3/users/login", *fields)


def bearer(environment: Environment) -> str:
    """A line for curl: logged in as the administrator."""
    settings = environment.settings
    assert settings.secrets.r2r
    status, answer = login(
        settings.r2r.admin_email, settings.secrets.r2r.admin_password.get_secret_value()
    )
    assert status == 200, answer
    return f'header = "Authorization: Bearer {answer["results"]["access_token"]["token"]}"'


def documents(environment: Environment) -> dict[str, str]:
    """Id -> ingestion status of every document, as R2R's administrator sees them."""
    status, answer = direct("/v3/documents?limit=1000", bearer(environment))
    assert status == 200, answer
    return {each["id"]: each["ingestion_status"] for each in answer["results"]}


def bring(environment: Environment, text: str) -> str:
    """A document of one sentence, brought in by hand; its id."""
    form = (f'form-string = "raw_text={text}"', 'form-string = "ingestion_mode=fast"')
    status, answer = direct("/v3/documents", bearer(environment), *form)
    assert status == 202, answer
    return str(answer["results"]["document_id"])


def found(environment: Environment, text: str) -> list[str]:
    """The documents of the best passages for a text."""
    body = json.dumps(json.dumps({"query": text, "search_settings": {"limit": 3}}))
    json_lines = ('header = "Content-Type: application/json"', f"data = {body}")
    status, answer = direct("/v3/retrieval/search", bearer(environment), *json_lines)
    assert status == 200, answer
    return [hit["document_id"] for hit in answer["results"]["chunk_search_results"]]


def sql(query: str) -> str:
    return on_host(f'docker exec {POSTGRES} psql -U r2r -d r2r -Atc "{query}"')
