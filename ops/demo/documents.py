"""Markdown cut at its headings, each section a point with a vector that needs no model."""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DIMENSIONS = 1024
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(?P<title>.+?)(\s+#+)?\s*$")
_FENCE = re.compile(r"^ {0,3}(?P<mark>`{3,}|~{3,})(?P<language>.*)$")
_WORD = re.compile(r"[a-z0-9][a-z0-9_-]+")
_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122, for URLs
_STOP_WORDS = frozenset(
    (  # noqa: SIM905 - words read better as a sentence
        "the and for that with this from are was not but you your its into has have one which what"
        " when who how than then them they it is in of to on or as at by be an if so no do"
    ).split()
)


@dataclass(frozen=True)
class Section:
    """One heading and the text below it, up to the next heading.

    `occurrence` counts, from 1, the sections of the file that bear this title.
    """

    file: str
    title: str
    text: str
    occurrence: int = 1

    @property
    def point_id(self) -> str:
        """The same section gets the same id in every run, so loading twice adds nothing."""
        again = f"-{self.occurrence}" if self.occurrence > 1 else ""
        return str(uuid.uuid5(_NAMESPACE, f"{self.file}#{self.title}{again}"))


def cut(file: str, markdown: str) -> Iterator[Section]:
    """The sections of a Markdown text that have any; headings in code fences do not count."""
    seen = Counter[str]()
    for title, lines in _headed(markdown):
        text = "\n".join(lines).strip()
        if text:
            seen[title] += 1
            yield Section(file, title, text, seen[title])


def _headed(markdown: str) -> Iterator[tuple[str, list[str]]]:
    """Each heading's title (first "") with the lines below it."""
    title, lines, fence = "", list[str](), ""
    for line in markdown.splitlines():
        mark = _FENCE.match(line)
        if not fence:
            fence = mark["mark"] if mark else ""
        elif mark and mark["mark"].startswith(fence) and not mark["language"].strip():
            fence = ""
        heading = None if fence else _HEADING.match(line)
        if heading:
            yield title, lines
            title, lines = heading["title"], []
        else:
            lines.append(line)
    yield title, lines


def sections(root: Path) -> list[Section]:
    """The sections of this project's own README and docs."""
    files = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [
        section
        for file in files
        if file.is_file()
        for section in cut(str(file.relative_to(root)), file.read_text(encoding="utf-8"))
    ]


def vector(text: str) -> list[float]:
    """A hashed bag of words: 1024 floats of unit length (all zero for a text without words).

    Feature hashing (Weinberger et al., 2009): each word adds to the dimension its hash names, with
    the hash's sign, weighted 1 + log(count). The same text gives the same vector everywhere.
    """
    values = [0.0] * DIMENSIONS
    words = (word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS)
    for word, count in Counter(words).items():
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        index = int.from_bytes(digest[:4], "big") % DIMENSIONS
        values[index] += (1 if digest[4] & 1 else -1) * (1 + math.log(count))
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values] if length else values


def point(section: Section, at: datetime) -> dict[str, Any]:
    """A section as a point of `knowledge_library`, with the payload its indexes expect."""
    stamp = at.astimezone(UTC).isoformat(timespec="seconds")
    folder = section.file.rsplit("/", 1)[0] if "/" in section.file else "project"
    return {
        "id": section.point_id,
        # the title says what a section is about: it counts three times
        "vector": vector(f"{section.title} {section.title} {section.title} {section.text}"),
        "payload": {
            "content_type": "markdown",
            "taxonomy": {
                "full_path": f"{folder}/{section.title}",
                "level1": folder,
                "level2": section.title,
            },
            "file_path": section.file,
            "content_hash": hashlib.sha256(section.text.encode()).hexdigest(),
            "classification": {"confidence": 1.0},
            "created_at": stamp,
            "updated_at": stamp,
            "text": section.text,
        },
    }
