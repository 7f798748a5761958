"""What a developer's token opens, and the value that it is looked up by: pure, from the inventory.

Rights are signed into the token, so a token of other rights must not outlive them: what Qdrant
looks for names the rights, too, and a token whose rights are no longer the file's is not found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from ops.settings.model import Settings
from ops.settings.people import Developer

# the least that does it: "prw" writes points, and neither indexes nor snapshots like "rw"
RIGHTS = {"read": "r", "write": "prw"}
DIGITS = 16  # of a SHA-256 in hex: to tell rights apart, nothing to guess


def rules(settings: Settings, developer: Developer) -> list[dict[str, str]]:
    """The `access` claim: a rule for each name that may be asked for."""
    return [
        {"collection": name, "access": RIGHTS[developer.access]}
        for name in reachable_names(settings, developer.collections)
    ]


def value_of(settings: Settings, developer: Developer, token_id: str) -> str:
    """What a token with that id is looked up by: the id, a dot, and a digest of its rights.

    Rights are the last day and the rules, whatever the order in which they are written.
    """
    end = developer.ends()
    signed = {
        "exp": int(end.timestamp()) if end else None,
        "access": sorted(rules(settings, developer), key=lambda rule: rule["collection"]),
    }
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"))
    return f"{token_id}.{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"


def values_in_force(settings: Settings) -> dict[str, tuple[str, str]]:
    """What the tokens that are to work are looked up by: the value and the developer, by id."""
    return {
        token: (value_of(settings, developer, token), name)
        for name, developer in settings.current_developers().items()
        for token in (developer.token, developer.retiring)
        if token
    }


def id_of(value: str) -> str:
    """The token's id in what it is looked up by."""
    return value.partition(".")[0]


def reachable_names(settings: Settings, named: Iterable[str]) -> list[str]:
    """The collections and aliases a person named, and each one's declared aliases; no name twice.

    Qdrant looks for a rule under the name that was asked for, so an alias needs one of its own;
    whoever was given an alias alone does not get the collection behind it.
    """
    names: list[str] = []
    for name in named:
        declared = settings.collections.get(name)
        names += [name, *(declared.aliases if declared else [])]
    return list(dict.fromkeys(names))
