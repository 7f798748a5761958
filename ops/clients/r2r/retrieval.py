"""Search in R2R, and answers of a model to what was found.

R2R drops what it does not know without a word: a filter outside of `search_settings` would search
everything. So settings are typed here, and an unknown one is an error before anything is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict, Field

from ops.clients.r2r.answers import BrokenAnswerError, Written, events, take
from ops.clients.r2r.errors import no_answer
from ops.clients.r2r.models import Answered, Found
from ops.clients.r2r.session import Session
from ops.clients.r2r.wire import WORK_SECONDS, Ask

SEARCH = "/v3/retrieval/search"
RAG = "/v3/retrieval/rag"
SILENCE_SECONDS = 120.0  # between two pieces of an answer


class SearchSettings(BaseModel):
    """How to search. What is not given is R2R's own: semantic search, 10 results."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filters: Mapping[str, Any] = Field(default_factory=dict)
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0)
    use_hybrid_search: bool = False
    use_semantic_search: bool = True
    use_fulltext_search: bool = False
    include_metadatas: bool = True
    include_scores: bool = True
    search_strategy: Literal["vanilla", "query_fusion", "hyde"] = "vanilla"
    chunk_settings: Mapping[str, Any] = Field(default_factory=dict)
    graph_settings: Mapping[str, Any] = Field(default_factory=dict)
    hybrid_settings: Mapping[str, Any] = Field(default_factory=dict)


class Generation(BaseModel):
    """How a model answers. `model` None is R2R's `quality_llm`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens_to_sample: int | None = Field(default=None, ge=1)


def in_collections(collections: Sequence[UUID]) -> dict[str, Any]:
    """A filter: only documents of one of these collections.

    Inside of `$and`: where it stands alone, R2R takes it out for all but superusers, and adds the
    user's own documents of every collection to what these hold.
    """
    return {"$and": [{"collection_ids": {"$overlap": [str(each) for each in collections]}}]}


class Retrieval:
    """What a user may see is R2R's decision: their own documents and those of their collections.
    A superuser searches everything: there a filter is all that keeps apart."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def search(self, query: str, settings: SearchSettings | None = None) -> Found:
        body = _asked(query, settings)
        return self._session.result(Ask("POST", SEARCH, json=body, harmless=True), Found)

    def answer(
        self,
        query: str,
        settings: SearchSettings | None = None,
        generation: Generation | None = None,
        *,
        timeout: float = WORK_SECONDS,
    ) -> Answered:
        """A whole answer. It costs a call of a model, and is not asked for twice."""
        body = _asked(query, settings) | {"rag_generation_config": _generated(generation, False)}
        return self._session.result(Ask("POST", RAG, json=body, timeout=timeout), Answered)

    @contextlib.contextmanager
    def stream(
        self,
        query: str,
        settings: SearchSettings | None = None,
        generation: Generation | None = None,
        *,
        silence: float = SILENCE_SECONDS,
    ) -> Iterator[Stream]:
        """An answer as it is written: iterate over the pieces of its text.

        The iteration raises BrokenAnswerError where the connection breaks, nothing comes for
        `silence` seconds, or it ends without being whole; its `partial`, which is the stream's
        `written` too, holds what came.
        """
        body = _asked(query, settings) | {"rag_generation_config": _generated(generation, True)}
        ask = Ask("POST", RAG, json=body, timeout=silence)
        with contextlib.closing(self._session.open(ask, stream=True)) as answer:
            yield Stream(answer, self._session.wire.url)


class Stream:
    """The pieces of an answer's text, once; `written` is all that came so far."""

    def __init__(self, answer: httpx.Response, url: str) -> None:
        self._answer, self._url = answer, url
        self.written = Written()

    def __iter__(self) -> Iterator[str]:
        try:
            for event in events(self._answer.iter_bytes()):
                if added := take(event, self.written):
                    yield added
                if self.written.complete:
                    return
        except httpx.TransportError as error:
            raise self._broken(no_answer(self._url, error).message) from None
        raise self._broken(f"R2R at {self._url} ended it without saying that it is whole")

    def _broken(self, why: str) -> BrokenAnswerError:
        said = len(self.written.text)
        return BrokenAnswerError(
            f"an answer broke off after {said} characters: {why}", self.written
        )


def _asked(query: str, settings: SearchSettings | None) -> dict[str, Any]:
    given = (settings or SearchSettings()).model_dump(mode="json", exclude_unset=True)
    return {"query": query, "search_mode": "custom", "search_settings": given}


def _generated(generation: Generation | None, stream: bool) -> dict[str, Any]:
    given = (generation or Generation()).model_dump(exclude_none=True)
    return given | {"stream": stream}
