"""Rooms import downward only, stay small, and carry nothing of the machine they were made on."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from ops.render.files import ROOT

# room -> rooms it may import; what is not named here may import nothing
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "firstline": set(),
    "settings": {"errors"},
    "render": {"errors", "settings"},
    "clients": {"errors", "settings"},
    "collections": {"errors", "settings", "clients"},
    "grants": {"errors", "settings", "collections"},
    "inventory": {"errors", "settings", "render"},
    "backup": {"errors", "settings", "clients"},
    "restore": {"errors", "settings", "clients", "backup"},
    "migrate": {"errors", "settings", "clients", "backup", "restore"},
    "escrow": {"errors", "settings"},
    "sandbox": {"errors", "settings", "render", "clients", "escrow"},
    "deploy": {"errors", "settings", "render", "clients"},
    "developers": {"errors", "firstline", "settings", "render", "clients", "deploy"},
    "health": {"errors", "firstline", "settings", "render", "clients", "collections", "escrow"}
    | {"deploy", "developers"},
    "demo": {"errors", "settings", "render", "clients", "deploy", "health", "sandbox"},
    "cli": {"errors", "settings", "render", "clients", "collections", "inventory", "sandbox"}
    | {"deploy", "health", "demo", "backup", "restore", "escrow", "migrate", "developers"},
    "host": {"errors", "settings", "render", "collections", "grants", "pyinfra"},
    "deploy.py": {"settings", "render", "host", "pyinfra"},
}
SOURCES = [*(ROOT / "ops").rglob("*.py"), ROOT / "deploy.py"]


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if len(parts) > 1 else path.name


@cache
def imported(path: Path) -> set[str]:
    """The rooms that a module imports, and `pyinfra`; its own room is not counted."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            below = {f"ops.{alias.name}" for alias in node.names}
            names |= below if node.module == "ops" else {node.module}
    rooms = {name.split(".")[1] for name in names if name.startswith("ops.")}
    foreign = {name.split(".")[0] for name in names} & {"pyinfra", "gevent"}
    return (rooms | foreign) - {room(path)}


def test_rooms_import_downward_only() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(upward)
        for path in SOURCES
        if (upward := imported(path) - ALLOWED.get(room(path), set()))
    }
    assert wrong == {}


def test_the_map_of_rooms_has_no_circle_and_no_room_too_many() -> None:
    """What is allowed leads down: a room's every import stands above it in the map."""
    seen: set[str] = {"pyinfra"}
    for name, below in [*ALLOWED.items()]:
        assert below <= seen, name
        seen.add(name)
    assert seen - {"pyinfra"} == {room(path) for path in SOURCES if path.stem != "__init__"}


def test_only_the_host_room_knows_pyinfra_and_only_deploy_py_knows_the_host_room() -> None:
    assert {room(path) for path in SOURCES if "pyinfra" in imported(path)} == {"host", "deploy.py"}
    assert {room(path) for path in SOURCES if "host" in imported(path)} == {"deploy.py"}


def test_no_module_is_longer_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in SOURCES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}


TRACES = {
    # letters follow at once, so that this text and `/home/{account}` do not match themselves
    "a home or work directory": r"(?<![\w.])/(home|Users|work)/(?!(stackroom|you)\b)[a-z]\w+",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{20}",
}


@pytest.mark.parametrize("what", TRACES)
def test_the_tree_holds_no_trace_of_a_machine(what: str) -> None:
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    tracked = subprocess.run(
        [*listed, "--exclude-standard"], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    found = []
    for name in filter(None, tracked):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{name}: {match[0][:40]}" for match in re.finditer(TRACES[what], text)]
    assert found == []
