"""A real Postgres is collected while it is used, and built anew in a throw-away one."""

from __future__ import annotations

import hashlib
import re
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from data_services import image, postgres, run_in, sql

from ops.backup.manifest import PostgresFacts, VectorColumn
from ops.backup.postgres import PostgresCollector
from ops.backup.source import Collected, Event, silent
from ops.clients import pipes
from ops.clients.docker import SCRATCH_LABEL, Scratch, docker
from ops.clients.postgres import Postgres
from ops.errors import BackupError, ServiceError, UnprovenError, UnreachableError
from ops.restore.postgres import PostgresRehearsal
from ops.settings.host import PostgresSource

pytestmark = pytest.mark.services

LIBRARY = 'größe "1"/../x'  # a database, by a name that no path and no shell should see
SETUP = """
create role librarian login password 'canary-librarian' connection limit 7;
create role reader nologin;
grant reader to librarian;
create database "größe ""1""/../x" owner librarian;
create database empty;
create database "postgres://other" owner reader;
alter database empty set work_mem = '7MB';
alter role librarian set search_path = shelf, public;
create table public.in_the_default_database (id int);
insert into in_the_default_database select generate_series(1, 3);
"""
CONTENT = """
create extension vector;
create extension pg_trgm;
create schema shelf authorization librarian;
set role librarian;
create type shelf.kind as enum ('Buch', 'журнал');
create table shelf.authors (id serial primary key, name text not null unique);
create table shelf.books (
  id bigint generated always as identity primary key,
  author int not null references shelf.authors,
  kind shelf.kind, title text, cover oid, embedding vector(3));
create table shelf."odd.name ""x"" y" (line text);
create table shelf.parts (day date not null, n int) partition by range (day);
create table shelf.parts_2026 partition of shelf.parts
  for values from ('2026-01-01') to ('2027-01-01');
create unlogged table shelf.cache (k text);
create materialized view shelf.titles as select title from shelf.books with no data;
create function shelf.add(a int, b int) returns int language sql as 'select a + b';
insert into shelf.authors (name) select 'Ünïcödé ' || g from generate_series(1, 100) g;
insert into shelf.books (author, kind, title, cover, embedding)
  select 1 + g % 100, 'журнал', repeat(md5(g::text), 20), lo_from_bytea(0, ('cover ' || g)::bytea),
         array[g, g * 2, 0.5]::vector from generate_series(1, 2000) g;
insert into shelf."odd.name ""x"" y" values (E'tab\\tline\\n\\\\.');
insert into shelf.parts select '2026-05-01', g from generate_series(1, 50) g;
create index on shelf.books using hnsw (embedding vector_l2_ops);
grant select on shelf.books to reader;
"""
LARGE_OBJECTS = """
select md5(string_agg(convert_from(lo_get(oid), 'UTF8'), ',' order by oid))
from pg_largeobject_metadata"""
SUM = "select md5(embedding::text) from shelf.books b where row(b.id)::text = 'KEY'"
NEAREST = """
set enable_indexscan = off;
select string_agg(id::text, ' ') from (
  select b.id from shelf.books b, shelf.books own where row(own.id)::text = 'KEY'
  order by b.embedding <-> own.embedding, b.id limit 5) nearest"""
