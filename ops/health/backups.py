"""Judges the backups: their age, size and proofs, from the records that the host's runs left.

Pure but for `reach`, which has the host ask its repositories. Ages are seconds, sizes bytes.
"""

from __future__ import annotations

import json
import statistics
from datetime import UTC, datetime
from typing import Any

from ops.clients.ssh import Remote
from ops.errors import ServiceError
from ops.escrow import EscrowState
from ops.health.model import (
    Status,
    Verdict,
    critical,
    measured,
    ok,
    unknown,
    warning,
    worst,
)

Found = dict[str, Any]  # the section "backups" of collect.py

HOUR, DAY = 3600.0, 86400.0
LATE, MISSING = 1.5, 2.0  # periods
PROOF_WARN, PROOF_CRIT = 10.0, 21.0  # days; a week is usual
SHRUNK = 0.5  # of the median
MEDIAN_OF = 10
SKEW = HOUR
GOOD = ("ok", "warning")
NEVER_DEPLOYED = "backups were never deployed to this machine"
DEPLOY = "stackroom -e {environment} deploy"
RUN = "stackroom -e {environment} backup run"
SHOW = "stackroom -e {environment} backup show {run}"
PROGRAM = "/usr/local/bin/stackroom"


def off() -> Verdict:
    return warning("backups are switched off", "backup.enabled = true in settings.toml, and deploy")


def timers(found: Found) -> Verdict:
    """Enabled, waiting, and run within their period."""
    if not found:
        return warning(NEVER_DEPLOYED, DEPLOY)
    states = found["timers"]
    idle = [job for job, timer in states.items() if not (timer["enabled"] and timer["active"])]
    if idle:
        return critical(f"not scheduled: {', '.join(idle)}", DEPLOY)
    late = [
        job
        for job, timer in states.items()
        if found["now"] - timer["since"] > MISSING * _period(found, job)
    ]
    if late:
        units = " ".join(f"stackroom-{job}.timer" for job in late)
        return critical(
            f"have not run when they should: {', '.join(late)}",
            f"on the host: systemctl status {units}",
        )
    return ok(f"{len(states)} timers are enabled and have run when they should")


def last(found: Found) -> Verdict:
    """How the newest run of each kind ended; of drills, the newest of each repository."""
    if not found:
        return warning(NEVER_DEPLOYED, DEPLOY)
    bad, odd = [], []
    for kind, records in found["records"].items():
        ended = [r for r in _past(found, records) if r["outcome"] != "running"]
        newest = _newest_drills(found, ended) if kind == "drill" else ended[-1:]
        bad += [(kind, r) for r in newest if r["outcome"] in ("failed", "died", "unproven")]
        odd += [(kind, r) for r in newest if r["outcome"] == "warning"]
    for verdict, those in ((critical, bad), (warning, odd)):
        if those:
            kind, record = those[0]
            hint = SHOW.replace("{run}", record["run"])
            return verdict(f"{kind} {record['outcome']}: {record['error'] or 'no reason'}", hint)
    return ok("the newest run of each kind went well")


def age(found: Found) -> Verdict:
    """The last backup that is in a repository, against the expected interval."""
    return _age(found, "", "the last good backup")


def offsite(found: Found, local_only: bool) -> Verdict:
    if local_only:
        return ok("none, as the inventory says (local_only)")
    if "offsite" not in found.get("repositories", []):
        return warning(
            "every copy is on this one machine",
            "backup.offsite in settings.toml, or backup.local_only = true to accept it",
        )
    return _age(found, "offsite", "the last good off-site backup")


def size(found: Found) -> Verdict:
    """The newest good backup against the median of those before it."""
    sizes = [record["bytes"] for record in _good(found)]
    if len(sizes) < 2:
        return ok("too few backups to compare")
    median = statistics.median(sizes[-1 - MEDIAN_OF : -1])
    newest = sizes[-1]
    share = newest / median if median else 1.0
    told = f"{newest / 1e6:.1f} MB, {share:.0%} of the median"
    if share < SHRUNK:
        return warning(told, "was something deleted? stackroom -e {environment} backup list")
    return ok(told)


def clock(found: Found) -> Verdict:
    """No run from the future: its age would read as fresh for years."""
    ahead = [
        record
        for records in found.get("records", {}).values()
        for record in records
        if _epoch(record["started"]) > found["now"] + SKEW
    ]
    if ahead:
        return warning(
            f"{len(ahead)} runs are dated in the future, as {ahead[-1]['run']}",
            "on the host: timedatectl; retention neither counts nor removes them",
        )
    return ok("no run is dated in the future")


def proof(found: Found, kind: str) -> Verdict:
    """The last good check or drill, and for a drill its seconds: the time a restore takes.

    Drills take turns: of several repositories the worst counts, and each has that much more time.
    """
    runs = _past(found, found.get("records", {}).get(kind, []))
    if kind != "drill":
        return _proof(found, kind, runs, kind, 1)
    names = found.get("repositories", [])
    if len(names) < 2 or not runs:
        return _proof(found, kind, [r for r in runs if r.get("repository") in names], kind, 1)
    verdicts = [
        _proof(found, kind, of_one, f"drill of {name}", len(names))
        if (of_one := [record for record in runs if record.get("repository") == name])
        else _first_drill_due(found, name, len(names))
        for name in names
    ]
    status = worst(verdict.status for verdict in verdicts)
    return max(
        (verdict for verdict in verdicts if verdict.status is status),
        key=lambda verdict: verdict.value or 0.0,
    )


