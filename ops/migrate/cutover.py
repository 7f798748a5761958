"""The switch from the old collection to the new one, its undo, and the end of both.

Decision: programs follow an alias, so one request moves them all. Cost: writes must pause for the
last pass, moments where little changed. Undo: one command, as long as it was not confirmed; what
was written to the new collection meanwhile stays there and does not come back with it.
"""

from __future__ import annotations

import time

from ops.backup.source import Event
from ops.migrate import target as making
from ops.migrate.run import GREEN_SECONDS, Job, catch_up
from ops.migrate.server import path_of
from ops.migrate.side import MigrationError

LAST_PASSES = 6
QUIET_PASSES = 2  # in a row, nothing found: then nobody writes
QUIET_SECONDS = 2.0  # between them, so that a client that writes every second is seen


def cut_over(job: Job) -> None:
    """Wait for the index, catch up to the last point, lead the aliases to the new collections.

    The source must not be written to meanwhile: raises MigrationError where it still is. May be
    done again after a crash.
    """
    migration = job.migration
    if migration.phase != "ready":
        raise MigrationError(
            f"migration {migration.id} is {migration.phase}, not ready",
            f"stackroom migrate resume {migration.id}" if migration.phase == "running" else "",
        )
    if not _switched(job):
        _catch_up(job)
        there = job.target.aliases()
        for switch in migration.switches:
            switch.led_to = there.get(switch.alias, "")
        migration.switching = True
        job.note()
        making.point_aliases(job.target, migration.switches)
    migration.phase = "cut over"
    job.note()


def _switched(job: Job) -> bool:
    """Whether a crash came right after the switch. Raises MigrationError where somebody else led
    an alias: programs write there, and a pass would take that away again."""
    there = job.target.aliases()
    led = [each for each in job.migration.switches if there.get(each.alias) == each.target]
    if led and not job.migration.switching:
        raise MigrationError(
            f"the alias {led[0].alias} leads to {led[0].target} already, not by this migration: "
            "a last pass would undo what was written there",
            "lead it back by hand first, or leave it and compare: stackroom migrate verify",
        )
    return bool(led)  # one request led them all


def _catch_up(job: Job) -> None:
    """Passes until two over everything find nothing. The index is waited for before each: that
    may take an hour, and whatever is written in it has to be seen."""
    quiet, behind = 0, list(job.migration.moves)
    for _ in range(LAST_PASSES):
        if quiet:
            time.sleep(QUIET_SECONDS)
        for move in job.migration.moves:
            making.wait_until_green(
                job.target,
                move.target,
                seconds=GREEN_SECONDS,
                tell=lambda status, name=move.target: job.tell(  # type: ignore[misc]
                    Event("index", f"{name} is {status}")
                ),
            )
        for number, move in enumerate(job.migration.moves):
            move.left = catch_up(job, number, move, job.source.info(move.name))
            move.passes += 1
        job.note()
        written = [move for move in job.migration.moves if move.left]
        quiet, behind = (0, written) if written else (quiet + 1, behind)
        if quiet == QUIET_PASSES:
            return
    raise MigrationError(
        f"{behind[0].name} is still written to: {behind[0].left} points differed in a pass",
        f"pause what writes to it; then stackroom migrate cutover {job.migration.id}",
    )


def undo(job: Job) -> None:
    """Lead every alias back. Raises MigrationError where one was led elsewhere since, or where
    what it led to is gone: then none is touched."""
    migration = job.migration
    if migration.phase != "cut over" or not migration.switches:
        led = migration.phase if migration.switches else "one that leads no alias"
        raise MigrationError(f"migration {migration.id} is {led}: nothing to undo")
    there, collections = job.target.aliases(), set(job.target.collections())
    for switch in migration.switches:
        now = there.get(switch.alias, "")
        if now not in (switch.target, switch.led_to):
            raise MigrationError(
                f"the alias {switch.alias} leads to {now or 'nothing'} by now, not {switch.target}",
                "lead it by hand",
            )
        if switch.led_to and switch.led_to not in collections:
            raise MigrationError(f"{switch.led_to}, where {switch.alias} led to, is gone")
    making.point_aliases(job.target, migration.switches, back=True)
    migration.phase = "undone"
    job.note()


def old_collections(job: Job) -> list[str]:
    """What the aliases led to before, and no alias leads to now."""
    led = set(job.target.aliases().values()) | {move.target for move in job.migration.moves}
    before = {switch.led_to for switch in job.migration.switches if switch.led_to}
    return sorted((before - led) & set(job.target.collections()))


def confirm(job: Job, *, drop_old: bool) -> list[str]:
    """End the time for an undo; with `drop_old` delete the old collections of the target, whose
    names are returned. The source is never touched. Raises MigrationError before a cutover."""
    migration = job.migration
    if migration.phase not in ("cut over", "confirmed"):
        raise MigrationError(
            f"migration {migration.id} is {migration.phase}: there is nothing to confirm",
            f"stackroom migrate cutover {migration.id}",
        )
    old = old_collections(job) if drop_old else []
    migration.phase = "confirmed"
    job.note()
    for name in old:
        job.target.request("DELETE", path_of(name))
    return old
