"""The files that only a whole machine can judge: sshd's and sudo's, in every variant."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hands import (
    HARDENED,
    HOST,
    NAME,
)

from ops.render.files import RenderedFile
from ops.render.host import base_files, ssh_files
from ops.settings import Environment, Settings, load_environment

pytestmark = pytest.mark.sandbox

WriteEnvironment = Callable[..., Path]
AS_OPERATOR = (
    "from ops.settings import machines\n"
    f'hosts = machines(__file__, address="{HOST}", user="stackroom")\n'
)


def judged(program: str, text: str) -> subprocess.CompletedProcess[str]:
    """What a program of the machine says of a file with this text."""
    script = f"t=$(mktemp); cat >$t; chmod 440 $t; {program} $t; s=$?; rm -f $t; exit $s"
    return subprocess.run(
        ["docker", "exec", "-i", NAME, "sh", "-c", script],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def settings_with(write_environment: WriteEnvironment, text: str) -> Settings:
    return load_environment(write_environment(settings=text, hosts=AS_OPERATOR)).settings


@pytest.mark.parametrize(("root_login", "root"), [("keys", "without-password"), ("no", "no")])
def test_sshd_lets_keys_in_and_nothing_else(
    deployed: Environment, write_environment: WriteEnvironment, root_login: str, root: str
) -> None:
    settings = settings_with(write_environment, f'[ssh]\nroot_login = "{root_login}"\n')
    drop_in, _ = ssh_files(settings)
    done = judged("sshd -t -f", drop_in.content)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = judged("sshd -T -f", drop_in.content)
    effective = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    assert {**HARDENED, "permitrootlogin": root}.items() <= effective.items()


def test_sshd_refuses_what_it_does_not_know(deployed: Environment) -> None:
    drop_in, _ = ssh_files(deployed.settings)
    assert judged("sshd -t -f", drop_in.content + "NoSuchOption yes\n").returncode != 0


def test_sudo_takes_the_operators_rule(
    deployed: Environment, write_environment: WriteEnvironment
) -> None:
    settings = settings_with(write_environment, '[host]\noperator_account = "keeper"\n')
    sudoers = the_sudoers(settings)
    assert sudoers.mode == 0o440
    done = judged("visudo -c -f", sudoers.content)
    assert done.returncode == 0, done.stderr
    rules = [line for line in sudoers.content.splitlines() if not line.startswith("#")]
    assert rules == ["keeper ALL=(ALL:ALL) NOPASSWD: ALL"]
    assert judged("visudo -c -f", sudoers.content + "keeper ALL=(\n").returncode != 0


def the_sudoers(settings: Settings) -> RenderedFile:
    (sudoers,) = [file for file in base_files(settings) if file.path.startswith("/etc/sudoers.d/")]
    return sudoers
