"""What an audit says: its rows and differences, and whom an address on the host belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime

from ops.render.firewall import Family
from ops.settings import Settings
from ops.settings.addresses import is_wide, overlap
from ops.settings.people import ACCOUNT_PREFIX


@dataclass(frozen=True)
class Visit:
    """The last request; `at` None: none. Not `known`: the log was not read, or not to its end."""

    at: datetime | None
    known: bool = True


@dataclass(frozen=True)
class Row:
    """One way in. `ports` None: not known. `collections`: ("*",) for all, ("?",) for not known.

    `listed`: whether the file has it; `account`: on the host, as which they come in over SSH.
    """

    who: str
    source: str
    ports: tuple[int, ...] | None
    account: str
    collections: tuple[str, ...] = ()
    rights: str = ""
    expires: date | None = None
    seen: Visit | None = None
    listed: bool = True


@dataclass(frozen=True)
class Difference:
    """Between file and host. `person`: whom it is about, "" for nobody that is known.

    `reaches`: somebody has more than the file says; else somebody listed lacks something.
    `applies`: a deploy makes it right; else it is a person's to do, on the host. `slight`: what
    they have opens nothing that is the team's.
    """

    person: str
    text: str
    reaches: bool = False
    applies: bool = True
    slight: bool = False


def people(settings: Settings) -> Iterator[tuple[str, list[str]]]:
    """Everybody in the file with their addresses, the expired too."""
    for name, operator in settings.operators.items():
        yield name, operator.addresses
    for name, developer in settings.developers.items():
        yield name, developer.addresses


def owners(settings: Settings, networks: Iterable[str]) -> list[str]:
    """Who in the file has an address in common with these networks."""
    told = list(networks)
    return [
        name
        for name, addresses in people(settings)
        # the whole internet has an address in common with everybody
        if any(
            one == other or (_is_narrow(one, other) and overlap(one, other))
            for one in addresses
            for other in told
        )
    ]


def _is_narrow(*networks: str) -> bool:
    return not any(is_wide(each) for each in networks)


def name_of(account: str) -> str:
    """The developer whose account it is, "" for another one."""
    return account.removeprefix(ACCOUNT_PREFIX) if account.startswith(ACCOUNT_PREFIX) else ""


def absent(settings: Settings, name: str) -> str:
    """Why somebody is to have nothing."""
    developer = settings.developers.get(name)
    if developer and developer.is_expired():
        return f"the last day of {name} was {developer.expires}"
    return "the file does not have it"


def source_in(rule: str, family: Family) -> str:
    """The range that a rule lets in, as it says it."""
    found = re.search(r"(?:^| )(! )?(?:-s|--src-range) (\S+)", rule)
    if not found:
        return "0.0.0.0/0" if family == "v4" else "::/0"
    return f"all but {found[2]}" if found[1] else found[2]
