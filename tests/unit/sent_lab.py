"""What holds for every script that is sent to a host: its imports, and what a bare one answers."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def foreign(module: Any, python: tuple[int, int], parts: tuple[Any, ...]) -> set[str]:
    """What a part imports besides the standard library and the other parts.

    Raises SyntaxError for what that Python cannot read.
    """
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"), feature_version=python)
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
        elif isinstance(node, ast.Import):
            imported |= {each.name for each in node.names}
    imported -= {part.__name__ for part in parts}
    return {name.split(".")[0] for name in imported} - sys.stdlib_module_names


def on_a_bare_machine(program: str, path: Path, *words: str) -> dict[str, Any]:
    """The facts that a script brings from where PATH, an empty folder, has no tool at all."""
    done = subprocess.run(
        # -S: a host has none of our own modules to fall back on
        [sys.executable, "-I", "-S", "-", *words],
        input=program.replace(":/usr/local/sbin:/usr/sbin:/sbin", ""),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PATH": str(path)},
    )
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts
