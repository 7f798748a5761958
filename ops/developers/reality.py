"""What the host really is, in one round trip: who can reach it, by whichever way. Judges nothing.

A part that could not be read is None, and `unknown` says why: it never passes for empty.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from ops.clients import script
from ops.clients.ssh import Remote
from ops.developers.look import SECTIONS
from ops.developers.look_logins import key_of
from ops.developers.reach import Table
from ops.render.firewall import FAMILIES, Family
from ops.render.people import GROUP, KEYS_FOLDER
from ops.settings import Environment
from ops.settings.people import ACCESS_COLLECTION

LOOK_SECONDS = 45.0
_PARTS = ("look_common", "look_logins", "look_tokens", "look_r2r")


@dataclass(frozen=True)
class HostKey:
    """One line that sshd would take. `account` is empty for a file that belongs to none."""

    account: str
    path: str
    fingerprint: str
    type: str = ""
    comment: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Account:
    """One that could log in, is root in all but name, or is a developer's.

    `root_equal`: groups that make it root; `ends`: the first day (UTC) on which it is shut.
    """

    name: str
    uid: int
    shell: bool
    sudo: bool
    developer: bool
    root_equal: tuple[str, ...] = ()
    password: bool = False
    locked: bool = False
    ends: date | None = None
    processes: int = 0


@dataclass(frozen=True)
class Token:
    """One that Qdrant honours: id and rights (ops/settings/rights.py), and the name beside it."""

    id: str
    developer: str
    point: str = ""


@dataclass(frozen=True)
class User:
    """One that R2R lets in. `collections`: (name, address of the owner) of each it is a member of;
    `keys`: how many API keys; `seen`: the last request that R2R counted; aware, UTC."""

    id: str
    email: str
    superuser: bool = False
    keys: int = 0
    collections: tuple[tuple[str, str], ...] = ()
    seen: datetime | None = None


@dataclass(frozen=True)
class Connection:
    """Established ones from one source to one port, the one that the client asked for."""

    source: str
    port: int
    count: int


@dataclass(frozen=True)
class Seen:
    """The newest request of a subject; `at` is aware, UTC."""

    at: datetime
    remote: str


@dataclass(frozen=True)
class LastSeen:
    """By subject. `whole`: the whole log was read, so who is not in it was not seen."""

    subjects: Mapping[str, Seen]
    whole: bool


@dataclass(frozen=True)
class Reality:
    """The host at one moment. None: could not be read, see `unknown` (part -> reason).

    `logins`: fingerprints of the keys with which this machine logs in. `sshd`: by account, what
    `sshd -T` says of a login as it. `sessions`: SSH logins that are open, by the name of an account
    that may be gone. `stored`: the rules of the next boot. `qdrant_keys`: a digest of each key that
    Qdrant has been given (`look_tokens.digest`), "" where it has none. `networks`: what the host
    is itself part of or has a way to, Docker's left out. `tokens`, `qdrant_keys` and `seen` are of
    a Qdrant, `users` of an R2R.
    """

    tables: Mapping[Family, Table] | None = None
    stored: Mapping[Family, Mapping[str, tuple[str, ...]]] | None = None
    connections: tuple[Connection, ...] | None = None
    accounts: tuple[Account, ...] | None = None
    sessions: Mapping[str, int] | None = None
    keys: tuple[HostKey, ...] | None = None
    sshd: Mapping[str, Mapping[str, str]] | None = None
    tokens: tuple[Token, ...] | None = None
    qdrant_keys: Mapping[str, str] | None = None
    seen: LastSeen | None = None
    users: tuple[User, ...] | None = None
    networks: tuple[str, ...] | None = None
    logins: frozenset[str] = frozenset()
    unknown: Mapping[str, str] = field(default_factory=dict)


def look(environment: Environment, remote: Remote) -> Reality:
    """Look at the host, once.

    Raises UnreachableError without a login, ServiceError when the machine has no python3.
    """
    settings = environment.settings
    question = {
        "stack": settings.stack,
        "schema": settings.r2r.project,
        "ssh_port": environment.machine.port,
        "edge_ports": [*settings.edge_ports(), *settings.world_ports()],
        "subjects": sorted(settings.developers),
        "collection": ACCESS_COLLECTION,
        "group": GROUP,
        "keys_folder": KEYS_FOLDER,
    }
    facts = script.run(
        remote,
        program(),
        question,
        timeout=LOOK_SECONDS,
        failed="the host could not be looked at",
    )
    return reality_of(facts, login_fingerprints(environment), settings.stack)


def program() -> str:
    """The look at the host as one Python program: look.py and its parts."""
    parts = (f"ops.developers.{name}" for name in _PARTS)
    return script.program("ops.developers.look", *parts)


def reality_of(
    facts: Mapping[str, Any], logins: frozenset[str] = frozenset(), stack: str = "qdrant"
) -> Reality:
    """From what look.py printed."""
    values: dict[str, Any] = dict(facts.get("values", {}))
    errors = facts.get("errors", {})
    unknown = {part: errors.get(part, "not told") for part in SECTIONS[stack] if part not in values}

    def read(part: str, make: Any) -> Any:
        return make(values[part]) if part in values else None

    return Reality(
        tables=read("firewall", lambda v: {each: _table(v[each]) for each in FAMILIES}),
        stored=read("stored", lambda v: {each: _chains(v[each]) for each in FAMILIES}),
        connections=read("connections", lambda v: tuple(Connection(**each) for each in v)),
        accounts=read("accounts", lambda v: tuple(_account(each) for each in v["accounts"])),
        sessions=read("accounts", lambda v: v["sessions"]),
        keys=read("keys", lambda v: tuple(_key(each) for each in v["keys"])),
        sshd=read("keys", lambda v: v["sshd"]),
        tokens=read("tokens", lambda v: tuple(Token(**each) for each in v)),
        qdrant_keys=read("qdrant_keys", dict),
        seen=read("seen", _seen),
        users=read("users", lambda v: tuple(_user(each) for each in v)),
        networks=read("networks", tuple),
        logins=logins,
        unknown=unknown,
    )


def _table(found: Mapping[str, Any]) -> Table:
    return Table(found["policies"], _chains(found["rules"]))


def _chains(found: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {chain: tuple(rules) for chain, rules in found.items()}


def _key(found: Mapping[str, Any]) -> HostKey:
    return HostKey(**{**found, "options": tuple(found["options"])})


def _account(found: Mapping[str, Any]) -> Account:
    told = {key: value for key, value in found.items() if key != "ends_on_day"}
    day = found["ends_on_day"]
    ends = date(1970, 1, 1) + timedelta(days=day) if day is not None else None
    return Account(**{**told, "root_equal": tuple(found["root_equal"])}, ends=ends)


def _user(found: Mapping[str, Any]) -> User:
    seen = found["seen"]
    at = datetime.fromtimestamp(float(seen), UTC) if seen is not None else None
    collections = tuple((str(name), str(owner or "")) for name, owner in found["collections"])
    return User(**{**found, "collections": collections, "seen": at})


def _seen(found: Mapping[str, Any]) -> LastSeen:
    subjects = {}
    for name, line in found["subjects"].items():
        # Qdrant writes nanoseconds; what Python reads ends at microseconds
        at = datetime.fromisoformat(line["timestamp"][:19]).replace(tzinfo=UTC)
        subjects[name] = Seen(at, line["remote"])
    return LastSeen(subjects, bool(found["whole"]))


def login_fingerprints(environment: Environment) -> frozenset[str]:
    """Of the keys that this machine would offer the host: the one of hosts.py, or the defaults."""
    if environment.machine.key:
        key = Path(environment.machine.key)
        public = key.with_name(f"{key.name}.pub")
        return frozenset(_fingerprints(_listed(public if public.is_file() else key)))
    agent = subprocess.run(["ssh-add", "-L"], capture_output=True, text=True, check=False)
    lines = agent.stdout if agent.returncode == 0 else ""
    for public in sorted((Path.home() / ".ssh").glob("id_*.pub")):
        lines += f"\n{_listed(public)}"
    return frozenset(_fingerprints(lines))


def _listed(path: Path) -> str:
    """The public half, also of a private key file, which is not read here."""
    if path.suffix == ".pub":
        return path.read_text(encoding="utf-8", errors="replace")
    # of a file that asks for a passphrase it answers nothing, and asks nobody
    done = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", str(path)], capture_output=True, text=True, check=False
    )
    return done.stdout


def _fingerprints(lines: str) -> list[str]:
    return [key["fingerprint"] for line in lines.splitlines() if (key := key_of(line))]
