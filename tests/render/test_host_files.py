"""Each file of the host, rendered and handed to the program that will read it there."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops.render import host as rendering
from ops.render.files import ROOT, RenderedFile
from ops.render.host import base_files, daemon_json, ssh_files, stack_unit
from ops.settings import Settings, load_environment

# rendered elsewhere: test_backup_files.py, test_people_files.py
ELSEWHERE = {
    "developer_keys.j2",
    "_hardening.j2",
    "stackroom-job.service.j2",
    "stackroom-job.timer.j2",
    "stackroom-notify@.service.j2",
    "stackroom.sh.j2",
}
WriteEnvironment = Callable[..., Path]
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def tool(name: str, package: str) -> str:
    """The path of a program that this test cannot do without."""
    found = shutil.which(name, path=PATH)
    assert found, f"{name} is not on PATH: apt-get install {package}"
    return found


def run(*command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PATH": PATH, "LC_ALL": "C"},
    )


@pytest.fixture
def settings(write_environment: WriteEnvironment) -> Settings:
    return load_environment(write_environment()).settings


@pytest.fixture
def files(settings: Settings) -> dict[str, RenderedFile]:
    """Every file but daemon.json, by path on the host."""
    return {file.path: file for file in (*base_files(settings), *ssh_files(settings))}


def the(files: dict[str, RenderedFile], end: str) -> RenderedFile:
    (found,) = [file for path, file in files.items() if path.endswith(end)]
    return found


def written(file: RenderedFile, folder: Path) -> Path:
    path = folder / Path(file.path).name
    path.write_text(file.content, encoding="utf-8")
    path.chmod(file.mode)
    return path


def test_every_template_becomes_a_file(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    render = rendering.render

    def seen(template: str, **values: Any) -> str:
        used.append(template)
        return render(template, **values)

    monkeypatch.setattr(rendering, "render", seen)
    rendered = [*base_files(settings), *ssh_files(settings), stack_unit()]
    there = [*(ROOT / "templates/host").iterdir(), *(ROOT / "templates/systemd").iterdir()]
    there = [path for path in there if path.name not in ELSEWHERE]
    assert sorted(used) == sorted(str(path.relative_to(ROOT / "templates")) for path in there)
    for file in rendered:
        assert "Written by Stackroom" in file.content
        # `{{.` is Go's, for docker inspect
        assert not re.search(r"\{%|\{\{ ", file.content)
        assert file.content.endswith("\n")
        assert (file.uid, file.secret) == (0, False)
        assert not file.mode & 0o022, f"{file.path} can be written by others"


def test_no_secret_is_in_a_file_of_the_host(
    files: dict[str, RenderedFile], settings: Settings, canaries: dict[str, str]
) -> None:
    texts = [*(file.content for file in files.values()), daemon_json(settings, 29).content]
    assert not [name for name, value in canaries.items() if any(value in text for text in texts)]


# accounts, packages, journal; sshd and sudo read theirs on the throw-away host


def test_the_operators_keys_are_the_accounts_keys(
    write_environment: WriteEnvironment, public_key: str, tmp_path: Path
) -> None:
    other = public_key.replace("anna@laptop", "carl").replace("AAAAIAAB", "AAAAIBBB")
    bobs = public_key.replace("anna@laptop", "bob").replace("AAAAIAAB", "AAAAICCC")
    developers = (
        f'[operators.anna]\naddresses = ["198.51.100.20"]\nkeys = ["{public_key}", "{other}"]\n'
        f'[developers.bob]\naddresses = ["198.51.100.7"]\nkeys = ["{bobs}"]\n'
    )
    folder = write_environment('[host]\noperator_account = "keeper"\n', developers=developers)
    _, keys = ssh_files(load_environment(folder).settings)
    assert Path(keys.path).parts[2:] == ("keeper", ".ssh", "authorized_keys")
    lines = keys.content.splitlines()
    assert [line for line in lines if not line.startswith("#")] == [public_key, other]
    done = run(tool("ssh-keygen", "openssh-client"), "-l", "-f", written(keys, tmp_path))
    assert done.returncode == 0, done.stderr
    assert [line.split()[2:] for line in done.stdout.splitlines()] == [
        ["anna@laptop", "(ED25519)"],
        ["carl", "(ED25519)"],
    ]


def test_apt_reads_when_to_upgrade(write_environment: WriteEnvironment, tmp_path: Path) -> None:
    apt_config = tool("apt-config", "apt")
    folder = write_environment('[host]\nreboot_at = "03:15"\n')
    files = {file.path: file for file in base_files(load_environment(folder).settings)}
    file = the(files, "apt.conf.d/60stackroom")
    # apt takes files without an ending, or with .conf
    assert "." not in Path(file.path).name
    done = run(apt_config, "-c", written(file, tmp_path), "dump")
    assert done.returncode == 0, done.stderr
    said = dict(line.rstrip(";").split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert {
        "APT::Periodic::Update-Package-Lists": '"1"',
        "APT::Periodic::Unattended-Upgrade": '"1"',
        "Unattended-Upgrade::Automatic-Reboot": '"true"',
        "Unattended-Upgrade::Automatic-Reboot-Time": '"03:15"',
    }.items() <= said.items()
    # the origins are the distribution's own choice
    assert "Unattended-Upgrade::Origins-Pattern" not in file.content


def test_the_journal_has_a_limit(write_environment: WriteEnvironment) -> None:
    folder = write_environment('[host]\njournal_max = "300M"\n')
    files = {file.path: file for file in base_files(load_environment(folder).settings)}
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(the(files, "journald.conf.d/10-stackroom.conf").content)
    assert {name: dict(section) for name, section in parser.items() if name != "DEFAULT"} == {
        "Journal": {"Storage": "persistent", "SystemMaxUse": "300M"}
    }


# Docker


@pytest.mark.parametrize(
    ("major", "more"),
    [
        (26, {"experimental": True}),
        (27, {}),
        (28, {}),
        (29, {"firewall-backend": "iptables"}),
        (30, {"firewall-backend": "iptables"}),
    ],
)
def test_daemon_json_has_only_keys_that_its_daemon_knows(
    write_environment: WriteEnvironment, major: int, more: dict[str, Any]
) -> None:
    folder = write_environment('[docker]\nlog_max_size = "20m"\nlog_max_files = 3\n')
    file = daemon_json(load_environment(folder).settings, major)
    assert file.path == "/etc/docker/daemon.json"
    assert json.loads(file.content) == {
        "log-driver": "json-file",
        "log-opts": {"max-size": "20m", "max-file": "3"},
        "live-restore": True,
        "userland-proxy": False,
        "ip": "127.0.0.1",
        "ip6tables": True,
        "default-network-opts": {
            "bridge": {"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}
        },
        **more,
    }


# scripts and units

SCRIPTS = ["stackroom-guard", "stackroom-apply"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_posix_shell(files: dict[str, RenderedFile], tmp_path: Path, name: str) -> None:
    script = the(files, f"sbin/{name}")
    assert script.content.startswith("#!/bin/sh\n")
    assert "\nset -eu\n" in script.content
    assert script.mode == 0o755
    path = written(script, tmp_path)
    done = run("sh", "-n", path)
    assert done.returncode == 0, done.stderr
    # `make lint` runs it where it is installed, and so does this
    if shellcheck := shutil.which("shellcheck"):
        done = run(shellcheck, path)
        assert done.returncode == 0, done.stdout
    broken = RenderedFile("/broken", script.content + "if\n")
    assert run("sh", "-n", written(broken, tmp_path)).returncode != 0


def test_every_script_is_tried(files: dict[str, RenderedFile]) -> None:
    found = [path for path, file in files.items() if file.content.startswith("#!")]
    assert sorted(Path(path).name for path in found) == sorted(SCRIPTS)


@pytest.mark.parametrize("broken", [False, True])
def test_systemd_takes_the_unit(
    files: dict[str, RenderedFile], tmp_path: Path, broken: bool
) -> None:
    analyze = tool("systemd-analyze", "systemd")
    for end in (*(f"sbin/{name}" for name in SCRIPTS), "stackroom-guard.service"):
        file = the(files, end)
        target = tmp_path / file.path.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        written(file, target.parent)
    unit = tmp_path / "etc/systemd/system/stackroom-guard.service"
    if broken:
        unit.write_text(unit.read_text().replace("Type=oneshot", "Typ=oneshot"))
    done = run(analyze, "verify", f"--root={tmp_path}", "--man=no", unit.name)
    assert done.returncode == 0, done.stderr
    # what it does not know it only mentions
    assert ("stackroom-guard.service" in done.stderr) == broken, done.stderr


def test_the_guard_runs_before_the_firewall_and_sshd(files: dict[str, RenderedFile]) -> None:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(the(files, "stackroom-guard.service").content)
    assert {"ufw.service", "ssh.service"} <= set(parser["Unit"]["Before"].split())
    program, verb = parser["Service"]["ExecStart"].split()
    assert f"\n{verb})\n" in the(files, program).content


def test_the_guard_knows_the_files_it_puts_back(files: dict[str, RenderedFile]) -> None:
    guard = the(files, "stackroom-guard").content.splitlines()
    assert "DROP_IN=/etc/ssh/sshd_config.d/10-stackroom.conf" in guard
    assert "KEYS=/home/stackroom/.ssh/authorized_keys" in guard
    for path in (line.partition("=")[2] for line in guard if line.startswith(("DROP_IN", "KEYS"))):
        assert path in files
