"""Which rehearsal takes which source of a manifest, and all of them in one scratch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ops.backup.manifest import (
    Facts,
    FilesFacts,
    Manifest,
    PostgresFacts,
    QdrantFacts,
    RabbitmqFacts,
)
from ops.backup.source import Event, Tell
from ops.clients.docker import Scratch, need_image, remove_all
from ops.errors import UnprovenError
from ops.restore.files import FilesRehearsal
from ops.restore.postgres import PostgresRehearsal
from ops.restore.qdrant import QdrantRehearsal
from ops.restore.rabbitmq import RabbitmqRehearsal
from ops.restore.rehearsal import Comparison, Rehearsal
from ops.settings.host import (
    FilesSource,
    HostConfig,
    PostgresSource,
    QdrantSource,
    RabbitmqSource,
)


@dataclass(frozen=True)
class Rebuilt:
    """A source's data, built anew in a volume of the scratch."""

    source: str
    facts: Facts
    volume: str
    comparisons: list[Comparison]


def scratch_folder(config: HostConfig) -> Path:
    """Where backups are fetched to; nothing in it outlives its job."""
    return config.base / "scratch"


def clear(config: HostConfig) -> None:
    """Remove what a killed drill or restore left. Only for whoever holds the lock."""
    remove_all(config.environment)
    if scratch_folder(config).exists():
        shutil.rmtree(scratch_folder(config))


def rehearse_all(
    backup: Path,
    manifest: Manifest,
    config: HostConfig,
    scratch: Scratch,
    tell: Tell,
    *,
    images: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> list[Rebuilt]:
    """Rebuild every source of a verified backup, one after another, each in a volume of its own.

    `images` by source: the services to take instead of the manifest's, which are the ones that
    will run on the data; `versions` of them, where they are known. Raises UnprovenError and
    BackupError as the rehearsals do.
    """
    rebuilt = []
    for name, promised in manifest.sources.items():
        facts = _on(promised, (images or {}).get(name, ""), (versions or {}).get(name, ""))
        if not isinstance(facts, FilesFacts):
            need_image(facts.image, pull=config.drill_image_pull)
        tell(Event("rebuild", name))
        volume = scratch.volume(name)
        comparisons = rehearsal_of(name, facts, config).rehearse(
            backup, facts, scratch, volume, tell
        )
        rebuilt.append(Rebuilt(name, facts, volume, comparisons))
    if not any(source.comparisons for source in rebuilt):
        raise UnprovenError(
            f"the backup {manifest.run} promises nothing that could be compared",
            "stackroom backup run",
        )
    return rebuilt


def _on(facts: Facts, image: str, version: str) -> Facts:
    """The same promises, to be kept by another image. A dump is read by later Postgres too."""
    if not image:
        return facts
    later = {"version": version} if version and isinstance(facts, PostgresFacts) else {}
    return facts.model_copy(update={"image": image, "digest": "", **later})


def rehearsal_of(name: str, facts: Facts, config: HostConfig) -> Rehearsal:
    """By the kind of the facts, with the source's settings of today where it still is one."""
    today = next((s for s in config.sources if s.name == name and s.kind == facts.kind), None)
    if isinstance(facts, QdrantFacts):
        return QdrantRehearsal(
            today if isinstance(today, QdrantSource) else QdrantSource(name=name, image=facts.image)
        )
    if isinstance(facts, PostgresFacts):
        return PostgresRehearsal(
            today if isinstance(today, PostgresSource) else PostgresSource(name=name, container="")
        )
    if isinstance(facts, RabbitmqFacts):
        return RabbitmqRehearsal(
            today if isinstance(today, RabbitmqSource) else RabbitmqSource(name=name, container="")
        )
    return FilesRehearsal(today if isinstance(today, FilesSource) else FilesSource(name=name))
