"""What drills and restores write into their records: where from, how long, what was compared."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from ops.backup.job import Job
from ops.backup.source import Event, Tell
from ops.restore.fetch import Chosen
from ops.restore.rehearsal import Comparison


def note(job: Job, details: dict[str, Any]) -> None:
    """Keep details in the job's record at once: it stays, however the job ends."""
    job.record = job.record.model_copy(update={"details": job.record.details | details})


def note_choice(job: Job, chosen: Chosen) -> None:
    """Which backup this is about, and where it comes from."""
    job.record = job.record.model_copy(update={"subject": chosen.snapshot.run})
    note(job, {"repository": chosen.repository.name, "snapshot": chosen.snapshot.id})
    if chosen.remarks:
        note(job, {"remarks": chosen.remarks})


def differences(comparisons: Iterable[Comparison]) -> str:
    """One sentence of all that is not as the manifest promises; empty where nothing is."""
    return "; ".join(
        f"{c.subject}: expected {c.expected}, found {c.found}" for c in comparisons if not c.ok
    )


class Stopwatch:
    """A `Tell` that passes everything on, and adds up how long rebuilding and comparing took."""

    STEPS = ("rebuild", "compare")

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._step = ""
        self._since = time.monotonic()
        self._seconds = dict.fromkeys(self.STEPS, 0.0)

    def __call__(self, event: Event) -> None:
        if event.step in self.STEPS and event.step != self._step:
            self._turn_to(event.step)
        self._tell(event)

    def seconds(self) -> dict[str, float]:
        """By step, up to now."""
        self._turn_to(self._step)
        return dict(self._seconds)

    def _turn_to(self, step: str) -> None:
        now = time.monotonic()
        if self._step:
            self._seconds[self._step] += now - self._since
        self._step, self._since = step, now
