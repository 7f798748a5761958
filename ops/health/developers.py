"""Judges who can reach the machine: agreement with developers.toml, last days, open rotations.

One round trip looks at the host (ops/developers); the rest is in the inventory.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ops.clients.ssh import Remote
from ops.developers.accounts import accounts_of
from ops.developers.audit import Audit, Difference, audit
from ops.developers.reality import LOOK_SECONDS, look
from ops.health.model import Verdict, critical, ok, unknown, warning
from ops.health.runner import LOGIN, TOTAL_SECONDS, Check
from ops.settings import Environment, Settings

AUDIT = "stackroom -e {environment} developer audit"
DEPLOY = "stackroom -e {environment} deploy"
NEAR = timedelta(days=14)


def developer_checks(environment: Environment, remote: Remote) -> list[Check]:
    """What the host lets in against the file, and what of the file needs somebody soon."""
    settings = environment.settings

    def access() -> Verdict:
        now = datetime.now(UTC)
        return agreement(audit(environment, look(environment, remote), now))

    checks = [
        Check(
            "developers.access", access, seconds=min(LOOK_SECONDS, TOTAL_SECONDS - 5), needs=LOGIN
        ),
        Check("developers.expiry", lambda: expiry(settings, datetime.now(UTC))),
    ]
    if accounts_of(settings).two_at_once:
        checks.append(Check("developers.rotation", lambda: rotation(settings)))
    return [*checks, Check("developers.tokens", lambda: tokens(settings, datetime.now(UTC)))]


def agreement(found: Audit) -> Verdict:
    """Somebody who reaches more than the file says is critical; one who lacks something is not, nor
    who reaches nothing of the team's by it."""
    more = [each for each in found.differences if each.reaches and not each.slight]
    slight = [each for each in found.differences if each.reaches and each.slight]
    less = [each for each in found.differences if not each.reaches]
    if more:
        return critical(f"not in the file: {_first(more)}", AUDIT)
    if slight:
        return warning(f"not in the file: {_first(slight)}", AUDIT)
    if less:
        return warning(f"not on the host: {_first(less)}", DEPLOY)
    if found.unknown:
        part, reason = next(iter(found.unknown.items()))
        rest = f" (and {len(found.unknown) - 1} more)" if len(found.unknown) > 1 else ""
        return unknown(f"could not look at {part}: {reason}{rest}", AUDIT)
    people = len({row.who for row in found.rows if row.listed})
    return ok(f"the host lets in the {people} people of the file, and nobody else")


def _first(differences: Sequence[Difference]) -> str:
    one = differences[0]
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    return f"{one.person}: {one.text}{more}" if one.person else f"{one.text}{more}"


def expiry(settings: Settings, now: datetime) -> Verdict:
    """Last days: near ones, and passed ones of people who are still in the file."""
    ends = {name: end for name, one in settings.developers.items() if (end := one.ends())}
    over = [f"{name} ({_last_day(end)})" for name, end in ends.items() if end <= now]
    near = [f"{name} ({_last_day(end)})" for name, end in ends.items() if now < end <= now + NEAR]
    if over:
        told = f"past their last day, still in the file: {', '.join(over)}"
        return critical(told, _renewal(settings, now))
    if near:
        return warning(f"the last day is near: {', '.join(near)}", _renewal(settings, now))
    return ok(f"{len(ends)} developers have a last day, none within {NEAR.days} days")


def _renewal(settings: Settings, now: datetime) -> str:
    """What to do about the first of them; a token of another last day is another token."""
    ends = {name: end for name, one in settings.developers.items() if (end := one.ends())}
    name = min((name for name, end in ends.items() if end <= now + NEAR), key=lambda one: ends[one])
    kit = (
        f", then stackroom -e {{environment}} developer kit {name}: the token of now ends with it"
        if settings.developers[name].collections and settings.stack == "qdrant"
        else ""
    )
    return (
        f"stackroom -e {{environment}} developer remove {name}; or a later `expires` in"
        f" developers.toml and stackroom -e {{environment}} deploy{kit}"
    )


def _last_day(end: datetime) -> str:
    return f"{end - timedelta(days=1):%Y-%m-%d}"


def rotation(settings: Settings) -> Verdict:
    """What a rotation leaves behind until somebody says that it is over: two keys that open."""
    retiring = [name for name, one in settings.developers.items() if one.retiring]
    if settings.secrets.qdrant_alt_api_key is not None:
        return warning(
            "the rotation of Qdrant's key is not finished: two keys are good",
            "once nobody uses the old one: stackroom -e {environment} developer rotate"
            " --server-key --finish",
        )
    if retiring:
        return warning(
            f"two tokens are good for {', '.join(retiring)}",
            f"stackroom -e {{environment}} developer rotate {retiring[0]} --finish",
        )
    return ok("no rotation is under way")


def tokens(settings: Settings, now: datetime) -> Verdict:
    """Who names collections and has no token, or account, cannot read one of them."""
    current, noun = settings.current_developers(now), accounts_of(settings).noun
    lacking = [name for name, one in current.items() if one.collections and not one.token]
    if lacking:
        return warning(
            f"collections but no {noun}: {', '.join(lacking)}",
            f"stackroom -e {{environment}} developer rotate {lacking[0]}",
        )
    return ok(f"{sum(bool(one.token) for one in current.values())} developers have their {noun}")
