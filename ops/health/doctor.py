"""The examination: the catalogue of checks in its fixed order, run once, as one report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ops.clients.ssh import Remote
from ops.health.developers import developer_checks
from ops.health.edge import edge_checks
from ops.health.host import host_checks
from ops.health.model import Report, Result
from ops.health.runner import TOTAL_SECONDS, run_checks, select
from ops.health.service import service_checks
from ops.settings import Environment


def examine(
    environment: Environment,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    deadline: float = TOTAL_SECONDS,
) -> Report:
    """Look at everything, or at what `only` and `skip` leave (ids or prefixes), at once.

    `deadline`: seconds for the whole. A check that fails is part of the report, never an error.
    Raises SettingsError for a name in `only` or `skip` that no check has.
    """
    remote = Remote(environment)
    started = datetime.now(UTC)
    with contextlib.ExitStack() as stack:
        catalogue = [
            *host_checks(environment, remote),
            *service_checks(environment, remote, stack),
            *edge_checks(environment, remote),
            *developer_checks(environment, remote),
        ]
        results = run_checks(select(catalogue, only, skip), total=deadline)
    return Report(
        environment.name, started, tuple(_named(result, environment.name) for result in results)
    )


def _named(result: Result, environment: str) -> Result:
    """Hints are written for any environment; the reader's has a name."""
    hint = result.verdict.hint.replace("{environment}", environment)
    return replace(result, verdict=replace(result.verdict, hint=hint))
