"""A file as it should stand on the host, and the one Jinja environment."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RenderedFile:
    """One file on the host: absolute path, content, mode, numeric owner; `secret` hides diffs."""

    path: str
    content: str
    mode: int = 0o644
    uid: int = 0
    secret: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()


@cache
def _jinja() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - configuration files, never HTML
    )


def render(template: str, **values: Any) -> str:
    """A template below templates/, rendered. An undefined name raises jinja2.UndefinedError."""
    return _jinja().get_template(template).render(**values)


def read_compose(name: str) -> str:
    """A compose file below compose/, as it is: compose files are never rendered."""
    return (ROOT / "compose" / name).read_text(encoding="utf-8")