BOOKS = "select md5(string_agg(b::text, ',' order by id)) from shelf.books b"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A Postgres with several databases, roles, large objects and vectors."""
    with postgres() as name:
        sql(name, SETUP)
        sql(name, CONTENT, LIBRARY)
        yield name


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    with Scratch("postgres", owner="tests") as made:
        yield made


@pytest.fixture(scope="module")
def backup(server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Collected]:
    staging = tmp_path_factory.mktemp("staging")
    return staging, PostgresCollector(source(server)).collect(staging, silent)


def source(container: str, **more: object) -> PostgresSource:
    return PostgresSource.model_validate({"name": "db", "container": container, **more})


def facts_of(collected: Collected) -> PostgresFacts:
    assert isinstance(collected.facts, PostgresFacts)
    return collected.facts


def rehearse(
    staging: Path, facts: PostgresFacts, scratch: Scratch, **more: object
) -> tuple[dict[str, bool], str]:
    volume = scratch.volume("db")
    found = PostgresRehearsal(source("", **more)).rehearse(staging, facts, scratch, volume, silent)
    return {one.subject: one.ok for one in found}, volume


def wait_until_ready(container: str) -> None:
    deadline = time.monotonic() + 120
    while not Postgres(container, "postgres").is_ready():
        assert time.monotonic() < deadline, docker("logs", container)
        time.sleep(0.2)


# collecting -----------------------------------------------------------------------------------


def test_every_database_but_the_templates_is_dumped(backup: tuple[Path, Collected]) -> None:
    staging, collected = backup
    facts = facts_of(collected)
    assert [database.name for database in facts.databases] == sorted(
        ["empty", LIBRARY, "postgres", "postgres://other"]
    )
    assert re.fullmatch(r"17\.\d+", facts.version)
    assert facts.image == image("postgres") and facts.digest
    written = {path for path in staging.rglob("*") if path.is_file()}
    assert written == {staging / item.path for item in collected.items}
    for item in collected.items:
        content = (staging / item.path).read_bytes()
        assert (item.size, item.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert stat.S_IMODE((staging / item.path).stat().st_mode) == 0o600
        assert Path(item.path).parts[0] == "db" and len(Path(item.path).parts) == 2


def test_the_counts_are_those_of_the_server(server: str, backup: tuple[Path, Collected]) -> None:
    found = {database.name: database for database in facts_of(backup[1]).databases}
    assert found[LIBRARY].rows == {
        "shelf.authors": (100, 100),
        "shelf.books": (2000, 2000),
        'shelf.odd.name "x" y': (1, 1),
        "shelf.parts_2026": (50, 50),
        "shelf.cache": (0, 0),
    }
    assert found[LIBRARY].large_objects == (2000, 2000)
    assert found["postgres"].rows == {"public.in_the_default_database": (3, 3)}
    assert found["empty"].rows == {}
    assert PostgresCollector(source(server)).expected_bytes() > 10_000_000


def test_vectors_searches_and_large_objects_are_sampled_as_the_server_has_them(
    server: str, backup: tuple[Path, Collected]
) -> None:
    library = next(one for one in facts_of(backup[1]).databases if one.name == LIBRARY)
    (column,) = library.vectors
    assert column.name == "shelf.books.embedding"
    assert (len(column.sums), len(column.nearest)) == (20, 3)
    for key, summed in column.sums.items():
        asked = SUM.replace("KEY", key)
        assert sql(server, asked, LIBRARY) == summed
    for key, answers in column.nearest.items():
        asked = NEAREST.replace("KEY", key)
        found = {row.strip("()") for row, _ in answers}
        assert found == set(sql(server, asked, LIBRARY).split()) and answers[0] == (key, 0.0)
    assert len(library.object_sums) == 10
    for oid, summed in library.object_sums.items():
        assert sql(server, f"select md5(lo_get({oid}))", LIBRARY) == summed


def test_one_database_can_be_asked_for_by_name(server: str, tmp_path: Path) -> None:
    collector = PostgresCollector(source(server, databases=["empty"]))
    assert [d.name for d in facts_of(collector.collect(tmp_path, silent)).databases] == ["empty"]
    with pytest.raises(ServiceError, match="has no database absent"):
        PostgresCollector(source(server, databases=["absent"])).expected_bytes()


def test_counts_agree_with_the_dump_while_rows_come_and_go(
    server: str, tmp_path: Path, scratch: Scratch
) -> None:
    """The counts are made in the snapshot that is dumped: exact, not a range."""
    sql(server, "create database busy")
    sql(server, "create table t (n int); insert into t select generate_series(1, 9)", "busy")
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            sql(server, "insert into t select generate_series(1, 50); delete from t where random()"
                " < 0.3; create table if not exists u (n int); drop table u", "busy")  # fmt: skip

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.5)
        collected = PostgresCollector(source(server, databases=["busy"])).collect(tmp_path, silent)
    finally:
        stop.set()
        writer.join()
        sql(server, "drop database busy")
    facts = facts_of(collected)
    low, high = facts.databases[0].rows["public.t"]
    assert low == high > 0
    assert set(rehearse(tmp_path, facts, scratch)[0].values()) == {True}


def test_a_database_that_is_dropped_meanwhile_is_left_out(server: str, tmp_path: Path) -> None:
    sql(server, "create database passing")

    def tell(event: Event) -> None:
        if event.item == "db/passing.dump":
            sql(server, "drop database passing")

    collected = PostgresCollector(source(server)).collect(tmp_path, tell)
    names = [database.name for database in facts_of(collected).databases]
    assert LIBRARY in names and "passing" not in names
    assert not (tmp_path / "db" / "passing.dump").exists()

    sql(server, "create database passing")
    with pytest.raises(ServiceError, match='"passing" does not exist'):
        PostgresCollector(source(server, databases=["passing"])).collect(tmp_path / "2", tell)


def test_no_password_is_asked_for_or_given(server: str, tmp_path: Path) -> None:
    """Every docker command that runs meanwhile is looked at."""
    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            listed = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True)
            seen.update(line for line in listed.stdout.splitlines() if server in line)

    watcher = threading.Thread(target=watch)
    watcher.start()
    PostgresCollector(source(server)).collect(tmp_path, silent)
    stop.set()
    watcher.join()
    assert any("pg_dump" in line for line in seen)
    for line in seen:
        assert "canary" not in line and "of-the-tests" not in line and "PGPASSWORD" not in line
        if any(program in line for program in ("psql", "pg_dump", "pg_dumpall")):
            assert "--no-password" in line


# failing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["absent", "stopped", "paused server"])
def test_a_server_that_is_down_is_told(state: str, tmp_path: Path) -> None:
    if state == "absent":
        with pytest.raises(UnreachableError, match="does not run"):
            PostgresCollector(source("stackroom-no-such")).expected_bytes()
        return
    with postgres() as name:
        if state == "stopped":
            docker("stop", name)
            expected: type[Exception] = UnreachableError
        else:
            run_in(name, "gosu", "postgres", "pg_ctl", "stop", "-m", "fast", "--no-wait")
            expected = (UnreachableError, ServiceError)  # type: ignore[assignment]
            time.sleep(2)
        with pytest.raises(expected):
            PostgresCollector(source(name)).expected_bytes()
        with pytest.raises(expected):
            PostgresCollector(source(name)).collect(tmp_path, silent)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def heavy() -> Iterator[str]:
    """One whose dump has many pieces: 120 MB."""
    with postgres() as name:
        sql(name, "create database heavy")
        sql(name, "create table t as select g, repeat('x', 1000) from generate_series(1, 120000) g",
            "heavy")  # fmt: skip
        yield name


@pytest.mark.parametrize("how", ["pg_dump", "docker exec", "backend", "container"])
def test_a_dump_that_is_killed_midway_is_an_error_and_leaves_nothing(
    how: str, heavy: str, tmp_path: Path
) -> None:
    def kill() -> None:
        if how == "pg_dump":
            run_in(heavy, "pkill", "-9", "-x", "pg_dump")
        elif how == "docker exec":
            found = subprocess.run(
                ["pgrep", "-f", f"docker exec {heavy} .*pg_dump"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            subprocess.run(["kill", "-9", *found.stdout.split()], check=True)
        elif how == "backend":
            sql(heavy, "select pg_terminate_backend(pid) from pg_stat_activity"
                " where query like 'COPY%'")  # fmt: skip
        else:
            docker("kill", heavy)

    killing: list[Future[None]] = []

    def tell(event: Event) -> None:
        if event.done > 20_000_000 and not killing:
            killing.append(pool.submit(kill))
        for killed in killing:
            # slowly, but it is read on: Docker tells of no command's end before all of what an
            # earlier one has printed was taken
            wait([killed], timeout=3)

    pool = ThreadPoolExecutor(1)
    try:
        with pytest.raises((ServiceError, UnreachableError)):
            PostgresCollector(source(heavy)).collect(tmp_path, tell)
        killing[0].result()
        assert [path.name for path in tmp_path.rglob("*.dump")] == []
        if how != "container":
            deadline = time.monotonic() + 20
            while run_in(heavy, "sh", "-c", "pgrep -x pg_dump || true"):
                assert time.monotonic() < deadline, "pg_dump goes on in the container"
                time.sleep(0.2)
            assert PostgresCollector(source(heavy)).collect(tmp_path / "next", silent).items
    finally:
        pool.shutdown()
        if how == "container":
            docker("wait", heavy)
            docker("start", heavy)
            wait_until_ready(heavy)


def test_a_dump_that_takes_too_long_is_ended(heavy: str, tmp_path: Path) -> None:
    slow = PostgresCollector(source(heavy, databases=["heavy"]), timeout=1.0)

    def tell(event: Event) -> None:
        if event.done:
            time.sleep(0.5)

    with pytest.raises(UnreachableError, match="did not end within 1 s"):
        slow.collect(tmp_path, tell)
    assert [path.name for path in tmp_path.rglob("*.dump")] == []


def test_a_table_that_is_locked_is_not_waited_for_forever(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.clients.postgres.LOCK_SECONDS", 1)
    sql(server, "create database locked")
    sql(server, "create table t ()", "locked")
    holding = subprocess.Popen(
        ["docker", "exec", "-i", server, "psql", "-X", "-q", "-U", "postgres", "-d", "locked"],
        stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holding.stdin is not None
    try:
        holding.stdin.write("begin; lock table t in access exclusive mode;\n")
        holding.stdin.flush()
        time.sleep(1)
        with pytest.raises(ServiceError, match="lock timeout"):
            PostgresCollector(source(server, databases=["locked"])).collect(tmp_path, silent)
    finally:
        holding.stdin.close()
        holding.wait()
        sql(server, "drop database locked")
    assert [path.name for path in tmp_path.rglob("*.dump")] == []


@pytest.mark.parametrize("part", [0.2, 0.9, 0.999])
def test_a_dump_that_lost_its_end_is_refused(
    part: float, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump ends well, and not all of what it wrote arrives: --list alone would not notice."""
    real = pipes.pull

    def losing(container: str, command: list[str], write: object, *, timeout: float) -> None:
        pieces: list[bytes] = []
        real(container, command, pieces.append, timeout=timeout)
        whole = b"".join(pieces)
        kept = int(len(whole) * part) if "pg_dump" in command else len(whole)
        write(whole[:kept])  # type: ignore[operator]

    monkeypatch.setattr(pipes, "pull", losing)
    with pytest.raises(BackupError, match="cannot be read back"):
        PostgresCollector(source(server, databases=[LIBRARY])).collect(tmp_path, silent)
    assert [path.name for path in tmp_path.rglob("*.dump")] == []


