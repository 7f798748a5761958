"""What happened, run by run: one JSON file each, the memory of doctor, list, retention and notices.

A record is written when a run begins and again when it ends; one that says "running" while nobody
holds the lock is of a run that was killed.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ops.backup.durable import write_durably

Kind = Literal["backup", "check", "prune", "drill", "restore"]
Outcome = Literal["running", "ok", "warning", "failed", "unproven", "died"]
KEPT = 400  # records of each kind: more than a year of nights


class RepositoryResult(BaseModel):
    """How one repository fared in a run."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str  # local, offsite
    ok: bool
    snapshot: str = ""  # restic's full id
    added_bytes: int = 0
    seconds: float = 0.0
    error: str = ""


class Record(BaseModel):
    """One run. `subject` is the run id of the backup that a drill, check or restore was about."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = 1
    kind: Kind
    run: str
    started: AwareDatetime
    finished: AwareDatetime | None = None
    outcome: Outcome = "running"
    error: str = ""
    hint: str = ""  # the next command, where the error knew one
    exit_code: int | None = None
    trigger: Literal["hand", "timer"] = "hand"
    subject: str = ""
    bytes: int = 0
    items: int = 0
    repositories: list[RepositoryResult] = []
    notified: bool = False
    dry_run: bool = False  # of a prune: nothing was done, and it counts as none
    details: dict[
        str, Any
    ] = {}  # by kind; a drill's evidence, a check's subset, a prune's removals

    @property
    def seconds(self) -> float:
        return (self.finished - self.started).total_seconds() if self.finished else 0.0

    @property
    def good(self) -> bool:
        """For a backup: it is in a repository, whatever became of the other one."""
        return self.outcome in ("ok", "warning")

    def stored_in(self, repository: str) -> RepositoryResult | None:
        """The result of that repository, if it went well there."""
        return next((r for r in self.repositories if r.name == repository and r.ok), None)


def folder_of(base: Path) -> Path:
    return base / "records"


def write_record(base: Path, record: Record) -> Path:
    """Write or replace the record of a run: atomically and durably. Raises OSError."""
    folder = folder_of(base)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{record.run}.{record.kind}.json"
    write_durably(path, record.model_dump_json(indent=1) + "\n")
    for old in sorted(folder.glob(f"*.{record.kind}.json"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def read_records(base: Path, kind: Kind | None = None) -> list[Record]:
    """Every readable record, oldest first by start. One that cannot be read is left out."""
    records = []
    for path in folder_of(base).glob(f"*.{kind or '*'}.json"):
        try:
            records.append(Record.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    return sorted(records, key=lambda record: record.started)


def last(
    records: list[Record], *outcomes: Outcome, before: datetime | None = None
) -> Record | None:
    """The newest record with one of these outcomes, begun no later than `before`."""
    for record in reversed(records):
        if record.outcome in outcomes and (before is None or record.started <= before):
            return record
    return None
