"""The order of a run on the host, which the first step that fails ends."""

from __future__ import annotations

import ast

from ops.render.files import ROOT


def steps_of(script: str) -> list[str]:
    """The functions that a script calls, line by line."""
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    calls = [line.value for line in tree.body if isinstance(line, ast.Expr)]
    return [
        call.func.id
        for call in calls
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    ]


def test_tokens_end_first_and_begin_last() -> None:
    """A package that is not to be had, or a process that does not end, keeps no token alive."""
    assert steps_of("ops/host/onboard.py") == [
        *("refuse_lockout", "revocations", "people", "packages", "access", "grants", "place")
    ]
    every = steps_of("deploy.py")
    assert every[:3] == ["refuse_lockout", "revocations", "base"]
    assert every.index("people") < every.index("access") < every.index("docker")
    assert every.index("stack") < every.index("grants")
