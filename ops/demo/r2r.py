"""The demo's documents in R2R: two people, two collections, and each finds their own alone."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from pydantic import SecretStr

from ops.clients.edge import edge_ca
from ops.clients.r2r import R2R, Login
from ops.clients.ssh import Remote
from ops.errors import ServiceError
from ops.render.files import ROOT
from ops.render.r2r_env import secrets_of
from ops.settings import Environment

INGESTED_SECONDS = 300
# who has which of this project's documents, and what is asked about them
SHELVES = {
    "anna": (
        ("README.md", "docs/host.md", "docs/verbs.md", "docs/developers.md"),
        "how does a firewall change that shuts me out undo itself",
    ),
    "ben": (
        ("docs/backup.md", "docs/restore.md", "docs/migrate.md", "docs/r2r.md"),
        "how is a restore undone, and what does the drill compare",
    ),
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Reader:
    """One of the two, logged in as themselves; `documents`: id -> file."""

    name: str
    r2r: R2R
    question: str
    documents: dict[UUID, str]


def ingest_and_ask(environment: Environment, say: Say) -> None:
    """Through the edge, over TLS. Raises ServiceError for the first thing that is not so."""
    with contextlib.ExitStack() as opened:
        connect = opened.enter_context(_edge(environment))
        admin = opened.enter_context(connect(_administrator(environment)))
        _forget(admin)
        readers = [_reader(admin, connect, opened, name, say) for name in SHELVES]
        for reader, other in zip(readers, reversed(readers), strict=True):
            _search(reader, other, say)
        _stream(readers[0], say)


def forget_people(environment: Environment) -> None:
    """The demo's people are in no inventory: to the doctor they would be strangers."""
    with _edge(environment) as connect, connect(_administrator(environment)) as admin:
        _forget(admin)


@contextlib.contextmanager
def _edge(environment: Environment) -> Iterator[Callable[[Login], R2R]]:
    """What opens a client of R2R at the edge, trusting the edge's own CA and no other."""
    pem = edge_ca(Remote(environment))
    url = f"https://{environment.edge_name()}:{environment.settings.edge.port}"
    with tempfile.TemporaryDirectory(prefix="stackroom-") as folder:
        ca = Path(folder, "ca.pem")
        ca.write_text(pem, encoding="ascii")
        yield lambda login: R2R(url, login, ca_file=ca)


def _administrator(environment: Environment) -> Login:
    settings = environment.settings
    return Login(settings.r2r.admin_email, secrets_of(settings).admin_password)


def _address(name: str) -> str:
    return f"{name}@demo.example.com"


def _shelf(name: str) -> str:
    return f"{name}s shelf"


def _forget(admin: R2R) -> None:
    """The demo's people, with what they brought."""
    addresses = {_address(name) for name in SHELVES}
    earlier = {user.id for user in admin.users.every() if user.email in addresses}
    for document in list(admin.documents.every()):
        if document.owner_id in earlier:
            admin.documents.delete(document.id)
    shelves = {_shelf(name) for name in SHELVES}
    for collection in list(admin.collections.every()):
        # the one that R2R gave them goes with them, and they do not go without it
        if collection.owner_id in earlier and collection.name in shelves:
            admin.collections.delete(collection.id)
    for user in earlier:
        admin.users.delete(user)


def _reader(
    admin: R2R,
    connect: Callable[[Login], R2R],
    opened: contextlib.ExitStack,
    name: str,
    say: Say,
) -> Reader:
    """A new user, a collection of theirs, and their documents in it."""
    files, question = SHELVES[name]
    login = Login(_address(name), SecretStr(secrets.token_urlsafe(24)))
    admin.users.create(login.email, login.password, name=name, verified=True)
    r2r = opened.enter_context(connect(login))
    shelf = r2r.collections.create(_shelf(name))
    documents = {}
    for file in files:
        made = r2r.documents.create_file(ROOT / file, collections=[shelf.id])
        r2r.documents.wait_ingested(made.document_id, timeout=INGESTED_SECONDS)
        documents[made.document_id] = file
    say(f"{name} brought {len(documents)} documents into a collection of their own, over TLS")
    return Reader(name, r2r, question, documents)


def _search(reader: Reader, other: Reader, say: Say) -> None:
    """The same question, asked by who has the answer and by who must not find it."""
    found = reader.r2r.retrieval.search(reader.question).chunks
    strange = {hit.document_id for hit in found} - set(reader.documents)
    if not found or strange:
        raise ServiceError(f"{reader.name} found {len(found)} passages, {len(strange)} not theirs")
    best = found[0]
    say(f'{reader.name}: "{reader.question}"  ->  {reader.documents[best.document_id]}')
    seen = {hit.document_id for hit in other.r2r.retrieval.search(reader.question).chunks}
    if seen & set(reader.documents):
        raise ServiceError(f"{other.name} finds what is {reader.name}'s")
    say(f"{other.name} asks the same and finds nothing of {reader.name}'s")


def _stream(reader: Reader, say: Say) -> None:
    with reader.r2r.retrieval.stream(reader.question) as answer:
        pieces = list(answer)
    if not answer.written.text:
        raise ServiceError("the streamed answer is empty")
    say(f"answered in {len(pieces)} pieces as it was written: {answer.written.text}")
