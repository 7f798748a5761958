"""The examination: the catalogue of checks in its fixed order, run once, as one report.

Which stack runs is asked here and in ops/health/edge.py; no other check of the host knows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, SecretStr

from ops.clients.ssh import Remote
from ops.errors import SettingsError
from ops.health.developers import developer_checks
from ops.health.edge import edge_checks
from ops.health.host import host_checks
from ops.health.model import Report, Result
from ops.health.qdrant import qdrant_checks
from ops.health.r2r import r2r_checks
from ops.health.runner import TOTAL_SECONDS, Check, run_checks, select
from ops.settings import Environment

HIDDEN = "[hidden]"
SHORTEST = 8  # characters of a secret that is looked for


def examine(
    environment: Environment,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    paid: bool = False,
    deadline: float = TOTAL_SECONDS,
) -> Report:
    """Look at everything, or at what `only` and `skip` leave (ids or prefixes), at once.

    `paid`: call models for real, too, where there are any. `deadline`: seconds for the whole. A
    check that fails is part of the report, never an error.
    Raises SettingsError for a name in `only` or `skip` that no check has, and for `paid` where the
    stack has no models.
    """
    if paid and environment.settings.stack != "r2r":
        raise SettingsError(
            f"--paid: the stack {environment.settings.stack} calls no models",
            f"stackroom -e {environment.name} doctor",
        )
    remote = Remote(environment)
    started = datetime.now(UTC)
    with contextlib.ExitStack() as stack:
        checks = select(catalogue(environment, remote, stack, paid=paid), only, skip)
        results = run_checks(checks, total=deadline)
    secrets = sorted(_values(environment.settings.secrets), key=len, reverse=True)
    told = tuple(_told(result, environment.name, secrets) for result in results)
    return Report(environment.name, started, told)


def catalogue(
    environment: Environment, remote: Remote, stack: contextlib.ExitStack, *, paid: bool = False
) -> list[Check]:
    """Every check there is for this environment; `stack` closes the tunnels that they open."""
    if environment.settings.stack == "r2r":
        services = r2r_checks(environment, remote, stack, paid=paid)
    else:
        services = qdrant_checks(environment, remote, stack)
    return [
        *host_checks(environment, remote),
        *services,
        *edge_checks(environment, remote),
        *developer_checks(environment, remote),
    ]


def _told(result: Result, environment: str, secrets: Sequence[str]) -> Result:
    """Hints are written for any environment; the reader's has a name. What a service says of its
    troubles may quote a key that it was sent: the record has none."""
    verdict = result.verdict
    summary, hint = verdict.summary, verdict.hint.replace("{environment}", environment)
    for secret in secrets:
        summary, hint = summary.replace(secret, HIDDEN), hint.replace(secret, HIDDEN)
    return replace(result, verdict=replace(verdict, summary=summary, hint=hint))


def _values(found: Any) -> set[str]:
    """Every secret in settings, lists and tables, but for what is as short as a word."""
    if isinstance(found, SecretStr):
        return {found.get_secret_value()} if len(found) >= SHORTEST else set()
    if isinstance(found, BaseModel):
        found = {name: getattr(found, name) for name in type(found).model_fields}
    if isinstance(found, Mapping):
        found = found.values()
    elif not isinstance(found, list):
        return set()
    return {value for each in found for value in _values(each)}
