"""A deploy under the lock: apply, then record what changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ops.clients.ssh import Remote
from ops.deploy.apply import apply
from ops.deploy.embeddings import refuse_other_vectors
from ops.deploy.lock import hold_lock
from ops.deploy.passwords import refuse_changed
from ops.deploy.pyinfra import Part
from ops.deploy.record import write_record
from ops.errors import StackroomError
from ops.render.backup import program, render_backups, settings_copy
from ops.render.files import RenderedFile
from ops.render.host import base_files, ssh_files
from ops.render.people import key_files
from ops.render.stack import render_stack
from ops.settings import Environment


def carry_out(
    environment: Environment,
    doing: str,
    *,
    part: Part = "all",
    images: Path | None = None,
    force_lockout: bool = False,
    first: Callable[[], None] = lambda: None,
    last: Callable[[], list[str]] = list,
    on_step: Callable[[str, str], None],
) -> list[str]:
    """Apply the inventory to the machine; returns the steps that changed something.

    `doing` is what the lock shows to others, and the record. `first` runs under the lock before
    anything is changed: what it raises ends it there. `last` does what is left when the machine is
    as it should be, and tells what it changed. Raises LockedError, UnreachableError,
    DeployError.
    """
    remote = Remote(environment)
    with hold_lock(remote, doing):
        if part == "all":
            refuse_changed(environment, remote)
            refuse_other_vectors(environment, remote)
        first()
        changes = apply(
            environment, part=part, images=images, force_lockout=force_lockout, on_step=on_step
        )
        try:
            changes = [*changes, *last()]
        finally:
            if changes:
                _record(environment, remote, changes, part, doing, on_step)
    return changes


def _record(
    environment: Environment,
    remote: Remote,
    changes: list[str],
    part: Part,
    doing: str,
    on_step: Callable[[str, str], None],
) -> None:
    files = _rendered(environment, remote) if part == "all" else _of_people(environment)
    try:
        write_record(remote, files, changes, part=part, doing=doing)
    except StackroomError as error:
        if part == "all":
            raise
        # a change of people is in force: it must not be told, and undone, as a failed one
        on_step(f"the record of it: {error.message}", "Not written")


def _of_people(environment: Environment) -> list[RenderedFile]:
    settings = environment.settings
    copy = settings_copy(environment, "developers.toml")
    return [*ssh_files(settings), *key_files(settings), copy]


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
        *key_files(environment.settings),
        *stack.files,
        *backups.files,
        program(backups.bundle),
    ]
