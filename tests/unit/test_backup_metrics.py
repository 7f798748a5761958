"""The text file for Prometheus, read back by Prometheus' own parser."""

from __future__ import annotations

import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ops.backup.metrics import FILE_NAME, write_metrics
from ops.backup.records import Kind, Record, RepositoryResult
from ops.settings.host import HostConfig, Repository

NOW = datetime(2026, 11, 21, 10, 45, tzinfo=UTC)
Sample = tuple[str, str]  # name, the label beside the environment
NAMES = {
    "stackroom_schedule_expected_interval_seconds",
    "stackroom_backup_size_bytes",
    "stackroom_backup_items",
    "stackroom_backup_repository_last_success_timestamp_seconds",
    "stackroom_backup_repository_added_bytes",
    "stackroom_drill_rto_seconds",
    *(
        f"stackroom_{kind}_{name}"
        for kind in ("backup", "check", "prune", "drill")
        for name in (
            "last_run_timestamp_seconds",
            "last_success_timestamp_seconds",
            "last_status",
            "duration_seconds",
        )
    ),
}


def config_in(tmp_path: Path, **more: Any) -> HostConfig:
    return HostConfig(
        environment="team",
        stack="qdrant",
        stackroom="0123456789ab",
        base=tmp_path / "base",
        repositories=[
            Repository(name="local", url="/var/backups/stackroom"),
            Repository(name="offsite", url="s3:https://s3.example.org/bucket/path"),
        ],
        sources=[],
        **{"metrics": tmp_path / "metrics", **more},
    )


def made(kind: Kind, hours: float, **facts: Any) -> Record:
    at = NOW - timedelta(hours=hours)
    facts = {"finished": at + timedelta(minutes=2), "outcome": "ok", "exit_code": 0, **facts}
    return Record(kind=kind, run=f"{at:%Y%m%dT%H%M%SZ}-00000a", started=at, **facts)


def backup(hours: float, **facts: Any) -> Record:
    stored = [
        RepositoryResult(name="local", ok=True, snapshot="a" * 64, added_bytes=7, error=""),
        RepositoryResult(name="offsite", ok=False, error="403 for key AKIASECRET"),
    ]
    given = {"bytes": 1000, "items": 3, "repositories": stored, "outcome": "warning"}
    return made("backup", hours, **{**given, "exit_code": 1, **facts})


def read(folder: Path) -> dict[Sample, float]:
    text = (folder / FILE_NAME).read_text(encoding="utf-8")
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("environment") == "team"
            assert len(labels) <= 1
            found[(sample.name, *labels.values(), "")[:2]] = sample.value
    return found


def test_every_metric_by_its_name_and_nothing_else(tmp_path: Path) -> None:
    records = [
        backup(9),
        made("check", 8),
        made("prune", 7),
        made("drill", 6, details={"rto_seconds": 61.5}),
        made("restore", 5),
        made("prune", 1, outcome="failed", exit_code=2, dry_run=True),
    ]
    write_metrics(config_in(tmp_path), records, NOW)
    found = read(tmp_path / "metrics")
    assert {name for name, _ in found} == NAMES
    began = (NOW - timedelta(hours=9)).timestamp()
    assert found["stackroom_backup_last_run_timestamp_seconds", ""] == began
    assert found["stackroom_backup_last_success_timestamp_seconds", ""] == began + 120
    assert found["stackroom_backup_last_status", ""] == 1
    assert found["stackroom_backup_duration_seconds", ""] == 120
    assert found["stackroom_backup_size_bytes", ""] == 1000
    assert found["stackroom_backup_items", ""] == 3
    success = "stackroom_backup_repository_last_success_timestamp_seconds"
    assert (found[success, "local"], found[success, "offsite"]) == (began + 120, 0)
    assert found["stackroom_backup_repository_added_bytes", "local"] == 7
    assert found["stackroom_drill_rto_seconds", ""] == 61.5
    assert found["stackroom_prune_last_status", ""] == 0
    interval = "stackroom_schedule_expected_interval_seconds"
    assert (found[interval, "backup"], found[interval, "drill"]) == (86400, 7 * 86400)


