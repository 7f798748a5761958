"""The machine below the stack: packages, upgrades, journal, clock, the operator account."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.operations import server

from ops.host.facts import Lines
from ops.host.operations import packages, place, unit
from ops.render.host import JOURNAL_CONF, base_files
from ops.settings import Settings

PACKAGES = [
    "ca-certificates",
    "conntrack",
    "curl",
    "gnupg",
    "iproute2",
    "iptables",
    "logrotate",
    "procps",
    "python3",
    "sudo",
    "ufw",
    "unattended-upgrades",
]


# the one that is there stays: installing another would remove it
TIME_DAEMON = (
    "for u in chrony.service ntpsec.service; do"
    " systemctl cat $u >/dev/null 2>&1 && { echo $u; break; }; done; true"
)


@deploy("Base")
def base(settings: Settings) -> None:
    """Packages, security upgrades, a capped journal, the time, and an account with sudo."""
    clock = host.get_fact(Lines, script=TIME_DAEMON)
    packages(name="packages", names=[*PACKAGES, *([] if clock else ["systemd-timesyncd"])])
    place(name="files", files=base_files(settings, host.data.get("ssh_user", "root")))
    unit(name="journal", unit_name="systemd-journald.service", after=[JOURNAL_CONF])
    unit(name="package lists", unit_name="apt-daily.timer")
    unit(name="security upgrades", unit_name="apt-daily-upgrade.timer")
    unit(name="clock", unit_name=clock[0] if clock else "systemd-timesyncd.service")
    server.user(  # noqa: S604 - the account's login shell
        name="operator account",
        user=settings.host.operator_account,
        shell="/bin/bash",
        ensure_home=True,
    )
