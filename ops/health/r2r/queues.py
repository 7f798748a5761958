"""Judges of the way a document takes until it is ingested: Hatchet, RabbitMQ, R2R's token.

Pure: facts of ops/health/r2r/inside.py in, verdict out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import Any

from ops.health.model import Status, Verdict, critical, measured, ok, unknown, warning

Facts = Any  # one section of the collected facts, as JSON gave it

ENGINE = "on the host: docker logs -n 50 stackroom-hatchet-engine-1"
BROKER = "on the host: docker logs -n 50 stackroom-rabbitmq-1"
R2R = "on the host: docker logs -n 50 stackroom-r2r-1"
OLD, TOO_OLD = 15 * 60.0, 60 * 60.0  # seconds that the first in the queue has waited
# a worker says every 4 s that it lives, and Hatchet takes it for gone after 30
SILENT, GONE = 15.0, 30.0
BACKLOG, FLOOD = 100.0, 10_000.0  # messages for one consumer
RETURNING = "_dlx_v2"
NEAR_DAYS = 14.0
DAY = 86400.0
RENEW = "stackroom -e {environment} deploy  (it makes a new one, and R2R reads it)"


def ready(found: Facts) -> Verdict:
    if found["ready"]:
        return ok("Hatchet's engine has its queue and its database")
    return critical("Hatchet's engine is not ready: uploads are not worked on", ENGINE)


def queue(found: Facts) -> Verdict:
    """How long the first in the queue has waited. One that moves may be long: no more is wrong
    than that there is much to do; `done` is what was finished in the last 15 minutes."""
    waiting, seconds, done = found["waiting"], found["seconds"], found["done"]
    told = f"{waiting} wait, the first for {_span(seconds)}" if waiting else "nothing waits"
    moves = f"{told}; {done} done in 15 minutes"
    # a document may take R2R an hour, and hold up others for so long
    warn, crit = (TOO_OLD, inf) if done else (OLD, TOO_OLD)
    status = (
        Status.CRITICAL if seconds >= crit else Status.WARNING if seconds >= warn else Status.OK
    )
    return measured(
        moves,
        seconds,
        OLD,
        TOO_OLD,
        "a large upload, or R2R does not work: see hatchet.worker and host.load",
        status,
    )


def worker(found: Facts) -> Verdict:
    """The last sign of life of R2R's worker, which is a part of R2R's own process."""
    seconds = found["seconds"]
    if seconds is None:
        return critical("no worker has ever been connected: nothing is ingested", R2R)
    if seconds > GONE:
        return critical(
            f"no worker is connected: the last sign of life came {_span(seconds)} ago",
            f"on the host: docker restart stackroom-r2r-1; {R2R}",
        )
    return measured(
        f"a worker is connected: its last sign of life came {max(0.0, seconds):.0f} s ago",
        max(0.0, seconds),
        SILENT,
        GONE,
        "see host.load",
    )


def alarms(found: Facts) -> Verdict:
    """With an alarm RabbitMQ takes no message any more, until it is over."""
    kinds = sorted({str(each.get("resource", each.get("type"))) for each in found["alarms"]})
    if kinds:
        return critical(
            f"RabbitMQ takes no messages: {', '.join(kinds)} alarm", f"see host.disk; {BROKER}"
        )
    return ok(f"RabbitMQ {found['version']} has no alarm")


def backlog(found: Facts) -> Verdict:
    """What waits in each queue for each of its consumers."""
    # dead letters wait there for 5 s, on purpose, and go back by themselves
    queues = [each for each in found if not each["name"].endswith(RETURNING)]
    alone = [each for each in queues if each["messages_ready"] and not each["consumers"]]
    if alone:
        names = ", ".join(f"{each['name']} ({each['messages_ready']})" for each in alone[:3])
        more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
        return warning(f"nobody takes from: {names}{more}", f"see hatchet.ready; {ENGINE}")
    loads = [
        (each["messages_ready"] / each["consumers"], each["name"])
        for each in queues
        if each["consumers"]
    ]
    most, name = max(loads, default=(0.0, ""))
    told = f"{len(queues)} queues, at most {most:.0f} messages wait for a consumer"
    return measured(
        f"{told}{f' ({name})' if most else ''}",
        most,
        BACKLOG,
        FLOOD,
        "the engine is slower than what comes in: see host.load and hatchet.queue",
    )


def token(found: Facts, now: datetime) -> Verdict:
    """R2R's token for Hatchet. With one that ran out R2R starts, and ingests nothing."""
    if found["expires"] is None:
        return unknown("R2R's token for Hatchet says not when it runs out", RENEW)
    end = datetime.fromtimestamp(found["expires"], UTC)
    days = (end - now).total_seconds() / DAY
    if days <= 0:
        return critical(f"R2R's token for Hatchet ran out on {end:%Y-%m-%d}", RENEW)
    told = f"R2R's token for Hatchet is good until {end:%Y-%m-%d}"
    return warning(told, RENEW) if days <= NEAR_DAYS else ok(told)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * DAY else f"{seconds / DAY:.0f} days"
