"""Collects the databases of a Postgres, by the programs in its own container. Changes nothing.

What is set outside of the databases (postgresql.conf, pg_hba.conf, ALTER SYSTEM) is not in it.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from ops.backup.manifest import Item, PostgresDatabase, PostgresFacts
from ops.backup.postgres_sample import take
from ops.backup.sink import Sink
from ops.backup.source import Collected, Event, Tell
from ops.clients.docker import image_and_digest
from ops.clients.postgres import Postgres
from ops.errors import BackupError, ServiceError
from ops.settings.host import PostgresSource

ATTEMPTS = 3  # at a database whose tables come and go while they are being locked
_TELL_BYTES = 8 * 1024 * 1024


class PostgresCollector:
    """A dump of each database and one of what they share: roles with their passwords' hashes.

    Rows are counted, vectors and large objects sampled, in the very snapshot that is dumped: all of
    it agrees exactly, whatever is written meanwhile. Every dump is read to its end by pg_restore
    before it counts as one.
    """

    def __init__(self, config: PostgresSource, *, timeout: float = 12 * 3600.0) -> None:
        self._config = config
        self._timeout = timeout  # seconds, for each dump
        self._postgres = Postgres(config.container, config.user)
        self.name = config.name

    def expected_bytes(self) -> int:
        """The size of the databases; a dump has no indexes, and is smaller."""
        image_and_digest(self._config.container)
        return sum(self._wanted().values())

    def _wanted(self) -> dict[str, int]:
        """The databases to dump with their sizes. Raises ServiceError where one is not there."""
        there = self._postgres.databases()
        missing = sorted(set(self._config.databases) - set(there))
        if missing:
            raise ServiceError(
                f"{self.name}: {self._config.container} has no database {missing[0]}",
                f"docker exec {self._config.container} psql -U {self._config.user} --list",
            )
        return {
            name: size
            for name, size in there.items()
            if not self._config.databases or name in self._config.databases
        }

    def collect(self, staging: Path, tell: Tell) -> Collected:
        """Write `<name>/globals.sql` and `<name>/<database>.dump`, names percent-encoded.

        Raises UnreachableError where the container does not run, ServiceError where the server
        or a program refuses, BackupError for a dump that cannot be read back.
        """
        image, digest = image_and_digest(self._config.container)
        version = self._postgres.version()
        wanted = self._wanted()
        globals_path = f"{self.name}/globals.sql"
        tell(Event("collect", globals_path))
        with Sink(staging, globals_path) as sink:
            self._postgres.dump_globals(sink.write, timeout=self._timeout)
        items, databases = [sink.item()], []
        for name, size in wanted.items():
            if collected := self._database(staging, name, size, tell):
                items.append(collected[0])
                databases.append(collected[1])
        return Collected(
            items=items,
            facts=PostgresFacts(
                version=version,
                image=image,
                digest=digest,
                globals=globals_path,
                databases=databases,
            ),
        )

    def _database(
        self, staging: Path, name: str, size: int, tell: Tell
    ) -> tuple[Item, PostgresDatabase] | None:
        """None where it was dropped meanwhile, and nobody had asked for it by name."""
        path = f"{self.name}/{quote(name, safe='')}.dump"
        tell(Event("collect", path))
        for attempt in range(1, ATTEMPTS + 1):
            sink = Sink(staging, path)
            try:
                facts = self._dump(sink, name, path, size, tell)
                break
            except ServiceError:
                if not self._config.databases and name not in self._postgres.databases():
                    return None
                # once bytes have come, every table was locked: what fails then is no race
                if sink.size or attempt == ATTEMPTS:
                    raise
        self._check(staging / path, name, facts)
        return sink.item(), facts

    def _dump(self, sink: Sink, name: str, path: str, size: int, tell: Tell) -> PostgresDatabase:
        told = 0

        def write(piece: bytes) -> None:
            nonlocal told
            sink.write(piece)
            if sink.size >= told + _TELL_BYTES:
                told = sink.size
                tell(Event("collect", path, sink.size, max(size, sink.size)))

        with self._postgres.snapshot(name, timeout=self._timeout) as snapshot:
            content = snapshot.content()
            sample = take(snapshot)
            with sink:
                self._postgres.dump(name, snapshot.id, write, timeout=self._timeout)
        return PostgresDatabase(
            name=name,
            item=path,
            rows={table: (count, count) for table, count in content.rows.items()},
            large_objects=(content.large_objects, content.large_objects),
            vectors=sample.vectors,
            object_sums=sample.object_sums,
        )

    def _check(self, dump: Path, name: str, facts: PostgresDatabase) -> None:
        """Let pg_restore list it and read it to the end. Raises BackupError."""
        try:
            listed = self._postgres.table_of_contents(dump)
            self._postgres.read_through(dump, timeout=self._timeout)
        except ServiceError as error:
            dump.unlink(missing_ok=True)
            raise BackupError(
                f"{self.name}: the dump of {name} cannot be read back: {error.message}",
                error.hint,
            ) from None
        data = sum(" TABLE DATA " in line for line in listed)
        if data < len(facts.rows):
            dump.unlink(missing_ok=True)
            raise BackupError(
                f"{self.name}: the dump of {name} has the rows of {data} tables, and"
                f" {len(facts.rows)} are there"
            )
