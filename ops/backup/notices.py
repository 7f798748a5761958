"""Tell people how a run ended, and a dead man's switch that runs happen at all.

Nothing here raises, changes a result or takes longer than 30 s (45 s for a failed unit). No logs
are sent, and nothing but what a record says.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta

from pydantic import SecretStr

from ops.backup import units, words
from ops.backup.lock import hold, holder
from ops.backup.manifest import new_run
from ops.backup.post import Notices, Scheduled, deliver, load_notices, ping_url, quietly
from ops.backup.records import Kind, Record, last, read_records, write_record
from ops.errors import LockedError
from ops.settings.host import Credentials, HostConfig

ERROR_LENGTH = 800  # of an error in a message: some services take 1000 characters
SLACK = timedelta(seconds=5)  # the clock may be set a little back while a unit starts
DIED = "killed, out of time, or the machine went down: it did not come to its end"


def started(credentials: Credentials, record: Record) -> None:
    """Tell the dead man's switch that a scheduled run begins. Never raises, takes 30 s at most."""
    with quietly():
        if record.trigger == "timer":
            deliver(_pings(load_notices(credentials), record.kind, "start", record.run))


def finished(config: HostConfig, credentials: Credentials, record: Record) -> bool:
    """Ping the exit code, and send a notice where the run did not go well, or is the first that
    did after one that did not. Returns whether a notice went out.

    A dry run is nobody's business. Never raises, takes 30 s at most.
    """
    if record.dry_run:
        return False
    with quietly():
        notices = load_notices(credentials)
        pings = _pings(notices, record.kind, str(_code(record)), record.run)
        records = read_records(config.base, record.kind) if notices.urls else []
        message = compose(config, record, records) if notices.urls else None
        if message is None:
            return deliver(pings)
        return deliver(pings, notices.urls, *message)
    return False


def announce_unit(
    config: HostConfig,
    credentials: Credentials,
    unit: str,
    *,
    look: units.Look = units.unit_state,
) -> bool:
    """Send the notice that is missing after `unit` failed; returns whether one went out.

    For the notifier of failed units. A run that failed in order has told already, and is left
    alone; one that was killed, ran out of time or never began has not. A record that says
    "running" and is nobody's becomes "died". Never raises, takes 45 s at most.
    """
    with quietly():
        state, kind = look(unit), units.kind_of(unit)
        if kind is None:
            notices = load_notices(credentials)
            return _tell(config, notices, [], f"{unit} failed", _advice(config, unit, state))
        record = _record_of(config, kind, state)
        if record is None:
            return _tell_of_no_start(config, credentials, unit, kind, state)
        if record.outcome == "running":
            record = _bury(config, record)
        if record is None or record.notified or record.outcome == "ok":
            return False
        sent = finished(config, credentials, record)
        if sent:
            _write(config, record.model_copy(update={"notified": True}))
        return sent
    return False


def compose(
    config: HostConfig, record: Record, records: list[Record]
) -> tuple[str, str, str] | None:
    """Title, body and mood of the notice of a run; None where there is nothing to tell. Pure."""
    before = words.previous(records, record)
    if record.outcome == "ok":
        if before is None or before.outcome == "ok":
            return None
        title = _title(config, f"{record.kind} recovered")
        body = f"The {record.kind} went well again; the one before {_end(before)}."
        return title, "\n".join([body, "", *_facts(config, record)]), "success"
    title = _title(config, f"{record.kind} {_verdict(record)}")
    error = _clip(record.error or f"The {record.kind} {_end(record)}.")
    lines = [error, "", *_facts(config, record)]
    lines += _last_good(record, records)
    commands = [
        f"stackroom -e {config.environment} backup show {record.run}",
        *words.next_commands(record, config.environment),
    ]
    lines += [f"next: {commands[0]}", *(f"      {command}" for command in commands[1:])]
    return title, "\n".join(lines), "warning" if record.outcome == "warning" else "failure"


def _last_good(record: Record, records: list[Record]) -> list[str]:
    """When it last went well. Of drills by repository, for the good one of another proves nothing
    of this: first the one that the drill was about, then the others."""
    others = [r for r in records if r.run != record.run]
    about = str(record.details.get("repository") or "")
    if record.kind != "drill" or not about:
        return [f"last good: {_when(last(others, 'ok', 'warning'))}"]
    by: dict[str, list[Record]] = {about: []}
    for other in others:
        if name := str(other.details.get("repository") or ""):
            by.setdefault(name, []).append(other)
    return [
        f"last good from {name}: {_when(last(found, 'ok', 'warning'))}"
        for name, found in by.items()
        if found or name == about
    ]


