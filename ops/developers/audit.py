"""Who can reach what, from what the host really is; and where that is not what the file says.

Pure: an environment and a Reality in, rows and differences out. A part of the host that could not
be read is told as unknown; it is never taken for what one hopes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from ops.developers import audit_logins, audit_sources
from ops.developers.audit_words import Difference, Row, Visit, absent, people
from ops.developers.reality import Reality
from ops.settings import Environment, Settings
from ops.settings.rights import id_of, reachable_names, values_in_force

IN_STEP, UNKNOWN, DIFFERENT = 0, 3, 2

__all__ = ["Audit", "Difference", "Row", "audit"]


@dataclass(frozen=True)
class Audit:
    """`unknown`: what could not be read on the host, part -> reason."""

    environment: str
    at: datetime  # aware, UTC
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    unknown: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """0 in step, 2 where file and host differ, 3 where that could not be seen in whole."""
        return DIFFERENT if self.differences else UNKNOWN if self.unknown else IN_STEP

    def about_others(self, name: str) -> list[Difference]:
        """The differences that are not about this person: whoever acts for them has to stop."""
        return [each for each in self.differences if each.person != name]


def audit(environment: Environment, reality: Reality, now: datetime) -> Audit:
    """Rows of who can reach what, and each difference, in both directions. `now` is aware."""
    settings = environment.settings
    doors = audit_sources.doors_now(environment, reality)
    differences = [
        *audit_sources.differences(environment, reality, doors),
        *audit_logins.differences(environment, reality, now),
        *_token_differences(settings, reality),
        *_key_differences(settings, reality),
    ]
    return Audit(
        environment.name,
        now,
        tuple(_rows(environment, reality, doors)),
        tuple(dict.fromkeys(differences)),
        reality.unknown,
    )


def _rows(
    environment: Environment, reality: Reality, doors: list[audit_sources.Door] | None
) -> Iterator[Row]:
    settings = environment.settings
    accounts = audit_logins.accounts_by_person(environment, reality)
    listed = list(people(settings))
    everywhere = [address for _, addresses in listed for address in addresses]
    reached = audit_sources.reached(doors, everywhere)
    for name, addresses in listed:
        operator = name in settings.operators
        for source in addresses:
            yield Row(
                who=name,
                source=source,
                ports=reached[source],
                account="?" if accounts is None else ", ".join(accounts.get(name, ())),
                collections=("*",) if operator else _collections(settings, reality, name),
                rights="operator" if operator else _rights(settings, reality, name),
                expires=None if operator else settings.developers[name].expires,
                seen=None if operator else _seen(reality, name),
            )
    yield from audit_sources.strangers(environment, reality, doors)
    yield from audit_logins.strangers(environment, reality)
    yield from _stray_tokens(settings, reality)


def _live(settings: Settings, reality: Reality, name: str) -> bool | None:
    """Whether Qdrant honours a token of that name; None where its rights are not known."""
    if reality.tokens is None:
        return None
    mine = [token.id for token in reality.tokens if token.developer == name]
    expected = values_in_force(settings)
    changed = [each for each in mine if id_of(each) in expected]
    if any(expected[id_of(each)][0] != each for each in changed):
        return None
    return bool(mine)


def _collections(settings: Settings, reality: Reality, name: str) -> tuple[str, ...]:
    live = _live(settings, reality, name)
    if live is None:
        return ("?",)
    return tuple(reachable_names(settings, settings.developers[name].collections)) if live else ()


def _rights(settings: Settings, reality: Reality, name: str) -> str:
    live = _live(settings, reality, name)
    return "?" if live is None else settings.developers[name].access if live else "no token"


def _seen(reality: Reality, name: str) -> Visit:
    if reality.seen is None:
        return Visit(None, known=False)
    found = reality.seen.subjects.get(name)
    return Visit(found.at if found else None, known=found is not None or reality.seen.whole)


def _token_differences(settings: Settings, reality: Reality) -> Iterator[Difference]:
    expected = dict(values_in_force(settings).values())
    if reality.tokens is None:
        return
    found = {token.id: token.developer for token in reality.tokens}
    ids = {id_of(value) for value in found}
    for value, name in found.items():
        what = f"the token {value[:8]}... is honoured"
        if value in expected:
            if expected[value] != name:
                text = f"the token {value[:8]}... stands under the name {name!r}"
                yield Difference(expected[value], text, True)
        elif owner := _owner(expected, value):
            yield Difference(owner, f"{what} with other rights than the file's", True)
        else:
            why = absent(settings, name)
            text = f"{what}, and {why}; what it opens is written in it alone"
            yield Difference(name, text, True)
    for value, name in expected.items():
        if value not in found and id_of(value) not in ids:
            yield Difference(name, f"the token {value[:8]}... is refused, and the file has it")


def _owner(expected: Mapping[str, str], value: str) -> str:
    """Whose token of that id is expected, with other rights; "" for nobody's."""
    known = (name for each, name in expected.items() if id_of(each) == id_of(value))
    return next(known, "")


def _key_differences(settings: Settings, reality: Reality) -> Iterator[Difference]:
    """Keys of Qdrant's own, with which nobody needs a token."""
    if reality.qdrant_keys is None:
        return
    if reality.qdrant_keys.get("read_only_api_key"):
        yield Difference("", "Qdrant has a read-only key for everything, and we set none", True)
    alternative = settings.secrets.qdrant_alt_api_key is not None
    if bool(reality.qdrant_keys.get("alt_api_key")) != alternative:
        text = "has none" if alternative else "has one, and the file does not"
        yield Difference("", f"of a second API key: Qdrant {text}", not alternative)


def _stray_tokens(settings: Settings, reality: Reality) -> Iterator[Row]:
    expected = set(values_in_force(settings))
    for token in reality.tokens or ():
        if id_of(token.id) not in expected:
            yield Row(
                who=token.developer or "?",
                source="any that is open",
                ports=(),
                account=f"token {token.id[:8]}...",
                collections=("?",),
                rights="?",
                seen=_seen(reality, token.developer),
                listed=False,
            )
