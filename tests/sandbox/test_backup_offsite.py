"""A second repository on the machine's own sshd, and notices of what went wrong on the machine.

sshd is a third party that speaks SFTP; the notices go to a server that writes down what it gets.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from backup_hands import BASE, snapshots, verb
from hands import HOST, KEY, NAME, changed_environment, deploy, holds, on_host, plan, until

from ops.settings import Environment

pytestmark = pytest.mark.sandbox

# of its own for each run: where something was stored once, an empty one is refused
FAR = f"/home/stackroom/offsite-{os.getpid()}"
NOTICES = "/run/notices"
NOTICE_PORT = 9977
RECEIVER = f"""
import http.server, os
with open("{NOTICES}.pid", "w") as file:
    file.write(str(os.getpid()))
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("{NOTICES}", "ab") as file:
            file.write(body + b"\\n")
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", {NOTICE_PORT}), Receiver).serve_forever()
"""


@pytest.fixture(scope="module")
def with_offsite(deployed: Environment) -> Iterator[str]:
    """The machine deployed with an off-site repository on its own sshd, and a place for notices."""
    host_key = " ".join(on_host("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2])
    offsite = (
        f'[backup.offsite]\nrepository = "sftp:stackroom@{HOST}:{FAR}"\nhost_key = "{host_key}"'
    )
    private_key = KEY.read_text(encoding="utf-8")
    on_host(f"rm -f {NOTICES}")
    receiver = subprocess.Popen(["docker", "exec", NAME, "python3", "-c", RECEIVER])
    with changed_environment(
        settings=lambda text: re.sub(r"local_only = true.*", offsite, text),
        secrets=lambda text: (
            text
            + f"offsite_ssh_key = '''\n{private_key}'''\n"
            + f'notice_urls = ["json://127.0.0.1:{NOTICE_PORT}/"]\n'
        ),
    ) as name:
        done = deploy(environment=name)
        assert "deployed:" in done.stdout, done.stdout + done.stderr
        yield name
    assert deploy().returncode == 0
    assert not holds("ls /etc/stackroom/secrets | grep -E 'offsite|notices'")
    assert plan() == set()
    on_host(f"kill $(cat {NOTICES}.pid); rm -rf {FAR} {NOTICES} {NOTICES}.pid")
    receiver.wait(10)


def notices() -> list[dict[str, Any]]:
    return [json.loads(line) for line in on_host(f"cat {NOTICES} 2>/dev/null || true").splitlines()]


def test_a_second_repository_over_sftp(with_offsite: str, deployed: Environment) -> None:
    made = verb("backup", "run", environment=with_offsite)
    assert [(r["name"], r["ok"]) for r in made["repositories"]] == [
        ("local", True),
        ("offsite", True),
    ]
    tags = {tag for each in snapshots(FAR) for tag in each["tags"]}
    assert f"run={made['run']}" in tags
    proof = verb("drill", "--from", "offsite", environment=with_offsite)
    assert (proof["outcome"], proof["details"]["repository"]) == ("ok", "offsite")
    on_host("systemctl start stackroom-backup.service", timeout=300)
    assert on_host("systemctl show -p Result --value stackroom-backup.service") == "success"
    assert len(snapshots(FAR)) == 2
    assert verb("backup", "check", environment=with_offsite)["outcome"] == "ok"


def test_an_off_site_failure_is_never_green(with_offsite: str) -> None:
    verb("backup", "run", environment=with_offsite)
    on_host(f"mv {FAR} {FAR}.away")
    try:
        made = verb("backup", "run", environment=with_offsite, code=1)
    finally:
        on_host(f"rm -rf {FAR}; mv {FAR}.away {FAR}")
    assert made["outcome"] == "warning"
    assert [(r["name"], r["ok"]) for r in made["repositories"]] == [
        ("local", True),
        ("offsite", False),
    ]
    assert any("offsite" in json.dumps(notice) for notice in notices())
    verb("backup", "run", environment=with_offsite)


def killed(job: str, when: str) -> None:
    """While the shell command holds, which is not for long."""
    on_host(f"systemctl start --no-block stackroom-{job}.service")
    on_host(f"timeout 60 sh -c 'until {when}; do sleep 0.1; done'")
    on_host(f"systemctl kill -s KILL stackroom-{job}.service")
    until(
        lambda: on_host(f"systemctl is-active stackroom-{job}.service", check=False) == "failed",
        60,
        f"{job} ended",
    )


def test_a_killed_unit_is_told_and_the_next_run_is_clean(with_offsite: str) -> None:
    before, stored = len(notices()), len(snapshots())
    killed("backup", f"ls -d {BASE}/.partial-*")

    until(lambda: len(notices()) > before, 60, "a notice")
    told = notices()[-1]
    assert "backup" in told["title"]
    assert "killed" in json.dumps(told)
    assert len(snapshots()) == stored
    on_host("systemctl start stackroom-backup.service", timeout=300)
    assert not holds(f"ls -d {BASE}/.partial-*")
    assert len(snapshots()) == stored + 1


def test_a_unit_that_cannot_even_start_is_told(with_offsite: str) -> None:
    before = len(notices())
    program = "/usr/local/bin/stackroom"
    drop_in = "/run/systemd/system/stackroom-check.service.d"
    # the verbs are there for the notice, and gone for the check
    on_host(
        f"mkdir -p {drop_in} && printf '[Service]\\nExecStart=\\nExecStart={program}-gone\\n'"
        f" >{drop_in}/gone.conf && systemctl daemon-reload"
    )
    try:
        assert not holds("systemctl start stackroom-check.service")
        until(lambda: len(notices()) > before, 60, "a notice")
    finally:
        on_host(f"rm -r {drop_in} && systemctl daemon-reload")
        on_host("systemctl reset-failed 'stackroom-*'")
    assert "stackroom-check" in json.dumps(notices()[-1])


def test_the_new_secrets_are_where_they_must_be_only(with_offsite: str) -> None:
    key = KEY.read_text(encoding="utf-8").splitlines()[2]
    found = subprocess.run(
        [
            *("docker", "exec", "-i", NAME, "grep", "-rlsF", "--devices=skip", "-f", "-"),
            *("/etc", "/var/lib/stackroom", "/var/log", "/root", "/run", "/tmp", "/opt"),
        ],
        input=key,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert found == ["/etc/stackroom/secrets/offsite_ssh_key"]