def _proof(found: Found, kind: str, runs: list[dict[str, Any]], what: str, share: int) -> Verdict:
    """Of these runs, the last good one; with `share` of them taking turns."""
    proven = [record for record in runs if record["outcome"] == "ok"]
    verb = "drill" if kind == "drill" else "backup check"
    hint = f"stackroom -e {{environment}} {verb}"
    if not proven:
        if runs and runs[-1]["outcome"] != "running":
            return critical(f"no {what} has ever passed", hint)
        return _first_due(found, kind, hint)
    newest = proven[-1]
    days = (found["now"] - _epoch(newest["finished"])) / DAY
    took = f", {newest['rto_seconds']:.0f} s" if newest.get("rto_seconds") else ""
    told = f"last good {what} {days:.1f} days ago{took}"
    return measured(told, days, share * PROOF_WARN, share * PROOF_CRIT, hint)


def _first_drill_due(found: Found, name: str, share: int) -> Verdict:
    """Others were drilled and this one never: it is due once every other one had its turn."""
    stored = [record for record in _good(found) if name in record["stored"]]
    since = _epoch(stored[0]["started"]) if stored else found["now"]
    days = (found["now"] - since) / DAY
    told = f"no drill of {name} yet, {days:.1f} days after its first backup"
    hint = f"stackroom -e {{environment}} drill --from {name}"
    # only the newest records are known, so that no greater age can be seen
    return measured(told, days, 7 * share + 1, PROOF_CRIT, hint)


def _newest_drills(found: Found, ended: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest of each repository, and the newest of all where it never got as far as one."""
    newest = {record.get("repository"): record for record in ended}
    nowhere = [r for r in ended[-1:] if not r.get("repository")]
    return nowhere + [newest[name] for name in found.get("repositories", []) if name in newest]


def restore(found: Found) -> Verdict:
    """No restore stands half done, or keeps the data that it replaced."""
    told = found.get("restore")
    if not told:
        return ok("no restore waits")
    if told["state"] not in ("switched", "undone"):
        return critical(
            f"the restore {told['run']} is under way or was interrupted",
            "if nobody runs it: stackroom -e {environment} drill settles it",
        )
    return warning(
        f"the restore {told['run']} is not confirmed: the other data still take room",
        "stackroom -e {environment} restore confirm, or restore undo",
    )


def reach(remote: Remote) -> Verdict:
    """Every repository opens with its password. Raises ServiceError where the host cannot ask."""
    answer = remote.run(f"{PROGRAM} backup reach --json", timeout=24)
    try:
        document = json.loads(answer.stdout)
    except ValueError:
        said = (answer.stderr.strip() or "no answer").splitlines()[-1]
        raise ServiceError(f"the host could not ask its repositories: {said}", DEPLOY) from None
    errors = {name: told for name, told in document["repositories"].items() if told}
    if errors:
        return critical(
            "; ".join(f"{name}: {told}" for name, told in errors.items()),
            "on the host: stackroom backup list --ask",
        )
    return ok(f"{' and '.join(document['repositories'])} open")


def escrow(state: EscrowState) -> Verdict:
    """The recovery file on the operator's machine."""
    make = "stackroom -e {environment} escrow create"
    if state.made is None:
        return warning("no recovery file: with this laptop the backups' password is gone", make)
    if state.damaged:
        return critical(f"{state.path.name} is not as it was written", make)
    if state.stale:
        return warning(f"older than {', '.join(state.stale)}", make)
    if state.strangers:
        return warning(f"other people than today's: {', '.join(state.strangers)}", make)
    return ok(f"made {state.made:%Y-%m-%d} for {state.keys} keys, each opens it alone")


def _age(found: Found, repository: str, what: str) -> Verdict:
    if not found:
        return warning(NEVER_DEPLOYED, DEPLOY)
    good = [r for r in _good(found) if not repository or repository in r["stored"]]
    if not good:
        tried = [r for r in found["records"]["backup"] if r["outcome"] != "running"]
        if tried:
            return critical(f"{what}: there is none", RUN)
        return _first_due(found, "backup", RUN)
    period = _period(found, "backup")
    seconds = max(0.0, found["now"] - _epoch(good[-1]["started"]))
    return measured(
        f"{what} is {seconds / HOUR:.1f} h old",
        seconds / HOUR,
        LATE * period / HOUR,
        MISSING * period / HOUR,
        RUN,
    )


def _first_due(found: Found, kind: str, hint: str) -> Verdict:
    """There is none yet: fine on a new machine, until the first one is overdue."""
    since = found.get("timers", {}).get(kind, {}).get("since", 0.0)
    if not since:
        return unknown(f"no {kind} yet, and its timer was never started", hint)
    waited = found["now"] - since
    if waited > LATE * _period(found, kind):
        return critical(f"no {kind} yet, {waited / DAY:.1f} days after it was scheduled", hint)
    return Verdict(Status.OK, f"no {kind} yet: the first one is not overdue")


def _good(found: Found) -> list[dict[str, Any]]:
    """Backups that are in a repository, oldest first."""
    records = _past(found, found.get("records", {}).get("backup", []))
    return [record for record in records if record["outcome"] in GOOD]


def _past(found: Found, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that a clock can have made: one from the future counts for nothing."""
    return [record for record in records if _epoch(record["started"]) <= found["now"] + SKEW]


def _period(found: Found, kind: str) -> float:
    """Seconds between two runs."""
    return float(found["period_hours"]) * HOUR * (1 if kind == "backup" else 7)


def _epoch(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
