"""What the models of the settings have in common: forms of text, and how strictly they read."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def matching(pattern: str, expected: str) -> AfterValidator:
    """A text of a form; the message says the form in words, never the pattern."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {expected}")
        return text

    return AfterValidator(check)


CollectionName = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}", "a name of letters, digits, _, . and -")
]
