"""What a stack itself knows developers by: Qdrant's tokens, or R2R's users. One seam for both.

The rest of this room is about the host, which is the same below every stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from pydantic import SecretStr

from ops.clients.ssh import Remote
from ops.developers.audit_words import Difference, Row, Visit
from ops.developers.probe import Probe
from ops.developers.qdrant import QdrantAccounts
from ops.developers.r2r.accounts import R2RAccounts
from ops.developers.reality import Reality
from ops.settings import Developer, Environment, Settings


class Accounts(Protocol):
    """`noun`: what one is called. `two_at_once`: a new one beside the old one, until --finish.
    `parts`: of a Reality, what tells of them by name. `file`: of a kit, what holds the secret."""

    noun: str
    two_at_once: bool
    parts: tuple[str, ...]
    file: str

    # from the inventory alone

    def secret(self, settings: Settings, name: str, /) -> SecretStr:
        """What the person shows. Raises SettingsError for somebody who can have none."""
        ...

    def may(self, settings: Settings, one: Developer, /) -> str:
        """What the file lets somebody with collections do, in words."""
        ...

    def effects(self, before: Environment, after: Environment, name: str, /) -> Iterator[str]:
        """What a change of the file does to them, in sentences."""
        ...

    # from what the host really is

    def collections(self, settings: Settings, reality: Reality, name: str, /) -> tuple[str, ...]:
        """What a developer of the file really reaches; ("?",) where that is not known."""
        ...

    def rights(self, settings: Settings, reality: Reality, name: str, /) -> str: ...

    def seen(self, reality: Reality, name: str, /) -> Visit: ...

    def differences(self, settings: Settings, reality: Reality, /) -> Iterator[Difference]:
        """Between the file and what the stack lets in."""
        ...

    def strangers(self, settings: Settings, reality: Reality, /) -> Iterator[Row]:
        """A row for each that the file does not have."""
        ...

    def traces(self, reality: Reality, name: str, /) -> list[str]:
        """What is there under a name, whoever is in the file; a line each."""
        ...

    def holds(self, developer: Developer, name: str, reality: Reality, /) -> bool:
        """Whether any of a developer's is there."""
        ...

    def gone(self, developer: Developer, name: str, reality: Reality, /) -> Iterator[Probe]:
        """The probes of a removal that the host's state answers."""
        ...

    # asked of the stack itself

    def ready(
        self, environment: Environment, name: str, remote: Remote, /, *, present: bool
    ) -> None:
        """Raise SettingsError where what a kit would hold is refused; `present`: it is in force
        already. Raises UnreachableError where the stack gives no answer."""
        ...

    def refused(
        self, environment: Environment, name: str, ids: Iterable[str], remote: Remote, /
    ) -> list[Probe]:
        """What these ids stand for, shown to the stack. `environment`: with the person in it."""
        ...

    def pending(self, environment: Environment, remote: Remote, /) -> list[str]:
        """What `settle` would do now, a sentence each."""
        ...

    def settle(
        self, environment: Environment, remote: Remote, on_step: Callable[[str, str], None], /
    ) -> list[str]:
        """Make them what the file says, as far as an apply to the host has not; what was done."""
        ...


def accounts_of(settings: Settings) -> Accounts:
    """Those of the stack of an environment."""
    return R2RAccounts() if settings.stack == "r2r" else QdrantAccounts()
