"""Measurements run when they are asked for: `make bench`, or pytest -m bench."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# no packages in tests: what is shared is found as its own folder finds it
for folder in ("services", "contract"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / folder))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not pytest's own: that keeps what is in it."""
    with tempfile.TemporaryDirectory(prefix="stackroom-bench-") as folder:
        yield Path(folder)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out of every other run: they need ansible-core and a machine that is quiet."""
    if "bench" in config.option.markexpr:
        return
    measurements = [item for item in items if item.get_closest_marker("bench")]
    items[:] = [item for item in items if item not in measurements]
    config.hook.pytest_deselected(items=measurements)
