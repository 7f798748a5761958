"""The checks of the host: one round trip collects the facts, pure functions judge them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ops.clients import script
from ops.clients.ssh import Remote
from ops.escrow import inspect
from ops.health import backups, machine, stack, walls
from ops.health.model import Verdict, ok, unknown
from ops.health.runner import LOGIN, Check
from ops.render.firewall import expected_chains
from ops.render.project import Stack
from ops.render.stack import render_stack
from ops.settings import Environment, Settings

REACH_SECONDS = 25.0  # a repository far away is asked for its configuration
COLLECT_SECONDS = 12.0  # ssh's own 10 s to connect, and some

Facts = dict[str, Any]  # what collect.py prints: {"values": {section: ...}, "errors": {...}}


def collect(remote: Remote) -> Facts:
    """All facts of the machine in one round trip.

    Raises UnreachableError without a login, ServiceError when the machine has no python3.
    """
    return script.run(
        remote, program(), timeout=COLLECT_SECONDS, failed="the facts could not be collected"
    )


def program() -> str:
    """The collector as one Python program."""
    return script.program("ops.health.collect")


def judged(facts: Facts, judge: Callable[..., Verdict], *sections: str) -> Verdict:
    """The verdict of `judge` on these sections; UNKNOWN, with the reason, where one is missing."""
    for name in sections:
        if name not in facts.get("values", {}):
            reason = facts.get("errors", {}).get(name, "not collected")
            return unknown(f"could not look: {reason}")
    return judge(*(facts["values"][name] for name in sections))


def host_checks(environment: Environment, remote: Remote) -> list[Check]:
    """`ssh.login`, which collects, and every check that judges what it brought."""
    settings, port = environment.settings, environment.machine.port
    facts: Facts = {}

    def login() -> Verdict:
        facts.update(collect(remote))
        return ok(f"logged in as {environment.machine.login()}")

    def rendered() -> Stack:
        return render_stack(
            environment, facts["values"]["memory"]["total"], facts["values"]["load"]["cpus"]
        )

    def check(name: str, judge: Callable[..., Verdict], *sections: str) -> Check:
        return Check(name, lambda: judged(facts, judge, *sections), needs=LOGIN)

    public = {port, *settings.edge_ports(), *settings.world_ports()}
    chains = expected_chains(settings, port)
    return [
        Check(LOGIN, login, seconds=COLLECT_SECONDS + 1, lost="no SSH login"),
        check("ssh.hardened", lambda f: walls.ssh_hardened(f, settings.ssh.root_login), "sshd"),
        check("host.disk", machine.disk, "disk"),
        check("host.inodes", machine.inodes, "disk"),
        check("host.memory", machine.memory, "memory"),
        check("host.oom", machine.oom, "oom"),
        check("host.load", machine.load, "load"),
        check("host.units", machine.units, "units"),
        check("host.time", machine.clock, "clock"),
        check("host.reboot", machine.reboot, "reboot"),
        check("host.updates", machine.updates, "updates"),
        check("host.listeners", lambda f: walls.listeners(f, public), "listeners"),
        check("firewall.active", walls.firewall_active, "firewall"),
        check("firewall.host", lambda f: walls.firewall_host(f, chains), "firewall"),
        check("firewall.containers", lambda f: walls.firewall_containers(f, chains), "firewall"),
        check("firewall.guard", machine.guard, "guard"),
        *_stack_checks(check, rendered, public),
        check("deploy.record", machine.deploy, "deploy"),
        *_backup_checks(check, settings),
        Check("backup.reach", lambda: backups.reach(remote), seconds=REACH_SECONDS, needs=LOGIN),
        Check("escrow", lambda: backups.escrow(inspect(environment))),
    ]


def _backup_checks(check: Callable[..., Check], settings: Settings) -> list[Check]:
    if not settings.backup.enabled:
        return [check("backup.age", lambda _: backups.off(), "clock")]
    local_only = settings.backup.local_only
    return [
        check("backup.timers", backups.timers, "backups"),
        check("backup.last", backups.last, "backups"),
        check("backup.age", backups.age, "backups"),
        check("backup.offsite", lambda found: backups.offsite(found, local_only), "backups"),
        check("backup.size", backups.size, "backups"),
        check("backup.clock", backups.clock, "backups"),
        check("backup.check", lambda found: backups.proof(found, "check"), "backups"),
        check("backup.drill", lambda found: backups.proof(found, "drill"), "backups"),
        check("backup.restore", backups.restore, "backups"),
    ]


def _stack_checks(
    check: Callable[..., Check], rendered: Callable[[], Stack], public: set[int]
) -> list[Check]:
    def expected_files() -> Mapping[str, str]:
        return {file.path: file.sha256 for file in rendered().files}

    # the memory section comes along wherever the stack is rendered: limits follow the machine
    return [
        check(
            "containers.running",
            lambda found, _: stack.running(found, rendered().services),
            *("containers", "memory"),
        ),
        check("containers.restarts", stack.restarts, "containers"),
        check("containers.limits", stack.limits, "containers"),
        check("containers.ports", lambda f: walls.published(f, public), "containers"),
        check(
            "stack.files",
            lambda found, _: stack.files(found, expected_files()),
            *("files", "memory"),
        ),
        check(
            "stack.config",
            lambda found, _: stack.config(found, rendered().services),
            *("containers", "memory"),
        ),
        check(
            "stack.images",
            lambda found, ids, _: stack.images(found, ids, rendered().services),
            *("containers", "images", "memory"),
        ),
    ]
