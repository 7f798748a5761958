"""A change that would lock the operator out is refused, and if forced heals by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hands import HARDENED, Attempt, changed_environment, deploy, holds, on_host, plan, ssh, until

from ops.sandbox.layout import ipv4, ipv6
from ops.settings import Environment

pytestmark = pytest.mark.sandbox

DROP_IN = "/etc/ssh/sshd_config.d/10-stackroom.conf"
PENDING = "test -e /var/lib/stackroom/guard/pending"


def rules() -> str:
    """Everything that decides who gets in."""
    return on_host(
        "iptables -S; ip6tables -S; cat /etc/ufw/user.rules /etc/ufw/user6.rules"
        f" /etc/ufw/after.rules /etc/ufw/after6.rules {DROP_IN}"
    )


def without_operator(text: str) -> str:
    return text.replace(f'"{ipv4(1)}", "{ipv6(1)}"', f'"{ipv4(98)}"')


@pytest.fixture
def healed() -> Iterator[None]:
    """Whatever goes wrong in a test, the next one finds no armed rollback."""
    yield
    until(lambda: not holds(PENDING), 60, "the rollback")


def test_a_lockout_is_refused_and_changes_nothing(deployed: Environment) -> None:
    before = rules()

    with changed_environment(developers=without_operator) as name:
        planned = deploy(environment=name)

    assert planned.returncode == 6, planned.stderr
    assert f"{ipv4(1)}," in planned.stderr
    assert "--force-lockout" in planned.stderr
    assert rules() == before
    assert not holds(PENDING)


def test_a_forced_lockout_heals_by_itself(
    deployed: Environment, unchanged: None, healed: None
) -> None:
    before = rules()
    with changed_environment(developers=without_operator) as name:
        attempt = Attempt.start("--force-lockout", environment=name)
        until(lambda: ssh("true").returncode != 0, 60, "the lockout")
        locked_out = time.monotonic()

        until(lambda: ssh("true").returncode == 0, 180, "a fresh login")
        assert time.monotonic() - locked_out > 5
        until(lambda: not holds(PENDING), 60, "the end of the rollback")
        assert attempt.wait(120) == 6, attempt.output

    assert rules() == before
    assert "undone" in on_host("journalctl -q -t stackroom-guard --no-pager")


def test_a_drop_in_that_sshd_refuses_is_not_installed(
    deployed: Environment, unchanged: None, healed: None
) -> None:
    on_host(f"echo '# edited' >>{DROP_IN}; echo 'NoSuchKeyword yes' >>/etc/ssh/sshd_config")
    try:
        done = deploy()

        assert done.returncode == 6, done.stdout
        assert "nosuchkeyword" in done.stderr.lower()
        assert on_host(f"tail -n 1 {DROP_IN}") == "# edited"
        assert ssh("true").returncode == 0
    finally:
        on_host("sed -i '/NoSuchKeyword/d' /etc/ssh/sshd_config")
    assert plan() == {"Access | firewall and SSH"}
    assert deploy().returncode == 0
    assert on_host(f"tail -n 1 {DROP_IN}") != "# edited"


def test_passwords_are_refused(deployed: Environment) -> None:
    done = ssh(
        "true", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password",
        "-o", "NumberOfPasswordPrompts=0",
    )  # fmt: skip

    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_sshd_is_hardened(deployed: Environment) -> None:
    in_force = dict(line.split(" ", 1) for line in on_host("sshd -T").splitlines() if " " in line)

    assert {key: in_force[key] for key in HARDENED} == HARDENED


def test_the_operator_logs_in_and_may_become_root(deployed: Environment) -> None:
    done = ssh("sudo -n id -u", "-l", "stackroom")

    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
