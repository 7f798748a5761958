"""Which collector takes which source of the configuration; nothing else."""

from __future__ import annotations

from ops.backup.files import FilesCollector
from ops.backup.postgres import PostgresCollector
from ops.backup.qdrant import QdrantCollector
from ops.backup.rabbitmq import RabbitmqCollector
from ops.backup.source import Source
from ops.settings.host import Credentials, HostConfig, PostgresSource, QdrantSource, RabbitmqSource
from ops.settings.host import Source as SourceConfig


def sources(config: HostConfig, credentials: Credentials) -> list[Source]:
    """A collector for each source, in the configuration's order. Touches nothing."""
    return [_collector(source, credentials) for source in config.sources]


def _collector(source: SourceConfig, credentials: Credentials) -> Source:
    if isinstance(source, QdrantSource):
        return QdrantCollector(source, credentials)
    if isinstance(source, PostgresSource):
        return PostgresCollector(source)
    if isinstance(source, RabbitmqSource):
        return RabbitmqCollector(source)
    return FilesCollector(source)
