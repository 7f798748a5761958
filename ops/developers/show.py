"""An audit and a proof for people: one line first, then a table. The audit as JSON, too.

What was found on the host is printed as it is, never read as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.developers.audit import Audit
from ops.developers.audit_words import Row
from ops.developers.probe import Probe
from ops.firstline import first_line as line_of
from ops.settings.addresses import check_address, short

SCHEMA_VERSION = 1
_NEVER, _UNKNOWN = "never", "?"


def first_line(audit: Audit) -> str:
    """The whole story in under 80 characters; names that do not fit become a number."""
    names = list(dict.fromkeys(each.person for each in audit.differences if each.person))
    if audit.differences:
        count = len(audit.differences)
        head = f"DIFFERENT in {count} point{'s' if count > 1 else ''}"
        return line_of(head, names)
    if audit.unknown:
        return line_of("UNKNOWN: not all could be read", list(audit.unknown))
    who = len({row.who for row in audit.rows if row.listed})
    return f"IN STEP: the host lets in the {who} people of developers.toml, and nobody else"


def show(audit: Audit, console: Console) -> None:
    """Print the audit."""
    style = "green" if not audit.exit_code else "bold red" if audit.differences else "magenta"
    _line(first_line(audit), console, style)
    console.print(_table(audit))
    for each in audit.differences:
        mark = "reaches" if each.reaches else "lacks"
        _line(f"{mark:8} {each.person + ': ' if each.person else ''}{each.text}", console, "red")
    for part, reason in audit.unknown.items():
        _line(f"unknown  {part}: {reason}", console, "magenta")


def _line(text: str, console: Console, style: str) -> None:
    console.print(Text(text, style if console.is_terminal else ""), soft_wrap=True)


def _table(audit: Audit) -> Table:
    table = Table(
        *("who", "source", "ports", "SSH account", "collections", "rights", "until", "last seen"),
        box=None,
        pad_edge=False,
    )
    for row in audit.rows:
        cells = _cells(row)
        style = "" if row.listed else "red"
        table.add_row(*(Text(each, style, overflow="fold") for each in cells))
    return table


def _cells(row: Row) -> list[str]:
    ports = _UNKNOWN if row.ports is None else ", ".join(map(str, row.ports)) or "none"
    collections = {"*": "all", "?": _UNKNOWN}
    return [
        row.who,
        _source(row.source),
        ports,
        row.account or "none",
        ", ".join(collections.get(each, each) for each in row.collections) or "none",
        row.rights or "none",
        str(row.expires or ""),
        _seen(row),
    ]


def _source(text: str) -> str:
    try:
        return short(check_address(text))
    except ValueError:
        return text


def _seen(row: Row) -> str:
    if row.seen is None:
        return ""
    if row.seen.at is None:
        return _NEVER if row.seen.known else _UNKNOWN
    return f"{row.seen.at:%Y-%m-%d %H:%M}"


def to_json(audit: Audit) -> dict[str, Any]:
    """The JSON document: a key may be added, none is renamed without a new schema_version."""
    return {
        "schema_version": SCHEMA_VERSION,
        "environment": audit.environment,
        "checked_at": audit.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "exit_code": audit.exit_code,
        "summary": first_line(audit),
        "rows": [_row(row) for row in audit.rows],
        "differences": [asdict(each) for each in audit.differences],
        "unknown": dict(audit.unknown),
    }


def _row(row: Row) -> dict[str, Any]:
    """`last_seen`: a time, "never", or "?" where the log could not be read to its end."""
    seen = row.seen
    at = None if seen is None else seen.at and seen.at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "who": row.who,
        "listed": row.listed,
        "source": row.source,
        "ports": None if row.ports is None else list(row.ports),
        "account": row.account,
        "collections": list(row.collections),
        "rights": row.rights,
        "expires": row.expires.isoformat() if row.expires else None,
        "last_seen": at or (None if seen is None else _seen(row)),
    }


def proof_line(name: str, probes: Sequence[Probe]) -> str:
    """The outcome of a removal in under 80 characters."""
    good = sum(probe.ok for probe in probes)
    if probes and good == len(probes):
        return f"GONE: {good} of {good} probes find nothing left of {name}"
    return f"NOT PROVEN: {len(probes) - good} of {len(probes)} probes for {name} did not pass"


def show_proof(name: str, probes: Sequence[Probe], console: Console) -> None:
    """Print each probe with its answer, the line that says it all first."""
    proven = all(probe.ok for probe in probes)
    _line(proof_line(name, probes), console, "green" if proven else "bold red")
    for probe in probes:
        mark = "ok" if probe.ok else "NOT OK"
        _line(f"  {mark:7} {probe.what}: {probe.answer}", console, "" if probe.ok else "red")
