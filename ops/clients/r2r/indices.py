"""R2R's vector indices. R2R makes none by itself: without one, every search reads every vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from ops.clients.r2r.errors import AbsentError
from ops.clients.r2r.models import Index, IndexEntry, Message
from ops.clients.r2r.session import Session
from ops.clients.r2r.wire import WORK_SECONDS, Ask

INDICES = "/v3/indices"
Table = Literal["chunks", "documents_entities", "graphs_entities", "graphs_communities"]


class NewIndex(BaseModel):
    """HNSW takes vectors of at most 2000 dimensions. `concurrently` lets others write meanwhile."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # R2R puts it into its SQL as it is; capitals would be lost there
    index_name: str = Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    table_name: Table = "chunks"
    index_column: str = "vec"
    index_method: Literal["hnsw", "ivfflat", "auto"] = "hnsw"
    index_measure: Literal["cosine_distance", "l2_distance", "max_inner_product"] = (
        "cosine_distance"
    )
    index_arguments: dict[str, int] | None = None  # m, ef_construction; or n_lists
    concurrently: bool = True


class Indices:
    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, index: NewIndex, *, timeout: float = WORK_SECONDS) -> Message:
        """Without Hatchet the answer comes when it is made; else it is queued, and has a task."""
        body: dict[str, Any] = {"config": index.model_dump(exclude_none=True)}
        return self._session.result(Ask("POST", INDICES, json=body, timeout=timeout), Message)

    def every(self) -> Iterator[Index]:
        found = self._session.every(Ask("GET", INDICES), IndexEntry, "name", "indices")
        return (entry.index for entry in found)

    def get(self, name: str, table: Table = "chunks") -> Index:
        """Raises AbsentError where there is none of this very name."""
        ask = Ask("GET", f"{INDICES}/{table}/{quote(name, safe='')}")
        found = self._session.result(ask, IndexEntry).index
        if found.name == name:
            return found
        # R2R looks for a name that contains this one, and gives the first of them
        for index in self.every():
            if (index.name, index.table_name) == (name, table):
                return index
        raise AbsentError(f"R2R has no index {name} on {table}")

    def delete(self, name: str, table: Table = "chunks", *, timeout: float = WORK_SECONDS) -> None:
        ask = Ask("DELETE", f"{INDICES}/{table}/{quote(name, safe='')}", timeout=timeout)
        self._session.result(ask, Message)
