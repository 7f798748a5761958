"""What every source's restore offers: its data built anew in a scratch, and compared.

A drill rehearses and throws away; a restore rehearses and then switches to what was built. So each
drill proves the very steps that a restore takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ops.backup.manifest import Facts
from ops.backup.source import Tell
from ops.clients.docker import Scratch


@dataclass(frozen=True)
class Comparison:
    """One thing that the manifest promises, and what the rebuilt data answered."""

    subject: str  # such as "qdrant/knowledge_library: exact count"
    expected: str
    found: str
    ok: bool


class Rehearsal(Protocol):
    """The counterpart of a collector, by kind of facts."""

    def rehearse(
        self, backup: Path, facts: Facts, scratch: Scratch, volume: str, tell: Tell
    ) -> list[Comparison]:
        """Fill `volume` (a new, empty Docker volume) from the verified folder `backup` with the
        help of throw-away services of the manifest's version on `scratch`, compare everything
        the facts promise, and stop those services in order: afterwards the volume is what a
        restore switches to.

        Raises UnprovenError where the services could not be raised (no image, no memory), and
        BackupError where they refuse the data. A difference is a Comparison, never an error.
        """
        ...
