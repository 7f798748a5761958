"""A validation error as sentences: the file, the key, what was expected, the nearest right name."""

from __future__ import annotations

import difflib
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ops.settings.model import Settings

_TOP_LEVEL_FILE = {
    "operators": "developers.toml",
    "developers": "developers.toml",
    "secrets": "secrets.toml",
}


def explain(error: ValidationError, folder: Path) -> str:
    """One line per mistake. A secret's value is never repeated."""
    return "\n".join(_sentence(item, folder) for item in error.errors(include_input=False))


def _sentence(item: Any, folder: Path) -> str:
    path = [str(part) for part in item["loc"]]
    file = folder / _TOP_LEVEL_FILE.get(path[0] if path else "", "settings.toml")
    key = ".".join(path) or "settings"
    if item["type"] == "extra_forbidden":
        return f"{file}: {key} is not a key of Stackroom{_nearest(path)}"
    if item["type"] == "missing":
        return f"{file}: {key} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] != "value_error":
        message = message[0].lower() + message[1:]
    return (
        f"{file}: {key} {message}" if item["type"] == "value_error" else f"{file}: {key}: {message}"
    )


def _nearest(path: list[str]) -> str:
    known = _fields_at(path[:-1])
    close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {'.'.join([*path[:-1], close[0]])}?"
    return f"; known here: {', '.join(sorted(known))}" if known else ""


def _fields_at(path: list[str]) -> list[str]:
    """Fields of the model that `path` leads to; names in a table are walked through."""
    here: Any = Settings
    for part in path:
        if typing.get_origin(here) is dict:
            here = typing.get_args(here)[1]
            continue
        model = _model_in(here)
        field = model.model_fields.get(part) if model else None
        if field is None:
            return []
        here = field.annotation
    model = None if typing.get_origin(here) is dict else _model_in(here)
    return sorted(model.model_fields) if model else []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        for argument in reversed(typing.get_args(annotation)):
            found = _model_in(argument)
            if found is not None:
                return found
    return None
