"""The machine below the stack: packages, upgrades, journal, clock, the operator account."""

from __future__ import annotations

from pyinfra.api import deploy
from pyinfra.operations import server

from ops.host.operations import packages, place, unit
from ops.render.host import JOURNAL_CONF, base_files
from ops.settings import Settings

PACKAGES = [
    "ca-certificates",
    "curl",
    "gnupg",
    "iptables",
    "logrotate",
    "python3",
    "sudo",
    "systemd-timesyncd",
    "ufw",
    "unattended-upgrades",
]


@deploy("Base")
def base(settings: Settings) -> None:
    """Packages, security upgrades, a capped journal, the time, and an account with sudo."""
    packages(name="packages", names=PACKAGES)
    place(name="files", files=base_files(settings))
    unit(name="journal", unit_name="systemd-journald.service", after=[JOURNAL_CONF])
    unit(name="package lists", unit_name="apt-daily.timer")
    unit(name="security upgrades", unit_name="apt-daily-upgrade.timer")
    unit(name="clock", unit_name="systemd-timesyncd.service")
    server.user(  # noqa: S604 - the account's login shell
        name="operator account",
        user=settings.host.operator_account,
        shell="/bin/bash",
        ensure_home=True,
    )
