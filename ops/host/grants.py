"""The developers' tokens in the host's Qdrant: those of the inventory are in force, no other is.

What was revoked is remembered on the host: a file of before never brings a token back.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pyinfra import host, logger, state
from pyinfra.api import FactBase, OperationError, deploy, operation

from ops import grants as tokens_in_force
from ops.collections import Request
from ops.errors import StackroomError
from ops.host.collections import relayed
from ops.host.facts import Lines
from ops.host.operations import Commands
from ops.render.project import STACK_DIR
from ops.settings import Settings
from ops.settings.rights import values_in_force

REVOKED = "/var/lib/stackroom/revoked-tokens"  # lines "2026-11-21 <id>"
REMEMBERED = 3700  # days; `--expires` takes ten years at most


class Answers(FactBase[Any]):
    """Qdrant's answers by path; {} where no stack is deployed; its last words if it gave none."""

    def command(self, script: str) -> str:
        return f"if [ -d {STACK_DIR} ]; then {script} 2>&1 || true; else echo '{{}}'; fi"

    def process(self, output: list[str]) -> Any:
        last = output[-1] if output else "no answer"
        try:
            found = json.loads(last)
        except ValueError:
            return last
        return found if isinstance(found, dict) else last


@deploy("Grants")
def revocations(settings: Settings) -> None:
    """What no longer works ends, before anything that could fail has been tried."""
    if settings.stack == "qdrant":
        revoke(name="revoked tokens", settings=settings)


@deploy("Grants")
def grants(settings: Settings) -> None:
    """The list that Qdrant looks a token up in, on every request."""
    if settings.stack == "qdrant":
        admit(name="tokens", settings=settings)


@operation()
def revoke(settings: Settings) -> Commands:
    """Revoke what is not of the inventory, if Qdrant answers; where not, `admit` says so.

    Raises OperationError where the inventory has a token that was revoked before.
    """
    try:
        answers = answered(host.get_fact(Answers, script=relayed(tokens_in_force.reads())))
        requests = tokens_in_force.revocations(settings, answers)
        ids = tokens_in_force.revoked_for_good(settings, answers)
    except (OperationError, StackroomError) as error:
        logger.warning(f"[{host.name}] no token is revoked yet: {error}")
        requests, ids = [], []
    if requests:
        yield ending(requests, ids, or_else="echo 'to be tried again' >&2")
    _refuse_revoked(settings)
    if not requests:
        host.noop("no token is to be revoked")


@operation()
def admit(settings: Settings) -> Commands:
    """Revoke what is not of the inventory, admit what is missing.

    Raises OperationError where Qdrant does not answer, and where the inventory has a token that
    was revoked before.
    """
    found = host.get_fact(Answers, script=relayed(tokens_in_force.reads()))
    # a plan is also made for a stack that is stopped, which the deploy would start
    answers = answered(found) if state.is_executing or not isinstance(found, str) else {}
    requests = tokens_in_force.plan(settings, answers)
    revoking = tokens_in_force.revocations(settings, answers)
    if ids := tokens_in_force.revoked_for_good(settings, answers):
        yield ending(revoking, ids, or_else="r=1")
    _refuse_revoked(settings)
    if not requests:
        host.noop(f"{len(values_in_force(settings))} tokens are in force")
        return
    yield f"{relayed(requests)} >/dev/null"


def answered(found: Any) -> dict[str, Any]:
    """What Qdrant answered. Raises OperationError where it did not: that is not "no tokens"."""
    if isinstance(found, dict):
        return found
    said = found or "it said nothing"
    raise OperationError(
        f"Qdrant does not answer on this machine, so the tokens are as they were: {said}"
    )


def ending(requests: Sequence[Request], ids: Collection[str], *, or_else: str) -> str:
    """The command that remembers the ids and revokes; `or_else` is for a Qdrant that fails at it.

    It revokes what it could not remember, too, and fails then.
    """
    remembered = remember(ids) if ids else "true"
    return f"{remembered}; r=$?; {relayed(list(requests))} >/dev/null || {or_else}; exit $r"


def remember(ids: Collection[str]) -> str:
    """The command that adds ids to those that never come back; what is too old to work goes."""
    script = (
        f"set -e; umask 077; mkdir -p {PurePosixPath(REVOKED).parent};"
        f" o=$(date -u -d '-{REMEMBERED} days' +%F);"
        f" {{ [ ! -e {REVOKED} ] || awk -v o=$o '$1 >= o' {REVOKED};"
        f' printf "$(date -u +%F) %s\\n" {" ".join(map(shlex.quote, ids))}; }} >{REVOKED}.new;'
        f" sync {REVOKED}.new; mv {REVOKED}.new {REVOKED}"
    )
    return f"sh -c {shlex.quote(script)}"


def recall(ids: Collection[str]) -> str:
    """The command that prints those of the ids that are remembered; a file it cannot read fails."""
    wanted = " ".join(f"-e {shlex.quote(token)}" for token in ids)
    return f"[ ! -e {REVOKED} ] || grep -oF {wanted} {REVOKED} || [ $? -eq 1 ]"


def refusal(settings: Settings, revoked: Collection[str], environment: str) -> str:
    """Why the inventory is not applied: whose token was revoked, and what to do; "" for nobody."""
    names = tokens_in_force.readmitted(settings, revoked)
    if not names:
        return ""
    again = ", ".join(f"stackroom -e {environment} developer rotate {n} --now" for n in names)
    return (
        f"developers.toml has a token of {', '.join(names)} that was revoked on this machine, and"
        f" a revoked token never works again: git pull, if the file is an old one; else {again}"
        " (where rotate finds nothing of them on the machine: developer remove, then add)"
    )


def _refuse_revoked(settings: Settings) -> None:
    wanted = values_in_force(settings)
    revoked = host.get_fact(Lines, script=recall(wanted)) if wanted else []
    if told := refusal(settings, revoked, Path(host.data.environment).name):
        raise OperationError(told)
