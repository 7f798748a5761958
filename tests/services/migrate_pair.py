"""Two Qdrant servers to move between, and a run as the verb does it.

STACKROOM_QDRANT_URL and STACKROOM_QDRANT_API_KEY name a real one, and the same with _SECOND_ the
other; the first is both ends where there is no second. Else two stand-ins are started, which have
plain dense vectors only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrate_data import Rest, running_stand_in
from stand_in_process import StandIn

from ops.backup.source import Tell, silent
from ops.migrate.places import CAS, KEYS, End, opened, place
from ops.migrate.plan import Plan, Wish, make_plan
from ops.migrate.run import Job, carry_out
from ops.migrate.state import Migration, Store

REAL = os.environ.get("STACKROOM_QDRANT_URL", "")
SECOND = os.environ.get("STACKROOM_QDRANT_SECOND_URL", "")
PLAIN = ("unnamed", "dot", "named")


@dataclass
class Pair:
    """Both servers, and a folder for the state of migrations. `names` are dropped in the end."""

    source: Rest
    target: Rest
    state: Path
    inventory: Path
    process: StandIn | None = None  # of the target
    names: list[str] = field(default_factory=list)

    def new_name(self) -> str:
        self.names.append(f"migrate-{secrets.token_hex(6)}")
        return self.names[-1]

    def keys(self) -> dict[str, str]:
        """The variables that the verb takes the keys from."""
        return {KEYS["from"]: self.source.key, KEYS["to"]: self.target.key}

    @contextlib.contextmanager
    def ends(self, folder: Path | None = None) -> Iterator[tuple[Any, Any, Any]]:
        """Both sides, opened, and their places."""
        places = (
            place("from", str(folder or self.source.url), self.inventory),
            place("to", self.target.url, self.inventory),
        )
        with self._variables(), opened(places[0]) as one, opened(places[1]) as other:
            yield one, other, places

    def plan(self, wish: Wish, folder: Path | None = None) -> Plan:
        with self.ends(folder) as (one, other, places):
            return make_plan(one, other, places, wish)

    def prepared(
        self, names: Sequence[str], folder: Path | None = None, **wish: Any
    ) -> tuple[Store, Migration]:
        """A migration that was agreed to, of which nothing was done."""
        migration = self.plan(Wish(tuple(names), **wish), folder).migration()
        self.names += [each.target for each in migration.moves]
        store = Store(self.state / migration.id)
        store.create(migration)
        return store, migration

    def move(
        self, names: Sequence[str], folder: Path | None = None, tell: Tell = silent, **wish: Any
    ) -> tuple[Store, Migration]:
        """`stackroom migrate run --yes`."""
        store, _ = self.prepared(names, folder, **wish)
        self.go_on(store, folder, tell)
        return store, store.load()

    def go_on(
        self, store: Store, folder: Path | None = None, tell: Tell = silent, **how: Any
    ) -> None:
        """`stackroom migrate resume`."""
        with self.job(store, folder, tell, **how) as job:
            carry_out(job)

    @contextlib.contextmanager
    def job(
        self, store: Store, folder: Path | None = None, tell: Tell = silent, **how: Any
    ) -> Iterator[Job]:
        with self.ends(folder) as (one, other, _), store.held("a test"):
            yield Job(one, other, store, store.load(), tell=tell, **how)

    @contextlib.contextmanager
    def _variables(self) -> Iterator[None]:
        before = dict(os.environ)
        os.environ.update(self.keys())
        for end in CAS:
            os.environ.pop(CAS[end], None)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextlib.contextmanager
def make_pair(folder: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        process = None
        for name in ("a", "b"):
            (folder / name).mkdir()
        if REAL:
            source = Rest(REAL, os.environ["STACKROOM_QDRANT_API_KEY"])
            second = os.environ.get("STACKROOM_QDRANT_SECOND_API_KEY", source.key)
            target = Rest(SECOND or REAL, second)
        else:
            one, process = (
                stack.enter_context(running_stand_in(folder / name)) for name in ("a", "b")
            )
            source, target = Rest(one.url, one.key), Rest(process.url, process.key)
        pair = Pair(source, target, folder / "state", folder / "inventory", process)
        yield pair
        for each in pair.names:
            for server in (source, target):
                server.drop(each)


def points(rest: Rest, name: str) -> dict[Any, Any]:
    """Every point as the server gives it out, by id: read without a line of ours."""
    return {each["id"]: each for page in rest.scroll(name) for each in page}


__all__ = ["PLAIN", "REAL", "End", "Pair", "Wish", "make_pair", "points"]
