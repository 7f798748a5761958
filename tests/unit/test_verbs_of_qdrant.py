"""What is about Qdrant alone says so where another stack runs, before it asks anybody anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomlkit
from settings_lab import R2R_PASSWORDS, R2R_SETTINGS, SECRETS

from ops.cli import main
from ops.errors import SettingsError
from ops.render.files import ROOT
from ops.settings.host import FilesSource, HostConfig, Repository

WriteEnvironment = Callable[..., Path]
SNAPSHOT = [
    ["snapshot", "create", "books"],
    ["snapshot", "list"],
    ["snapshot", "download", "books", "one", "--to", "here"],
    ["snapshot", "delete", "books", "one", "--yes"],
    ["snapshot", "prune", "--yes"],
]


def refused(told: str, verb: str) -> None:
    lines = [line for line in told.splitlines() if line]
    assert lines[0].startswith(f"stackroom: {verb} is about Qdrant, and team runs"), told
    assert lines[1].startswith("next: ") and len(lines) == 2, told


@pytest.mark.parametrize(
    ("words", "named"),
    [
        *((words, "snapshot") for words in SNAPSHOT),
        (["migrate", "plan", "--from", "https://qdrant.example.com:6333"], "migrate --to"),
        (["migrate", "run", "--from", "team", "--to", "https://q.example.com:1"], "migrate --from"),
    ],
)
def test_the_operator_is_told(
    words: list[str],
    named: str,
    write_environment: WriteEnvironment,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    secrets = tomlkit.dumps({"secrets": SECRETS | {"r2r": R2R_PASSWORDS}})
    folder = write_environment(R2R_SETTINGS, secrets=secrets)
    monkeypatch.setattr("ops.inventory.INVENTORY", folder.parent)
    monkeypatch.setattr("sys.argv", ["stackroom", "-e", "team", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == SettingsError.exit_code
    refused(capfd.readouterr().err, named)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["snapshot", "list"], "snapshot"),
        (["restore", "run", "--collection", "books", "--yes"], "restore run --collection"),
    ],
)
def test_the_host_says_it_too(words: list[str], named: str, tmp_path: Path) -> None:
    config = HostConfig(
        environment="team",
        stack="r2r",
        stackroom="0123456789ab",
        base=tmp_path / "base",
        repositories=[Repository(name="local", url=str(tmp_path / "repository"))],
        sources=[FilesSource(name="settings", path=str(tmp_path / "settings"))],
    )
    path = tmp_path / "backup.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli.host", "--config", str(path), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == SettingsError.exit_code
    refused(done.stderr, named)
    assert not (tmp_path / "base").exists()
