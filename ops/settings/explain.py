"""A validation error as sentences: the file, the key, what was expected, the nearest right name."""

from __future__ import annotations

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ops.settings.model import Settings

SETTINGS_FILE = "settings.toml"
DEVELOPERS_FILE = "developers.toml"
SECRETS_FILE = "secrets.toml"
_FILE_OF = {
    "operators": DEVELOPERS_FILE,
    "developers": DEVELOPERS_FILE,
    "secrets": SECRETS_FILE,
}
# pydantic's kinds of error in a person's words; {...} comes from the error's context
_WORDS = {
    "missing": "is missing",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number, without quotes",
    "date_type": "must be a date such as 2027-02-19, without quotes",
    "string_type": "must be a text in quotes",
    "list_type": 'must be a list such as ["..."]',
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
}


def file_of(key: str) -> str:
    """The file that a top-level key belongs into."""
    return _FILE_OF.get(key, SETTINGS_FILE)


def explain(error: ValidationError, folder: Path, found_in: dict[str, str]) -> str:
    """One line per mistake. A secret's value is never repeated.

    `found_in` names the file in which each top-level key was written.
    """
    sentences = []
    for item in error.errors(include_input=False):
        # of a bad name in a table pydantic says that it was the key
        path = [str(part) for part in item["loc"] if part != "[key]"]
        # what was found between several values names their keys itself, a line for each mistake
        lines = words(item).splitlines() if not path else [" ".join([".".join(path), words(item)])]
        for line in lines:
            top = re.split(r"\W", line, maxsplit=1)[0]
            sentences.append(f"{folder / found_in.get(top, file_of(top))}: {line}")
    return "\n".join(dict.fromkeys(sentences))


def words(item: Any) -> str:
    """What is wrong with one value, as the end of a sentence that begins with its key."""
    kind, context = item["type"], item.get("ctx", {})
    path = [str(part) for part in item["loc"]]
    if kind == "extra_forbidden":
        return f"is not a key of Stackroom{_nearest(path)}"
    if kind == "missing" and path[:1] == ["secrets"]:
        return "is missing; stackroom init generates it"
    if kind == "too_short":
        # of the model's values only secrets are texts with a least length
        what = "characters" if path[:1] == ["secrets"] else "entry"
        return f"must have at least {context['min_length']} {what}"
    if kind in _WORDS:
        return _WORDS[kind].format(**context).replace("'", '"')
    return str(item["msg"]).removeprefix("Value error, ")


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
        model = model_in(here)
        field = model.model_fields.get(part) if model else None
        if field is None:
            return []
        here = field.annotation
    model = None if typing.get_origin(here) is dict else model_in(here)
    return sorted(model.model_fields) if model else []


def model_in(annotation: Any) -> Any:
    """The model that an annotation holds: itself, in a union, or as the values of a table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        for argument in reversed(typing.get_args(annotation)):
            found = model_in(argument)
            if found is not None:
                return found
    return None
