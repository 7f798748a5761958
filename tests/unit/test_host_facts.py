"""What the host is asked, by a shell of this machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from ops.host.facts import FileState, FileStates


def ask(*paths: Path) -> dict[str, FileState]:
    fact = FileStates()
    script = fact.command([str(path) for path in paths])
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert shell.stderr == ""
    return fact.process(shell.stdout.splitlines())


def test_files_are_told_with_content_mode_and_owner(tmp_path: Path) -> None:
    """What is absent or no file is left out; a name may have a space or a dash in it."""
    texts = {"plain": b"one\n", "with a space": b"", "-dash": os.urandom(1000)}
    for number, (name, text) in enumerate(texts.items()):
        (tmp_path / name).write_bytes(text)
        (tmp_path / name).chmod(0o600 + number)
    (tmp_path / "folder").mkdir()
    found = ask(*(tmp_path / name for name in ["absent", "folder", *texts]))
    assert found == {
        str(tmp_path / name): FileState(hashlib.sha256(text).hexdigest(), 0o600 + n, os.getuid())
        for n, (name, text) in enumerate(texts.items())
    }


def test_nothing_is_told_of_nothing(tmp_path: Path) -> None:
    assert ask() == {}
    assert ask(tmp_path / "absent") == {}
