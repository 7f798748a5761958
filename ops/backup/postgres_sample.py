"""What a database is held to beyond its counts: some vectors, exact searches, some large objects.

Only reads, within the snapshot that is dumped or compared. No index is used: what is nearest is
found by looking at every vector, so a restore is not held to what an approximate index misses.
"""

# ruff: noqa: S608 - names come quoted from the server, values by _literals

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ops.backup.manifest import PostgresDatabase, VectorColumn
from ops.clients.postgres import Snapshot

VECTORS = 20  # of each column
SEARCHES = 3  # of each column
LIMIT = 5
OBJECTS = 10
OBJECT_BYTES = 1024 * 1024  # the beginning of a large object
# a search reads every vector: columns whose tables are larger are sampled without
SCANNED_AT_MOST = 32 * 1024**3
# distances closer together than this may change places from one machine to another
NEAR = 1e-5

# name, table, column, primary key, the operator of the distance, bytes of the table
_COLUMNS = """
select json_build_array(
    n.nspname || '.' || c.relname || '.' || a.attname, format('%I.%I', n.nspname, c.relname),
    quote_ident(a.attname), key.columns, format('operator(%I.<->)', tn.nspname),
    pg_table_size(c.oid))
from pg_attribute a
join pg_type t on t.oid = a.atttypid
join pg_namespace tn on tn.oid = t.typnamespace
join pg_depend d on d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
join pg_extension e on e.oid = d.refobjid and e.extname = 'vector'
join pg_class c on c.oid = a.attrelid
join pg_namespace n on n.oid = c.relnamespace
join lateral (
    select string_agg(quote_ident(k.attname), ', ' order by k.attnum) as columns
    from pg_index i join pg_attribute k on k.attrelid = c.oid and k.attnum = any (i.indkey)
    where i.indrelid = c.oid and i.indisprimary) key on key.columns is not null
where c.relkind = 'r' and c.relpersistence <> 't' and a.attnum > 0 and not a.attisdropped
  and t.typname in ('vector', 'halfvec');
"""


@dataclass(frozen=True)
class Sample:
    vectors: list[VectorColumn]
    object_sums: dict[str, str]


@dataclass(frozen=True)
class _Column:
    """Everything but `name` and `size` is SQL, quoted by the server."""

    name: str
    table: str
    column: str
    key: str
    distance: str
    size: int

    @property
    def row(self) -> str:
        return f"row({self.key})::text"


def take(snapshot: Snapshot) -> Sample:
    """A first look. Raises ServiceError."""
    vectors = []
    for column in _columns(snapshot):
        chosen = (
            f"select {column.row}, md5({column.column}::text) from only {column.table}"
            f" where {column.column} is not null order by md5({column.row}) limit {VECTORS}"
        )
        sums = dict(_rows(snapshot, chosen))
        searched = list(sums)[: SEARCHES if column.size <= SCANNED_AT_MOST else 0]
        if sums:
            nearest = {key: _nearest(snapshot, column, key) for key in searched}
            vectors.append(VectorColumn(name=column.name, sums=sums, nearest=nearest))
    chosen = (
        f"select oid::text from pg_largeobject_metadata order by md5(oid::text) limit {OBJECTS}"
    )
    return Sample(vectors, _object_sums(snapshot, chosen))


def take_again(snapshot: Snapshot, earlier: PostgresDatabase) -> Sample:
    """The same rows, searches and large objects of a rebuilt database. Raises ServiceError."""
    there = {column.name: column for column in _columns(snapshot)}
    vectors = []
    for promised in earlier.vectors:
        column = there.get(promised.name)
        if column is None:
            continue
        sums = dict(
            _rows(
                snapshot,
                f"select {column.row}, md5({column.column}::text) from only {column.table}"
                f" where {column.row} in ({_literals(promised.sums)})",
            )
        )
        nearest = {key: _nearest(snapshot, column, key) for key in promised.nearest}
        vectors.append(VectorColumn(name=promised.name, sums=sums, nearest=nearest))
    if not earlier.object_sums:
        return Sample(vectors, {})
    chosen = (
        "select oid::text from pg_largeobject_metadata"
        f" where oid::text in ({_literals(earlier.object_sums)})"
    )
    return Sample(vectors, _object_sums(snapshot, chosen))


def same_answers(promised: VectorColumn, found: VectorColumn) -> bool:
    """Whether every search has the distances that it had, and their rows but for near ties."""
    return all(
        _same(answers, found.nearest.get(key, [])) for key, answers in promised.nearest.items()
    )


def _same(answers: list[tuple[str, float]], found: list[tuple[str, float]]) -> bool:
    if len(answers) != len(found):
        return False
    for (_, distance), (row, other) in zip(answers, found, strict=True):
        known = row in {each for each, its in answers if _near(its, other)}
        # behind the last answer there may be more at its distance
        if not _near(distance, other) or not (known or _near(answers[-1][1], other)):
            return False
    return True


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= NEAR * max(1.0, abs(one))


def _columns(snapshot: Snapshot) -> list[_Column]:
    # of the transaction, which ends with the look
    lines = snapshot.ask(f"set local enable_indexscan = off;\n{_COLUMNS}")
    return sorted((_Column(*json.loads(line)) for line in lines), key=lambda found: found.name)


def _nearest(snapshot: Snapshot, column: _Column, key: str) -> list[tuple[str, float]]:
    searched = (
        f"select {column.column} from only {column.table} where {column.row} = {_literals([key])}"
    )
    answers = _rows(
        snapshot,
        f"select {column.row}, {column.column} {column.distance} ({searched})"
        f" from only {column.table} where {column.column} is not null"
        f" order by 2, 1 limit {LIMIT}",
    )
    # one that is too large for a float comes as a word
    return [(row, distance) for row, distance in answers if isinstance(distance, float | int)]


def _object_sums(snapshot: Snapshot, chosen: str) -> dict[str, str]:
    return dict(
        _rows(snapshot, f"select n, md5(lo_get(n::oid, 0, {OBJECT_BYTES})) from ({chosen}) o (n)")
    )


def _rows(snapshot: Snapshot, query: str) -> list[tuple[Any, Any]]:
    """The two columns of a query."""
    lines = snapshot.ask(f"select json_build_array(q.a, q.b) from ({query}) q (a, b);")
    return [(first, second) for first, second in map(json.loads, lines)]


def _literals(texts: Iterable[str]) -> str:
    """Strings of SQL: a backslash means nothing in them (standard_conforming_strings)."""
    return ", ".join("'{}'".format(text.replace("'", "''")) for text in texts)
