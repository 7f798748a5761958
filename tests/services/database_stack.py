"""A small live stack of databases: Postgres, RabbitMQ, a volume of keys, and who uses them.

Its Postgres runs as the R2R stack's does, with tables of the same shape. One container writes to it
all the time, with the password of the deploy; another runs once, as a deploy's one-shots do. It is
looked at by SQL and the files themselves, never through the code under test.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from cheap_repository import lay_repository
from data_services import image, run_in, sql
from live_stack import LABEL, REPOSITORY_PASSWORD, docker
from servers import credentials, restic_program

from ops.backup.run import back_up
from ops.settings.host import (
    FilesSource,
    HostConfig,
    PostgresSource,
    RabbitmqSource,
    Repository,
)

CONTENT = """
create extension vector;
create schema library;
create table library.documents (id int primary key, title text);
create table library.chunks (id uuid primary key default gen_random_uuid(), document_id int,
  text text, vec vector(16));
create table library.files (document_id int primary key, oid oid not null);
create table library.users (id int primary key, email text);
create table library.request_log (id bigserial primary key, at timestamptz default now());
insert into library.documents select g, 'Título ' || g from generate_series(1, 30) g;
insert into library.chunks (document_id, text, vec)
  select 1 + g % 30, md5(g::text),
         (select array_agg(sin(g * k)) from generate_series(1, 16) k)::vector
  from generate_series(1, 300) g;
insert into library.files select g, lo_from_bytea(0, repeat('page ' || g, 5000)::bytea)
  from generate_series(1, 30) g;
