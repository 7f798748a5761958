"""The files of the host below the stack: upgrades, journal, accounts, SSH, Docker, the guard."""

from __future__ import annotations

import json
from typing import Any

from ops.render.files import RenderedFile, render
from ops.render.firewall import CONTAINER_CHAIN
from ops.render.people import GROUP, KEYS_FOLDER, tunnel_ports
from ops.render.project import STACK_DIR
from ops.settings import Settings
from ops.settings.host import BASE

SSH_DROP_IN = "/etc/ssh/sshd_config.d/10-stackroom.conf"
GUARD = "/usr/local/sbin/stackroom-guard"
APPLY = "/usr/local/sbin/stackroom-apply"
STACK_UNIT = "stackroom-stack.service"
RESTORE_JOURNAL = f"{BASE}/restore.json"  # see ops/restore/journal.py
# a command of the shell: whether half of the data are in place; in single quotes it stays whole
HALF_RESTORED = f'grep -Eqs "switching|reverting|undoing" {RESTORE_JOURNAL}'
START_SECONDS = 300  # for every service; Qdrant opens its port only after it has loaded everything
DAEMON_JSON = "/etc/docker/daemon.json"
JOURNAL_CONF = "/etc/systemd/journald.conf.d/10-stackroom.conf"

# Docker 27 made ip6tables the default and 29 added the nftables backend; older daemons refuse to
# start on a key they do not know.
_IP6TABLES_STABLE = 27
_FIREWALL_BACKENDS = 29


def authorized_keys_path(settings: Settings) -> str:
    return f"/home/{settings.host.operator_account}/.ssh/authorized_keys"


def base_files(settings: Settings, login: str = "root") -> list[RenderedFile]:
    """What every host gets before anything else is changed on it.

    `login` keeps its sudo: renaming the operator account must not cut off who renames it.
    """
    guard = render(
        "host/stackroom-guard.sh.j2",
        drop_in=SSH_DROP_IN,
        authorized_keys=authorized_keys_path(settings),
        container_chain=CONTAINER_CHAIN,
    )
    accounts = sorted({settings.host.operator_account, login} - {"root"})
    sudoers = render("host/sudoers.j2", accounts=accounts)
    return [
        RenderedFile(
            "/etc/apt/apt.conf.d/60stackroom",
            render("host/upgrades.conf.j2", reboot_at=settings.host.reboot_at),
        ),
        RenderedFile(
            JOURNAL_CONF, render("host/journald.conf.j2", journal_max=settings.host.journal_max)
        ),
        RenderedFile("/etc/sudoers.d/stackroom", sudoers, mode=0o440),
        RenderedFile(GUARD, guard, mode=0o755),
        RenderedFile(
            APPLY, render("host/stackroom-apply.sh.j2", half_restored=HALF_RESTORED), mode=0o755
        ),
        RenderedFile(
            "/etc/systemd/system/stackroom-guard.service",
            render("systemd/stackroom-guard.service.j2"),
        ),
        RenderedFile(
            "/etc/systemd/system/ufw.service.d/stackroom.conf", render("systemd/ufw.conf.j2")
        ),
    ]


def ssh_files(settings: Settings) -> list[RenderedFile]:
    """The files that decide which operators log in; changed under the guard only."""
    keys = [key for person in settings.operators.values() for key in person.keys]
    drop_in = render(
        "host/sshd.conf.j2",
        root_login=settings.ssh.root_login,
        group=GROUP,
        keys_folder=KEYS_FOLDER,
        tunnels=[f"127.0.0.1:{port}" for port in tunnel_ports(settings)],
    )
    return [
        RenderedFile(SSH_DROP_IN, drop_in),
        # root's, so that the account cannot add keys to itself; sshd reads it as root
        RenderedFile(authorized_keys_path(settings), render("host/authorized_keys.j2", keys=keys)),
    ]


def stack_unit() -> RenderedFile:
    """What starts the services in their order after a restart of the machine."""
    text = render(
        f"systemd/{STACK_UNIT}.j2",
        apply=APPLY,
        seconds=START_SECONDS,
        folder=STACK_DIR,
        half_restored=HALF_RESTORED,
    )
    return RenderedFile(f"/etc/systemd/system/{STACK_UNIT}", text)


def daemon_json(settings: Settings, docker_major: int, data_root: str = "") -> RenderedFile:
    """Docker's configuration for one major version of the daemon.

    `data_root`: the folder of its data where an operator chose another than Docker's default.
    """
    daemon: dict[str, Any] = {
        "log-driver": "json-file",
        "log-opts": {
            "max-size": settings.docker.log_max_size,
            "max-file": str(settings.docker.log_max_files),
        },
        "live-restore": True,
        "userland-proxy": False,
        # a bare `-p 5432:5432` publishes on loopback
        "ip": "127.0.0.1",
        "ip6tables": True,
        "default-network-opts": {
            "bridge": {"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}
        },
    }
    if data_root:
        daemon["data-root"] = data_root
    if docker_major < _IP6TABLES_STABLE:
        daemon["experimental"] = True
    if docker_major >= _FIREWALL_BACKENDS:
        # nftables has no DOCKER-USER chain: an upgrade must not switch to it
        daemon["firewall-backend"] = "iptables"
    return RenderedFile(DAEMON_JSON, json.dumps(daemon, indent=2, sort_keys=True) + "\n")
