"""A Postgres's data built anew: a throw-away server takes the globals and every dump.

It is of the manifest's image, so the volume it leaves is one that the live service can open.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ops.backup.manifest import Facts, PostgresDatabase, PostgresFacts, VectorColumn
from ops.backup.postgres_sample import Sample, same_answers, take_again
from ops.backup.source import Event, Tell
from ops.clients.docker import Scratch
from ops.clients.postgres import Content, Postgres
from ops.errors import BackupError, UnprovenError
from ops.restore.rehearsal import Comparison
from ops.restore.throwaway import data_folder, local_image, serve
from ops.settings.host import PostgresSource

PGDATA = "/var/lib/postgresql/data"
SLOWEST = 1_000_000  # bytes a second that a restore makes at least, indexes included
# a parallel build of a vector index takes as much of it as maintenance_work_mem says
SHARED_MEMORY = "1g"


def patience(size: int) -> float:
    """Seconds that the restore of so many bytes of dump may take."""
    return 600 + size / SLOWEST


class PostgresRehearsal:
    """The counterpart of PostgresCollector."""

    def __init__(self, config: PostgresSource) -> None:
        self._config = config

    def rehearse(
        self, backup: Path, facts: Facts, scratch: Scratch, volume: str, tell: Tell
    ) -> list[Comparison]:
        """See Rehearsal.rehearse."""
        if not isinstance(facts, PostgresFacts):
            raise TypeError(f"a Postgres cannot be rebuilt from {facts.kind}")
        name = self._config.name
        with self._serve(facts, scratch, volume) as server:
            found = server.version()
            if _major(found) < _major(facts.version):
                raise UnprovenError(
                    f"{name} was a Postgres {facts.version}, and {facts.image} is now {found}",
                    f"docker pull {facts.digest or facts.image}",
                )
            comparisons = [
                Comparison(
                    f"{name}: version",
                    facts.version,
                    found,
                    _major(found) == _major(facts.version),
                )
            ]
            tell(Event("rebuild", facts.globals))
            server.run(self._globals(backup / facts.globals), timeout=600)
            for database in facts.databases:
                comparisons += self._rebuild(server, backup, database, tell)
            # a dump has no statistics, and a restore must not start a slow service
            server.run("analyze; checkpoint;", timeout=3600)
        return comparisons

    def _rebuild(
        self, server: Postgres, backup: Path, database: PostgresDatabase, tell: Tell
    ) -> list[Comparison]:
        dump = backup / database.item
        seconds = patience(dump.stat().st_size)
        tell(Event("rebuild", database.item))
        promised = {
            match[1]
            for line in server.table_of_contents(dump)
            if (match := re.fullmatch(r"\d+; \d+ \d+ EXTENSION - (.+?) ?", line))
        }
        server.restore(dump, replace=database.name in server.databases(), timeout=seconds)
        server.run("analyze", database.name, timeout=seconds)
        tell(Event("compare", database.item))
        with server.snapshot(database.name, timeout=seconds) as snapshot:
            content = snapshot.content()
            sample = take_again(snapshot, database)
        subject = f"{self._config.name}/{database.name}"
        return [
            *compare(subject, database, promised, content, self._shown()),
            *compare_samples(subject, database, sample),
        ]

    def _shown(self) -> list[str]:
        return [*(self._config.data or ()), *self._config.shown]

    def _globals(self, path: Path) -> str:
        """The roles' SQL without the making of the superuser, who is there from the start."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BackupError(f"{path} cannot be read: {error}") from None
        user = self._config.user
        quoted = '"{}"'.format(user.replace('"', '""'))
        there = {f"CREATE ROLE {user};", f"CREATE ROLE {quoted};"}
        kept = [line for line in lines if line not in there]
        if not any(
            line.startswith("-- PostgreSQL database cluster dump complete") for line in kept
        ):
            raise BackupError(f"{path} ends too early: it is not all that pg_dumpall had to say")
        # the password of the throw-away must not outlive it where the role had none
        return "\n".join([f"ALTER ROLE {quoted} PASSWORD NULL;", *kept, ""])

    @contextlib.contextmanager
    def _serve(self, facts: PostgresFacts, scratch: Scratch, volume: str) -> Iterator[Postgres]:
        image = local_image(facts.image, facts.digest)
        folder = data_folder(image, "PGDATA", PGDATA)
        # with a password given, an image makes a folder that asks everyone on the network for one
        descriptor, environment = tempfile.mkstemp(prefix="stackroom-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(
                    f"POSTGRES_PASSWORD={secrets.token_hex(32)}\n"
                    f"POSTGRES_USER={self._config.user}\nPOSTGRES_DB=postgres\n"
                )
            options = [
                *("--env-file", environment, "--shm-size", SHARED_MEMORY),
                *("--mount", f"type=volume,src={volume},dst={folder}"),
            ]

            def ready(container: str) -> bool:
                return Postgres(container, self._config.user).is_ready()

            with serve(scratch, self._config.name, image, options=options, ready=ready) as running:
                yield Postgres(running, self._config.user)
        finally:
            Path(environment).unlink()