insert into library.users values (1, 'admin@example.com'), (2, 'bob@example.com');
"""
SPOIL = """
select lo_unlink(oid) from library.files where document_id < 20;
delete from library.files where document_id < 20;
delete from library.documents where id < 20;
update library.chunks set vec = (select array_agg(0.5) from generate_series(1, 16))::vector;
alter table library.users add column spoilt int;
"""
# everything but what the writer writes
DATA = """
select md5(string_agg(t, '' order by t)) from (
  select d::text from library.documents d union all
  select c::text from library.chunks c union all
  select u::text from library.users u union all
  select f.document_id || md5(lo_get(f.oid)) from library.files f) all_of_it (t)"""
QUEUES = {
    "vhosts": [{"name": "/"}],
    "queues": [
        {"name": f"queue-{n}", "vhost": "/", "durable": True, "auto_delete": False,
         "arguments": {}} for n in range(5)
    ],
}  # fmt: skip


class DatabaseStack:
    """`folder` holds the credentials, the repository and the base of the backups."""

    def __init__(self, folder: Path, *, broker: bool = False) -> None:
        self.name = f"database-test-{secrets.token_hex(4)}"
        self.folder = folder
        self.password = secrets.token_urlsafe(24)  # the deploy's
        self.postgres, self.writer = f"{self.name}-postgres", f"{self.name}-writer"
        self.broker = f"{self.name}-rabbitmq" if broker else ""
        self.once, self.keys = f"{self.name}-once", f"{self.name}-keys"
        self.credentials = credentials(folder / "credentials", password=REPOSITORY_PASSWORD)
        lay_repository(restic_program(), folder / "local", REPOSITORY_PASSWORD)
        data = [f"library.{name}" for name in ("documents", "chunks", "files")]
        sources = [
            PostgresSource(
                name="postgres",
                container=self.postgres,
                user="r2r",
                data=data,
                volume=self.postgres,
                containers=[self.writer],
            ),
            FilesSource(name="keys", volume=self.keys, deployed=True),
            *(
                [RabbitmqSource(name="rabbitmq", container=self.broker, volume=self.broker)]
                if broker
                else []
            ),
        ]
        self.config = HostConfig(
            environment=self.name,
            stack="r2r",
            stackroom="test",
            base=folder / "base",
            repositories=[Repository(name="local", url=str(folder / "local"))],
            sources=sources,
            start_order=[*([self.broker] if broker else []), self.postgres, self.writer],
            drill_image_pull=False,
            offsite_expected=False,
        )

    # -- what runs -------------------------------------------------------------------------------

    def up(self) -> None:
        label = ("--label", f"{LABEL}={self.name}")
        docker("network", "create", *label, self.name)
        for volume in filter(None, (self.postgres, self.keys, self.broker)):
            docker("volume", "create", *label, volume)
            os.chown(self.mounted(volume), 999, 999)
        run = ("run", "--detach", *label, "--network", self.name)
        closed = ("--user", "999:999", "--cap-drop", "ALL")
        # it was another one when the data were made, as after a change of the password
        environment = self._file("postgres.env", f"POSTGRES_PASSWORD={self.password}\n"
            "POSTGRES_USER=r2r\nPOSTGRES_DB=r2r\n")  # fmt: skip
        docker(
            *(*run, *closed, "--name", self.postgres, "--network-alias", "postgres"),
            *("--read-only", "--tmpfs", "/tmp:mode=1777"),
            *("--tmpfs", "/var/run/postgresql:mode=3777", "--env-file", environment),
            *("--mount", self._mount(self.postgres, "/var/lib/postgresql/data")),
            *("--stop-signal", "SIGINT", "--health-interval", "1s"),
            *("--health-cmd", "pg_isready --quiet --host=127.0.0.1", image("postgres")),
        )
        if self.broker:
            broker = self._file("rabbitmq.env", "RABBITMQ_DEFAULT_USER=queue\n"
                f"RABBITMQ_DEFAULT_PASS={self.password}\n")  # fmt: skip
            docker(
                *(*run, *closed, "--name", self.broker, "--hostname", "rabbitmq"),
                *("--env-file", broker, "--mount", self._mount(self.broker, "/var/lib/rabbitmq")),
                *("--health-interval", "2s", "--health-cmd"),
                *("rabbitmq-diagnostics -q check_port_listener 5672", image("rabbitmq")),
            )
        self.wait(self.postgres)
        sql(self.postgres, CONTENT, "r2r", "r2r")
        (self.mounted(self.keys) / "server.yaml").write_text("keys: of-the-first-day\n")
        insert = "insert into library.request_log default values"
        login = self._file("writer.env", f"PGPASSWORD={self.password}\nPGHOST=postgres\n"
            "PGUSER=r2r\nPGDATABASE=r2r\n")  # fmt: skip
        docker(
            *(*run, *closed, "--name", self.writer, "--env-file", login, "--entrypoint", "sh"),
            *("--mount", self._mount(self.keys, "/keys"), "--health-interval", "1s"),
            *("--health-cmd", "psql -qc 'select 1'", "--stop-signal", "SIGKILL"),
            *(image("postgres"), "-c", f"while :; do psql -qc '{insert}'; sleep 0.2; done"),
        )
        docker(
            *("run", *label, "--name", self.once, "--entrypoint", "true"),
            *("--mount", self._mount(self.keys, "/keys"), image("postgres")),
        )
        for container in filter(None, (self.writer, self.broker)):
            self.wait(container)
        if self.broker:
            run_in(self.broker, "sh", "-c", "cat > /tmp/set", stdin=json.dumps(QUEUES))
            run_in(self.broker, "rabbitmqctl", "-q", "import_definitions", "/tmp/set")

    def _file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return str(path)

    def _mount(self, volume: str, target: str) -> str:
        return f"type=volume,src={volume},dst={target},volume-nocopy"

    def wait(self, container: str) -> None:
        limit = time.monotonic() + 180
        while docker("inspect", "--format", "{{.State.Health.Status}}", container) != "healthy":
            assert time.monotonic() < limit, docker("logs", container)
            time.sleep(0.2)

    def down(self) -> None:
        """Remove what bears this stack's label, and what a killed test's rehearsals have left."""
        for label in (f"{LABEL}={self.name}", f"stackroom.owner={self.name}"):
            by = ("--filter", f"label={label}")
            for listed, removed in (
                (("ps", "--all", "--quiet"), ("rm", "--force", "--volumes")),
                (("volume", "ls", "--quiet"), ("volume", "rm", "--force")),
                (("network", "ls", "--quiet"), ("network", "rm")),
            ):
                for found in docker(*listed, *by).split():
                    docker(*removed, found, check=False)

    # -- what it holds ---------------------------------------------------------------------------

    def mounted(self, volume: str) -> Path:
        return Path(docker("volume", "inspect", "--format", "{{.Mountpoint}}", volume))

    def sql(self, statements: str) -> str:
        return sql(self.postgres, statements, "r2r", "r2r")

    def data(self) -> tuple[str, str]:
        """A sum of all rows and large objects, and the keys."""
        return self.sql(DATA), (self.mounted(self.keys) / "server.yaml").read_text()

    def spoil(self) -> None:
        self.sql(SPOIL)
        (self.mounted(self.keys) / "server.yaml").write_text("keys: of a bad day\n")

    def writes(self) -> bool:
        """Whether the writer, with the deploy's password, gets a row in."""
        before = self.sql("select max(id) from library.request_log")
        limit = time.monotonic() + 30
        while self.sql("select max(id) from library.request_log") == before:
            if time.monotonic() > limit:
                return False
            time.sleep(0.2)
        return True

    def back_up(self) -> str:
        record = back_up(self.config, self.credentials)
        assert record.outcome == "ok", record.error
        return record.run

    def kept(self) -> list[str]:
        """What lies beside the live data."""
        return sorted(
            path.name
            for volume in filter(None, (self.postgres, self.keys, self.broker))
            for path in self.mounted(volume).parent.iterdir()
            if path.name.startswith("_data.")
        )


@contextlib.contextmanager
def database_stack(folder: Path, *, broker: bool = False) -> Iterator[DatabaseStack]:
    """A stack with data in it, removed at the end."""
    stack = DatabaseStack(folder, broker=broker)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def copy_of(folder: Path, name: str) -> Path:
    """A folder's copy beside it, all of it as it is."""
    target = folder.with_name(name)
    subprocess.run(["cp", "-a", folder, target], check=True)
    return target
