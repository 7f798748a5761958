"""Prove a backup by restoring it into throw-away services, and throw all of it away again.

A drill takes the very steps of a restore up to the switch. What could not be proven is never ok:
it is "unproven", with an exit code of its own.
"""

from __future__ import annotations

import time
from dataclasses import asdict

from ops.backup.job import Job, Trigger, carry_out
from ops.backup.records import Record, read_records
from ops.backup.source import Tell, silent
from ops.clients.docker import Scratch
from ops.errors import BackupError, StackroomError, UnprovenError
from ops.restore import switch
from ops.restore.evidence import Stopwatch, differences, note, note_choice
from ops.restore.fetch import LATEST, fetched, for_drill, longest_ago
from ops.restore.rehearsals import clear, rehearse_all
from ops.settings.host import Credentials, HostConfig


def drill(
    config: HostConfig,
    credentials: Credentials,
    *,
    trigger: Trigger = "hand",
    tell: Tell = silent,
    source: str = "",
    run: str = LATEST,
) -> Record:
    """Restore the backup `run` out of `source` (local, offsite; "": the one drilled longest ago).

    The record's subject is the backup; its details are the evidence: {"repository": str,
    "snapshot": str, "size": bytes, "seconds": {"fetch", "verify", "rebuild", "compare", "total"},
    "rto_seconds": float, "comparisons": [{"subject", "expected", "found", "ok"}]}. A difference
    makes the outcome "failed", exit code 2. Raises BackupError for a backup that cannot be
    restored, UnprovenError for whatever kept the proof from being made, LockedError.
    """

    def work(job: Job) -> Record:
        try:
            return _work(job, source, run)
        except (BackupError, UnprovenError):
            raise
        except StackroomError as error:
            raise UnprovenError(error.message, error.hint) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise UnprovenError(f"{where}{error.strerror or error}", "df -h") from None

    return carry_out("drill", config, credentials, work, trigger=trigger, tell=tell)


def _work(job: Job, source: str, run: str) -> Record:
    begun = time.monotonic()
    if settled := switch.settle(job.config, job.credentials):
        note(job, {"settled": settled})
    clear(job.config)
    name = source or longest_ago(job.config, read_records(job.config.base))
    note(job, {"repository": name})  # it had its turn, whatever comes of it
    chosen = for_drill(job.config, job.credentials, name, run)
    note_choice(job, chosen)
    watch = Stopwatch(job.tell)
    with fetched(job, chosen) as backup, Scratch("drill", owner=job.config.environment) as scratch:
        note(job, {"size": backup.manifest.size()})
        rebuilt = rehearse_all(backup.folder, backup.manifest, job.config, scratch, watch)
    seconds = backup.seconds | watch.seconds() | {"total": time.monotonic() - begun}
    comparisons = [comparison for source in rebuilt for comparison in source.comparisons]
    note(
        job,
        {
            "seconds": {step: round(value, 3) for step, value in seconds.items()},
            "rto_seconds": round(seconds["total"], 3),
            "comparisons": [asdict(comparison) for comparison in comparisons],
        },
    )
    wrong = differences(comparisons)
    return job.record.model_copy(
        update={
            "outcome": "failed" if wrong else "ok",
            "error": wrong,
            "bytes": backup.manifest.size(),
            "items": len(backup.manifest.items),
        }
    )
