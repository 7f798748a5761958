"""Who may reach an environment: operators and developers, each with addresses, keys and rights.

The checks are about what the file says, never about today: a file does not break overnight.
"""

from __future__ import annotations

import difflib
import itertools
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ops.settings.addresses import check_address, check_width, is_wide, overlap, short
from ops.settings.forms import CollectionName, Model, matching
from ops.settings.keys import blob_of, check_public_key

# the collection with the ids of the tokens that are in force; nobody may declare one of that name
ACCESS_COLLECTION = "stackroom_access"
# an account on the host is called dev-<name>, and Linux takes 32 characters
ACCOUNT_PREFIX = "dev-"


def _token_id(text: str) -> str:
    try:
        token = uuid.UUID(text)
    except ValueError:
        token = uuid.UUID(int=0)
    if text and (token.version != 4 or str(token) != text):
        raise ValueError("must be the id of a token (a random UUID); the verbs write it")
    return text


AnyAddress = Annotated[str, AfterValidator(check_address)]
Address = Annotated[AnyAddress, AfterValidator(check_width)]
PublicKey = Annotated[str, AfterValidator(check_public_key)]
TokenId = Annotated[str, AfterValidator(_token_id)]
UserName = Annotated[
    str, matching(r"[a-z][a-z0-9_-]{0,30}", "a name of a-z, 0-9, - and _, 31 characters at most")
]
DeveloperName = Annotated[
    str, matching(r"[a-z][a-z0-9_-]{0,27}", "a name of a-z, 0-9, - and _, 28 characters at most")
]


class Person(Model):
    """Somebody who may reach the host: where from, and with which SSH keys."""

    addresses: list[AnyAddress] = Field(min_length=1)
    keys: list[PublicKey] = []


class Operator(Person):
    """Somebody who changes the machine."""

    addresses: list[Address] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_a_key(self) -> Operator:
        if not self.keys:
            raise ValueError("has no key; an operator logs in over SSH")
        return self


class Developer(Person):
    """Somebody who uses the services: from these addresses, with these rights, until that day."""

    access: Literal["read", "write"] = "read"
    collections: list[CollectionName] = []
    # the last day, UTC; nothing of this person works after it
    expires: Annotated[date, Field(le=date(9998, 12, 31))] | None = None
    # ids of the live token and of the one before it: what is listed works. No secrets.
    token: TokenId = ""
    retiring: TokenId = ""
    anywhere: bool = False
    shares_address: bool = False

    @model_validator(mode="after")
    def _says_it_where_it_is_wide(self) -> Developer:
        for address in self.addresses:
            if is_wide(address) and not self.anywhere:
                raise ValueError(
                    f"lists {address}, which is too much of the internet: list the addresses they"
                    " work from, or say anywhere = true (opens the edge only, never SSH)"
                )
        return self

    @model_validator(mode="after")
    def _token_fits(self) -> Developer:
        if self.collections and self.expires is None:
            raise ValueError(
                "has collections, so a token, but no last day: add one, such as"
                " expires = 2027-02-19"
            )
        if len(set(self.collections)) < len(self.collections):
            raise ValueError("names a collection twice")
        if (self.token or self.retiring) and not self.collections:
            raise ValueError(
                "has a token but no collections: take out token and retiring, and it is revoked"
            )
        if self.retiring and not self.token:
            raise ValueError("has a retiring token but no live one: call it token")
        return self

    def ends(self) -> datetime | None:
        """The midnight (UTC) after the last day; None for somebody without one."""
        if self.expires is None:
            return None
        return datetime.combine(self.expires + timedelta(days=1), time(), UTC)

    def is_expired(self, now: datetime | None = None) -> bool:
        """Whether the last day has passed. `now` is aware; the clock's time where not given."""
        end = self.ends()
        return end is not None and (now or datetime.now(UTC)) >= end


def mistakes(
    operators: Mapping[str, Operator],
    developers: Mapping[str, Developer],
    collections: Iterable[str] | None,
) -> Iterator[str]:
    """What is wrong between people, and with the collections and aliases they name; sentences.

    `collections`: those that are declared; None for a stack that declares none.
    """
    declared = None if collections is None else sorted(collections)
    for name, developer in developers.items():
        if name in operators:
            yield f"developers.{name}: there is an operator of that name; one of them needs another"
        for wanted in developer.collections:
            if declared is not None and wanted not in declared:
                yield f"developers.{name}.collections: {_unknown(wanted, declared)}"
    people: list[tuple[str, Person]] = [
        (f"operators.{name}", person) for name, person in operators.items()
    ]
    people += [(f"developers.{name}", person) for name, person in developers.items()]
    for (one, first), (other, second) in itertools.combinations(people, 2):
        if {blob_of(key) for key in first.keys} & {blob_of(key) for key in second.keys}:
            yield f"{other}.keys: has a key of {one}; one key is one person's"
        yield from _shared_addresses(one, first, other, second)
    yield from _repeated_tokens(developers)


def _unknown(wanted: str, declared: list[str]) -> str:
    close = difflib.get_close_matches(wanted, declared, cutoff=0.5)
    if close:
        return f"{wanted} is not declared in settings.toml; did you mean {' or '.join(close)}?"
    known = f"declared: {', '.join(declared)}" if declared else "none is declared"
    return f"{wanted} is not declared in settings.toml ({known})"


def _shared_addresses(one: str, first: Person, other: str, second: Person) -> Iterator[str]:
    """Whoever shares an address keeps it open for the other one, who may have been removed.

    Operators among themselves may sit in one office; nothing proves their removal.
    """
    developers = [person for person in (first, second) if isinstance(person, Developer)]
    if not developers or any(person.shares_address for person in developers):
        return
    for ours, theirs in itertools.product(second.addresses, first.addresses):
        # the whole internet holds everybody's address, and `anywhere` has said so
        if overlap(ours, theirs) and not (is_wide(ours) or is_wide(theirs)):
            yield (
                f"{other}.addresses: {short(ours)} overlaps {short(theirs)} of {one};"
                " where they share it, say shares_address = true (--shared)"
            )


def _repeated_tokens(developers: Mapping[str, Developer]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name, developer in developers.items():
        for key in ("token", "retiring"):
            token = getattr(developer, key)
            if token and token in seen:
                yield (
                    f"developers.{name}.{key}: is {seen[token]}, too;"
                    f" take it out, and stackroom developer rotate {name}"
                )
            seen.setdefault(token, f"developers.{name}.{key}")