def compare(
    subject: str,
    promised: PostgresDatabase,
    extensions: set[str],
    found: Content,
    shown: Sequence[str] = (),
) -> list[Comparison]:
    """One comparison for all tables that are as promised, one for each that is not, and one for
    each of those to be shown in any case."""
    differing = [
        Comparison(
            f"{subject}: rows of {table}",
            _range(promised.rows[table]),
            str(found.rows.get(table, "no such table")),
            False,
        )
        for table in sorted(promised.rows)
        if not _within(found.rows.get(table), promised.rows[table])
    ]
    lacking = extensions - set(found.extensions)
    return [
        Comparison(
            f"{subject}: tables with their exact rows",
            str(len(promised.rows)),
            str(len(promised.rows) - len(differing)),
            not differing,
        ),
        *differing,
        *(
            Comparison(
                f"{subject}: rows of {table}",
                _range(promised.rows[table]),
                str(found.rows[table]),
                True,
            )
            for table in shown
            if table in promised.rows and _within(found.rows.get(table), promised.rows[table])
        ),
        Comparison(
            f"{subject}: large objects",
            _range(promised.large_objects),
            str(found.large_objects),
            _within(found.large_objects, promised.large_objects),
        ),
        Comparison(
            f"{subject}: extensions",
            ", ".join(sorted(extensions)) or "none",
            ", ".join(sorted(extensions - lacking)) or "none",
            not lacking,
        ),
    ]


def compare_samples(subject: str, promised: PostgresDatabase, found: Sample) -> list[Comparison]:
    """The sampled vectors and the searches of each column, and the sampled large objects."""
    there = {column.name: column for column in found.vectors}
    comparisons = []
    for column in promised.vectors:
        rebuilt = there.get(column.name, VectorColumn(name=column.name, sums={}, nearest={}))
        same = sum(rebuilt.sums.get(key) == value for key, value in column.sums.items())
        comparisons.append(
            _count(f"{subject}: sampled vectors of {column.name}", column.sums, same)
        )
        if column.nearest:
            right = same_answers(column, rebuilt)
            comparisons.append(
                Comparison(
                    f"{subject}: nearest by {column.name}, {len(column.nearest)} exact searches",
                    "as in the backup",
                    "as in the backup" if right else "others",
                    right,
                )
            )
    if promised.object_sums:
        same = sum(found.object_sums.get(n) == value for n, value in promised.object_sums.items())
        what = f"{subject}: sampled large objects"
        comparisons.append(_count(what, promised.object_sums, same))
    return comparisons


def _count(subject: str, promised: Mapping[str, str], same: int) -> Comparison:
    return Comparison(subject, str(len(promised)), str(same), same == len(promised))


def _within(found: int | None, promised: tuple[int, int]) -> bool:
    return found is not None and min(promised) <= found <= max(promised)


def _range(promised: tuple[int, int]) -> str:
    low, high = min(promised), max(promised)
    return str(low) if low == high else f"{low} to {high}"


def _major(version: str) -> int:
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0
