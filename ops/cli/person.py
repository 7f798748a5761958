"""One developer of the file in words and as JSON. Pure; ids of tokens are no secrets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rich.table import Table
from rich.text import Text

from ops.developers.accounts import accounts_of
from ops.settings import Developer, Environment, Settings
from ops.settings.addresses import short

NEAR = timedelta(days=14)


def listed(settings: Settings) -> Table:
    """A row for each person."""
    noun = accounts_of(settings).noun
    columns = ("who", "addresses", "keys", "access", "collections", "until", noun)
    table = Table(*columns, box=None, pad_edge=False)
    for name, one in settings.developers.items():
        cells = (
            name,
            ", ".join(short(each) for each in one.addresses),
            str(len(one.keys)),
            one.access if one.collections and settings.stack == "qdrant" else "",
            ", ".join(one.collections),
            until(one),
            token_state(one),
        )
        table.add_row(*(Text(each, overflow="fold") for each in cells))
    return table


def document(one: Developer) -> dict[str, Any]:
    return {
        **one.model_dump(mode="json"),
        "expired": one.is_expired(),
        "near": _is_near(one),
    }


def _is_near(one: Developer) -> bool:
    end = one.ends()
    return end is not None and not one.is_expired() and end - datetime.now(UTC) <= NEAR


def until(one: Developer) -> str:
    if one.expires is None:
        return ""
    state = " EXPIRED" if one.is_expired() else " soon" if _is_near(one) else ""
    return f"{one.expires}{state}"


def token_state(one: Developer) -> str:
    if not one.collections:
        return "none"
    if not one.token:
        return "not made yet"
    return "two: --finish" if one.retiring else "one"


def may(environment: Environment, one: Developer) -> str:
    accounts = accounts_of(environment.settings)
    if not one.collections:
        return f"reach the edge and the tunnels; no {accounts.noun}"
    return accounts.may(environment.settings, one)


def key_name(key: str) -> str:
    """A public key as a person knows it: its comment, else its kind."""
    kind, _, *comment = key.split(" ", 2)
    return comment[0] if comment else kind
