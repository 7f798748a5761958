"""What R2R knows is backed up on its machine, drilled, lost, and there again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hands import holds, on_host, plan, stackroom
from r2r_hands import bearer, bring, curl, documents, found

from ops.settings import Environment

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("deployed")]

TEXT = "The bell founder lets the mould cool for nine days before he breaks it."
LATER = "The apprentice sweeps the foundry and counts the bricks of the furnace."


def record(*verb: str) -> dict[str, Any]:
    done = stackroom(*verb, "--json", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def delete(environment: Environment, document: str) -> None:
    url = f'url = "http://127.0.0.1:7272/v3/documents/{document}"'
    assert curl(url, 'request = "DELETE"', bearer(environment))[0] == 200


def test_documents_that_were_lost_are_there_again(deployed: Environment) -> None:
    brought = bring(deployed, TEXT)
    run = record("backup", "run")["run"]
    proof = record("drill")
    assert proof["subject"] == run
    compared = {each["subject"]: each["ok"] for each in proof["details"]["comparisons"]}
    assert all(compared.values())
    assert any(".chunks" in subject for subject in compared), compared

    delete(deployed, brought)
    later = bring(deployed, LATER)
    assert brought not in documents(deployed)
    record("restore", "run", "--run", run, "--replace", "--yes")
    known = documents(deployed)
    assert known[brought] == "success"
    assert later not in known
    assert found(deployed, TEXT)[0] == brought
    # what the backup did not have is not gone before somebody says so
    record("restore", "undo", "--yes")
    assert later in documents(deployed)
    assert plan() == set()
    delete(deployed, later)


def test_a_restart_in_the_middle_of_a_restore_starts_nothing_on_half_of_the_data() -> None:
    journal = "/var/lib/stackroom/backup/restore.json"
    on_host(f"cp -p {journal} /root/restore.json 2>/dev/null || true")  # of the test above
    try:
        on_host(f"""printf '{{\\n "state": "switching"\\n}}\\n' >{journal}""")
        on_host("systemctl stop stackroom-stack && systemctl start stackroom-stack", check=False)
        assert on_host("docker ps --quiet") == ""
        assert not holds("systemctl is-active --quiet stackroom-stack.service")
    finally:
        on_host(f"rm {journal}; mv /root/restore.json {journal} 2>/dev/null || true")
        on_host("systemctl start stackroom-stack")
    assert holds("systemctl is-active --quiet stackroom-stack.service")
    assert plan() == set()
