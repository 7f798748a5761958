"""What Prometheus' node exporter picks up: one text file, written anew after each run.

Every value follows from the records; nothing is measured here, nothing is secret. A failure to
write is a line in the journal and never a run's concern.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from ops.backup.records import Kind, Record, last
from ops.settings.host import HostConfig

FILE_NAME = "stackroom.prom"
SCHEDULED: tuple[Kind, ...] = ("backup", "check", "prune", "drill")
WEEK_SECONDS = 7 * 86400.0  # checks, prunes and drills
SKEW = timedelta(hours=1)  # records dated further ahead come from a clock that was wrong
log = logging.getLogger(__name__)


def write_metrics(
    config: HostConfig, records: Sequence[Record], now: datetime | None = None
) -> None:
    """Replace the text file in `config.metrics`; its folder is made where it is missing.

    Nothing where no folder is configured. Never raises.
    """
    if config.metrics is None:
        return
    try:
        text = generate_latest(registry_of(config, records, now or datetime.now(UTC)))
        _make_folder(config.metrics)
        _replace(config.metrics / FILE_NAME, text)
    except Exception as error:
        log.warning("no metrics in %s: %s", config.metrics, error)


def registry_of(config: HostConfig, records: Sequence[Record], now: datetime) -> CollectorRegistry:
    """The metrics as of `now`. A kind that never ran has only its expected interval; one that ran
    and was never good has 0 as the time of its last success, so that its age is an alarm."""
    metrics = _Metrics(config.environment)
    ended = [r for r in records if r.outcome != "running" and not r.dry_run]
    seen = [record for record in ended if record.started <= now + SKEW]
    for kind in SCHEDULED:
        seconds = config.period_hours * 3600 if kind == "backup" else WEEK_SECONDS
        metrics.put("schedule_expected_interval_seconds", INTERVAL, seconds, kind=kind)
        of_kind = sorted((r for r in seen if r.kind == kind), key=lambda record: record.started)
        if of_kind:
            _put_kind(metrics, kind, of_kind)
    backups = sorted((r for r in seen if r.kind == "backup"), key=lambda record: record.started)
    _put_backups(metrics, config, backups)
    drills = sorted((r for r in seen if r.kind == "drill"), key=lambda record: record.started)
    if drill := last(drills, "ok"):
        rto = drill.details.get("rto_seconds", drill.seconds)
        metrics.put("drill_rto_seconds", "Seconds the last good drill took to restore", rto)
    return metrics.registry


INTERVAL = "Seconds within which a run of this kind is expected to succeed"


def _put_kind(metrics: _Metrics, kind: Kind, records: list[Record]) -> None:
    newest = records[-1]
    good = last(records, "ok", "warning")
    status = newest.exit_code if newest.exit_code is not None else 2
    began = newest.started.timestamp()
    succeeded = _end(good) if good else 0.0
    metrics.put(f"{kind}_last_run_timestamp_seconds", f"When the last {kind} began", began)
    metrics.put(
        f"{kind}_last_success_timestamp_seconds",
        f"When the last good {kind} ended; 0: there was none",
        succeeded,
    )
    metrics.put(
        f"{kind}_last_status",
        f"Exit code of the last {kind}: 0 ok, 1 warning, 2 failed, 3 unproven",
        status,
    )
    metrics.put(f"{kind}_duration_seconds", f"Seconds the last {kind} took", newest.seconds)


def _put_backups(metrics: _Metrics, config: HostConfig, backups: list[Record]) -> None:
    if good := last(backups, "ok", "warning"):
        metrics.put("backup_size_bytes", "Bytes of the last good backup, before restic", good.bytes)
        metrics.put("backup_items", "Files in the last good backup", good.items)
    for repository in config.repositories if backups else []:
        name = repository.name
        stored = [record for record in backups if record.stored_in(name)]
        result = stored[-1].stored_in(name) if stored else None
        metrics.put(
            "backup_repository_last_success_timestamp_seconds",
            "When the last backup that reached this repository ended; 0: there was none",
            _end(stored[-1]) if stored else 0.0,
            repository=name,
        )
        if result:
            metrics.put(
                "backup_repository_added_bytes",
                "Bytes by which the last backup made this repository grow",
                result.added_bytes,
                repository=name,
            )


def _end(record: Record) -> float:
    return (record.finished or record.started).timestamp()


class _Metrics:
    """Gauges by name in a registry of their own: nothing of this process gets among them."""

    def __init__(self, environment: str) -> None:
        self.registry = CollectorRegistry()
        self._environment = environment
        self._gauges: dict[str, Gauge] = {}

    def put(self, name: str, meaning: str, value: float, **labels: str) -> None:
        labels = {"environment": self._environment, **labels}
        if name not in self._gauges:
            self._gauges[name] = Gauge(
                f"stackroom_{name}", meaning, list(labels), registry=self.registry
            )
        self._gauges[name].labels(**labels).set(float(value))


def _make_folder(folder: Path) -> None:
    """Readable for the exporter, whatever the mask of the unit is."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        path.chmod(0o755)


def _replace(path: Path, text: bytes) -> None:
    # not write_to_textfile: between its rename and our chmod the exporter could not read it
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        new.replace(path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
