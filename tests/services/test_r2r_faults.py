"""What the real R2R, and a client of it, make of a part that breaks: an error that says so, nothing
acknowledged is lost, and all of it works again when the part is back."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr
from r2r_live import LABEL, PROJECT, R2rStack, image_of, run_options

from ops.clients.r2r import R2R, Login, Patience
from ops.clients.r2r.errors import FailedError, NoAnswerError, RefusedError, UnauthorizedError
from ops.clients.r2r.models import Ingestion
from ops.clients.r2r.session import _Held
from ops.clients.ssh import Completed, Remote
from ops.deploy.embeddings import Stored, look
from ops.errors import ServiceError, StackroomError
from ops.render.project import STACK_DIR
from ops.sandbox import engine

pytestmark = pytest.mark.services

READY = ("/opt/r2r/bin/python", "-I", "/opt/r2r/ready.py")
RECOVERY_SECONDS = 240
KILLS = 5  # until one of them is noticed
FILL = "cat /dev/zero > {}/ballast 2>/dev/null; true"


@pytest.fixture
def client(r2r: R2rStack) -> Iterator[R2R]:
    with asked(r2r, r2r.url) as found:
        yield found


def asked(stack: R2rStack, url: str, password: str = "") -> R2R:
    """As its administrator, each question once: what is tested is what the answer was."""
    login = Login(stack.admin_email, SecretStr(password or stack.secrets.admin_password))
    return R2R(url, login, patience=Patience(attempts=1))


def text() -> str:
    """No document is like another, nor are its vectors: those here are of hashed words."""
    return " ".join(uuid.uuid4().hex[:8] for _ in range(8))


def holds(test: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS
    while not test():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def is_ready(stack: R2rStack) -> bool:
    return engine.attempt("exec", stack.container("r2r"), *READY).returncode == 0


def is_in(client: R2R, words: str) -> bool:
    """Whether a search for the whole text finds it."""
    return words in [hit.text for hit in client.retrieval.search(words).chunks]


def unfinished(client: R2R) -> dict[uuid.UUID, Ingestion]:
    """The documents that are not wholly in; another test may have left some."""
    every = client.documents.every()
    return {
        each.id: each.ingestion_status
        for each in every
        if each.ingestion_status is not Ingestion.SUCCESS
    }


def since(stack: R2rStack, service: str) -> str:
    return str(stack.state(service)["StartedAt"])


# -- Postgres --------------------------------------------------------------------------------


def test_what_was_acknowledged_outlives_a_postgres_that_is_killed(
    r2r: R2rStack, client: R2R
) -> None:
    before = unfinished(client)
    began = since(r2r, "r2r")
    sent: list[str] = []
    acknowledged: dict[uuid.UUID, str] = {}
    errors: list[StackroomError] = []
    noticed, enough = threading.Event(), threading.Event()

    def send() -> None:
        while not enough.is_set():
            words = text()
            sent.append(words)
            try:
                acknowledged[client.documents.create_text(words).document_id] = words
            except StackroomError as error:
                errors.append(error)
                noticed.set()
                return

    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(send) for _ in range(2)]
        holds(lambda: len(acknowledged) >= 4 or bool(errors), "no document came in")
        for _ in range(KILLS):
            # as the kernel does it: Docker's own kill would count as a person's wish to stop it
            os.kill(r2r.state("postgres")["Pid"], signal.SIGKILL)
            if noticed.wait(10):
                break
            r2r.wait("postgres")  # it was back before anybody asked for it
        enough.set()
        for each in work:
            each.result(timeout=RECOVERY_SECONDS)
    assert errors
    assert all(isinstance(each, FailedError | NoAnswerError) for each in errors), errors
    r2r.wait("postgres")
    holds(lambda: is_ready(r2r), r2r.log("r2r")[-3000:])
    assert since(r2r, "r2r") == began, "R2R was started anew"

    known = {document.id: document for document in client.documents.every()}
    for document, words in acknowledged.items():
        assert known[document].ingestion_status is Ingestion.SUCCESS
        assert is_in(client, words), document
    for document in known.values():
        if document.ingestion_status is Ingestion.SUCCESS:
            assert list(client.documents.chunks(document.id)), f"{document.id} is half there"
    # what came to nothing can be sent again, its rest having been deleted
    for document in unfinished(client).keys() - before.keys():
        client.documents.delete(document)
    for words in set(sent) - set(acknowledged.values()):
        client.documents.create_text(words)
        assert is_in(client, words)


# -- LiteLLM ---------------------------------------------------------------------------------


def test_without_litellm_each_call_is_an_error_and_then_none(r2r: R2rStack, client: R2R) -> None:
    words, lost = text(), text()
    client.documents.create_text(words)
    before, began = unfinished(client), since(r2r, "r2r")
    engine.docker("stop", r2r.container("litellm"), timeout=200)
    try:
        with ThreadPoolExecutor(2) as pool:
            # R2R itself tries for more than a minute before it gives up a search
            search = pool.submit(client.retrieval.search, words)
            upload = pool.submit(client.documents.create_text, lost)
            assert isinstance(search.exception(RECOVERY_SECONDS), NoAnswerError | RefusedError)
            assert isinstance(upload.exception(RECOVERY_SECONDS), FailedError)
        # documents and users are there without a model: it is not to be started anew
        assert is_ready(r2r)
        assert client.users.me().is_superuser
    finally:
        engine.docker("start", r2r.container("litellm"))
    r2r.wait("litellm")
    assert is_in(client, words)
    ((failed, status),) = unfinished(client).items() - before.items()
    assert status is Ingestion.FAILED
    client.documents.delete(failed)
    client.documents.create_text(lost)
    assert is_in(client, lost)
    assert since(r2r, "r2r") == began


def test_a_key_that_litellm_does_not_take_is_named(r2r: R2rStack) -> None:
    """R2R starts with it and is ready, as with another model: only a question shows either."""
    wrong = {"OPENAI_API_KEY": "sk-canary-wrong-0123456789abcdefghij"}
    renamed = ("text-embedding-3-local", "text-embedding-3-other")
    with beside(r2r, renamed, wrong) as other, asked(r2r, other.url) as client:
        other.wait()
        for ask in (client.retrieval.search, client.retrieval.answer, client.documents.create_text):
            with pytest.raises(ServiceError) as caught:
                ask(text())
            assert "no_db_connection" in caught.value.message
            assert "litellm_master_key" in caught.value.hint
            assert "canary" not in caught.value.message + caught.value.hint


# -- a full disk -----------------------------------------------------------------------------


def test_a_full_scratch_refuses_a_large_upload_alone(r2r: R2rStack, client: R2R) -> None:
    container, words = r2r.container("r2r"), text()
    before, began = unfinished(client), since(r2r, "r2r")
    large = r2r.folder / "large.txt"
    large.write_text("The badger digs a long tunnel. " * 50_000)
    engine.docker("exec", container, "sh", "-c", FILL.format("/tmp"))
    try:
        with pytest.raises(RefusedError) as caught:
            client.documents.create_file(large)
        assert "no room for this upload" in caught.value.hint
        assert is_ready(r2r)
        client.documents.create_text(words)
        assert is_in(client, words)
    finally:
        engine.docker("exec", container, "rm", "-f", "/tmp/ballast")
    assert since(r2r, "r2r") == began
    assert unfinished(client) == before


def test_a_full_volume_of_postgres_refuses_what_is_written_until_there_is_room(
    r2r: R2rStack,
) -> None:
    name = f"{r2r.name}-narrow"
    with (
        narrow_postgres(r2r, name) as holder,
        beside(r2r, environment={"R2R_POSTGRES_HOST": name}) as other,
        asked(r2r, other.url) as client,
    ):
        other.wait()
        kept = text()
        client.documents.create_text(kept)
        engine.docker("exec", holder, "sh", "-c", FILL.format("/data"))
        with pytest.raises(FailedError, match="No space left on device"):
            until_refused(client)
        assert is_in(client, kept)
        assert engine.attempt("exec", other.name, *READY).returncode == 0
        state = other.state()
        engine.docker("exec", holder, "rm", "/data/ballast")
        holds(lambda: works(client), "no document came in though there is room")
        assert is_in(client, kept)
        assert other.state()["StartedAt"] == state["StartedAt"]


def until_refused(client: R2R) -> None:
    for _ in range(200):
        client.documents.create_text(text())


def works(client: R2R) -> bool:
    try:
        client.documents.create_text(text())
    except StackroomError:
        return False
    return True


@contextmanager
def narrow_postgres(stack: R2rStack, name: str) -> Iterator[str]:
    """A database of this name in a volume of 200 MiB; yields a container to fill that from."""
    holder = f"{name}-holder"
    room = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=200m,uid=999,gid=999")
    service = stack.services["postgres"]
    image = image_of(service["image"])
    engine.docker("volume", "create", "--label", LABEL, *room, name)
    try:
        # a volume of this kind is there as long as somebody uses it
        engine.docker(
            *("run", "--detach", "--name", holder, "--label", LABEL, "--user", "0:0"),
            *("--volume", f"{name}:/data", "--entrypoint", "sleep", image, "infinity"),
        )
        engine.docker(
            *("run", "--detach", "--name", name, "--label", LABEL, "--network", stack.name),
            *("--network-alias", name),
            *run_options(service, stack.folder, lambda _: name),
            *(image, *map(str, service["command"])),
        )
        health = ("inspect", "--format", "{{.State.Health.Status}}", name)
        holds(lambda: engine.docker(*health).strip() == "healthy", "no narrow Postgres")
        yield holder
    finally:
        for container in (name, holder):
            engine.attempt("rm", "--force", "--volumes", container)
        engine.attempt("volume", "rm", name)


# -- tokens ----------------------------------------------------------------------------------


def test_a_token_that_ran_out_is_renewed_and_without_any_it_logs_in(
    r2r: R2rStack, client: R2R
) -> None:
    client.login()
    held = client._session._held
    assert held is not None
    good, old = held.refresh, aged(r2r, held.access)
    for refresh in (good, aged(r2r, held.refresh), good):  # a good one is good once
        client._session._held = _Held(old, refresh)
        assert client.users.me().email == r2r.admin_email
        assert client._session._held.access.get_secret_value() != old.get_secret_value()


def test_without_a_good_password_a_token_that_ran_out_ends_typed(
    r2r: R2rStack, client: R2R
) -> None:
    client.login()
    held = client._session._held
    assert held is not None
    with asked(r2r, r2r.url, "canary-of-yesterday") as stale:
        stale._session._held = _Held(aged(r2r, held.access), aged(r2r, held.refresh))
        with pytest.raises(UnauthorizedError) as caught:
            stale.users.me()
    assert caught.value.message == f"R2R at {r2r.url} refuses the login of {r2r.admin_email}"
    assert "secrets.toml" in caught.value.hint


def aged(stack: R2rStack, token: SecretStr) -> SecretStr:
    """The token as it would be a minute after its end, signed as R2R signs."""
    head, body, _ = token.get_secret_value().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    body = _encoded(json.dumps(claims | {"exp": time.time() - 60}).encode())
    key = stack.secrets.r2r_secret_key.encode()
    return SecretStr(
        f"{head}.{body}."
        + _encoded(hmac.new(key, f"{head}.{body}".encode(), hashlib.sha256).digest())
    )


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


# -- another embedding -----------------------------------------------------------------------


def test_another_dimension_ends_r2r_at_its_start(r2r: R2rStack, client: R2R) -> None:
    """Why a deploy compares it itself: a trial on an empty database would pass."""
    client.documents.create_text(text())
    with beside(r2r, ("base_dimension = 512", "base_dimension = 256")) as other:
        holds(lambda: other.state()["Status"] == "exited", "it runs with another dimension")
        assert other.state()["ExitCode"] != 0
        assert "was created with dimension 512, but 256 was provided" in other.log()


def test_a_deploy_sees_what_is_stored(r2r: R2rStack, client: R2R) -> None:
    client.documents.create_text(text())
    here = Here(r2r)
    assert look(here, PROJECT) == Stored(512, True, "openai/text-embedding-3-local")
    assert look(here, "nothing_yet") is None


class Here(Remote):
    """This machine, with a stack of the tests in the place of the deployed one."""

    def __init__(self, stack: R2rStack) -> None:
        self.stack = stack

    def run(self, command: str, **_: Any) -> Completed:
        command = command.replace("stackroom-postgres-1", self.stack.container("postgres"))
        command = command.replace(STACK_DIR, str(self.stack.folder))
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        return Completed(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Beside:
    """Another R2R on the network of a stack."""

    name: str
    url: str

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = (engine.inspect("container", self.name) or {})["State"]
        return found

    def log(self) -> str:
        done = engine.attempt("logs", self.name)
        return done.stdout + done.stderr

    def wait(self) -> None:
        holds(lambda: self.state().get("Health", {}).get("Status") == "healthy", self.log()[-3000:])


@contextmanager
def beside(
    stack: R2rStack,
    change: tuple[str, str] = ("", ""),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Beside]:
    """A second R2R with a change in its r2r.toml or its environment; it is not started again."""
    name = f"{stack.name}-beside-{uuid.uuid4().hex[:6]}"
    config = stack.folder / f"{name}.toml"
    config.touch(mode=0o600)
    os.chown(config, 1000, 1000)
    before = (stack.folder / "r2r" / "r2r.toml").read_text(encoding="utf-8")
    after = before.replace(*change) if change[0] else before
    assert not change[0] or after != before
    config.write_text(after, encoding="utf-8")
    service = copy.deepcopy(stack.services["r2r"])
    for mount in service["volumes"]:
        mount["source"] = str(config)
    own = [f"--env={key}={value}" for key, value in (environment or {}).items()]
    try:
        engine.docker(
            *("run", "--detach", "--name", name, "--label", LABEL, "--network", stack.name),
            *run_options(service, stack.folder, stack.volume),
            *("--restart", "no", *own, image_of(service["image"])),
        )
        ports = (engine.inspect("container", name) or {})["NetworkSettings"]["Ports"]
        yield Beside(name, f"http://127.0.0.1:{ports['7272/tcp'][0]['HostPort']}")
    finally:
        engine.attempt("rm", "--force", "--volumes", name)
        config.unlink()
