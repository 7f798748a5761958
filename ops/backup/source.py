"""What every collector offers, and how long work tells that it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ops.backup.manifest import Facts, Item


@dataclass(frozen=True)
class Event:
    """Progress: a step begins (`total` 0), or has done so many of so many bytes of an item."""

    step: str
    item: str = ""
    done: int = 0
    total: int = 0


Tell = Callable[[Event], None]


def silent(_: Event) -> None:
    """The `Tell` of whoever does not look."""


@dataclass(frozen=True)
class Collected:
    """What a collector laid into its folder. `Item.path` is relative to the staging folder."""

    items: list[Item]
    facts: Facts


class Source(Protocol):
    """One kind of data. `name` is its folder below the staging folder and its key in the manifest.

    Files are written with fsync; whatever a collector made on a service it removes in any case.
    """

    name: str

    def expected_bytes(self) -> int:
        """About how much `collect` will write. Raises UnreachableError or ServiceError where the
        source is not there, SettingsError where its credential is missing."""
        ...

    def collect(self, staging: Path, tell: Tell) -> Collected:
        """Write into `staging / name`, which is made here. Raises StackroomError."""
        ...
