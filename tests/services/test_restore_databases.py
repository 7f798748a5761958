"""Databases come back whole, with who writes to them, or what ran before still runs.

Real Postgres with pgvector and large objects, a real broker, a writer that never rests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from data_services import run_in
from database_stack import DatabaseStack, copy_of, database_stack
from killing import Killer, Step, Work
from live_stack import docker

from ops.backup.manifest import new_run, read_manifest
from ops.backup.source import Event
from ops.errors import BackupError
from ops.restore import live as live_room
from ops.restore import switch
from ops.restore.drill import drill
from ops.restore.handover import PostgresHandover
from ops.restore.journal import Journal, pending, place
from ops.restore.whole import confirm, restore_stack, undo

pytestmark = pytest.mark.services


@pytest.fixture(autouse=True)
def _restic(restic: Path) -> None:
    """Every test here backs up."""


@pytest.fixture(scope="module")
def stack(restic: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseStack]:
    """Each test leaves it serving; what it holds then is the test's own affair."""
    with database_stack(tmp_path_factory.mktemp("databases")) as stack:
        yield stack


def started(container: str) -> str:
    return docker("inspect", "--format", "{{.State.StartedAt}}", container)


def test_databases_broker_and_keys_come_back_together(tmp_path: Path) -> None:
    with database_stack(tmp_path, broker=True) as stack:
        good = stack.data()
        # what was backed up had another password than the deploy has now
        stack.sql("alter role r2r password 'of-the-first-day'")
        run_in(stack.broker, "rabbitmqctl", "-q", "change_password", "queue", "of-the-first-day")
        backup = stack.back_up()
        stack.sql(f"alter role r2r password '{stack.password}'")
        stack.spoil()
        run_in(stack.broker, "rabbitmqctl", "-q", "delete_queue", "queue-3")
        spoilt, ran_once = stack.data(), started(stack.once)

        with pytest.raises(BackupError, match=r"not empty: postgres: the table library\.\w+"):
            restore_stack(stack.config, stack.credentials)
        record = restore_stack(stack.config, stack.credentials, run=backup, replace=True)
        assert record.outcome == "ok" and stack.data() == good
        assert record.details["switched"] == ["postgres", "keys", "rabbitmq"]
        said = {c["subject"]: c["found"] for c in record.details["comparisons"]}
        assert said["postgres/r2r: rows of library.documents"] == "30"
        assert said["postgres/r2r: sampled vectors of library.chunks.vec"] == "20"
        queues = run_in(stack.broker, "rabbitmqctl", "-q", "list_queues", "name").split()
        assert {f"queue-{n}" for n in range(5)} <= set(queues)
        # those of the deploy are let in: to the database over the network, and to the broker
        assert stack.writes()
        login = ("authenticate_user", "queue", stack.password)
        run_in(stack.broker, "rabbitmqctl", "-q", *login)
        assert stack.password not in docker("logs", stack.postgres)
        # what a deploy runs once was not run again
        assert started(stack.once) == ran_once

        undo(stack.config, stack.credentials)
        assert stack.data() == spoilt and stack.writes()
        confirm(stack.config)
        assert stack.kept() == []


def test_a_new_machine_takes_the_backup_without_replace(stack: DatabaseStack) -> None:
    """What R2R makes itself at its first start is in nobody's way."""
    stack.sql("create table if not exists library.prompts (t text); insert into library.prompts"
        " values ('made by a deploy')")  # fmt: skip
    good = stack.data()
    stack.back_up()
    stack.sql("select lo_unlink(oid) from library.files;"
        " truncate library.documents, library.chunks, library.files")  # fmt: skip
    record = restore_stack(stack.config, stack.credentials)
    assert record.details["safety"].startswith("none: there was nothing to lose")
    assert stack.data() == good and stack.writes()
    assert f"`stackroom -e {stack.name} deploy`" in record.details["accounts"]
    confirm(stack.config)


def test_a_drill_reads_the_vectors_and_the_files(stack: DatabaseStack) -> None:
    stack.back_up()
    record = drill(stack.config, stack.credentials, source="local")
    assert record.outcome == "ok"
    subjects = [c["subject"] for c in record.details["comparisons"]]
    for subject in (
        *(f"rows of library.{name}" for name in ("documents", "chunks", "files")),
        "nearest by library.chunks.vec, 3 exact searches",
        "sampled large objects",
    ):
        assert f"postgres/r2r: {subject}" in subjects


