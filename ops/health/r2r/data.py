"""Judges of what R2R keeps: Postgres, the documents, their vectors, the volumes.

Pure: facts of ops/health/r2r/inside.py in, verdict out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ops.deploy.passwords import Keeper
from ops.health.model import Verdict, critical, measured, ok, unknown, warning

Facts = Any  # one section of the collected facts, as JSON gave it

GUIDE = "docs/doctor.md"
SHOW = "on the host: docker exec stackroom-postgres-1 psql -U r2r -d r2r -c"
NEARLY_ALL, ALL = 80.0, 95.0  # percent of the connections
SHOWN = 3


def versions(found: Facts) -> Verdict:
    """Postgres, and pgvector as the database has it against what the image brings."""
    postgres = found["version"].split()[0]  # behind it stands who built it
    vector, offered = found["vector"], found["vector_offered"]
    if not vector:
        return critical(
            f"Postgres {postgres} has no extension vector: R2R cannot work with it",
            "R2R makes it at its start: on the host, docker logs -n 50 stackroom-r2r-1",
        )
    if offered and offered != vector:
        return warning(
            f"Postgres {postgres}; the database has pgvector {vector}, its image {offered}",
            f"{SHOW} 'ALTER EXTENSION vector UPDATE'",
        )
    return ok(f"Postgres {postgres} with pgvector {vector}")


def connections(found: Facts) -> Verdict:
    """Connections in use, of all clients, against max_connections."""
    used, most = found["used"], found["most"]
    return measured(
        f"{used} of {most} connections are in use",
        100.0 * used / most,
        NEARLY_ALL,
        ALL,
        f"{SHOW} 'SELECT application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2'",  # noqa: S608 - shown
    )


def passwords(asked: Sequence[Keeper], takes: Mapping[str, bool | None]) -> Verdict:
    """Whether each service takes its password of secrets.toml: it keeps that of its first start.

    `takes`: by secret; one that is None or absent did not say.
    """
    refused = [each for each in asked if takes.get(each.secret) is False]
    silent = [each.secret for each in asked if takes.get(each.secret) is None]
    if refused:
        first = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        return critical(
            f"{first.secret} of secrets.toml is refused: {first.holds} keeps another one{more}",
            f"put the old one back; or change it where it is kept, on the host: {first.change};"
            " then stackroom -e {environment} deploy",
        )
    if silent:
        return unknown(
            f"nobody says whether it is theirs: {', '.join(silent)}", "see containers.running"
        )
    return ok(f"the services take their {len(asked)} passwords of secrets.toml")


def embedding(found: Facts, dimension: int, model: str) -> Verdict:
    """The column of the vectors against the settings. R2R does not write down who made them."""
    if not found:
        return unknown("R2R has no table of chunks yet", "on the host: docker logs stackroom-r2r-1")
    if found["dimension"] != dimension:
        return critical(
            f"the table holds {found['type']}, r2r.embedding.dimension is {dimension}:"
            " R2R will not start",
            f"set it back: another dimension means to ingest everything anew ({GUIDE})",
        )
    return ok(f"{found['type']}, as r2r.embedding says; its model is to be {model}")


def documents(found: Facts) -> Verdict:
    """How many there are by status; what failed since yesterday needs a look."""
    told = f"documents: {_counts(found['ingestion'])}"
    graphs = {key: n for key, n in found["extraction"].items() if key != "pending"}
    if graphs:
        told += f"; their graphs: {_counts(graphs)}"
    if found["failed_lately"]:
        return warning(
            f"{found['failed_lately']} failed since yesterday; {told}",
            "GET /v3/documents/<id> says why, in metadata.failure; send such a document again",
        )
    return ok(told)


def stuck(found: Facts) -> Verdict:
    """Those that have not moved for an hour: R2R gives up after one, or forgot them."""
    if not found["stuck"]:
        return ok("no document has stood still for an hour")
    first = found["oldest"][:SHOWN]
    names = ", ".join(f"{each['id']} ({_where(each)} for {each['hours']} h)" for each in first)
    more = f" and {found['stuck'] - len(first)} more" if found["stuck"] > len(first) else ""
    return warning(
        f"{found['stuck']} documents stand still: {names}{more}",
        f"is hatchet.queue long? Else delete and send them again: until then R2R refuses them ("
        f"{GUIDE})",
    )


def _where(each: Mapping[str, Any]) -> str:
    final = each["ingestion"] in ("success", "failed")
    return f"extraction {each['extraction']}" if final else str(each["ingestion"])


def _counts(by_status: Mapping[str, int]) -> str:
    ordered = sorted(by_status.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n} {status}" for status, n in ordered) or "none"


def volumes(found: Facts) -> Verdict:
    """The bytes of each volume, the largest first; whether there is room is host.disk's to say."""
    sizes = {name.removeprefix("stackroom_"): size for name, size in found.items()}
    known = sorted(((size, name) for name, size in sizes.items() if size is not None), reverse=True)
    late = sorted(name for name, size in sizes.items() if size is None)
    told = ", ".join(f"{name} {_size(size)}" for size, name in known)
    if late:
        told = f"{told}; " if told else ""
        return unknown(
            f"{told}not added up in time: {', '.join(late)}", "on the host: docker system df -v"
        )
    return ok(told or "no volume")


def _size(size: int) -> str:
    if size >= 1 << 30:
        return f"{size / (1 << 30):.1f} GiB"
    return f"{size / (1 << 20):.0f} MiB" if size >= 1 << 20 else f"{size / 1024:.0f} KiB"
