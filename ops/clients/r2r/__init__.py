"""R2R over REST, typed: settings in, typed results and typed errors out.

    with R2R("https://host:8443", Login("anna@example.com", password)) as r2r:
        made = r2r.documents.create_file(Path("guide.pdf"), collections=[team.id])
        r2r.documents.wait_ingested(made.document_id, timeout=600)
        found = r2r.retrieval.search("who may enter?")

The host's own verbs use it too: nothing here needs more than httpx, pydantic and tenacity.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from ops.clients.r2r.breaker import Breaker
from ops.clients.r2r.documents import Documents
from ops.clients.r2r.indices import Indices
from ops.clients.r2r.models import Message, Status
from ops.clients.r2r.people import Collections, Users
from ops.clients.r2r.retrieval import Retrieval
from ops.clients.r2r.session import ApiKey, Credentials, Login, Session
from ops.clients.r2r.wire import Ask, Patience, Wire

__all__ = ["R2R", "ApiKey", "Breaker", "Login", "Patience"]


class R2R:
    """One server, asked as one user. It logs in at the first request that needs it.

    Every call ends: RefusedError's kinds (ServiceError) with R2R's own words for a refusal,
    UnreachableError where no answer comes, where it does not come in time, and at once while the
    breaker is open. Safe to share between threads.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials = None,
        *,
        ca_file: Path | None = None,
        patience: Patience | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        wire = Wire(url, ca_file=ca_file, patience=patience, breaker=breaker)
        self._session = Session(wire, credentials)
        self.users = Users(self._session)
        self.collections = Collections(self._session)
        self.documents = Documents(self._session)
        self.retrieval = Retrieval(self._session)
        self.indices = Indices(self._session)

    def __repr__(self) -> str:
        return f"R2R({self._session.wire.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.wire.close()

    def login(self) -> None:
        """Log in now, anew. Raises UnauthorizedError for a wrong address or password."""
        self._session.start()

    def logout(self) -> None:
        """Make the access token void; the next call logs in again."""
        self._session.stop()

    def health(self) -> Message:
        """That R2R's process answers. It says so too when Postgres is down: see `status`."""
        return self._session.result(Ask("GET", "/v3/health"), Message)

    def status(self) -> Status:
        """The server's own figures: for superusers only. It reads the user from Postgres first."""
        return self._session.result(Ask("GET", "/v3/system/status"), Status)