def test_no_error_and_no_address_gets_into_it(tmp_path: Path) -> None:
    write_metrics(config_in(tmp_path), [backup(9, error="a secret word")], NOW)
    text = (tmp_path / "metrics" / FILE_NAME).read_text(encoding="utf-8")
    for word in ("AKIASECRET", "secret", "example.org", "/var/backups"):
        assert word not in text


def test_a_failure_keeps_the_last_success(tmp_path: Path) -> None:
    failed = backup(1, outcome="failed", exit_code=None, bytes=0, repositories=[])
    running = backup(0.1, outcome="running", finished=None)
    write_metrics(config_in(tmp_path), [backup(25), failed, running], NOW)
    found = read(tmp_path / "metrics")
    good = (NOW - timedelta(hours=25)).timestamp() + 120
    assert found["stackroom_backup_last_success_timestamp_seconds", ""] == good
    assert found["stackroom_backup_last_run_timestamp_seconds", ""] == NOW.timestamp() - 3600
    assert found["stackroom_backup_last_status", ""] == 2
    assert found["stackroom_backup_size_bytes", ""] == 1000


def test_what_was_never_good_has_an_age_that_alarms_and_what_never_ran_has_none(
    tmp_path: Path,
) -> None:
    write_metrics(config_in(tmp_path), [made("drill", 1, outcome="unproven", exit_code=3)], NOW)
    found = read(tmp_path / "metrics")
    assert found["stackroom_drill_last_success_timestamp_seconds", ""] == 0
    assert found["stackroom_drill_last_status", ""] == 3
    assert "stackroom_backup_last_status" not in {name for name, _ in found}
    assert len([name for name, _ in found if "interval" in name]) == 4


def test_a_clock_that_ran_ahead_is_not_the_last_run_for_years(tmp_path: Path) -> None:
    write_metrics(config_in(tmp_path), [backup(9), backup(-5 * 365 * 24)], NOW)
    found = read(tmp_path / "metrics")
    began = (NOW - timedelta(hours=9)).timestamp()
    assert found["stackroom_backup_last_run_timestamp_seconds", ""] == began


def test_the_exporter_may_read_it_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_metrics(config_in(tmp_path, metrics=tmp_path / "new" / "metrics"), [], NOW)
    finally:
        os.umask(before)
    folder = tmp_path / "new" / "metrics"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder)}
    assert set(modes.values()) == {0o755}
    assert stat.S_IMODE((folder / FILE_NAME).stat().st_mode) == 0o644


def test_a_reader_sees_one_whole_file_or_the_other(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    write_metrics(config, [backup(9)], NOW)
    path = tmp_path / "metrics" / FILE_NAME
    stop, sizes = threading.Event(), set()

    def look() -> None:
        while not stop.is_set():
            sizes.add(len(path.read_bytes()))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(200):
        write_metrics(config, [backup(9)], NOW)
    stop.set()
    reader.join()
    assert len(sizes) == 1
    assert [entry.name for entry in path.parent.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("what", ["a file in the way", "a folder in the way"])
def test_no_failure_reaches_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    metrics = tmp_path / "metrics"
    if what == "a file in the way":
        metrics.write_text("", encoding="utf-8")
    else:
        (metrics / FILE_NAME).mkdir(parents=True)
    write_metrics(config_in(tmp_path), [backup(9)], NOW)
    assert "no metrics in" in caplog.text
    assert not list(tmp_path.rglob("*.new"))


def test_nothing_is_written_where_no_folder_is_configured(tmp_path: Path) -> None:
    write_metrics(config_in(tmp_path, metrics=None), [backup(9)], NOW)
    assert list(tmp_path.iterdir()) == []