# rehearsing -----------------------------------------------------------------------------------


def test_what_is_built_anew_is_what_was_there(
    server: str, backup: tuple[Path, Collected], scratch: Scratch
) -> None:
    """The comparisons hold, and the volume they leave opens as a live Postgres with all in it."""
    staging, collected = backup
    found, volume = rehearse(staging, facts_of(collected), scratch)
    assert set(found.values()) == {True}
    assert {f"db/{LIBRARY}: large objects", "db/postgres: tables with their exact rows"} < set(
        found
    )
    assert (
        docker("ps", "--all", "--quiet", "--filter", f"label={SCRATCH_LABEL}={scratch.name}") == ""
    )
    mount = f"type=volume,src={volume},dst=/var/lib/postgresql/data"
    state = docker("run", "--rm", "--mount", mount, image("postgres"), "pg_controldata")
    assert re.search(r"cluster state: +shut down\n", state)
    live = scratch.start("live", image("postgres"), options=["--mount", mount])
    wait_until_ready(live)
    for query, database in (
        (LARGE_OBJECTS, LIBRARY),
        (BOOKS, LIBRARY),
        ('select line from shelf."odd.name ""x"" y"', LIBRARY),
        ("select shelf.add(1, 2)", LIBRARY),
        ("select id from shelf.books order by embedding <-> '[7.1,14.2,0.5]' limit 3", LIBRARY),
        ("select rolname, rolpassword, rolconnlimit, rolcanlogin from pg_authid order by 1",
         "postgres"),
        ("select roleid::regrole, member::regrole from pg_auth_members where roleid > 16000",
         "postgres"),
        ("select datname, datdba::regrole, pg_encoding_to_char(encoding), datcollate from"
         " pg_database order by 1", "postgres"),
        ("show work_mem", "empty"),
        ("select setdatabase = 0, setrole::regrole, setconfig from pg_db_role_setting order by 3",
         "postgres"),
        ("select relname, relowner::regrole, relacl from pg_class where relnamespace ="
         " 'shelf'::regnamespace order by 1", LIBRARY),
    ):  # fmt: skip
        assert sql(live, query, database) == sql(server, query, database), query
    # nobody gets in from the network without a password, and the tests' one is the live one's
    hba = run_in(live, "cat", "/var/lib/postgresql/data/pg_hba.conf")
    assert re.search(r"^host all all all scram-sha-256$", hba, re.MULTILINE)


