"""What the models of the settings have in common: forms of text, and how strictly they read."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


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
EnvironmentName = Annotated[
    str, matching(r"[A-Z][A-Z0-9_]*", "the name of an environment variable")
]


def _pinned_image(text: str) -> str:
    tag = r":(?!latest$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
    if text and not re.fullmatch(rf"[a-z0-9][a-z0-9._:/-]*({tag}|@sha256:[0-9a-f]{{64}})", text):
        raise ValueError("must be an image pinned by a tag other than latest, or by its digest")
    return text


_DOMAIN = r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}"

Domain = Annotated[str, matching(f"|{_DOMAIN}", "a domain name such as knowledge.example.com")]
Email = Annotated[
    str, matching(rf"|[A-Za-z0-9._%+-]+@{_DOMAIN}", "an address such as ops@example.com")
]
Image = Annotated[str, AfterValidator(_pinned_image)]
Port = Annotated[int, Field(ge=1, le=65535)]
Size = Annotated[str, matching(r"[1-9][0-9]*[MG]", 'a size such as "512M" or "2G"')]
