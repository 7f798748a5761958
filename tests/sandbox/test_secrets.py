"""The canaries are the sandbox's own generated secrets: they are where they must be, and nowhere
else - no output, log, label, process list or record has them."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hands import (
    EDGE,
    ENVIRONMENT,
    NAME,
    QDRANT,
    ROOT,
    changed_environment,
    on_host,
    stackroom,
)

from ops.settings import Environment

pytestmark = pytest.mark.sandbox

KEY_FILE = "/etc/stackroom/stack/qdrant/local.yaml"
KEEPERS = (
    r"/etc/stackroom/stack(\.previous|\.refused|\.failed)?/qdrant/local\.yaml"
    r"|/etc/stackroom/secrets/(qdrant_api_key|restic_password)"
)


@pytest.fixture(scope="module")
def canaries(deployed: Environment) -> list[str]:
    kept = deployed.settings.secrets
    secrets = (kept.qdrant_api_key, kept.api_token, kept.restic_password)
    return [secret.get_secret_value() for secret in secrets]


@contextmanager
def sampling_process_lists(canaries: list[str]) -> Iterator[list[str]]:
    """Command lines with a canary, of every process of this machine and so of the sandbox's."""
    found: list[str] = []
    samples = 0
    ended = threading.Event()

    def sample() -> None:
        nonlocal samples
        while not ended.wait(0.02):
            samples += 1
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    line = (process / "cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if any(canary in line for canary in canaries):
                    found.append(line.replace("\0", " ")[:80])

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        assert samples > 50


def leaks(text: str, canaries: list[str]) -> list[str]:
    return [f"...{text[max(0, text.find(c) - 60) : text.find(c)]}" for c in canaries if c in text]


def test_no_output_and_no_process_list_while_secrets_are_written(
    deployed: Environment, unchanged: None, canaries: list[str]
) -> None:
    on_host(f"sed -i s/telemetry_disabled/telemetry_was_disabled/ {KEY_FILE}")
    said = []
    with sampling_process_lists(canaries) as seen:
        for verb in (["plan", "--diff"], ["plan", "--diff", "--json"]):
            done = stackroom(*verb)
            said.append(done.stdout + done.stderr)
        by_hand = subprocess.run(
            [
                *(sys.executable, "-m", "pyinfra", "-y", "-vvv", "--diff"),
                *(f"inventory/{ENVIRONMENT}/hosts.py", "deploy.py"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        said.append(by_hand.stdout + by_hand.stderr)

    assert by_hand.returncode == 0, said[-1][-2000:]
    assert "Success" in re.sub(r"\x1b\[[0-9;]*m", "", said[-1])
    assert "local.yaml: differs" in said[0]
    assert leaks("\n".join(said), canaries) == []
    assert seen == []


def test_no_output_of_what_reads(deployed: Environment, canaries: list[str]) -> None:
    for verb in (["doctor"], ["doctor", "--json"], ["history", "--json"], ["lock"], ["ca"]):
        done = stackroom(*verb)
        assert leaks(done.stdout + done.stderr, canaries) == [], verb


@pytest.mark.parametrize(
    "source",
    [
        "journalctl --no-pager -q",
        f"docker inspect {QDRANT} {EDGE}",
        f"docker logs {QDRANT} 2>&1; docker logs {EDGE} 2>&1",
        "docker image inspect $(docker ps --format '{{.Image}}')",
        "docker volume inspect $(docker volume ls -q)",
        "cat /var/lib/stackroom/deploys/*",
        "cat /var/log/dpkg.log /var/log/apt/*.log",
        "cat /root/.bash_history 2>/dev/null; ls -R /tmp /var/tmp",
    ],
)
def test_no_log_label_or_record(source: str, deployed: Environment, canaries: list[str]) -> None:
    said = on_host(source, check=False)

    assert said
    assert leaks(said, canaries) == []


def test_only_their_keepers_hold_them(deployed: Environment, canaries: list[str]) -> None:
    """Every file of the machine outside the containers' own data, searched."""
    patterns = "\n".join(canaries)
    found = subprocess.run(
        [
            *("docker", "exec", "-i", NAME, "grep", "-rlsF", "--devices=skip", "-f", "-"),
            *("/etc", "/var/lib/stackroom", "/var/log", "/root", "/home", "/run", "/tmp"),
        ],
        input=patterns,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()

    # the stack, and the ones kept for looking at, all below one folder of root's
    assert KEY_FILE in found
    assert [path for path in found if not re.fullmatch(KEEPERS, path)] == []
    assert {on_host(f"stat -c '%a %u' {path}") for path in found} == {"400 1000", "600 0"}
    assert on_host("stat -c %a /etc/stackroom/secrets") == "700"
    assert on_host("stat -c %a /etc/stackroom") == "700"


def test_nothing_of_the_stack_is_readable_by_others(deployed: Environment) -> None:
    inside = "su -s /bin/sh nobody -c 'cat /etc/stackroom/stack/compose.yaml'"
    assert "Permission denied" in on_host(f"{inside} 2>&1", check=False)
    assert "Permission denied" in on_host(
        "su -s /bin/sh nobody -c 'ls /var/lib/stackroom/deploys' 2>&1", check=False
    )


def test_the_audit_log_names_no_key(deployed: Environment, canaries: list[str]) -> None:
    volume = on_host("docker volume inspect -f '{{.Mountpoint}}' stackroom_qdrant_storage")
    said = on_host(f"cat {volume}/audit/*")

    assert '"method"' in said
    assert leaks(said, canaries) == []


def test_a_rotated_key_is_not_shown(deployed: Environment, canaries: list[str]) -> None:
    fresh = "rotated-0123456789-0123456789-0123456789"
    with changed_environment(
        secrets=lambda text: re.sub("qdrant_api_key = .*", f'qdrant_api_key = "{fresh}"', text)
    ) as name:
        done = stackroom("plan", "--diff", environment=name)

    assert done.returncode == 2
    assert leaks(done.stdout + done.stderr, [*canaries, fresh]) == []
