"""The one line above an answer that says it all."""

from __future__ import annotations

from collections.abc import Sequence

CHARACTERS = 79


def first_line(head: str, names: Sequence[str]) -> str:
    """`head: name, name and 2 more`, as many names as fit; `head` alone where none does."""
    for shown in range(len(names), 0, -1):
        rest = f" and {len(names) - shown} more" if shown < len(names) else ""
        line = f"{head}: {', '.join(names[:shown])}{rest}"
        if len(line) <= CHARACTERS:
            return line
    return head
