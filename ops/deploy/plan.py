"""What a deploy would change, found without changing anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ops.clients.ssh import Remote
from ops.deploy.embeddings import refuse_other_vectors
from ops.deploy.passwords import refuse_changed
from ops.deploy.pyinfra import Part, failure, run_pyinfra
from ops.errors import DeployError
from ops.settings import Environment


@dataclass(frozen=True)
class Plan:
    """The steps that would change something, the number that would not, and diffs if asked for."""

    changes: tuple[str, ...]
    unchanged: int
    diff: str = ""

    @property
    def is_clean(self) -> bool:
        return not self.changes

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "clean": self.is_clean,
            "changes": list(self.changes),
            "unchanged": self.unchanged,
            "diff": self.diff,
        }


def make_plan(
    environment: Environment,
    *,
    part: Part = "all",
    diff: bool = False,
    force_lockout: bool = False,
) -> Plan:
    """Compare the machine with the inventory, or just who gets in (`part` "people").

    Raises UnreachableError without a login, DeployError where preflight or a template fails, a
    service there keeps another password than the inventory's, or vectors are another model's.
    """
    options = ["--dry", "--json", *(["--diff"] if diff else [])]
    data = {"force_lockout": "1"} if force_lockout else {}
    finished = run_pyinfra(environment, *options, part=part, data=data)
    if finished.returncode != 0:
        raise failure(environment, finished)
    try:
        steps = json.loads(finished.stdout)["plan"]
    except (ValueError, KeyError):
        raise DeployError("pyinfra printed no plan", finished.log[-500:]) from None
    if part == "all":
        refuse_changed(environment, Remote(environment))
        refuse_other_vectors(environment, Remote(environment))
    changes = tuple(step["name"] for step in steps if step["hosts_with_change"])
    return Plan(changes, len(steps) - len(changes), _only_diffs(finished.log) if diff else "")


def _only_diffs(log: str) -> str:
    marks = ("--- ", "+++ ", "@@", "+", "-", " ")
    kept = []
    inside = False
    for line in log.splitlines():
        if line.startswith("--- "):
            inside = True
        elif line.startswith(("-->", "    Loading", "    [")) or not line.startswith(marks):
            inside = False
        if inside:
            kept.append(line)
    return "\n".join(kept)
