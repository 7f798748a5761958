"""What R2R keeps, judged: Postgres, documents, vectors, volumes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from ops.deploy.passwords import Keeper
from ops.health.model import Status
from ops.health.r2r import data

OK, WARNING, CRITICAL, UNKNOWN = Status.OK, Status.WARNING, Status.CRITICAL, Status.UNKNOWN


@pytest.mark.parametrize(
    ("vector", "offered", "status", "words"),
    [
        ("0.8.6", "0.8.6", OK, "Postgres 16.11 with pgvector 0.8.6"),
        ("0.8.0", "0.8.6", WARNING, "the database has pgvector 0.8.0, its image 0.8.6"),
        ("0.8.0", None, OK, "pgvector 0.8.0"),
        (None, "0.8.6", CRITICAL, "no extension vector"),
    ],
)
def test_versions(vector: str | None, offered: str | None, status: Status, words: str) -> None:
    found = {"version": "16.11 (Debian)", "vector": vector, "vector_offered": offered}
    verdict = data.versions(found)
    assert verdict.status is status
    assert words in verdict.summary
    assert bool(verdict.hint) is bool(status)


@pytest.mark.parametrize(
    ("used", "status"), [(3, OK), (79, OK), (80, WARNING), (94, WARNING), (95, CRITICAL)]
)
def test_connections_as_a_share_of_those_there_are(used: int, status: Status) -> None:
    verdict = data.connections({"used": used, "most": 100})
    assert verdict.status is status
    assert verdict.summary == f"{used} of 100 connections are in use"


def keeper(secret: str) -> Keeper:
    password = SecretStr("canary-of-a-service")
    return Keeper(secret, f"the volume of {secret}", "docker exec x", "x", "r2r", "u", password)


@pytest.mark.parametrize(
    ("takes", "status", "words"),
    [
        ({"a": True, "b": True}, OK, "the services take their 2 passwords"),
        ({"a": True, "b": False}, CRITICAL, "b of secrets.toml is refused: the volume of b keeps"),
        ({"a": False, "b": False}, CRITICAL, "the volume of a keeps another one (and 1 more)"),
        ({"a": None, "b": False}, CRITICAL, "b of secrets.toml is refused"),
        ({"a": True, "b": None}, UNKNOWN, "nobody says whether it is theirs: b"),
        ({}, UNKNOWN, "theirs: a, b"),
    ],
)
def test_passwords_that_volumes_keep(
    takes: dict[str, bool | None], status: Status, words: str
) -> None:
    verdict = data.passwords([keeper("a"), keeper("b")], takes)
    assert verdict.status is status
    assert words in verdict.summary
    assert ("on the host: docker exec x; then" in verdict.hint) is (status is CRITICAL)
    assert "canary" not in repr(verdict)


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        ({"type": "vector(512)", "dimension": 512}, OK, "vector(512)"),
        ({"type": "vector(1024)", "dimension": 1024}, CRITICAL, "the table holds vector(1024)"),
        ({"type": "vector", "dimension": -1}, CRITICAL, "the table holds vector,"),
        ({}, UNKNOWN, "no table"),
    ],
)
def test_the_dimension_of_the_table(found: dict[str, Any], status: Status, words: str) -> None:
    verdict = data.embedding(found, 512, "text-embedding-3-team")
    assert verdict.status is status
    assert words in verdict.summary


def documents(**changes: Any) -> dict[str, Any]:
    return {
        "ingestion": {"failed": 2, "success": 40, "parsing": 1},
        "extraction": {"pending": 43},
        "failed_lately": 0,
        "stuck": 0,
        "oldest": [],
    } | changes


def test_documents_by_status() -> None:
    verdict = data.documents(documents())
    assert (verdict.status, verdict.summary) == (OK, "documents: 40 success, 2 failed, 1 parsing")
    told = data.documents(documents(extraction={"pending": 40, "success": 3})).summary
    assert told.endswith("; their graphs: 3 success")
    empty = data.documents(documents(ingestion={}, extraction={}))
    assert (empty.status, empty.summary) == (OK, "documents: none")


def test_documents_that_failed_since_yesterday() -> None:
    verdict = data.documents(documents(failed_lately=2))
    assert verdict.status is WARNING
    assert verdict.summary.startswith("2 failed since yesterday; documents: 40 success")
    assert "metadata.failure" in verdict.hint


def stuck(name: str, ingestion: str = "parsing", extraction: str = "pending") -> dict[str, Any]:
    return {"id": name, "ingestion": ingestion, "extraction": extraction, "hours": 1.5}


def test_documents_that_stand_still() -> None:
    assert data.stuck(documents()).status is OK
    first = [stuck("a"), stuck("b", "success", "processing"), stuck("c", "embedding")]
    verdict = data.stuck(documents(stuck=5, oldest=first))
    assert verdict.status is WARNING
    assert verdict.summary == (
        "5 documents stand still: a (parsing for 1.5 h), b (extraction processing for 1.5 h),"
        " c (embedding for 1.5 h) and 2 more"
    )
    assert data.stuck(documents(stuck=1, oldest=first[:1])).summary.endswith("for 1.5 h)")


def test_volumes_the_largest_first() -> None:
    sizes = {"stackroom_edge_data": 3 << 10, "stackroom_postgres": 5 << 30, "stackroom_x": 9 << 20}
    assert data.volumes(sizes).summary == "postgres 5.0 GiB, x 9 MiB, edge_data 3 KiB"
    assert data.volumes(sizes).status is OK
    late = data.volumes(sizes | {"stackroom_rabbitmq": None})
    assert late.status is UNKNOWN
    assert (
        late.summary == "postgres 5.0 GiB, x 9 MiB, edge_data 3 KiB; not added up in time: rabbitmq"
    )