def _when(record: Record | None) -> str:
    return f"{words.utc(record.started)} UTC" if record else "never"


def _title(config: HostConfig, what: str) -> str:
    return f"stackroom {config.environment}: {what}"


def _verdict(record: Record) -> str:
    """The word that follows the kind in a title."""
    if record.outcome == "warning":
        return "failed in part" if record.exit_code == 2 else "needs a look"
    return {"unproven": "unproven", "died": "was killed"}.get(record.outcome, "failed")


def _end(record: Record) -> str:
    return words.RESULTS[record.outcome]


def _facts(config: HostConfig, record: Record) -> list[str]:
    took = f", {words.duration(record.seconds)}" if record.finished else ""
    how = "by its timer" if record.trigger == "timer" else "by hand"
    lines = [
        f"what: {record.kind} {record.run} of the {config.stack} stack, {how}",
        f"when: {words.utc(record.started)} UTC{took}",
    ]
    if record.repositories:
        where = (
            f"{result.name} {'ok' if result.ok else 'failed'}" for result in record.repositories
        )
        lines.append(f"where: {', '.join(where)}")
    return lines


def _clip(text: str) -> str:
    return text if len(text) <= ERROR_LENGTH else text[: ERROR_LENGTH - 1] + "…"


def _code(record: Record) -> int:
    """What the dead man's switch takes: 0 is good, 1 to 255 is not."""
    if record.exit_code is None:
        return 0 if record.outcome == "ok" else 2
    return min(max(record.exit_code, 0), 255)


def _pings(notices: Notices, kind: Kind, end: str, run: str) -> list[str]:
    address = dict[str, SecretStr](**notices.pings).get(kind)
    return [ping_url(address, end, run)] if address else []


def _record_of(config: HostConfig, kind: Scheduled, state: units.UnitState) -> Record | None:
    """The record of the run that failed. Where systemd does not say when the unit began: the
    newest one, unless that went well."""
    records = read_records(config.base, kind)
    if state.began:
        records = [record for record in records if record.started >= state.began - SLACK]
    newest = records[-1] if records else None
    if newest and not state.began and newest.outcome == "ok":
        return None
    return newest


def _bury(config: HostConfig, record: Record) -> Record | None:
    """The record as died, and written. None where somebody holds the lock: then it is theirs, or
    they have told of it when they began."""
    # held for the moment of writing only: a run that begins now must not be turned away
    try:
        with hold(config.base, "look at a failed run"):
            now = [r for r in read_records(config.base, record.kind) if r.run == record.run]
            if now and now[0].outcome != "running":
                return now[0]
            dead = record.model_copy(update={"outcome": "died", "exit_code": 2, "error": DIED})
            _write(config, dead)
            return dead
    except LockedError:
        return None


def _tell_of_no_start(
    config: HostConfig, credentials: Credentials, unit: str, kind: Scheduled, state: units.UnitState
) -> bool:
    """A run that left no record: refused by the lock, or ended before it could write one."""
    reason = _advice(config, unit, state)
    if other := holder(config.base):
        since = f" since {other['since']}" if "since" in other else ""
        reason = f"A {other.get('doing', 'run')} has been running{since}.\n{reason}"
    notices = load_notices(credentials)
    pings = _pings(notices, kind, "2", new_run())
    return _tell(config, notices, pings, f"{kind} did not start", reason)


def _tell(config: HostConfig, notices: Notices, pings: list[str], what: str, body: str) -> bool:
    return deliver(pings, notices.urls, _title(config, what), body, "failure")


def _advice(config: HostConfig, unit: str, state: units.UnitState) -> str:
    how = " ".join(filter(None, [state.result, state.status]))
    began = f", started {state.began:%Y-%m-%d %H:%M} UTC" if state.began else ""
    return "\n".join(
        [
            f"what: {unit}{began}{f': {how}' if how else ''}",
            f"next: stackroom -e {config.environment} doctor",
            f"      on the machine: journalctl -u {unit} -n 50",
        ]
    )


def _write(config: HostConfig, record: Record) -> None:
    with contextlib.suppress(OSError):  # a full disk is often why; the notice goes out all the same
        write_record(config.base, record)
