"""Runs on the machine: asks the services of the R2R stack from inside of their containers, and
prints what they say as one JSON line.

Sent over SSH, see ops/clients/script.py: standard library only, Python 3.9 or newer. It changes
nothing, judges nothing and prints no secret: of R2R's token for Hatchet only when it runs out.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ops.clients.on_host import answer
from ops.clients.on_host import run as run_for

SECTION_SECONDS = 12.0
COMMAND_SECONDS = 10.0
QUERY_SECONDS = 8
VOLUME_SECONDS = 9.0  # to add up all files of one volume
R2R, HATCHET = "r2r", "hatchet"  # user and database have one name
STUCK = "1 hour"  # R2R's own limit of an ingestion
RABBITMQ = "999:999"  # root would make a cookie that the broker cannot read

run = partial(run_for, seconds=COMMAND_SECONDS)

# {schema} is R2R's project: a-z, 0-9 and _ by its settings
POSTGRES = """
SELECT json_build_object(
  'version', current_setting('server_version'),
  'vector', (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
  'vector_offered',
    (SELECT default_version FROM pg_available_extensions WHERE name = 'vector'),
  'used', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
  'most', current_setting('max_connections')::int)
"""
VECTORS = """
SELECT coalesce((
  SELECT json_build_object('type', format_type(atttypid, atttypmod), 'dimension', atttypmod)
  FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
    JOIN pg_namespace ON relnamespace = pg_namespace.oid
  WHERE nspname = '{schema}' AND relname = 'chunks' AND attname = 'vec' AND NOT attisdropped
), '{{}}')
"""
DOCUMENTS = """
WITH stuck AS (
  SELECT id, ingestion_status, extraction_status, updated_at FROM "{schema}".documents
  WHERE (ingestion_status NOT IN ('success', 'failed') OR extraction_status = 'processing')
    AND updated_at < now() - interval '{stuck}')
SELECT json_build_object(
  'ingestion', (SELECT coalesce(json_object_agg(status, n), '{{}}') FROM (
    SELECT ingestion_status AS status, count(*) AS n FROM "{schema}".documents
    WHERE ingestion_status IS NOT NULL GROUP BY 1) AS by_ingestion),
  'extraction', (SELECT coalesce(json_object_agg(status, n), '{{}}') FROM (
    SELECT extraction_status AS status, count(*) AS n FROM "{schema}".documents
    WHERE extraction_status IS NOT NULL GROUP BY 1) AS by_extraction),
  'failed_lately', (SELECT count(*) FROM "{schema}".documents
    WHERE 'failed' IN (ingestion_status, extraction_status)
      AND updated_at > now() - interval '1 day'),
  'stuck', (SELECT count(*) FROM stuck),
  'oldest', (SELECT coalesce(json_agg(json_build_object(
      'id', id, 'ingestion', ingestion_status, 'extraction', extraction_status,
      'hours', round((extract(epoch FROM now() - updated_at) / 3600)::numeric, 1))
      ORDER BY updated_at), '[]')
    FROM (SELECT * FROM stuck ORDER BY updated_at LIMIT 3) AS first_of_them))
"""
# Runs that wait for their turn, and steps of a run that wait for a worker. Hatchet keeps its times
# in UTC and without a zone, and of a queue's items none.
QUEUE = """
WITH waiting AS (
  SELECT "createdAt" AS since FROM "WorkflowRun"
  WHERE status IN ('PENDING', 'QUEUED') AND "deletedAt" IS NULL
  UNION ALL
  SELECT "StepRun"."createdAt" FROM "QueueItem" JOIN "StepRun" ON "StepRun".id = "stepRunId"
  WHERE "isQueued")
SELECT json_build_object('waiting', count(*), 'seconds',
  coalesce(max(extract(epoch FROM (now() AT TIME ZONE 'utc') - since)), 0),
  'done', (SELECT count(*) FROM "WorkflowRun"
    WHERE "finishedAt" > (now() AT TIME ZONE 'utc') - interval '15 minutes'))
FROM waiting
"""
WORKERS = """
SELECT json_build_object('seconds',
  min(extract(epoch FROM (now() AT TIME ZONE 'utc') - "lastHeartbeatAt")))
FROM "Worker" WHERE "deletedAt" IS NULL
"""


def execute(container: str, *command: str, options: tuple[str, ...] = ()) -> str:
    """What a command in a container prints. Raises RuntimeError with its last words."""
    try:
        return run("docker", "exec", *options, container, *command)
    except RuntimeError as error:
        told = str(error)
        raise RuntimeError(f"{container}: {told.partition(': ')[2] or told}") from None


def sql(container: str, name: str, query: str) -> Any:
    """The one JSON value that a query answers. Raises RuntimeError with Postgres's words."""
    limits = ("-e", f"PGOPTIONS=-c statement_timeout={QUERY_SECONDS}s")
    psql = ("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse")
    return json.loads(
        execute(container, *psql, "-U", name, "-d", name, "-c", query, options=limits)
    )


def volumes(prefix: str) -> dict[str, int | None]:
    """Bytes on disk by volume; None for one that was not added up in time."""
    listed = run("docker", "volume", "ls", "--format", "{{.Name}} {{.Mountpoint}}").splitlines()
    ours = [line.partition(" ")[::2] for line in listed if line.startswith(prefix)]
    found: dict[str, int | None] = {}
    left = VOLUME_SECONDS / max(1, len(ours))
    for name, place in ours:
        try:
            # files come and go while it counts
            told = run_for(
                *("nice", "-n", "19", "du", "-s", "-x", "--block-size=1", place),
                seconds=left,
                codes=(0, 1),
            )
            found[name] = int(told.split()[0])
        except (RuntimeError, ValueError, IndexError):
            found[name] = None
    return found


def token(volume: str) -> dict[str, float | None]:
    """When R2R's token for Hatchet runs out, in seconds since 1970. Nothing else of it is told."""
    place = run("docker", "volume", "inspect", "--format", "{{.Mountpoint}}", volume).strip()
    return {"expires": expiry(Path(place, "token").read_text(encoding="ascii").strip())}


def expiry(jwt: str) -> float | None:
    """The claim `exp`; None where there is none to read. Never raises: that would tell of it."""
    try:
        middle = jwt.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return float(claims["exp"])
    except (ValueError, IndexError, KeyError, TypeError):
        return None


def engine(container: str) -> dict[str, bool]:
    """Whether Hatchet's engine calls itself ready: it asks its queue and its database."""
    ready = "http://127.0.0.1:8733/ready"
    try:
        execute(container, "wget", "-q", "-T", "5", "-O", "/dev/null", ready)
    except RuntimeError:
        return {"ready": False}
    return {"ready": True}


def broker(container: str) -> dict[str, Any]:
    """RabbitMQ's version and its alarms."""
    found = rabbitmqctl(container, "status")
    return {"version": found["rabbitmq_version"], "alarms": found["alarms"]}


def queues(container: str) -> Any:
    """Of each queue of RabbitMQ what waits in it, and how many take from it."""
    columns = ("name", "messages_ready", "messages_unacknowledged", "consumers")
    return rabbitmqctl(container, "list_queues", *columns)


def rabbitmqctl(container: str, *words: str) -> Any:
    told = ("rabbitmqctl", "-q", "--formatter", "json", *words)
    return json.loads(execute(container, *told, options=("-u", RABBITMQ)))


def sections(question: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """What to look at. The containers by service; without Hatchet's, nothing of it is asked."""
    containers, schema = question["containers"], question["schema"]
    postgres, queue = containers["postgres"], containers.get("hatchet-postgres", "")
    found: dict[str, Callable[[], Any]] = {
        "postgres": lambda: sql(postgres, R2R, POSTGRES),
        "vectors": lambda: sql(postgres, R2R, VECTORS.format(schema=schema)),
        "documents": lambda: sql(postgres, R2R, DOCUMENTS.format(schema=schema, stuck=STUCK)),
        "volumes": lambda: volumes(question["volumes"]),
    }
    if queue:
        found |= {
            "hatchet": lambda: engine(containers["hatchet-engine"]),
            "queue": lambda: sql(queue, HATCHET, QUEUE),
            "workers": lambda: sql(queue, HATCHET, WORKERS),
            "broker": lambda: broker(containers["rabbitmq"]),
            "queues": lambda: queues(containers["rabbitmq"]),
            "token": lambda: token(question["token"]),
        }
    return found


if __name__ == "__main__":
    answer(sections(json.loads(sys.argv[1])), SECTION_SECONDS)
