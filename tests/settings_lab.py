"""The least that settings need, for tests that are about something else."""

from __future__ import annotations

from datetime import date
from typing import Any

from ops.settings import Settings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna"
SECRETS = dict.fromkeys(("qdrant_api_key", "api_token", "restic_password"), "k" * 32)
R2R_PASSWORDS = {
    "secret_key": "canary-secret-key-0123456789abcdefghijk",
    "admin_password": "canary-admin-0123456789abcdefghijklmno",
    "postgres_password": "canary-postgres-0123456789abcdefghijkl",
    "hatchet_postgres_password": "canary-queue-0123456789abcdefghijklmnop",
    "hatchet_admin_password": "canary-hatchet-0123456789abcdefghijklm",
    "rabbitmq_password": "canary-rabbit-0123456789abcdefghijklmno",
    "litellm_master_key": "sk-canary-litellm-0123456789abcdefghij",
}
# settings.toml of the R2R stack, but for its orchestration
R2R_SETTINGS = """\
stack = "r2r"

[litellm.models.chat]
model = "openai/answers"

[litellm.models.text-embedding-3-team]
model = "openai/bge"

[r2r]
project = "library"
"""
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
