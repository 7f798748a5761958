"""What of each stack is backed up, where it lies, and who has to stand still while it is switched.

What a stack's compose files name, a test compares: no volume of theirs is forgotten in silence.
"""

from __future__ import annotations

from ops.render.project import PROJECT
from ops.render.qdrant import pinned_qdrant
from ops.render.r2r import HATCHET_POSTGRES_VERSION, POSTGRES_VERSION, RABBITMQ_VERSION
from ops.render.r2r_env import QUEUE, USER
from ops.settings import Settings
from ops.settings.host import (
    FilesSource,
    PostgresSource,
    QdrantSource,
    RabbitmqSource,
    Source,
)
from ops.settings.model import EdgeMode

SETTINGS_COPY = "/etc/stackroom/settings"  # backed up, so that an archive explains itself
# of R2R: what people put in. Its accounts, prompts and settings are there after any first start
WORK = ("documents", "chunks", "files", "conversations", "messages")
COUNTED = ("users", "collections", "graphs", "graphs_entities", "graphs_relationships")
# as `depends_on` has it
START_ORDER = ("hatchet-postgres", "rabbitmq", "hatchet-engine", "postgres", "r2r", "edge")


def sources(settings: Settings) -> list[Source]:
    """Every source of the stack, in the order in which they are collected."""
    data = _r2r(settings) if settings.stack == "r2r" else [_qdrant(settings)]
    return [
        *data,
        *_edge(settings),
        *_api(settings),
        FilesSource(name="settings", path=SETTINGS_COPY),
    ]


def start_order(settings: Settings) -> list[str]:
    """The containers that cannot be started in just any order. None of them need be there."""
    return [_container(name) for name in START_ORDER] if settings.stack == "r2r" else []


def _container(service: str) -> str:
    return f"{PROJECT}-{service}-1"


def _qdrant(settings: Settings) -> Source:
    return QdrantSource(image=pinned_qdrant(settings))


def _edge(settings: Settings) -> list[Source]:
    if settings.edge.mode is EdgeMode.TUNNEL:
        return []
    # its own CA: without it, every client would have to trust a rebuilt machine anew
    edge = [_container("edge")]
    return [FilesSource(name="edge", volume="stackroom_edge_data", containers=edge)]


def _api(settings: Settings) -> list[Source]:
    kinds = ("library", "sessions", "configs") if settings.api else ()
    return [
        FilesSource(
            name=f"api-{kind}", volume=f"stackroom_api_{kind}", containers=[_container("api")]
        )
        for kind in kinds
    ]


def _r2r(settings: Settings) -> list[Source]:
    """R2R's database first: an upload in between is then a task of a document that is not there,
    which fails and is seen, and no finished document is worked on again."""
    project = settings.r2r.project
    database = PostgresSource(
        name="postgres",
        container=_container("postgres"),
        user=USER,
        data=[f"{project}.{table}" for table in WORK],
        shown=[f"{project}.{table}" for table in COUNTED],
        volume="stackroom_postgres",
        image=f"pgvector/pgvector:{POSTGRES_VERSION}",
        containers=[_container("r2r")],
    )
    return [database, *(_hatchet() if settings.r2r.orchestration == "hatchet" else [])]


def _hatchet() -> list[Source]:
    """Its database, and the keys without which neither that nor R2R's token can be read."""
    engine = [_container("hatchet-engine")]
    return [
        PostgresSource(
            name="hatchet-postgres",
            container=_container("hatchet-postgres"),
            user=QUEUE,
            data=[],  # a queue's: what it is about stands in R2R's database
            volume="stackroom_hatchet_postgres",
            image=f"postgres:{HATCHET_POSTGRES_VERSION}",
            containers=engine,
        ),
        FilesSource(
            name="hatchet-config",
            volume="stackroom_hatchet_config",
            containers=engine,
            deployed=True,
        ),
        FilesSource(
            name="hatchet-token",
            volume="stackroom_hatchet_token",
            containers=[_container("r2r")],
            deployed=True,
        ),
        RabbitmqSource(
            name="rabbitmq",
            container=_container("rabbitmq"),
            volume="stackroom_rabbitmq",
            image=f"rabbitmq:{RABBITMQ_VERSION}",
            containers=engine,
        ),
    ]
