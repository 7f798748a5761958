"""The checks of the R2R stack: R2R, Postgres, LiteLLM and, unless it is `simple`, Hatchet's.

What has a port on the host's loopback is asked through SSH tunnels; the rest from inside of its
container, in one round trip. The stack is told apart from Qdrant's in ops/health/doctor.py alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ops.clients import script
from ops.clients.r2r import R2R, Login, Patience
from ops.clients.ssh import Remote
from ops.deploy.passwords import answers, keepers
from ops.health.collect import PROJECT
from ops.health.host import judged
from ops.health.model import Verdict, ok
from ops.health.r2r import data, models, queues, server
from ops.health.runner import LOGIN, Check
from ops.render.r2r_env import secrets_of
from ops.settings import Environment

TUNNEL, MODELS, INSIDE, ADMIN = "ssh.tunnel", "ssh.litellm", "ssh.containers", "r2r.login"
TUNNEL_SECONDS = 16.0  # longer than Remote.forward waits, so that it always ends by itself
COLLECT_SECONDS = 16.0
PASSWORD_SECONDS = 25.0  # RabbitMQ's own program starts slowly
# one try: the doctor tells what is, and does not wait until it is well
PATIENCE = Patience(attempts=1)

Facts = dict[str, Any]  # what inside.py prints: {"values": {section: ...}, "errors": {...}}


def question(environment: Environment) -> dict[str, Any]:
    """What inside.py is told: names, and nothing secret; it can be read in a process list."""
    settings = environment.settings
    services = ["postgres"]
    if settings.r2r.orchestration == "hatchet":
        services += ["hatchet-postgres", "hatchet-engine", "rabbitmq"]
    return {
        "containers": {name: f"{PROJECT}-{name}-1" for name in services},
        "schema": settings.r2r.project,
        "volumes": f"{PROJECT}_",  # what their names begin with
        "token": f"{PROJECT}_hatchet_token",
    }


def ask_inside(remote: Remote, asked: dict[str, Any]) -> Facts:
    """What the services say from inside. Raises UnreachableError, or ServiceError without python3.
    What one of them does not say is under "errors"."""
    return script.run(
        remote,
        script.program("ops.health.r2r.inside"),
        asked,
        timeout=COLLECT_SECONDS - 1,
        failed="the containers could not be asked",
    )


def r2r_checks(
    environment: Environment,
    remote: Remote,
    stack: contextlib.ExitStack,
    *,
    paid: bool = False,
    asked: dict[str, Any] | None = None,
) -> list[Check]:
    """The tunnels, which `stack` closes, the round trip, and every check that needs them.

    `paid`: one more, which calls two models. `asked`: what `question` gives, unless the containers
    have other names.
    """
    return [
        *_served(environment, remote, stack),
        *_offered(environment, remote, stack, paid),
        *_kept(environment, remote, asked or question(environment)),
    ]


def _served(environment: Environment, remote: Remote, stack: contextlib.ExitStack) -> list[Check]:
    settings = environment.settings
    email, password = settings.r2r.admin_email, secrets_of(settings).admin_password
    base: list[str] = []
    held: list[R2R] = []

    def tunnel() -> Verdict:
        url = f"http://127.0.0.1:{stack.enter_context(remote.forward(server.PORT))}"
        client = R2R(url, Login(email, password), patience=PATIENCE)
        held.append(stack.enter_context(client))
        base.append(url)
        return ok(f"a tunnel to port {server.PORT} stands")

    return [
        Check(TUNNEL, tunnel, seconds=TUNNEL_SECONDS, needs=LOGIN, lost="no SSH tunnel"),
        Check("r2r.ready", lambda: server.ready(base[0]), seconds=10, needs=TUNNEL),
        Check("r2r.closed", lambda: server.closed(base[0]), seconds=18, needs=TUNNEL),
        Check(
            ADMIN,
            lambda: server.login(held[0], email),
            seconds=12,
            needs=TUNNEL,
            lost="no login in R2R",
        ),
        Check("r2r.status", lambda: server.status(held[0], email), seconds=10, needs=ADMIN),
        Check("r2r.transaction", lambda: server.transaction(held[0]), seconds=20, needs=ADMIN),
    ]


def _offered(
    environment: Environment, remote: Remote, stack: contextlib.ExitStack, paid: bool
) -> list[Check]:
    settings = environment.settings
    key = secrets_of(settings).litellm_master_key.get_secret_value()
    embedding = settings.r2r.embedding
    base: list[str] = []

    def tunnel() -> Verdict:
        base.append(f"http://127.0.0.1:{stack.enter_context(remote.forward(models.PORT))}")
        return ok(f"a tunnel to port {models.PORT} stands")

    def check(name: str, probe: Callable[[str], Verdict], seconds: float = 8) -> Check:
        return Check(name, lambda: probe(base[0]), seconds=seconds, needs=MODELS)

    def calls(url: str) -> Verdict:
        quality = settings.r2r.models.quality
        return models.calls(url, key, quality, embedding.model, embedding.dimension)

    return [
        Check(MODELS, tunnel, seconds=TUNNEL_SECONDS, needs=LOGIN, lost="no SSH tunnel"),
        check("litellm.ready", models.ready),
        check("litellm.closed", models.closed),
        check("litellm.models", lambda url: models.aliases(url, key, settings.litellm.models)),
        *([check("litellm.calls", calls, 2 * models.CALL_SECONDS)] if paid else []),
    ]


def _kept(environment: Environment, remote: Remote, asked: dict[str, Any]) -> list[Check]:
    facts: Facts = {}
    embedding = environment.settings.r2r.embedding

    def passwords() -> Verdict:
        holders = list(keepers(environment))
        return data.passwords(holders, answers(holders, remote))

    def look() -> Verdict:
        facts.update(ask_inside(remote, asked))
        return ok(f"asked from inside: {', '.join(facts['values']) or 'nobody answered'}")

    def check(name: str, judge: Callable[..., Verdict], section: str) -> Check:
        return Check(name, lambda: judged(facts, judge, section), needs=INSIDE)

    checks = [
        Check("services.passwords", passwords, seconds=PASSWORD_SECONDS, needs=LOGIN),
        Check(INSIDE, look, seconds=COLLECT_SECONDS, needs=LOGIN, lost="nobody was asked"),
        check("postgres.version", data.versions, "postgres"),
        check("postgres.connections", data.connections, "postgres"),
        check("documents.status", data.documents, "documents"),
        check("documents.stuck", data.stuck, "documents"),
        check(
            "documents.embedding",
            lambda found: data.embedding(found, embedding.dimension, embedding.model),
            "vectors",
        ),
        check("volumes.size", data.volumes, "volumes"),
    ]
    if environment.settings.r2r.orchestration == "hatchet":
        checks += [
            check("hatchet.ready", queues.ready, "hatchet"),
            check("hatchet.queue", queues.queue, "queue"),
            check("hatchet.worker", queues.worker, "workers"),
            check("hatchet.token", lambda f: queues.token(f, datetime.now(UTC)), "token"),
            check("rabbitmq.alarms", queues.alarms, "broker"),
            check("rabbitmq.backlog", queues.backlog, "queues"),
        ]
    return checks
