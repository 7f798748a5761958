"""The nights when two things go wrong at once."""

from __future__ import annotations

import pytest
from hands import QDRANT, chain, changed_environment, deploy, holds, inspect, on_host, plan, until

from ops.settings import Environment

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("deployed")]

GUARD = "/usr/local/sbin/stackroom-guard"
SAVED = "/var/lib/stackroom/guard/saved"
STACK = "/etc/stackroom/stack"
VOLUME = "stackroom_qdrant_storage"


def test_going_back_goes_on_past_a_step_that_fails() -> None:
    """And tries again until it is whole."""
    on_host(f"{GUARD} arm 120")
    on_host(f"cp {SAVED}/v4.rules /root/v4.rules && echo nonsense >{SAVED}/v4.rules")
    on_host("ufw allow 9999/tcp && ip6tables -F STACKROOM-IN")
    assert not holds(f"{GUARD} rollback")
    # what came after the step that failed was done all the same
    assert chain("ip6tables", "STACKROOM-IN")
    assert not [rule for rule in chain("iptables", "ufw-user-input") if "9999" in rule]
    assert holds("test -e /var/lib/stackroom/guard/pending")
    on_host(f"cp /root/v4.rules {SAVED}/v4.rules")
    until(lambda: not holds("test -e /var/lib/stackroom/guard/pending"), 120, "the next try")
    assert plan() == set()


@pytest.mark.parametrize("mistake", ['DEFAULT_INPUT_POLICY="ACCEPT"', "MANAGE_BUILTINS=yes"])
def test_what_ufw_would_do_at_the_next_boot_is_mended(mistake: str) -> None:
    name = mistake.split("=")[0]
    on_host(f"sed -i 's/^{name}=.*/{mistake}/' /etc/default/ufw")
    assert plan() == {"Access | firewall and SSH"}
    assert deploy().returncode == 0
    assert not holds(f"grep -qx '{mistake}' /etc/default/ufw")
    assert plan() == set()


@pytest.mark.parametrize("version", ["v1.18.3", "v1.21.0"])
def test_qdrant_never_goes_down_nor_skips_a_minor_version(version: str) -> None:
    before = inspect(QDRANT)["Id"]
    # the same program under another name: only the number is what is refused
    on_host(f"docker tag qdrant/qdrant:v1.19.0 qdrant/qdrant:{version}")
    try:
        with changed_environment(
            settings=lambda text: text.replace("[qdrant]\n", f'[qdrant]\nversion = "{version}"\n')
        ) as name:
            done = deploy(environment=name)
        assert done.returncode == 6
        assert f"{version} must not open them" in done.stdout + done.stderr
        assert inspect(QDRANT)["Id"] == before
    finally:
        on_host(f"docker rmi qdrant/qdrant:{version}")
    assert plan() == set()


def test_data_that_are_gone_are_not_replaced_by_nothing(deployed: Environment) -> None:
    on_host(f"cd {STACK} && docker compose down && docker volume rm {VOLUME}")
    done = deploy()
    assert done.returncode == 6
    assert f"its volume {VOLUME} is gone" in done.stdout + done.stderr
    assert not holds(f"docker volume inspect {VOLUME}")
    on_host(f"rm -rf {STACK}")
    assert deploy().returncode == 0
    assert plan() == set()


def test_docker_keeps_the_folder_it_was_given() -> None:
    """A data-root that an operator set is not forgotten by the next deploy."""
    on_host("cp /etc/docker/daemon.json /root/daemon.json")
    try:
        on_host(
            'python3 -c \'import json; p="/etc/docker/daemon.json"; d=json.load(open(p));'
            ' d["data-root"]="/var/lib/docker"; json.dump(d, open(p, "w"), indent=2,'
            ' sort_keys=True); open(p, "a").write("\\n")\''
        )
        assert "Docker | daemon.json" not in plan()
    finally:
        on_host("cp -p /root/daemon.json /etc/docker/daemon.json")
        deploy()
    assert plan() == set()