def test_a_superuser_of_another_name(tmp_path: Path, scratch: Scratch) -> None:
    with postgres(user="hatchet-user") as name:
        sql(name, "create table t as select generate_series(1, 5)", "hatchet-user", "hatchet-user")
        described = source(name, user="hatchet-user")
        collected = PostgresCollector(described).collect(tmp_path, silent)
    facts = facts_of(collected)
    assert [database.name for database in facts.databases] == ["hatchet-user", "postgres"]
    found, _ = rehearse(tmp_path, facts, scratch, user="hatchet-user")
    assert set(found.values()) == {True}


def test_what_differs_is_told(backup: tuple[Path, Collected], scratch: Scratch) -> None:
    staging, collected = backup
    facts = facts_of(collected)
    library = next(one for one in facts.databases if one.name == LIBRARY)
    altered = library.model_copy(
        update={
            "rows": {**library.rows, "shelf.books": (2001, 2003), "shelf.gone": (1, 1),
                     "shelf.authors": (90, 120)},
            "large_objects": (1, 1),
            "vectors": [others(column) for column in library.vectors],
            "object_sums": {**library.object_sums, "1": "of one that is not there"},
        }
    )  # fmt: skip
    told = facts.model_copy(update={"databases": [altered]})
    found, _ = rehearse(staging, told, scratch, data=["shelf.authors", "shelf.books"])
    assert {subject.removeprefix(f"db/{LIBRARY}: ") for subject, ok in found.items() if not ok} == {
        "tables with their exact rows",
        "rows of shelf.books",
        "rows of shelf.gone",
        "large objects",
        "sampled vectors of shelf.books.embedding",
        "nearest by shelf.books.embedding, 3 exact searches",
        "sampled large objects",
    }
    # what is somebody's work is named with its count in any case
    assert found[f"db/{LIBRARY}: rows of shelf.authors"]


