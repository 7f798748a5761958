"""R2R's documents: sent, listed, watched until they are ingested, exported, deleted.

R2R stores a file before it looks whether the document is there: a document that is sent again
leaves a copy of its file behind for ever. So nothing that may have arrived is sent a second time.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx

from ops.clients.r2r.errors import no_answer
from ops.clients.r2r.models import Chunk, Created, Document, Extraction, Ingestion, Message
from ops.clients.r2r.session import Page, Session
from ops.clients.r2r.wire import WORK_SECONDS, Ask
from ops.errors import ServiceError

DOCUMENTS = "/v3/documents"
# of an export; R2R says `type` here and `document_type` elsewhere
COLUMNS = (
    *("id", "collection_ids", "owner_id", "type", "metadata", "title", "summary", "version"),
    *("size_in_bytes", "ingestion_status", "extraction_status", "created_at", "updated_at"),
    "total_tokens",
)
OPERATORS = ("$eq", "$gt", "$lt")  # of an export's filters
Mode = Literal["hi-res", "ocr", "fast", "custom"]
# of an export: metadata may be long, and csv gives up at 128 KiB
CELL_CHARACTERS = 64 * 1024 * 1024
POLL_SECONDS = (0.2, 5.0)  # between two looks at a document: at first, and at most


class Documents:
    """A user sees their own and those of their collections; a superuser sees all."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create_file(self, file: Path, *, name: str = "", **options: Any) -> Created:
        """Send a file, streamed. R2R goes by the extension of `name` (the file's own by default),
        and by that of `title` where there is one. `options` are those of `create`.

        Raises UnsupportedError (415) for an extension it has no parser for, TooLargeError (413).
        """
        with contextlib.ExitStack() as opened:

            def part() -> dict[str, Any]:  # for every try from the file's beginning
                return {"file": (name or file.name, opened.enter_context(file.open("rb")))}

            return self._create(part, **options)

    def create_text(self, text: str, **options: Any) -> Created:
        """Send a text, 1 MiB at most: send what is longer as a file."""
        return self._create(lambda: {"raw_text": (None, text)}, **options)

    def create_chunks(self, chunks: Sequence[str], **options: Any) -> Created:
        """Send a text that is cut already, 1 MiB at most as JSON."""
        content = json.dumps(list(chunks))
        return self._create(lambda: {"chunks": (None, content)}, **options)

    def _create(
        self,
        part: Callable[[], dict[str, Any]],
        *,
        document: UUID | None = None,
        collections: Sequence[UUID] = (),
        title: str = "",
        metadata: Mapping[str, Any] | None = None,
        mode: Mode = "custom",
        config: Mapping[str, Any] | None = None,
        queued: bool = True,
        timeout: float = WORK_SECONDS,
    ) -> Created:
        """Raises ConflictError where it is there already, or being ingested: delete it first.

        Without an id R2R makes one of the name (or the text) and the user; without collections it
        goes into the user's own. Without Hatchet, or not `queued`, the answer comes when it is
        ingested: then `timeout` seconds must suffice.
        """
        said = {**(metadata or {}), **({"title": title} if title else {})}
        fields: dict[str, Any] = {
            "ingestion_mode": mode,
            "run_with_orchestration": "true" if queued else "false",
        }
        fields |= {"id": str(document)} if document else {}
        fields |= {"metadata": json.dumps(said)} if said else {}
        fields |= {"ingestion_config": json.dumps(dict(config))} if config else {}
        if collections:
            fields["collection_ids"] = json.dumps([str(each) for each in collections])
        plain = {key: (None, value) for key, value in fields.items()}
        ask = Ask("POST", DOCUMENTS, files=lambda: plain | part(), timeout=timeout)
        return self._session.result(ask, Created)

    def get(self, document: UUID) -> Document:
        return self._session.result(Ask("GET", f"{DOCUMENTS}/{document}"), Document)

    def page(self, offset: int = 0, limit: int = 100, *, own: bool = False) -> Page[Document]:
        """The newest first; with `own` only what the user owns."""
        return self._session.page(_listed(own), Document, offset, limit)

    def every(self, *, own: bool = False) -> Iterator[Document]:
        return self._session.every(_listed(own), Document)

    def chunks(self, document: UUID) -> Iterator[Chunk]:
        return self._session.every(Ask("GET", f"{DOCUMENTS}/{document}/chunks"), Chunk)

    def delete(self, document: UUID) -> None:
        """Its chunks go with it; its stored file and what is in graphs stay in R2R.

        Raises AbsentError where there is none of this user's.
        """
        self._session.done(Ask("DELETE", f"{DOCUMENTS}/{document}", timeout=WORK_SECONDS))

    def extract(self, document: UUID, *, timeout: float = WORK_SECONDS) -> Message:
        """Have entities and relationships found in it: this costs calls of a model."""
        ask = Ask("POST", f"{DOCUMENTS}/{document}/extract", json={}, timeout=timeout)
        return self._session.result(ask, Message)

    def wait_ingested(self, document: UUID, *, timeout: float) -> Document:
        """Wait until it is ingested. Raises ServiceError where that failed, or takes longer."""
        found = self._settled(document, timeout, lambda each: each.ingestion_status.final)
        status = found.ingestion_status
        if status is Ingestion.SUCCESS:
            return found
        if status is Ingestion.FAILED:
            why = f": {found.failure[:300]}" if found.failure else ""
            raise ServiceError(f"the ingestion of document {document} failed{why}")
        raise ServiceError(f"document {document} is still {status.value} after {timeout:.0f} s")

    def wait_extracted(self, document: UUID, *, timeout: float) -> Document:
        """The same for what `extract` began."""
        found = self._settled(document, timeout, lambda each: each.extraction_status.final)
        status = found.extraction_status
        if status is Extraction.FAILED:
            raise ServiceError(f"the extraction from document {document} failed")
        if not status.final:
            raise ServiceError(
                f"the extraction from document {document} is still {status.value}"
                f" after {timeout:.0f} s"
            )
        return found

    def _settled(
        self, document: UUID, timeout: float, settled: Callable[[Document], bool]
    ) -> Document:
        deadline = time.monotonic() + timeout
        pause, most = POLL_SECONDS
        while True:
            found = self.get(document)
            left = deadline - time.monotonic()
            if settled(found) or left <= 0:
                return found
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, most)

    @contextlib.contextmanager
    def export(
        self,
        columns: Sequence[str] = (),
        filters: Mapping[str, Any] | None = None,
        *,
        header: bool = True,
        timeout: float = WORK_SECONDS,
    ) -> Iterator[Iterator[bytes]]:
        """The CSV of all documents of all users, as it comes: for superusers only.

        `filters` are by column: a value, or {"$eq" | "$gt" | "$lt": value}. Raises ValueError for
        any other: R2R leaves a filter it does not know out, and exports everything.
        """
        _check_export(columns, filters or {})
        # R2R's own choice of columns has another order every time
        body: dict[str, Any] = {"include_header": header, "columns": list(columns or COLUMNS)}
        body |= {"filters": dict(filters)} if filters else {}
        ask = Ask("POST", f"{DOCUMENTS}/export", json=body, timeout=timeout, harmless=True)
        with contextlib.closing(self._session.open(ask, stream=True)) as answer:
            yield self._pieces(answer)

    @contextlib.contextmanager
    def rows(
        self, columns: Sequence[str] = (), filters: Mapping[str, Any] | None = None
    ) -> Iterator[Iterator[dict[str, str]]]:
        """The same as rows, column by name; what is empty is ""."""
        with self.export(columns, filters) as pieces:
            csv.field_size_limit(CELL_CHARACTERS)
            yield csv.DictReader(_text_lines(pieces))

    def export_to(
        self, target: Path, columns: Sequence[str] = (), filters: Mapping[str, Any] | None = None
    ) -> int:
        """The same into a file for its owner alone, whole or not at all; its bytes."""
        partial = target.with_name(f"{target.name}.partial")
        done = 0
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file, self.export(columns, filters) as pieces:
                for piece in pieces:
                    done += file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError as error:
            raise ServiceError(
                f"{target} cannot be written: {error.strerror}", f"df -h {target.parent}"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        return done

    def _pieces(self, answer: httpx.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise no_answer(self._session.wire.url, error) from None


def _listed(own: bool) -> Ask:
    return Ask("GET", DOCUMENTS, {"owner_only": "true"} if own else {})


def _check_export(columns: Sequence[str], filters: Mapping[str, Any]) -> None:
    unknown = {*columns, *filters} - set(COLUMNS)
    if unknown:
        raise ValueError(f"R2R exports no {', '.join(sorted(unknown))}; it has {COLUMNS}")
    for column, wanted in filters.items():
        if isinstance(wanted, Mapping) and (not wanted or set(wanted) - set(OPERATORS)):
            raise ValueError(f"R2R's export compares {column} only by {', '.join(OPERATORS)}")


def _text_lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Lines with their ends, which csv wants; only LF ends one, for a cell may hold any other."""
    rest = bytearray()
    for piece in pieces:
        rest += piece
        if b"\n" in piece:
            *whole, rest = rest.split(b"\n")
            for line in whole:
                yield f"{line.decode('utf-8')}\n"
    if rest:
        yield rest.decode("utf-8")
