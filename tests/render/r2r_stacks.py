"""Rendered R2R stacks for the tests of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import stacks
import yaml
from settings_lab import R2R_PASSWORDS, SECRETS, settings_with

from ops.render.stack import render_stack
from ops.settings import Environment, Machine

GIVEN = {
    "provider_keys": {"MISTRAL_API_KEY": "canary-of-mistral", "UNUSED_KEY": "canary-unused"},
    "s3_access_key": "canary-s3-access",
    "s3_secret_key": "canary-s3-secret+/=",
    "smtp_password": 'canary $mail "#\\ word',
}
MODELS = {
    "chat": {"model": "mistral/mistral-large-latest", "key": "MISTRAL_API_KEY"},
    "text-embedding-3-team": {"model": "openai/bge", "api_base": "http://203.0.113.40:8000/v1"},
}
FULL: dict[str, Any] = {
    "files": {"provider": "s3", "bucket": "team", "region": "eu-central", "endpoint": "https://s3"},
    "smtp": {
        "server": "mail.example.com",
        "username": "kb@example.com",
        "sender": "kb@example.com",
        "verify_addresses": True,
    },
}
HOSTS = {"small": (7800, 2), "medium": (15600, 4), "high": (31700, 8)}


class Rendered(stacks.StackFiles):
    """The R2R stack of some settings, as Compose reads it."""

    def __init__(
        self,
        memory_mib: int = 15600,
        cpus: int = 4,
        *,
        edge: dict[str, Any] | None = None,
        litellm: dict[str, Any] | None = None,
        secrets: dict[str, Any] | None = None,
        **r2r: Any,
    ) -> None:
        own = R2R_PASSWORDS | GIVEN | (secrets or {})
        settings = settings_with(
            stack="r2r",
            r2r=r2r,
            edge=edge or {},
            litellm={"models": MODELS} | (litellm or {}),
            secrets=SECRETS | {"r2r": own},
        )
        environment = Environment(Path("/nowhere/team"), settings, Machine(stacks.ADDRESSES[0]))
        self.settings = settings
        self.stack = render_stack(environment, memory_mib, cpus)

    @property
    def litellm(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.text("litellm/config.yaml"))
        return found
