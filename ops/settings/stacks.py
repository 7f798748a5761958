"""Which verbs are about one of the stacks alone."""

from __future__ import annotations

from ops.errors import SettingsError


def need_qdrant(what: str, environment: str, stack: str) -> None:
    """Raises SettingsError where the environment runs another stack."""
    if stack != "qdrant":
        raise SettingsError(
            f'{what} is about Qdrant, and {environment} runs stack = "{stack}": it has none',
            f"backup run, drill and restore run are for its data: stackroom -e {environment} ...",
        )
