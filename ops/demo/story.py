"""The demo: deploy, load, search, back up, drill, refuse, deploy again; each claim is checked.

It runs against a sandbox alone, of either stack, and never touches another environment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from ops import deploy as deploying
from ops.clients.ssh import Remote
from ops.demo.qdrant import load_and_search
from ops.demo.r2r import forget_people, ingest_and_ask
from ops.errors import ServiceError
from ops.health import Status, examine, show
from ops.render.stack import carried_images
from ops.sandbox import Client, client, image_archive, up
from ops.sandbox.layout import WHICH
from ops.sandbox.visit import PORTS, open_ports
from ops.settings import Environment, load_environment


def run(console: Console) -> None:
    """Tell the whole story. Raises a StackroomError at the first thing that is not so."""
    started = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.0f} s[/]  {line}")

    console.rule("1  a bare machine")
    sandbox = up(say)
    environment = load_environment(sandbox.environment)
    archive = image_archive(carried_images(environment.settings), say)
    console.rule("2  deploy over SSH")
    _deploy(environment, archive, say)
    if environment.settings.stack == "r2r":
        forget_people(environment)  # of a demo that broke off
    _examine(environment, console, say)
    console.rule("3  a machine of the team: documents in, answers out")
    with client("allowed") as allowed:
        if environment.settings.stack == "r2r":
            ingest_and_ask(environment, say)
        else:
            load_and_search(allowed, environment, say)
        _check_ports(allowed, {22, *environment.settings.edge_ports()}, "a developer", say)
    console.rule("4  a backup, and its proof")
    _back_up(environment, say)
    if environment.settings.stack == "r2r":
        forget_people(environment)
        say("anna and ben leave, and their documents with them")
    console.rule("5  a machine nobody listed")
    with client("denied") as denied:
        _check_ports(denied, set(), "a stranger", say)
    console.rule("6  deploy again")
    again = deploying.make_plan(environment)
    if not again.is_clean:
        raise ServiceError(f"the second deploy would change: {', '.join(again.changes)}")
    say(f"a second deploy changes nothing: 0 of {again.unchanged} steps")
    console.rule("what next")
    which = "" if WHICH == "sandbox" else f"STACKROOM_SANDBOX={WHICH} "
    console.print(
        f"  stackroom -e {environment.name} doctor   every check, as a table\n"
        f"  {which}stackroom sandbox shell   a root shell on the machine you just deployed\n"
        f"  {which}stackroom sandbox down    leaves nothing behind\n"
        "  stackroom init production --host <address of your Hetzner VM>\n"
    )


def _deploy(environment: Environment, archive: Path | None, say: Callable[[str], None]) -> None:
    made = deploying.make_plan(environment)
    if made.is_clean:
        say("the sandbox is deployed already")
        return
    say(f"plan: {len(made.changes)} steps would change the machine")

    def on_step(name: str, result: str) -> None:
        if result == "Success":
            say(f"changed  {name}")

    deploying.carry_out(environment, "stackroom demo", images=archive, on_step=on_step)


def _examine(environment: Environment, console: Console, say: Callable[[str], None]) -> None:
    report = examine(environment)
    say(f"doctor: {report.first_line()}")
    if environment.settings.stack == "r2r":
        show(report, console)
    if report.status is Status.CRITICAL:
        raise ServiceError(
            "the doctor found the sandbox ill", f"stackroom -e {environment.name} doctor"
        )


def _back_up(environment: Environment, say: Callable[[str], None]) -> None:
    made = _verb(environment, "backup run")
    stored = ", ".join(result["name"] for result in made["repositories"] if result["ok"])
    say(f"backup: {made['items']} files, {made['bytes'] / 1e6:.0f} MB, encrypted in: {stored}")
    proof = _verb(environment, "drill")
    compared = proof["details"]["comparisons"]
    if proof["subject"] != made["run"]:
        raise ServiceError(f"the drill took {proof['subject']}, and the backup is {made['run']}")
    seconds = proof["details"]["rto_seconds"]
    engine = "Postgres" if environment.settings.stack == "r2r" else "Qdrant"
    say(
        f"drill: restored into a throw-away {engine} and compared {len(compared)} things, all equal"
    )
    say(f"a restore of this machine would take {seconds:.0f} s")


def _verb(environment: Environment, verb: str) -> dict[str, Any]:
    """Run a verb on the machine; its record. Raises ServiceError where it did not go well."""
    done = Remote(environment).run(f"/usr/local/bin/stackroom {verb} --json", timeout=300)
    if done.returncode != 0:
        raise ServiceError(
            f"{verb}: {done.stderr.strip()}", f"stackroom -e {environment.name} {verb}"
        )
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def _check_ports(machine: Client, allowed: set[int], who: str, say: Callable[[str], None]) -> None:
    wanted = {(family, port) for family in ("v4", "v6") for port in allowed}
    reached = open_ports(machine)
    if reached != wanted:
        raise ServiceError(f"{who} reaches {sorted(reached)}, not {sorted(wanted)}")
    answer = f"only {', '.join(map(str, sorted(allowed)))}" if allowed else "none"
    say(f"of {len(PORTS)} ports over IPv4 and IPv6, {answer} answer {who} ({machine.ipv4})")
