"""A real RabbitMQ's definitions are collected, and imported by a throw-away broker."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_services import image, rabbitmq, run_in

from ops.backup.manifest import RabbitmqFacts
from ops.backup.rabbitmq import RabbitmqCollector
from ops.backup.source import Collected, silent
from ops.clients.docker import SCRATCH_LABEL, Scratch, docker, mountpoint
from ops.errors import BackupError, ServiceError, UnprovenError, UnreachableError
from ops.restore.rabbitmq import RabbitmqRehearsal
from ops.settings.host import RabbitmqSource

pytestmark = pytest.mark.services

DEFINITIONS = {
    "vhosts": [{"name": "/"}, {"name": "hätchet"}],
    "users": [
        {"name": "engine", "password": "canary-engine", "tags": ["administrator"]},
        {"name": "lesér", "password": "canary-reader", "tags": []},
    ],
    "permissions": [
        {"user": "engine", "vhost": "hätchet", "configure": ".*", "read": ".*", "write": ".*"}
    ],
    "queues": [
        {"name": f"queue {n}", "vhost": "hätchet", "durable": True, "auto_delete": False,
         "arguments": {"x-queue-type": "classic", "x-max-priority": 5}}
        for n in range(30)
    ],
    "exchanges": [
        {"name": "tasks", "vhost": "hätchet", "type": "topic", "durable": True,
         "auto_delete": False, "internal": False, "arguments": {}}
    ],
    "bindings": [
        {"source": "tasks", "vhost": "hätchet", "destination": f"queue {n}",
         "destination_type": "queue", "routing_key": f"task.{n}", "arguments": {}}
        for n in range(30)
    ],
    "policies": [
        {"name": "keep", "vhost": "hätchet", "pattern": "^queue", "apply-to": "queues",
         "priority": 1, "definition": {"max-length": 1000}}
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with rabbitmq() as name:
        run_in(name, "sh", "-c", "cat > /tmp/set", stdin=json.dumps(DEFINITIONS))
        run_in(name, "rabbitmqctl", "--quiet", "import_definitions", "/tmp/set")
        run_in(name, "rabbitmqctl", "--quiet", "delete_user", "guest")
        yield name


@pytest.fixture(scope="module")
def backup(broker: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Collected]:
    staging = tmp_path_factory.mktemp("staging")
    return staging, RabbitmqCollector(source(broker)).collect(staging, silent)


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    with Scratch("rabbitmq", owner="tests") as made:
        yield made


def source(container: str) -> RabbitmqSource:
    return RabbitmqSource(name="queue", container=container)


def facts_of(collected: Collected) -> RabbitmqFacts:
    assert isinstance(collected.facts, RabbitmqFacts)
    return collected.facts


def rehearse(
    staging: Path, facts: RabbitmqFacts, scratch: Scratch, container: str = ""
) -> tuple[dict[str, bool], str]:
    volume = scratch.volume("queue")
    rehearsal = RabbitmqRehearsal(source(container))
    found = rehearsal.rehearse(staging, facts, scratch, volume, silent)
    return {one.subject: one.ok for one in found}, volume


def test_what_is_defined_is_collected(broker: str, backup: tuple[Path, Collected]) -> None:
    staging, collected = backup
    facts = facts_of(collected)
    assert facts.counts == {
        "vhosts": 2, "users": 2, "permissions": 1, "topic_permissions": 0, "policies": 1,
        "parameters": 0, "queues": 30, "exchanges": 1, "bindings": 30,
    }  # fmt: skip
    assert facts.version.startswith("4.0.") and facts.image == image("rabbitmq") and facts.digest
    (item,) = collected.items
    content = (staging / item.path).read_bytes()
    assert (item.size, item.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert stat.S_IMODE((staging / item.path).stat().st_mode) == 0o600
    assert b"canary" not in content
    assert len(json.loads(content)["queues"]) == 30
    assert RabbitmqCollector(source(broker)).expected_bytes() > 0


def test_what_is_built_anew_is_what_was_there(
    broker: str, backup: tuple[Path, Collected], scratch: Scratch
) -> None:
    """The volume it leaves is one on which the live broker starts, with all that was defined."""
    staging, collected = backup
    found, volume = rehearse(staging, facts_of(collected), scratch, broker)
    assert set(found.values()) == {True}
    assert (
        docker("ps", "--all", "--quiet", "--filter", f"label={SCRATCH_LABEL}={scratch.name}") == ""
    )
    assert (mountpoint(volume) / "mnesia" / "rabbit@queue").is_dir()
    mount = ["--mount", f"type=volume,src={volume},dst=/var/lib/rabbitmq", "--hostname", "queue"]
    live = scratch.start("live", image("rabbitmq"), options=mount)
    for _ in range(10):
        try:
            run_in(live, "rabbitmqctl", "await_startup")
            break
        except AssertionError:
            continue
    listed = run_in(live, "rabbitmqctl", "--quiet", "list_queues", "--vhost", "hätchet", "name")
    assert listed.count("queue ") == 30
    assert "engine" in run_in(live, "rabbitmqctl", "--quiet", "list_users")
    run_in(live, "rabbitmqctl", "--quiet", "authenticate_user", "engine", "canary-engine")


def test_what_differs_is_told(
    backup: tuple[Path, Collected], tmp_path: Path, scratch: Scratch
) -> None:
    staging, collected = backup
    facts = facts_of(collected)
    path = tmp_path / facts.item
    path.parent.mkdir()
    altered = json.loads((staging / facts.item).read_bytes())
    altered["bindings"] = altered["bindings"][1:]
    path.write_text(json.dumps(altered), encoding="utf-8")
    found, _ = rehearse(tmp_path, facts, scratch)
    assert [subject for subject, ok in found.items() if not ok] == ["queue: bindings"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"users": [{"name": 1}]}', "no JSON"])
def test_definitions_that_are_refused_condemn_the_backup(
    content: str, backup: tuple[Path, Collected], tmp_path: Path, scratch: Scratch
) -> None:
    facts = facts_of(backup[1])
    (tmp_path / facts.item).parent.mkdir()
    (tmp_path / facts.item).write_text(content, encoding="utf-8")
    with pytest.raises(BackupError):
        rehearse(tmp_path, facts, scratch)
    assert (
        docker("ps", "--all", "--quiet", "--filter", f"label={SCRATCH_LABEL}={scratch.name}") == ""
    )


def test_what_could_not_be_raised_proves_nothing(
    backup: tuple[Path, Collected], scratch: Scratch
) -> None:
    staging, collected = backup
    for name in ("stackroom/no-such-image:1", "stackroom-sandbox/base:trixie"):
        change = {"image": name, "digest": ""}
        with pytest.raises(UnprovenError):
            rehearse(staging, facts_of(collected).model_copy(update=change), scratch)


def test_a_broker_that_is_down_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="does not run"):
        RabbitmqCollector(source("stackroom-no-such")).collect(tmp_path, silent)
    with rabbitmq() as name:
        run_in(name, "rabbitmqctl", "--quiet", "stop_app")
        with pytest.raises(ServiceError):
            RabbitmqCollector(source(name)).collect(tmp_path, silent)
        docker("stop", name)
        with pytest.raises(UnreachableError, match="does not run"):
            RabbitmqCollector(source(name)).expected_bytes()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
