"""Who can reach what, from what the host really is; and where that is not what the file says.

Pure: an environment and a Reality in, rows and differences out. A part of the host that could not
be read is told as unknown; it is never taken for what one hopes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from ops.developers import audit_logins, audit_sources
from ops.developers.accounts import accounts_of
from ops.developers.audit_words import Difference, Row, people
from ops.developers.reality import Reality
from ops.settings import Environment

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
        *accounts_of(settings).differences(settings, reality),
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
    known = accounts_of(settings)
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
                collections=("*",) if operator else known.collections(settings, reality, name),
                rights="operator" if operator else known.rights(settings, reality, name),
                expires=None if operator else settings.developers[name].expires,
                seen=None if operator else known.seen(reality, name),
            )
    yield from audit_sources.strangers(environment, reality, doors)
    yield from audit_logins.strangers(environment, reality)
    yield from known.strangers(settings, reality)
