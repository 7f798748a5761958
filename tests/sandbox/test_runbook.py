"""The runbook, as it is written: every command of docs/restore.md is run, in its order.

Last of all the machine is thrown away, and a new one is made from the off-site repository, the
recovery file and one person's key. The oracle is raw HTTP: every point, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backup_hands import COLLECTION, POINTS, verb, write_points
from hands import INVENTORY, KEY, STACKROOM, changed_environment, deploy, on_host, plan, qdrant

from ops import sandbox as room
from ops.render.files import ROOT
from ops.sandbox.layout import GATEWAY_IPV4
from ops.settings import Environment

sys.path.insert(0, str(ROOT / "tests" / "services"))

from servers import S3Server, new_bucket, s3_server

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(1200)]

RUNBOOK = ROOT / "docs" / "restore.md"
CHECKOUT = "git clone <this repository> stackroom"  # this is one; the README's test makes another
REQUESTS = 100


def commands(section: str) -> list[str]:
    """The lines of the fenced blocks below a heading, as a person would copy them."""
    text = RUNBOOK.read_text(encoding="utf-8").split(f"\n## {section}")[1].split("\n## ")[0]
    blocks = re.findall(r"^ *```\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    found = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert found, section
    return found


@dataclass(frozen=True)
class Desk:
    """An operator's machine: the environment, and what was put away for a bad night."""

    environment: str
    vault: Path

    def type(self, command: str) -> str:
        """A command of the runbook, with this environment's name, key and recovery file."""
        mine = {
            "production": self.environment,
            "~/.ssh/id_ed25519": str(KEY),
            " recovery.age": f" {self.vault / 'recovery.age'}",
        }
        for theirs, ours in mine.items():
            command = command.replace(theirs, ours)
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=ROOT,
            env=os.environ | {"PATH": f"{STACKROOM.parent}:{os.environ['PATH']}", "EDITOR": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        # what only looks may find something to warn of
        looks = re.search(r" (doctor|plan)\b", command)
        assert done.returncode in ((0, 1, 2) if looks else (0,)), done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def s3(deployed: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Away from the machine, and reached by it: on the gateway of its network."""
    with s3_server(tmp_path_factory.mktemp("s3"), GATEWAY_IPV4) as server:
        yield server


@pytest.fixture(scope="module")
def desk(deployed: Environment, s3: S3Server, tmp_path_factory: Any) -> Iterator[Desk]:
    offsite = f'[backup.offsite]\nrepository = "{s3.repository(new_bucket())}"'
    lines = ", ".join(
        f'{name} = "{value}"'
        for name, value in (line.split("=", 1) for line in s3.offsite_env.splitlines())
    )
    with changed_environment(
        settings=lambda text: re.sub(r"local_only = true.*", offsite, text),
        secrets=lambda text: text + f"offsite_env = {{ {lines} }}\n",
    ) as name:
        assert "deployed:" in deploy(environment=name).stdout
        yield Desk(name, tmp_path_factory.mktemp("vault"))
    assert deploy().returncode in (0, 1)
    assert plan() == set()


def contents(environment: Environment) -> str:
    """SHA-256 over every point of the collection: id, vector, payload."""
    digest, offset = hashlib.sha256(), None
    while True:
        page = {"limit": REQUESTS, "with_vector": True, "with_payload": True, "offset": offset}
        answer = qdrant(environment, "POST", f"{POINTS}/scroll", page)["result"]
        digest.update(json.dumps(answer["points"], sort_keys=True).encode())
        offset = answer["next_page_offset"]
        if offset is None:
            return digest.hexdigest()


def test_one_collection_comes_back_beside_the_one_that_is_there(
    desk: Desk, deployed: Environment
) -> None:
    write_points(deployed, 1, 300)
    before = contents(deployed)
    assert verb("backup", "run", environment=desk.environment)["outcome"] == "ok"
    desk.type(RUNBOOK.read_text(encoding="utf-8").split("```\n")[1].splitlines()[0])
    for command in commands("A."):
        desk.type(command)
    assert contents(deployed) == before
    names = {c["name"] for c in qdrant(deployed, "GET", "/collections")["result"]["collections"]}
    copies = {name for name in names if name.startswith(f"{COLLECTION}-restored-")}
    aliases = qdrant(deployed, "GET", "/aliases")["result"]["aliases"]
    assert aliases == [{"alias_name": "knowledge", "collection_name": "knowledge_2"}]
    assert len(copies) == 1
    for name in [*copies, "knowledge_2"]:
        count = qdrant(deployed, "POST", f"/collections/{name}/points/count", {"exact": True})
        assert count["result"]["count"] == 300
        qdrant(deployed, "DELETE", f"/collections/{name}")


def test_the_whole_stack_comes_back_and_what_was_replaced_stays(
    desk: Desk, deployed: Environment
) -> None:
    wanted = contents(deployed)
    saved = verb("backup", "run", environment=desk.environment)["run"]
    write_points(deployed, 1000, 50)  # the damage
    damaged = contents(deployed)
    restore, confirm, undo = commands("B.")
    restore = restore.replace("restore run", f"restore run --run {saved}")
    desk.type(restore)
    assert contents(deployed) == wanted
    desk.type(undo)
    assert contents(deployed) == damaged
    desk.type(confirm)
    desk.type(restore)
    desk.type(confirm)
    assert contents(deployed) == wanted
    kept = on_host("ls -d /var/lib/docker/volumes/*/_data.* 2>/dev/null || true")
    assert kept == "", "what was confirmed is gone"


def test_a_new_machine_from_the_repository_the_recovery_file_and_a_key(
    desk: Desk, deployed: Environment, s3: S3Server, archive: Path
) -> None:
    assert verb("backup", "run", environment=desk.environment)["outcome"] == "ok"
    wanted = contents(deployed)
    trusted = verb("ca", environment=desk.environment)["sha256"]
    verb("escrow", "create", "--yes", environment=desk.environment)
    folder = INVENTORY / desk.environment
    shutil.move(folder / "recovery.age", desk.vault)
    settings = (folder / "settings.toml").read_bytes()
    shutil.rmtree(folder)

    room.down()  # the machine is gone, with its own repository
    room.up(print)
    s3.stop()  # its address went with the machine's network
    s3.start()

    typed = commands("C.")
    assert typed[0].startswith(CHECKOUT)
    for command in typed[1:]:
        if " deploy " in command:  # no registry is needed here, and none is reached
            command += f" --images {archive}"
        desk.type(command)
    assert contents(deployed) == wanted
    assert (folder / "settings.toml").read_bytes() == settings
    assert verb("ca", environment=desk.environment)["sha256"] == trusted
    listed = verb("backup", "list", environment=desk.environment)
    assert listed["backups"][0]["where"] == ["local", "offsite"]
