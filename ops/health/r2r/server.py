"""R2R itself, through an SSH tunnel: it answers, lets its administrator in and nobody else, takes
a document, finds it, and forgets it.

It writes to one collection of the administrator's own, CANARY, and takes each document out again.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from datetime import UTC, datetime, timedelta

import httpx

from ops.clients.r2r import R2R
from ops.clients.r2r.errors import AbsentError, ConflictError, ForbiddenError, UnauthorizedError
from ops.clients.r2r.models import Collection, Document, Ingestion
from ops.clients.r2r.retrieval import SearchSettings
from ops.errors import UnreachableError
from ops.health.edge import refusal
from ops.health.model import Status, Verdict, critical, measured, ok, warning, worst

PORT = 7272
SECONDS = 8.0  # R2R is one process, and each login of others holds it for a moment
CANARY = "_stackroom_canary"
CONTAINER = "stackroom-r2r-1"
LOGS = f"on the host: docker logs -n 50 {CONTAINER}"
GUIDE = "docs/doctor.md"
INGEST_SECONDS = 12.0  # in the queue and out of it
LOOK_SECONDS = 0.3
LEFT_BEHIND = timedelta(minutes=15)  # no examination takes so long
TRANSACTION_WARN, TRANSACTION_CRIT = 5000.0, 30_000.0  # ms
# what R2R makes where nobody says otherwise, and everybody can read
KNOWN_LOGIN = {"username": "admin@example.com", "password": "change_me_immediately"}


def ready(base: str) -> Verdict:
    """That its process answers: R2R says so with Postgres gone, too. See r2r.status."""
    code = _ask(base, "GET", "/v3/health").status_code
    return ok("answers") if code == 200 else critical(f"/v3/health answers {code}", LOGS)


def login(r2r: R2R, email: str) -> Verdict:
    """As the administrator. Its password is R2R's own since the account was made."""
    try:
        r2r.login()
    except UnauthorizedError:
        return critical(
            f"R2R refuses {email} with admin_password of secrets.toml: the account keeps the"
            " password that it was made with, or got since",
            f"put that one back into secrets.toml, or change it in R2R: see services.passwords and"
            f" {GUIDE}",
        )
    return ok(f"lets {email} in")


def status(r2r: R2R, email: str) -> Verdict:
    """R2R's own figures, which it gives to superusers; it reads the user from Postgres first."""
    try:
        found = r2r.status()
    except ForbiddenError:
        return critical(
            f"{email} is not a superuser any more", f"another superuser makes it one: {GUIDE}"
        )
    hours = found.uptime_seconds / 3600
    return ok(f"{email} is a superuser; R2R runs for {hours:.1f} h")


def closed(base: str) -> Verdict:
    """No documents without a login, and no login with what R2R's makers published."""
    verdicts = [
        refusal(what, answer.status_code, CONTAINER)
        for what, answer in (
            ("/v3/documents without a login", _ask(base, "GET", "/v3/documents")),
            ("the published password", _known_login(base)),
        )
    ]
    found = worst(verdict.status for verdict in verdicts)
    if found is Status.OK:
        return ok("refused a request without a login, and the published password")
    return next(verdict for verdict in verdicts if verdict.status is found)


def transaction(r2r: R2R) -> Verdict:
    """Ingest, find and delete a document for real, waiting for each step.

    Two embeddings of a few words are made for it, and no other call of a model. Raises
    ServiceError when a step fails; the document is taken out whatever happens.
    """
    place = _place(r2r)
    left = _clean(r2r, place, datetime.now(UTC))
    document, mark = uuid.uuid4(), uuid.uuid4().hex
    started = time.monotonic()
    try:
        # as chunks: of a text R2R would keep a file for good when the document is deleted
        r2r.documents.create_chunks(
            [f"The doctor of Stackroom looks for the word {mark}."],
            document=document,
            collections=[place.id],
            metadata={"stackroom": "canary"},
            timeout=INGEST_SECONDS,
        )
        found = _ingested(r2r, document, started + INGEST_SECONDS)
        if found is not None and found.ingestion_status is Ingestion.SUCCESS:
            wanted = SearchSettings(filters={"document_id": {"$eq": str(document)}}, limit=1)
            hits = r2r.retrieval.search(mark, wanted).chunks
    finally:
        with contextlib.suppress(AbsentError):
            r2r.documents.delete(document)
    if found is None or not found.ingestion_status.final:
        where = found.ingestion_status.value if found else "in the queue"
        return warning(
            f"the document is {where} after {INGEST_SECONDS:.0f} s: a later run takes it out",
            "see hatchet.queue, hatchet.worker and host.load",
        )
    if found.ingestion_status is Ingestion.FAILED:
        return critical(f"the ingestion failed: {found.failure[:200] or 'R2R says not why'}", LOGS)
    if not any(hit.document_id == document and mark in hit.text for hit in hits):
        return critical("the document just ingested is not found", LOGS)
    if not _gone(r2r, document):
        return critical("the document just deleted is still there", LOGS)
    spent = (time.monotonic() - started) * 1000
    cleaned = f"; {left} of an earlier one taken out" if left else ""
    return measured(
        f"ingested, found and deleted a document in {spent:.0f} ms{cleaned}",
        spent,
        TRANSACTION_WARN,
        TRANSACTION_CRIT,
        "the machine or the embedding's provider is slow: see host.load",
    )


def _place(r2r: R2R) -> Collection:
    """The collection for it, of which the administrator is the only member."""
    for _ in range(2):
        with contextlib.suppress(AbsentError):
            return r2r.collections.named(CANARY)
        with contextlib.suppress(ConflictError):  # another doctor was faster
            return r2r.collections.create(CANARY, "The doctor's own: it holds nothing for long.")
    return r2r.collections.named(CANARY)


def _clean(r2r: R2R, place: Collection, now: datetime) -> int:
    """Take out what a doctor that was killed left behind; how many there were."""
    old = [
        each.id
        for each in r2r.collections.documents(place.id)
        if each.created_at is None or now - each.created_at > LEFT_BEHIND
    ]
    for document in old:
        with contextlib.suppress(AbsentError):
            r2r.documents.delete(document)
    return len(old)


def _ingested(r2r: R2R, document: uuid.UUID, end: float) -> Document | None:
    """The document once it is ingested or failed, or as it is at `end`, by the monotonic clock.

    None where its turn did not come: with Hatchet R2R knows of it only when it is worked on.
    """
    while True:
        found = None
        with contextlib.suppress(AbsentError):
            found = r2r.documents.get(document)
        if (found and found.ingestion_status.final) or time.monotonic() > end:
            return found
        time.sleep(LOOK_SECONDS)


def _gone(r2r: R2R, document: uuid.UUID) -> bool:
    """Neither the document nor a chunk of it is there: what is not there is not found either."""
    for look in (r2r.documents.get, lambda each: list(r2r.documents.chunks(each))):
        try:
            if look(document):
                return False
        except AbsentError:
            continue
    return True


def _known_login(base: str) -> httpx.Response:
    answer = _ask(base, "POST", "/v3/users/login", KNOWN_LOGIN)
    # no such user is a refusal, too
    return httpx.Response(401) if answer.status_code == 404 else answer


def _ask(base: str, method: str, path: str, form: dict[str, str] | None = None) -> httpx.Response:
    """One request without a secret, whatever its answer. Raises UnreachableError."""
    try:
        with httpx.Client(base_url=base, timeout=SECONDS, trust_env=False) as client:
            return client.request(method, path, data=form)
    except httpx.HTTPError as error:
        raise UnreachableError(f"R2R does not answer: {type(error).__name__}", LOGS) from None
