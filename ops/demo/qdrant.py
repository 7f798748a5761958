"""The demo's documents in Qdrant: written and searched at the edge, from a developer's machine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ops.clients.edge import edge_ca, fingerprint
from ops.clients.ssh import Remote
from ops.demo.documents import point, sections, vector
from ops.errors import ServiceError
from ops.render.files import ROOT
from ops.sandbox import Client
from ops.sandbox.visit import visit
from ops.settings import Environment

COLLECTION = "knowledge_library"
BATCH = 64
# what is asked, and the section that has to come first
QUESTIONS = (
    ("a firewall change shuts me out, how does it undo itself", "The firewall"),
    ("which exit code does doctor use for a warning", "Exit codes"),
    ("how do I bring images to a machine that cannot pull them", "A machine without a registry"),
)


def load_and_search(allowed: Client, environment: Environment, say: Callable[[str], None]) -> None:
    ca = edge_ca(Remote(environment))
    say(f"the edge's own CA, SHA-256 {fingerprint(ca)[:23]}...")
    found = sections(ROOT)
    points = [point(section, datetime.now(UTC)) for section in found]
    path = f"/collections/{COLLECTION}/points"
    requests = [
        {"method": "PUT", "path": f"{path}?wait=true", "body": {"points": points[i : i + BATCH]}}
        for i in range(0, len(points), BATCH)
    ]
    requests.append({"method": "POST", "path": f"{path}/count", "body": {"exact": True}})
    requests += [
        {
            "method": "POST",
            "path": f"{path}/query",
            "body": {"query": vector(question), "limit": 1, "with_payload": True},
        }
        for question, _ in QUESTIONS
    ]
    answers = _visit(allowed, environment, ca, requests)
    count = answers[-len(QUESTIONS) - 1]["result"]["count"]
    if count < len({section.point_id for section in found}):
        raise ServiceError(f"{len(found)} sections were written and {count} are there")
    say(f"{len(found)} sections of this project's documents written, over TLS")
    for (question, wanted), answer in zip(QUESTIONS, answers[-len(QUESTIONS) :], strict=True):
        best = answer["result"]["points"][0]
        title = best["payload"]["taxonomy"]["level2"]
        if title != wanted:
            raise ServiceError(f"{question!r} found {title!r}, not {wanted!r}")
        say(f'"{question}"  ->  {best["payload"]["file_path"]}: {title} ({best["score"]:.2f})')


def _visit(
    allowed: Client, environment: Environment, ca: str, requests: list[dict[str, Any]]
) -> list[Any]:
    task = {
        "do": "requests",
        "url": f"https://{environment.edge_name()}:{environment.settings.edge.port}",
        "ca": ca,
        "key": environment.settings.secrets.qdrant_api_key.get_secret_value(),
        "requests": requests,
    }
    answers = visit(allowed, task)
    for request, answer in zip(requests, answers, strict=True):
        if answer["status"] != 200:
            raise ServiceError(
                f"{request['method']} {request['path']}: {answer['status']} {answer['body']}"
            )
    return [answer["body"] for answer in answers]
