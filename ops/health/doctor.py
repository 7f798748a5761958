"""The examination: the catalogue of checks in its fixed order, run once, as one report.

Which stack runs is asked here and in ops/health/edge.py; no other check of the host knows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

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
    return Report(
        environment.name, started, tuple(_named(result, environment.name) for result in results)
    )


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


def _named(result: Result, environment: str) -> Result:
    """Hints are written for any environment; the reader's has a name."""
    hint = result.verdict.hint.replace("{environment}", environment)
    return replace(result, verdict=replace(result.verdict, hint=hint))
