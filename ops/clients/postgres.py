"""A Postgres in a container, through the programs it brings along. Knows of no backup.

No password passes through here: the local socket of its container trusts whoever is inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.clients import pipes
from ops.clients.docker import docker
from ops.clients.pipes import Dialogue
from ops.errors import ServiceError

QUICK_SECONDS = 60.0
LOCK_SECONDS = 60  # a table that somebody holds for longer is not waited for
MAINTENANCE = "postgres"  # the database to ask about the others
_END = "stackroom-end-of-answer"
# what belongs to an extension comes with the extension, not with a dump
_TABLES = """
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and c.relpersistence <> 't'
  and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass
                  and d.objid = c.oid and d.deptype = 'e')
order by n.nspname, c.relname \\gexec
"""
_COUNTS = f"""\
select format('select json_build_array(%L, count(*)) from only %I.%I;',
              n.nspname || '.' || c.relname, n.nspname, c.relname)
{_TABLES}"""  # noqa: S608 - the server quotes the names
_FILLED = f"""\
select format('select to_json(%L::text) where exists (select from only %I.%I);',
              n.nspname || '.' || c.relname, n.nspname, c.relname)
{_TABLES}"""  # noqa: S608 - the server quotes the names


@dataclass(frozen=True)
class Content:
    """What a database holds: exact rows by "schema.table", large objects, extensions' versions."""

    rows: dict[str, int]
    large_objects: int
    extensions: dict[str, str]


class Postgres:
    """The server in `container`, as its superuser `user`."""

    def __init__(self, container: str, user: str) -> None:
        self.container = container
        self._user = user

    def command(self, program: str, *arguments: str, database: str = MAINTENANCE) -> list[str]:
        """A program with its connection. The database goes by the environment: as an argument
        its name might be read as a connection string."""
        return [
            *("env", "PGCLIENTENCODING=UTF8", f"PGDATABASE={database}", "PGAPPNAME=stackroom"),
            *(program, "--no-password", f"--username={self._user}", *arguments),
        ]

    def _psql(self, database: str) -> list[str]:
        quiet = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only")
        # terse: an error must not repeat the statement, which may hold a password's hash
        variables = ("--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse", "--set=SHOW_CONTEXT=never")
        return self.command("psql", *quiet, *variables, database=database)

    def run(self, sql: str, database: str = MAINTENANCE, *, timeout: float = QUICK_SECONDS) -> str:
        """What psql prints. Raises ServiceError where the server refuses, UnreachableError where
        it gives no answer."""
        command = self._psql(database)
        try:
            return docker("exec", "-i", self.container, *command, stdin=sql, timeout=timeout)
        except ServiceError as error:
            said = error.message.partition(": ")[2] or error.message
            raise ServiceError(
                f"psql in {self.container}: {said}", f"docker logs {self.container}"
            ) from None

    def ask(self, query: str, database: str = MAINTENANCE) -> Any:
        """The one JSON value of a query. Raises as `run`."""
        return json.loads(self.run(query, database))

    def version(self) -> str:
        """Such as "17.6"."""
        found: str = self.ask("select to_json(current_setting('server_version'))")
        return found.split()[0]

    def databases(self) -> dict[str, int]:
        """Every database that can be connected to, but the templates, with its size in bytes."""
        found: dict[str, int] = self.ask(
            "select coalesce(json_object_agg(datname, pg_database_size(oid)), '{}')"
            " from pg_database where datallowconn and not datistemplate"
        )
        return dict(sorted(found.items()))

    def filled(self, database: str) -> list[str]:
        """The tables that have rows, as "schema.table". Raises as `run`."""
        return [json.loads(line) for line in self.run(_FILLED, database).splitlines()]

    @contextmanager
    def snapshot(self, database: str, *, timeout: float) -> Iterator[Snapshot]:
        """A moment of a database that stays readable as it was, for as long as it is held."""
        with Dialogue(self.container, self._psql(database), timeout=timeout) as dialogue:
            yield Snapshot(dialogue)

    def dump(
        self,
        database: str,
        snapshot: str,
        write: Callable[[bytes], object],
        *,
        timeout: float,
    ) -> None:
        """pg_dump in the custom format, uncompressed: restic finds what is the same again.

        Raises ServiceError where pg_dump fails, UnreachableError after `timeout` seconds.
        """
        options = ("--format=custom", "--compress=0", f"--snapshot={snapshot}")
        lock = f"--lock-wait-timeout={LOCK_SECONDS * 1000}"
        command = self.command("pg_dump", *options, lock, database=database)
        pipes.pull(self.container, command, write, timeout=timeout)

    def dump_globals(self, write: Callable[[bytes], object], *, timeout: float) -> None:
        """Roles, their passwords' hashes and settings, as SQL. Tablespaces are left out: what is
        restored goes to the default one. Raises as `dump`."""
        command = self.command("pg_dumpall", "--globals-only", "--no-tablespaces")
        pipes.pull(self.container, command, write, timeout=timeout)

    def table_of_contents(self, dump: Path) -> list[str]:
        """The entries of a dump, as `pg_restore --list` prints them. Raises ServiceError for one
        that is none."""
        with dump.open("rb") as file:
            listed = pipes.push(
                self.container, ["pg_restore", "--list"], file, timeout=QUICK_SECONDS * 10
            )
        return [line for line in listed.splitlines() if line and not line.startswith(";")]

    def read_through(self, dump: Path, *, timeout: float) -> None:
        """Let pg_restore read a dump to its end: its table of contents stands at the front, and
        tells nothing of what is missing behind. Raises ServiceError."""
        with dump.open("rb") as file:
            command = ["pg_restore", "--file=/dev/null"]
            pipes.push(self.container, command, file, timeout=timeout)

    def restore(self, dump: Path, *, replace: bool, timeout: float) -> None:
        """Make the dump's database with its owner, rights and settings, and fill it.

        `replace` drops one of that name first. Raises ServiceError at the first thing refused.
        """
        drop = ("--clean", "--if-exists") if replace else ()
        command = [
            *("pg_restore", "--no-password", f"--username={self._user}", "--dbname=template1"),
            *("--create", *drop, "--exit-on-error", "--no-tablespaces"),
        ]
        with dump.open("rb") as file:
            pipes.push(self.container, command, file, timeout=timeout)

    def is_ready(self) -> bool:
        """Whether it takes connections over TCP: while an image sets up a new folder, its
        temporary server listens on the socket alone."""
        try:
            docker("exec", self.container, "pg_isready", "--quiet", "--host=127.0.0.1")
        except ServiceError:
            return False
        return True


class Snapshot:
    """A moment of a database. `id` is for pg_dump, so that a dump and a count agree exactly."""

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        (self.id,) = self.ask(
            "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0;\n"
            f"set lock_timeout = '{LOCK_SECONDS}s'; set row_security = off;\n"
            "begin isolation level repeatable read read only; select pg_export_snapshot();"
        )

    def content(self) -> Content:
        """Counted row by row. Raises ServiceError where a table is locked or gone."""
        rows = [json.loads(line) for line in self.ask(_COUNTS)]
        (large,) = self.ask("select count(*) from pg_largeobject_metadata;")
        (extensions,) = self.ask(
            "select coalesce(json_object_agg(extname, extversion), '{}') from pg_extension;"
        )
        return Content(
            rows=dict(rows),
            large_objects=int(large),
            extensions=json.loads(extensions),
        )

    def ask(self, sql: str) -> list[str]:
        """What psql prints of statements, line by line. Raises ServiceError."""
        return self._dialogue.ask(f"{sql}\n\\echo {_END}\n", _END)
