"""An inventory with three developers, and a host that is exactly as it says."""

from __future__ import annotations

import base64
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import live_rules
from settings_lab import SECRETS

from ops.developers.audit_logins import expected_lines
from ops.developers.look_logins import key_of
from ops.developers.look_tokens import digest
from ops.developers.r2r import names
from ops.developers.reality import (
    Account,
    HostKey,
    LastSeen,
    Reality,
    Seen,
    Token,
    User,
    reality_of,
)
from ops.render.people import account_of, tunnel_ports, with_accounts
from ops.settings import Environment, Machine, Settings
from ops.settings.rights import values_in_force

NOW = datetime.now(UTC)
BOB_TOKEN, CAROL_TOKEN = str(uuid.uuid4()), str(uuid.uuid4())
LATER = NOW.date() + timedelta(days=90)


def key(seed: int, comment: str) -> str:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes([seed] * 32)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {comment}"


def fingerprint(line: str) -> str:
    found = key_of(line)
    assert found
    return str(found["fingerprint"])


ANNA, BOB, EVE = key(1, "anna"), key(2, "bob"), key(9, "eve@laptop")


def environment(**changes: Any) -> Environment:
    people: dict[str, Any] = {
        "operators": {"anna": {"addresses": ["198.51.100.20", "2001:db8::20"], "keys": [ANNA]}},
        "developers": {
            "bob": {
                "addresses": ["198.51.100.128/25", "2001:db8:b0b::/48"],
                "keys": [BOB],
                "access": "write",
                "collections": ["books"],
                "expires": LATER,
                "token": BOB_TOKEN,
            },
            "carol": {
                "addresses": ["203.0.113.9"],
                "collections": ["shelf"],
                "expires": LATER,
                "token": CAROL_TOKEN,
            },
            "dave": {"addresses": ["203.0.113.40"]},
        },
        "collections": {"books": {"vector": {"size": 4}, "aliases": ["shelf"]}},
    }
    settings = Settings(**(people | changes), secrets=SECRETS)
    return Environment(Path("team"), settings, Machine("192.0.2.1"))


SSHD = {
    "pubkeyauthentication": "yes",
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "permitrootlogin": "without-password",
    "authorizedkeyscommand": "none",
    "trustedusercakeys": "none",
}


def sshd_of_developers(settings: Settings) -> dict[str, str]:
    return SSHD | {
        "authorizedkeysfile": "/etc/ssh/stackroom-keys/%u",
        "allowtcpforwarding": "local",
        "permitopen": " ".join(f"127.0.0.1:{port}" for port in tunnel_ports(settings)),
        "permitlisten": "none",
        "permittty": "no",
        "allowstreamlocalforwarding": "no",
        "forcecommand": "/usr/sbin/nologin",
    }


def hosted_keys(settings: Settings) -> dict[str, str]:
    alternative = settings.secrets.qdrant_alt_api_key
    return {
        "api_key": digest(settings.secrets.qdrant_api_key.get_secret_value()),
        "alt_api_key": digest(alternative.get_secret_value()) if alternative else "",
        "read_only_api_key": "",
    }


def users_of(settings: Settings) -> tuple[User, ...]:
    """Those of an R2R that is as the file says, and its administrator."""
    admin = settings.r2r.admin_email.lower()  # as R2R keeps every address
    return (
        User(str(uuid.uuid4()), admin, superuser=True),
        *(
            User(
                str(names.user_id(name)),
                one.email,
                collections=tuple((each, admin) for each in one.collections),
            )
            for name, one in names.wanted(settings).items()
        ),
    )


def host_of(lab: Environment, *first: str, last: tuple[str, ...] = ()) -> Reality:
    """A host that is exactly as the inventory says; rules a test adds come first or last."""
    settings = lab.settings
    keys = [
        HostKey(account, f"/k/{account}", found, options=tuple(sorted(line.options)))
        for (account, found), line in expected_lines(settings).items()
    ]
    accounts = [
        Account("root", 0, True, True, False),
        Account("stackroom", 1000, True, True, False),
        Account("postgres", 101, True, False, False),
    ]
    sshd = {"root": SSHD, "stackroom": SSHD}
    for name, developer in with_accounts(settings).items():
        end = developer.ends()
        ends = end.date() if end else None
        accounts.append(Account(account_of(name), 1500, False, False, True, ends=ends))
        sshd[account_of(name)] = sshd_of_developers(settings)
    facts = {
        "values": {
            "firewall": live_rules.live(settings, first, last),
            "stored": live_rules.stored(settings),
        }
    }
    if settings.stack == "r2r":
        of_stack: dict[str, Any] = {"users": users_of(settings)}
    else:
        of_stack = {
            "tokens": tuple(
                Token(value, name, token)
                for token, (value, name) in values_in_force(settings).items()
            ),
            "qdrant_keys": hosted_keys(settings),
            "seen": LastSeen({"bob": Seen(NOW, "198.51.100.130")}, whole=True),
        }
    return replace(
        reality_of(facts),
        connections=(),
        accounts=tuple(accounts),
        sessions={},
        keys=tuple(keys),
        sshd=sshd,
        networks=("192.0.2.0/24",),
        unknown={},
        **of_stack,
    )
