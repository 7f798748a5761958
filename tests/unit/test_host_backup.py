"""What a deploy decides about the host's restic and its old versions of the verbs."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from ops.host import backup


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("restic 0.18.0 compiled with go1.24.4 on linux/amd64", (0, 18, 0)),
        ("restic 0.17.1 compiled with go1.22 on linux/arm64", (0, 17, 1)),
        ("restic 0.19.0-dev (compiled manually) compiled with go1.25", (0, 19, 0)),
        ("restic 0.14.0 compiled with go1.19 on linux/amd64", (0, 14, 0)),
        ("restic", (0,)),
        ("something else entirely", (0,)),
        ("", (0,)),
    ],
)
def test_restics_version(told: str, version: tuple[int, ...]) -> None:
    found = backup._version([told] if told else [])
    assert found == version
    assert (found >= backup.RESTIC) == (version >= (0, 17, 1))


def test_the_images_restic_is_new_enough() -> None:
    tag = backup.RESTIC_IMAGE.rpartition(":")[2]
    assert backup._version([f"restic {tag}"]) >= backup.RESTIC


def made(folder: Path, *names: str) -> None:
    """Folders, the first the newest."""
    for age, name in enumerate(names):
        path = folder / name
        path.mkdir()
        (path / "file").touch()
        os.utime(path, (1_000_000_000 - age, 1_000_000_000 - age))


@pytest.mark.parametrize(
    ("there", "stays"),
    [
        # a rollback: what is wanted is the oldest
        (["new", "mid", "now"], {"now", "new"}),
        (["now", "mid", "old"], {"now", "mid"}),
        (["now"], {"now"}),
        (["now", "old"], {"now", "old"}),
    ],
)
@pytest.mark.parametrize("venvs", [["venv-now"], ["venv-b", "venv-now", "venv-a"]])
def test_the_version_before_stays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: list[str],
    stays: set[str],
    venvs: list[str],
) -> None:
    made(tmp_path, *there)
    made(tmp_path, *venvs, "killed.new", "venv-killed.new")
    (tmp_path / "killed.tar").touch()
    monkeypatch.setattr(backup, "HOME", str(tmp_path))
    script = backup._forget_all_but("now", "venv-now")
    subprocess.run(["sh", "-c", script], check=True)
    kept = {"venv-now"} if len(venvs) == 1 else {"venv-now", "venv-b"}
    assert {path.name for path in tmp_path.iterdir()} == stays | kept


PYTHON = """#!/bin/sh
# stands for the host's python3: -m venv makes an interpreter that is this script again
case "$2" in
  venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  pip) here=$(dirname "$(dirname "$0")"); echo a >"$here/one"; sleep 0.5; echo b >"$here/two" ;;
esac
"""


def test_an_install_that_a_killed_deploy_left_at_work_harms_no_other(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    environment = tmp_path / "venv-now"
    made = backup._install("lock", str(environment), str(python)).get_raw_value()
    assert isinstance(made, str)
    left = subprocess.Popen(["sh", "-c", made])
    time.sleep(0.2)
    after = subprocess.run(["sh", "-c", made], check=False)
    assert (left.wait(10), after.returncode) == (0, 0)
    assert {path.name for path in environment.iterdir()} == {"bin", "one", "two"}
    assert environment.stat().st_mode & 0o777 == 0o755
    assert not list(tmp_path.glob("*.new"))
