"""A deploy, however often interrupted, ends in the same machine; a second changes nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from conftest import KILLED_WHILE, FirstDeploy, keeping
from hands import (
    ENVIRONMENT,
    HOST,
    INVENTORY,
    ROOT,
    changed_environment,
    deploy,
    inspect,
    on_host,
    plan,
    stackroom,
    until,
)

from ops.sandbox.layout import ipv4
from ops.settings import Environment

pytestmark = pytest.mark.sandbox

FIREWALL_STANDS = re.compile(r"\s*changed +Access \| firewall and SSH")


def secrets(environment: Environment) -> list[str]:
    kept = environment.settings.secrets
    return [kept.qdrant_api_key.get_secret_value(), kept.api_token.get_secret_value()]


@pytest.mark.skipif(keeping(), reason="STACKROOM_KEEP_SANDBOX: this machine was deployed before")
def test_a_first_deploy_that_is_killed_again_and_again_is_finished_by_the_next(
    first_deploy: FirstDeploy,
) -> None:
    assert set(first_deploy.killed) == set(KILLED_WHILE), first_deploy.finished.output
    assert first_deploy.finished.process.returncode == 0, first_deploy.finished.output
    assert on_host("dpkg --audit") == ""
    assert on_host("cat /etc/stackroom/recreate 2>/dev/null", check=False) == ""
    assert plan() == set()


@pytest.mark.skipif(keeping(), reason="STACKROOM_KEEP_SANDBOX: this machine was deployed before")
def test_nothing_was_open_to_a_stranger_while_it_was_deployed(first_deploy: FirstDeploy) -> None:
    watch = first_deploy.seen_by_denied
    attempts = [*first_deploy.killed.values(), first_deploy.finished]
    shut_at = next(
        at for attempt in attempts for at, line in attempt.lines if FIREWALL_STANDS.fullmatch(line)
    )

    assert watch.attempts > 300
    # a bare machine's sshd is open until the firewall stands; nothing else ever is
    assert {port for _, _, port in watch.opened} <= {22}
    assert [opened for opened in watch.opened if opened[0] > shut_at] == []


def test_a_second_deploy_changes_nothing(deployed: Environment) -> None:
    before = [inspect(c)["State"]["StartedAt"] for c in on_host("docker ps -q").split()]
    records = on_host("ls /var/lib/stackroom/deploys")

    done = deploy()

    assert done.returncode == 0, done.stderr
    assert "0 of" in done.stdout.splitlines()[0]
    assert "changed" not in done.stdout
    assert [inspect(c)["State"]["StartedAt"] for c in on_host("docker ps -q").split()] == before
    assert on_host("ls /var/lib/stackroom/deploys") == records


def test_pyinfra_by_hand_changes_nothing_either(deployed: Environment) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyinfra", "-y", "-vvv"),
            *(f"inventory/{ENVIRONMENT}/hosts.py", "deploy.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)

    assert done.returncode == 0, said[-2000:]
    assert "] No changes" in said
    assert "] Success" not in said
    assert [secret for secret in secrets(deployed) if secret in said] == []


def test_a_clean_plan(deployed: Environment) -> None:
    done = stackroom("plan", "--json", "--diff")
    document = json.loads(done.stdout)

    assert done.returncode == 0
    assert set(document) == {"schema_version", "clean", "changes", "unchanged", "diff"}
    assert (document["clean"], document["changes"], document["diff"]) == (True, [], "")
    assert document["unchanged"] >= 15


def test_a_plan_shows_the_lines_that_change_and_no_secret(deployed: Environment) -> None:
    rotated = "qdrant_api_key = 'a-key-nobody-uses-0123456789-0123456789'"
    with changed_environment(
        settings=lambda text: text.replace('journal_max = "100M"', 'journal_max = "123M"'),
        secrets=lambda text: re.sub("qdrant_api_key = .*", rotated, text),
    ) as name:
        told = stackroom("plan", "--diff", environment=name)
        document = stackroom("plan", "--diff", "--json", environment=name)

    assert (told.returncode, document.returncode) == (2, 2), told.stderr
    assert set(json.loads(document.stdout)["changes"]) >= {"Base | files", "Stack | services"}
    for said in (told.stdout + told.stderr, document.stdout + document.stderr):
        assert "-SystemMaxUse=100M" in said
        assert "+SystemMaxUse=123M" in said
        assert "local.yaml: differs" in said
        assert "a-key-nobody-uses" not in said
        assert [secret for secret in secrets(deployed) if secret in said] == []


def test_a_machine_that_does_not_answer(deployed: Environment) -> None:
    with changed_environment() as name:
        hosts = INVENTORY / name / "hosts.py"
        text = hosts.read_text(encoding="utf-8")
        hosts.write_text(text.replace(HOST, ipv4(99)), encoding="utf-8")
        done = stackroom("plan", environment=name)

    assert done.returncode == 4, done.stderr
    assert ipv4(99) in done.stderr


def test_a_mistake_in_the_settings_touches_nothing(deployed: Environment) -> None:
    with changed_environment(settings=lambda text: text + "\n[qdrnt]\nmemory = 1\n") as name:
        done = deploy(environment=name)

    assert done.returncode == 3
    assert "qdrnt" in done.stderr


HOLD = f"""
import sys, time
from pathlib import Path
from ops.clients.ssh import Remote
from ops.deploy.lock import hold_lock
from ops.settings import load_environment
with hold_lock(Remote(load_environment(Path("inventory/{ENVIRONMENT}"))), "a long deploy"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_operator_at_a_time(deployed: Environment, unchanged: None) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    on_host("systemctl disable -q apt-daily.timer")

    refused = deploy()
    shown = json.loads(stackroom("lock", "--json").stdout)["holder"]
    assert refused.returncode == 5, refused.stdout + refused.stderr
    assert "a long deploy" in refused.stderr
    assert shown["doing"] == "a long deploy"
    assert shown["who"] in refused.stderr
    assert on_host("systemctl is-enabled apt-daily.timer", check=False) == "disabled"

    holder.kill()
    holder.wait()
    until(
        lambda: json.loads(stackroom("lock", "--json").stdout)["holder"] is None, 60, "a free lock"
    )
    assert deploy().returncode == 0


def test_the_record_tells_what_is_on_the_machine(deployed: Environment) -> None:
    done = stackroom("history", "--json")
    records = json.loads(done.stdout)["deploys"]
    newest = next(record for record in records if record["part"] == "all")

    assert [record["at"] for record in records] == sorted(
        (record["at"] for record in records), reverse=True
    )
    for service in ("qdrant", "edge"):
        running = inspect(f"stackroom-{service}-1")
        assert newest["images"][service]["id"] == running["Image"]
        assert newest["images"][service]["image"] == running["Config"]["Image"]
    listed = on_host(f"sha256sum {' '.join(newest['files'])}").splitlines()
    assert dict(reversed(line.split()) for line in listed) == newest["files"]
    assert len(newest["files"]) >= 5
    assert newest["who"]
    assert newest["revision"] != "unknown"
