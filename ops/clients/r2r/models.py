"""What R2R answers, typed. Fields that no caller here needs are left out: among them the
`hashed_password` that R2R gives with every user.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_utc)]


class Answer(BaseModel):
    """Errors of these never repeat what was answered."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class Success(Answer):
    success: bool


class Message(Answer):
    """What R2R says of a task; `task_id` only where Hatchet queued it."""

    message: str
    task_id: UUID | None = None


class Token(Answer):
    token: SecretStr
    token_type: str


class Tokens(Answer):
    access_token: Token
    refresh_token: Token


class Status(Answer):
    """Of the server and its machine: seconds, and percents of all its processors and memory."""

    start_time: Moment
    uptime_seconds: float
    cpu_usage: float
    memory_usage: float


class User(Answer):
    id: UUID
    email: str
    name: str | None = None
    is_active: bool
    is_superuser: bool
    is_verified: bool
    account_type: str
    collection_ids: list[UUID]
    limits_overrides: dict[str, Any] | None = None
    created_at: Moment
    updated_at: Moment


class NewKey(Answer):
    """An API key when it is made: it is never shown again."""

    key_id: UUID
    public_key: str
    api_key: SecretStr
    name: str | None = None


class Key(Answer):
    key_id: UUID
    public_key: str
    name: str | None = None
    description: str | None = None
    updated_at: Moment


class Collection(Answer):
    id: UUID
    owner_id: UUID | None
    name: str
    description: str | None
    graph_cluster_status: str
    graph_sync_status: str
    user_count: int
    document_count: int
    created_at: Moment
    updated_at: Moment


class Ingestion(StrEnum):
    PENDING = "pending"
    PARSING = "parsing"
    EXTRACTING = "extracting"
    CHUNKING = "chunking"
    EMBEDDING = "embedding"
    AUGMENTING = "augmenting"
    STORING = "storing"
    ENRICHING = "enriching"
    FAILED = "failed"
    SUCCESS = "success"

    @property
    def final(self) -> bool:
        return self in (Ingestion.FAILED, Ingestion.SUCCESS)


class Extraction(StrEnum):
    """Of a document's entities and relationships; it stays `pending` where nobody asks for it."""

    PENDING = "pending"
    PROCESSING = "processing"
    SUCCESS = "success"
    ENRICHED = "enriched"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self not in (Extraction.PENDING, Extraction.PROCESSING)


class Document(Answer):
    id: UUID
    owner_id: UUID
    collection_ids: list[UUID]
    document_type: str
    title: str | None = None
    metadata: dict[str, Any]
    version: str
    size_in_bytes: int | None
    ingestion_status: Ingestion
    extraction_status: Extraction
    ingestion_attempt_number: int | None = None
    total_tokens: int | None = None
    summary: str | None = None
    created_at: Moment | None
    updated_at: Moment | None

    @property
    def failure(self) -> str:
        """Why its ingestion failed, where R2R wrote it down."""
        found = self.metadata.get("failure")
        return str(found) if found else ""


class Created(Answer):
    """A document that was taken. `task_id` where Hatchet queued it; without it, all is done."""

    document_id: UUID
    message: str
    task_id: UUID | None = None


class Chunk(Answer):
    id: UUID
    document_id: UUID
    owner_id: UUID
    collection_ids: list[UUID]
    text: str
    metadata: dict[str, Any]


class Hit(Answer):
    """A chunk that was found; a greater score is nearer."""

    id: UUID
    document_id: UUID
    owner_id: UUID | None
    collection_ids: list[UUID]
    score: float | None = None
    text: str
    metadata: dict[str, Any]


class Found(Answer):
    """What a search found, by kind. Only chunks have a type of their own here."""

    chunks: list[Hit] = Field(default_factory=list, alias="chunk_search_results")
    graph: list[dict[str, Any]] | None = Field(default=None, alias="graph_search_results")


class Citation(Answer):
    """A place in an answer that names a source by the first characters of its chunk's id.
    `payload` is the source, where R2R found it and gives it."""

    id: str
    payload: dict[str, Any] | None = None


class Answered(Answer):
    """A whole answer of a model, and what it was given to read."""

    generated_answer: str
    search_results: Found
    citations: list[Citation] | None = None


class Index(Answer):
    """A vector index. `row_estimate` is Postgres's, -1 before it first looked; size in bytes."""

    name: str
    table_name: str
    definition: str
    size_in_bytes: int
    row_estimate: int
    number_of_scans: int


class IndexEntry(Answer):
    index: Index

    @property
    def name(self) -> str:
        return self.index.name