def others(column: VectorColumn) -> VectorColumn:
    """The same with another vector, and in another search a neighbour that is farther away."""
    key = next(iter(column.sums))
    searched = list(column.nearest)[-1]
    *near, (row, distance) = column.nearest[searched]
    return column.model_copy(
        update={
            "sums": {**column.sums, key: "another"},
            "nearest": {**column.nearest, searched: [*near, (row, distance + 0.01)]},
        }
    )


def test_a_row_less_in_the_dump_is_told(
    server: str, backup: tuple[Path, Collected], tmp_path: Path, scratch: Scratch
) -> None:
    """Another dump stands in the place of the one that was counted."""
    promised = facts_of(backup[1])
    sql(server, "delete from in_the_default_database where id = 3")
    try:
        collected = PostgresCollector(source(server, databases=["postgres"]))
        collected.collect(tmp_path, silent)
    finally:
        sql(server, "insert into in_the_default_database values (3)")
    kept = [one for one in promised.databases if one.name == "postgres"]
    found, _ = rehearse(tmp_path, promised.model_copy(update={"databases": kept}), scratch)
    assert [subject for subject, ok in found.items() if not ok] == [
        "db/postgres: tables with their exact rows",
        "db/postgres: rows of public.in_the_default_database",
    ]


def copied(staging: Path, target: Path) -> Path:
    (target / "db").mkdir(parents=True)
    for path in (staging / "db").iterdir():
        (target / "db" / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize("damage", ["no owner", "cut globals", "cut dump", "no dump"])
def test_data_that_are_refused_condemn_the_backup(
    damage: str, backup: tuple[Path, Collected], tmp_path: Path, scratch: Scratch
) -> None:
    staging = copied(backup[0], tmp_path / "copy")
    facts = facts_of(backup[1])
    library = next(one for one in facts.databases if one.name == LIBRARY)
    roles, dump = staging / facts.globals, staging / library.item
    if damage == "no owner":
        lines = roles.read_text(encoding="utf-8").splitlines(keepends=True)
        roles.write_text("".join(line for line in lines if "librarian" not in line))
    elif damage == "cut globals":
        roles.write_bytes(roles.read_bytes()[:-200])
    elif damage == "cut dump":
        dump.write_bytes(dump.read_bytes()[:-1000])
    else:
        dump.write_bytes(b"")
    with pytest.raises(BackupError) as caught:
        rehearse(staging, facts, scratch)
    assert "canary" not in str(caught.value) and "SCRAM" not in str(caught.value)
    assert (
        docker("ps", "--all", "--quiet", "--filter", f"label={SCRATCH_LABEL}={scratch.name}") == ""
    )


@pytest.mark.parametrize("lacking", ["image", "start", "version"])
def test_what_could_not_be_raised_proves_nothing(
    lacking: str, backup: tuple[Path, Collected], scratch: Scratch
) -> None:
    staging, collected = backup
    change = {
        "image": {"image": "stackroom/no-such-image:1", "digest": ""},
        "start": {"image": "stackroom-sandbox/base:trixie", "digest": ""},
        "version": {"version": "99.1"},
    }[lacking]
    with pytest.raises(UnprovenError):
        rehearse(staging, facts_of(collected).model_copy(update=change), scratch)


def test_the_throw_away_can_be_killed_and_proves_nothing(
    backup: tuple[Path, Collected], scratch: Scratch
) -> None:
    def tell(event: Event) -> None:
        if event.step == "compare":
            docker("kill", f"{scratch.name}-db")

    with pytest.raises(UnprovenError, match="was killed"):
        PostgresRehearsal(source("")).rehearse(
            backup[0], facts_of(backup[1]), scratch, scratch.volume("db"), tell
        )
