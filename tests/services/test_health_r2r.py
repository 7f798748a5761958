"""The doctor of the R2R stack against a real R2R, Postgres, LiteLLM and RabbitMQ.

What differs from a machine: SSH is this machine's own shell, a tunnel is the port that a container
has here, and the containers have other names.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from data_services import LABELLED, rabbitmq, sql
from pydantic import SecretStr
from r2r_live import PROJECT, R2rStack
from settings_lab import R2R_PASSWORDS, SECRETS, settings_with

from ops.clients.r2r import R2R, Login
from ops.clients.ssh import Completed, Remote
from ops.errors import StackroomError
from ops.health.edge import NO_SCHEMA
from ops.health.host import judged
from ops.health.model import Status, Verdict, ok
from ops.health.r2r import PATIENCE, inside, models, queues, r2r_checks, server
from ops.health.runner import LOGIN, Check, run_checks, select
from ops.render.r2r_env import secrets_of
from ops.sandbox import engine
from ops.settings import Environment, Machine

pytestmark = pytest.mark.services

MODEL = {"model": "openai/any"}
PACE = "r2r.transaction"
SKIPPED = ("services.passwords",)  # of containers with a host's names: test_kept_passwords
LOADED = 5.0
SECONDS = 180.0  # for all checks together, on a machine with a lot else to do


class Here(Remote):
    """This machine, and its containers' ports for those of a host."""

    ports: dict[int, int]

    def run(self, command: str, *, stdin: str = "", timeout: float = 30) -> Completed:
        done = subprocess.run(
            ["sh", "-c", command], input=stdin, capture_output=True, text=True, timeout=timeout
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[int]:
        yield self.ports[port]


def published(container: str, port: int) -> int:
    return int(engine.docker("port", container, f"{port}/tcp").splitlines()[0].rpartition(":")[2])


def environment(
    stack: R2rStack, *aliases: str, dimension: int = 512, password: str = ""
) -> Environment:
    declared = ("answers", "text-embedding-3-local", *aliases)
    settings = settings_with(
        stack="r2r",
        r2r={
            "orchestration": "simple",
            "project": PROJECT,
            "admin_email": stack.admin_email,
            "models": {"quality": "answers"},
            "embedding": {"model": "text-embedding-3-local", "dimension": dimension},
        },
        litellm={"models": dict.fromkeys(declared, MODEL)},
        secrets=SECRETS | {"r2r": R2R_PASSWORDS},
    )
    # as they are, however short a test's own are
    keys = {
        "admin_password": SecretStr(password or stack.secrets.admin_password),
        "litellm_master_key": SecretStr(stack.secrets.litellm_master_key),
    }
    known = secrets_of(settings).model_copy(update=keys)
    secrets = settings.secrets.model_copy(update={"r2r": known})
    settings = settings.model_copy(update={"secrets": secrets})
    return Environment(Path("inventory/team"), settings, Machine("198.51.100.10"))


def examined(
    stack: R2rStack, lab: Environment, *only: str, paid: bool = False, times: float = LOADED
) -> dict[str, Verdict]:
    """What the doctor's own runner makes of this stack, by the checks' names.

    `times`: so much more time each check has.
    """
    remote = Here(lab)
    remote.ports = {
        server.PORT: published(stack.container("r2r"), server.PORT),
        models.PORT: published(stack.container("litellm"), models.PORT),
    }
    asked = {
        "containers": {"postgres": stack.container("postgres")},
        "schema": PROJECT,
        "volumes": stack.name,
        "token": "",
    }
    with contextlib.ExitStack() as tunnels:
        checks = [
            Check(LOGIN, lambda: ok("here")),
            *r2r_checks(lab, remote, tunnels, paid=paid, asked=asked),
        ]
        wanted = [
            replace(each, seconds=each.seconds * times) for each in select(checks, only, SKIPPED)
        ]
        results = run_checks(wanted, total=SECONDS)
    return {result.id: result.verdict for result in results}


def database(stack: R2rStack, statements: str) -> str:
    return sql(stack.container("postgres"), statements, "r2r", "r2r")


def change(stack: R2rStack, document: uuid.UUID, columns: str) -> None:
    """What no request to R2R does."""
    database(stack, f"UPDATE {PROJECT}.documents SET {columns} WHERE id = '{document}'")  # noqa: S608


@contextlib.contextmanager
def admin(stack: R2rStack) -> Iterator[R2R]:
    login = Login(stack.admin_email, SecretStr(stack.secrets.admin_password))
    with R2R(stack.url, login, patience=PATIENCE) as client:
        yield client


def test_a_well_stack_is_found_well_and_nothing_is_left_behind(r2r: R2rStack) -> None:
    kept = "SELECT count(*) FROM pg_largeobject_metadata"
    files = database(r2r, kept)

    found = examined(r2r, environment(r2r), paid=True)

    pace = found.pop(PACE)
    assert pace.status in (Status.OK, Status.WARNING)  # however busy the machine is
    assert pace.summary.startswith("ingested, found and deleted a document")
    assert {name: each for name, each in found.items() if each.status is not Status.OK} == {}
    assert "litellm.calls" in found
    assert "pgvector" in found["postgres.version"].summary
    assert "vector(512)" in found["documents.embedding"].summary
    assert "postgres" in found["volumes.size"].summary
    text = json.dumps([each.summary + each.hint for each in found.values()])
    assert not [name for name, value in r2r.secrets.all().items() if value in text]
    assert database(r2r, kept) == files
    with admin(r2r) as client:
        assert not list(client.collections.documents(client.collections.named(server.CANARY).id))


def test_what_a_doctor_that_was_killed_left_is_taken_out(r2r: R2rStack) -> None:
    with admin(r2r) as client:
        server.transaction(client)
        place = client.collections.named(server.CANARY)
        old, young = uuid.uuid4(), uuid.uuid4()
        for document in (old, young):
            client.documents.create_chunks(
                [f"left {document}"], document=document, collections=[place.id]
            )
        change(r2r, old, "created_at = now() - interval '16 minutes'")
        try:
            verdict = server.transaction(client)
            left = {each.id for each in client.collections.documents(place.id)}
        finally:
            client.documents.delete(young)
    assert "1 of an earlier one taken out" in verdict.summary
    assert left == {young}  # another doctor may be at work


def test_a_wrong_password_is_named_and_tells_what_to_do(r2r: R2rStack) -> None:
    found = examined(r2r, environment(r2r, password="x" * 32), "r2r")
    assert found["r2r.login"].status is Status.CRITICAL
    assert "keeps the password that it was made with" in found["r2r.login"].summary
    assert found["r2r.login"].hint
    assert found["r2r.transaction"].summary == "not checked: no login in R2R"
    assert found["r2r.closed"].status is Status.OK


def test_an_administrator_who_is_none_any_more(r2r: R2rStack) -> None:
    login = Login(f"{uuid.uuid4().hex}@example.com", SecretStr("a-reader-of-the-tests"))
    with admin(r2r) as client:
        user = client.users.create(login.email, login.password, verified=True)
        try:
            with R2R(r2r.url, login, patience=PATIENCE) as reader:
                verdict = server.status(reader, login.email)
        finally:
            client.users.delete(user.id)
    assert verdict.status is Status.CRITICAL
    assert "not a superuser" in verdict.summary


def test_a_header_that_gets_through_is_told_by_a_refusal(r2r: R2rStack) -> None:
    headers = {"x-project-name": NO_SCHEMA}
    # what edge.header takes for a proof, where nothing strips it
    assert httpx.get(f"{r2r.url}/v3/health", headers=headers, timeout=60).status_code == 400


def test_settings_that_are_not_what_runs(r2r: R2rStack) -> None:
    lab = environment(r2r, "text-embedding-3-renamed", dimension=1024)
    found = examined(r2r, lab, "litellm.models", "documents.embedding")
    assert found["litellm.models"].status is Status.CRITICAL
    assert "does not know text-embedding-3-renamed" in found["litellm.models"].summary
    assert found["documents.embedding"].status is Status.CRITICAL
    assert "the table holds vector(512)" in found["documents.embedding"].summary


def test_documents_that_stand_still_or_failed(r2r: R2rStack) -> None:
    with admin(r2r) as client:
        still, failed = (
            client.documents.create_chunks([f"{uuid.uuid4()}"]).document_id for _ in range(2)
        )
        hour = "updated_at = now() - interval '61 minutes'"
        change(r2r, still, f"ingestion_status = 'parsing', {hour}")
        change(r2r, failed, "ingestion_status = 'failed'")
        try:
            found = examined(r2r, environment(r2r), "documents")
        finally:
            client.documents.delete(still)
            client.documents.delete(failed)
    assert found["documents.stuck"].status is Status.WARNING
    assert f"{still} (parsing for 1.0 h)" in found["documents.stuck"].summary
    assert found["documents.status"].status is Status.WARNING
    assert "1 failed since yesterday" in found["documents.status"].summary


def test_a_postgres_that_hangs(r2r: R2rStack) -> None:
    with admin(r2r) as client:
        client.login()
        engine.docker("pause", r2r.container("postgres"))
        try:
            names = ("r2r.ready", "r2r.status", "postgres")
            found = examined(r2r, environment(r2r), *names, times=1)
        finally:
            engine.docker("unpause", r2r.container("postgres"))
        deadline = time.monotonic() + SECONDS
        while True:  # R2R's pool takes a moment
            with contextlib.suppress(StackroomError):
                client.status()
                break
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert found["r2r.ready"].status is Status.OK  # what R2R says of itself
    assert found["r2r.login"].status is Status.CRITICAL
    assert found["r2r.status"].status is Status.UNKNOWN
    assert found["postgres.version"].status is Status.UNKNOWN
    assert r2r.container("postgres") in found["postgres.version"].summary


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with rabbitmq() as name:
        yield name


def erlang(name: str, line: str) -> None:
    engine.docker("exec", "--user", "rabbitmq", name, "rabbitmqctl", "-q", "eval", line)


def test_messages_that_nobody_takes(broker: str) -> None:
    assert queues.backlog(inside.queues(broker)).status is Status.OK
    erlang(
        broker,
        'Q = rabbit_misc:r(<<"/">>, queue, <<"alone">>),'
        " rabbit_amqqueue:declare(Q, true, false, [], none, <<>>),"
        ' X = rabbit_misc:r(<<"/">>, exchange, <<>>),'
        ' P = list_to_tuple([list_to_atom("P_basic") | lists:duplicate(14, undefined)]),'
        ' {ok, M} = mc_amqpl:message(X, <<"alone">>, rabbit_basic:build_content(P, <<"x">>)),'
        " rabbit_queue_type:publish_at_most_once(rabbit_exchange:lookup_or_die(X), M).",
    )
    deadline = time.monotonic() + SECONDS
    while (verdict := queues.backlog(inside.queues(broker))).status is Status.OK:
        assert time.monotonic() < deadline
    assert verdict.status is Status.WARNING
    assert verdict.summary == "nobody takes from: alone (1)"


def test_an_alarm_of_the_disk(broker: str) -> None:
    assert queues.alarms(inside.broker(broker)).status is Status.OK
    run = ("exec", "--user", "rabbitmq", broker, "rabbitmqctl", "-q", "set_disk_free_limit")
    engine.docker(*run, "9000000GB")
    deadline = time.monotonic() + SECONDS
    while (verdict := queues.alarms(inside.broker(broker))).status is Status.OK:
        assert time.monotonic() < deadline
    assert verdict.status is Status.CRITICAL
    assert verdict.summary == "RabbitMQ takes no messages: disk alarm"


def test_of_the_token_in_its_volume_only_the_end_is_told() -> None:
    name = f"stackroom-test-token-{uuid.uuid4().hex[:8]}"
    engine.docker("volume", "create", "--label", LABELLED, name)
    try:
        claims = base64.urlsafe_b64encode(json.dumps({"exp": 2110656911}).encode()).decode()
        place = (engine.inspect("volume", name) or {})["Mountpoint"]
        Path(place, "token").write_text(f"eyJ0.{claims}.canary-signature")
        facts = {"values": {"token": inside.token(name)}, "errors": {}}
        assert facts["values"] == {"token": {"expires": 2110656911.0}}
        assert judged(facts, lambda found: ok(repr(found)), "token").status is Status.OK
    finally:
        engine.docker("volume", "rm", name)
