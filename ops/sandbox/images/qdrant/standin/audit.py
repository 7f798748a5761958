"""The audit log: JSON lines, one per judged request, in one file per day."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from .auth import Identity


@dataclass
class Audit:
    """Without a folder it is switched off. Raises OSError where the folder cannot be made."""

    folder: Path | None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)

    def note(self, who: Identity, **entry: str) -> None:
        if self.folder is None:
            return
        now = datetime.now(UTC)
        parts = {"timestamp": now.isoformat().replace("+00:00", "Z"), **entry}
        parts |= {"auth_type": who.auth_type} | ({"subject": who.subject} if who.subject else {})
        line = json.dumps({name: value for name, value in parts.items() if value})
        with self._lock, (self.folder / f"audit.{now:%Y-%m-%d}.log").open("a") as file:
            file.write(line + "\n")
