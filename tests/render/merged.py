"""A rendered compose project as Compose would see it: files merged, variables resolved.

The deploy tests ask the real `docker compose config` on the sandbox; this reads it without Docker.
"""

from __future__ import annotations

import io
import re
from typing import Any

import yaml
from dotenv import dotenv_values
from rendered import Rendered

REFERENCE = re.compile(r"\$\$|\$(?:\{(?P<name>[A-Z0-9_]+):\?\}|.?)")


def variables(rendered: Rendered) -> dict[str, str]:
    """What stands in `.env`, read by another library's parser."""
    values = dotenv_values(stream=io.StringIO(rendered.file(".env").content), interpolate=True)
    return {name: value or "" for name, value in values.items()}


def compose_texts(rendered: Rendered) -> dict[str, str]:
    """File name -> text of the compose files that `.env` names, in that order."""
    names = variables(rendered)["COMPOSE_FILE"].split(":")
    return {name: rendered.file(name).content for name in names}


def references(text: str) -> set[str]:
    """Names of the variables in a compose file. A `$` that is no `${NAME:?}` fails."""
    found = set()
    for match in REFERENCE.finditer(text):
        if match[0] != "$$":
            assert match["name"], f"{match[0]!r} is neither ${{NAME:?}} nor $$"
            found.add(match["name"])
    return found


def resolve(text: str, values: dict[str, str]) -> str:
    return REFERENCE.sub(lambda m: "$" if m[0] == "$$" else values[m["name"]], text)


def project(rendered: Rendered) -> dict[str, Any]:
    """The merged project. Mappings merge, lists append: all that these overlays need."""
    merged: dict[str, Any] = {}
    values = variables(rendered)
    for text in compose_texts(rendered).values():
        merged = _merge(merged, yaml.safe_load(resolve(text, values)))
    return merged


def _merge(left: Any, right: Any) -> Any:
    if isinstance(left, dict) and isinstance(right, dict):
        both = {key: _merge(left[key], right[key]) for key in left.keys() & right.keys()}
        return left | right | both
    if isinstance(left, list) and isinstance(right, list):
        return [*left, *right]
    return right
