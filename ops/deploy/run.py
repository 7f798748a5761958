"""A deploy under the lock: apply, then record what changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ops.clients.ssh import Remote
from ops.deploy.apply import apply
from ops.deploy.lock import hold_lock
from ops.deploy.record import write_record
from ops.render.backup import program, render_backups
from ops.render.files import RenderedFile
from ops.render.host import base_files, ssh_files
from ops.render.stack import render_stack
from ops.settings import Environment


def carry_out(
    environment: Environment,
    doing: str,
    *,
    images: Path | None = None,
    force_lockout: bool = False,
    on_step: Callable[[str, str], None],
) -> list[str]:
    """Apply the inventory to the machine; returns the steps that changed something.

    `doing` is what the lock shows to others. Raises LockedError, UnreachableError, DeployError.
    """
    remote = Remote(environment)
    with hold_lock(remote, doing):
        changes = apply(environment, images=images, force_lockout=force_lockout, on_step=on_step)
        if changes:
            write_record(remote, _rendered(environment, remote), changes)
    return changes


def _rendered(environment: Environment, remote: Remote) -> list[RenderedFile]:
    size = remote.run(
        "awk '/^MemTotal/ {print int($2/1024)}' /proc/meminfo; getconf _NPROCESSORS_ONLN"
    )
    memory_mib, cpus = (int(line) for line in size.stdout.split())
    stack = render_stack(environment, memory_mib, cpus)
    backups = render_backups(environment)
    return [
        *base_files(environment.settings, environment.machine.user),
        *ssh_files(environment.settings),
        *stack.files,
        *backups.files,
        program(backups.bundle),
    ]
