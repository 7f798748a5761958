"""The same host by ansible-core: the variables of playbook.yml, and one timed run of it.

Files, rules and hashes come from the same renderers, so both sides want the same host.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops import collections
from ops.clients.ssh import Remote
from ops.render.files import RenderedFile
from ops.render.firewall import (
    BLOCK_BEGIN,
    BLOCK_END,
    FAMILIES,
    Family,
    container_block,
    expected_chains,
    ufw_rules,
)
from ops.render.host import base_files, daemon_json, ssh_files
from ops.render.stack import render_stack
from ops.settings import Environment

PLAYBOOK = Path(__file__).with_name("playbook.yml")
TOOLS: dict[Family, tuple[str, str]] = {
    "v4": ("iptables", "after.rules"),
    "v6": ("ip6tables", "after6.rules"),
}
# Nothing that a careful person would not set: pipelining saves round trips in each task, a named
# interpreter saves its discovery, and one host needs one fork. SSH is OpenSSH with Ansible's own
# ControlPersist=60s, so that every run but the first finds a connection that is logged in.
FAST = "pipelining, ControlPersist, 1 fork"
CONFIG = """\
[defaults]
forks = 1
gathering = explicit
interpreter_python = /usr/bin/python3
host_key_checking = true
retry_files_enabled = false
[ssh_connection]
pipelining = true
"""
RECAP = re.compile(r"ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)")


@dataclass(frozen=True)
class PlaybookRun:
    """Seconds of the whole command, tasks that ran and tasks that changed something."""

    seconds: float
    ok: int
    changed: int
    output: str


class Ansible:
    """A folder (0700) with everything that `ansible-playbook` needs for one environment."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o700)
        machine = environment.machine
        options = f"-o UserKnownHostsFile={environment.known_hosts} -o IdentitiesOnly=yes"
        host = {
            "ansible_host": machine.address,
            "ansible_port": machine.port,
            "ansible_user": machine.user,
            "ansible_ssh_private_key_file": machine.key,
            "ansible_ssh_common_args": options,
            **_variables(environment, folder),
        }
        self._write("inventory.json", json.dumps({"all": {"hosts": {"machine": host}}}))
        self._write("ansible.cfg", CONFIG)

    def run(self, *options: str) -> PlaybookRun:
        """Run the playbook once. Raises RuntimeError with its last lines when a task fails."""
        command = [str(Path(sys.executable).with_name("ansible-playbook")), *options]
        command += ["-i", str(self.folder / "inventory.json"), str(PLAYBOOK)]
        started = time.perf_counter()
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"),
                "ANSIBLE_HOME": str(self.folder / "home"),
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "home" / "cp"),
                "ANSIBLE_NOCOLOR": "1",
            },
        )
        seconds = time.perf_counter() - started
        recap = RECAP.search(done.stdout)
        if done.returncode != 0 or not recap:
            raise RuntimeError(f"ansible-playbook failed:\n{(done.stdout + done.stderr)[-3000:]}")
        return PlaybookRun(seconds, int(recap[1]), int(recap[2]), done.stdout)

    def disconnect(self) -> None:
        """End the connection that Ansible keeps open."""
        for socket in self.folder.glob("home/cp/*"):
            subprocess.run(
                ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "machine"],
                capture_output=True,
                check=False,
            )

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")


def _variables(environment: Environment, folder: Path) -> dict[str, Any]:
    settings = environment.settings
    machine = _machine(environment)
    stack = render_stack(environment, machine["memory_mib"], machine["cpus"])
    return {
        "ports": [str(port) for port in (6333, 6334, *settings.edge_ports())],
        "operator_account": settings.host.operator_account,
        "base_files": _files(base_files(settings), folder),
        "ssh_files": _files(ssh_files(settings), folder),
        "docker_files": _files([daemon_json(settings, machine["docker_major"])], folder),
        "stack_files": _files(list(stack.files), folder),
        "block_begin": BLOCK_BEGIN,
        "block_end": BLOCK_END,
        "firewall": _firewall(environment),
        "ufw_rules": ufw_rules(settings, environment.machine.port),
        "volumes": [{"name": volume.name, "uid": volume.uid} for volume in stack.volumes],
        "services": [vars(service) for service in stack.services],
        "api_key": settings.secrets.qdrant_api_key.get_secret_value(),
        "declared": [
            {"name": name, "create": body}
            for name, body in collections.desired(settings.collections).items()
        ],
        "indexes": [
            {"name": name, "create": {"field_name": field, "field_schema": str(kind)}}
            for name, collection in settings.collections.items()
            for field, kind in collection.payload_indexes.items()
        ],
    }


def _machine(environment: Environment) -> dict[str, int]:
    """Memory, cores and Docker's major version, which the rendered files depend on."""
    script = (
        "awk '/^MemTotal/ {print int($2/1024)}' /proc/meminfo; getconf _NPROCESSORS_ONLN;"
        " dockerd --version | sed 's/.*version \\([0-9]*\\).*/\\1/'"
    )
    answer = Remote(environment).run(script).stdout.split()
    return dict(zip(("memory_mib", "cpus", "docker_major"), map(int, answer), strict=True))


def _files(files: list[RenderedFile], folder: Path) -> list[dict[str, str]]:
    """Lay the files below `folder`, each under its hash; answers what the copy module wants."""
    wanted = []
    for file in files:
        source = folder / file.sha256
        source.touch(mode=0o600)
        source.write_text(file.content, encoding="utf-8")
        wanted.append(
            {
                "src": str(source),
                "dest": file.path,
                "mode": f"{file.mode:04o}",
                "uid": str(file.uid),
            }
        )
    return wanted


def _firewall(environment: Environment) -> list[dict[str, Any]]:
    settings = environment.settings
    chains = expected_chains(settings, environment.machine.port)
    wanted = []
    for family in FAMILIES:
        tool, file = TOOLS[family]
        block = container_block(settings, family)
        rules = [f"{tool} {rule}" for rules in chains[family].values() for rule in rules]
        wanted.append(
            {
                "tool": tool,
                "file": file,
                "block": block.rstrip("\n"),
                "restore": block,
                "chains": list(chains[family]),
                "rules": rules,
            }
        )
    return wanted