def be_soon_content(change: Callable[[object, str, object], None] = setattr) -> None:
    change(live_room, "STEADY_SECONDS", 0.5)


def switching(stack: DatabaseStack, copies: dict[str, Path]) -> Journal:
    """As a restore plans it; the rebuilt data are copies of the good ones."""
    manifest = read_manifest(stack.config.base / "current")
    facts = manifest.sources["postgres"]
    found = next(each for each in facts.databases if each.name == "r2r")  # type: ignore[union-attr]
    run = new_run()
    return Journal(
        run=run,
        backup=manifest.run,
        state="switching",
        places=[
            place("postgres", stack.mounted(stack.postgres), copies["postgres"], run),
            place("keys", stack.mounted(stack.keys), copies["keys"], run),
        ],
        containers=[stack.postgres, stack.writer],
        ran=[stack.postgres, stack.writer],
        handovers=[
            PostgresHandover(
                container=stack.postgres,
                user="r2r",
                rows={"r2r": {table: min(count) for table, count in found.rows.items()}},
                large_objects={"r2r": 30},
            )
        ],
    )


def test_killed_at_a_step_of_the_switch_all_is_old_or_all_is_new(
    stack: DatabaseStack, killer: Killer
) -> None:
    stack.back_up()
    good = stack.data()
    folders = {"postgres": stack.mounted(stack.postgres), "keys": stack.mounted(stack.keys)}
    docker("stop", stack.writer, stack.postgres)
    for folder in folders.values():
        copy_of(folder, "good")
    docker("start", stack.postgres, stack.writer)
    stack.wait(stack.postgres)
    stack.spoil()
    spoilt = stack.data()
    try:
        for step, new in (
            (Step("switch:place", 1), False),
            (Step("switch:retire", 2), False),
            (Step("switch:start", 1), True),
            (Step("switch:handover", 1), True),
            (Step("switch:check", 1), True),
        ):
            copies = {
                name: copy_of(folder.with_name("good"), "rebuilt")
                for name, folder in folders.items()
            }
            arguments = (stack.config, stack.credentials, switching(stack, copies))
            assert killer.kill_at(step, Work(switch.switch, arguments, before=be_soon_content))
            if step.name == "switch:check":
                # it had been handed over: what its users delete from then on is no loss
                journal = pending(stack.config)
                assert journal is not None and journal.handovers == []
                stack.sql("delete from library.users where id = 2")
            told = switch.settle(stack.config, stack.credentials)
            assert ("finished" in told) is new, step
            if step.name == "switch:check":
                assert stack.sql("select count(*) from library.users") == "1"
            else:
                assert stack.data() == (good if new else spoilt), step
            assert stack.writes(), step
            if new:
                undo(stack.config, stack.credentials)
                confirm(stack.config)
                assert stack.data() == spoilt, step
            assert pending(stack.config) is None and stack.kept() == [], step
            for path in copies.values():
                shutil.rmtree(path, ignore_errors=True)
    finally:
        for folder in folders.values():
            shutil.rmtree(folder.with_name("good"))


def test_rows_that_are_missing_on_the_live_service_are_noticed_before_anybody_writes(
    stack: DatabaseStack,
) -> None:
    stack.sql("truncate library.users; insert into library.documents values (1000, 'new')")
    stack.back_up()
    before = stack.data()
    stack.wait(stack.postgres)
    seen: list[str] = []

    def tell(event: Event) -> None:
        if event.step == "switch:start":
            seen.append(event.item)
        if event.step == "switch:handover":
            run_in(stack.postgres, "psql", "-qU", "r2r", "r2r", "-c",
                "delete from library.documents where id = 1000")  # fmt: skip

    with pytest.raises(BackupError, match=r"library\.documents instead of .* are back and served"):
        restore_stack(stack.config, stack.credentials, replace=True, tell=tell)
    assert seen[0] == stack.postgres and stack.writer not in seen[:1]
    assert stack.data() == before and stack.writes()
