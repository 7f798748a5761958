"""The least that settings need, for tests that are about something else."""

from __future__ import annotations

from datetime import date
from typing import Any

from ops.settings import Settings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna"
SECRETS = dict.fromkeys(("qdrant_api_key", "api_token", "restic_password"), "k" * 32)
ANNA = {"addresses": ["203.0.113.20"], "keys": [KEY]}


def settings_with(**fields: Any) -> Settings:
    """Of an operator, anna, and `fields`, as in the files."""
    return Settings.model_validate({"operators": {"anna": ANNA}, "secrets": SECRETS} | fields)


def readers(**developers: dict[str, Any]) -> Settings:
    """With the collections a and b, and with developers who may read a until long after."""
    people = {
        name: {"addresses": [f"198.51.100.{at}"], "collections": ["a"], "expires": date(2990, 1, 1)}
        | more
        for at, (name, more) in enumerate(developers.items())
    }
    collections = {name: {"vector": {"size": 4}} for name in "ab"}
    return settings_with(collections=collections, developers=people)
