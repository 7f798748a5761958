"""Runs that go wrong, each against the same oracle. The servers are those of tests/services."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# no packages in tests: what is shared is found as its own folder finds it
for folder in ("services", "contract"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / folder))

from place import Place, lay, receiver  # noqa: E402
from servers import restic_program  # noqa: E402


@pytest.fixture(scope="session")
def restic() -> Path:
    return restic_program()


@pytest.fixture
def place(tmp_path: Path, restic: Path) -> Iterator[Place]:
    """Two files in one source, one local repository, and somebody who hears the notices."""
    data = lay(tmp_path / "data")
    with receiver() as ear:
        yield Place(
            tmp_path, restic, ear, sources=[{"kind": "files", "name": "api", "path": str(data)}]
        )
