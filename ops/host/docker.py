"""The Docker engine: from Docker's own apt repository or the distribution, configured first."""

from __future__ import annotations

import json
import re
import shlex

from pyinfra import host
from pyinfra.api import deploy, operation
from pyinfra.api.exceptions import DeployError

from ops.host.facts import FileTexts, Lines
from ops.host.operations import APT_UPDATE, Commands, differing, packages, show_diff, unit, upload
from ops.host.preflight import HostReport
from ops.render.files import RenderedFile
from ops.render.host import DAEMON_JSON, daemon_json
from ops.settings import Settings

KEYRING = "/etc/apt/keyrings/docker.asc"
# of Docker's release key, as its installation manual prints it
KEY_FINGERPRINT = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
DOCKER_PACKAGES = ["docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"]
DISTRO_PACKAGES = {
    "debian 13": ["docker.io", "docker-cli", "docker-compose"],
    "ubuntu 22.04": ["docker.io", "docker-compose-v2"],
    "ubuntu 24.04": ["docker.io", "docker-compose-v2"],
}
# what each source brings at present, for the plan on a machine that has no engine yet
EXPECTED_MAJOR = {"docker": 29, "distro": 26}


@deploy("Docker")
def docker(settings: Settings, report: HostReport) -> None:
    """Configuration before the engine, so that it never runs with its defaults."""
    expected = EXPECTED_MAJOR[settings.docker.source]
    configuration(name="daemon.json", settings=settings, expected_major=expected)
    if settings.docker.source == "docker":
        repository(name="apt repository", report=report)
        names = DOCKER_PACKAGES
    else:
        names = distro_packages(report)
    packages(name="packages", names=names)
    # again, with the version that is now there; a key it does not know would stop it
    configuration(name="daemon.json for its version", settings=settings, expected_major=expected)
    unit(name="engine", unit_name="docker.service", after=[DAEMON_JSON])


def distro_packages(report: HostReport) -> list[str]:
    """The distribution's Docker packages. Raises DeployError where it has no Compose version 2."""
    key = f"{report.distribution} {report.version}"
    if key not in DISTRO_PACKAGES:
        raise DeployError(f'{key} has no Compose 2 of its own: set docker.source = "docker"')
    return DISTRO_PACKAGES[key]


@operation()
def configuration(settings: Settings, expected_major: int) -> Commands:
    """daemon.json for the daemon that is installed, or for the one that is expected."""
    version = host.get_fact(Lines, script="dockerd --version 2>/dev/null || true")
    match = re.search(r"version (\d+)\.", " ".join(version))
    major = int(match.group(1)) if match else expected_major
    wanted = daemon_json(settings, major, data_root=_data_root())
    changed = differing([wanted])
    if not changed:
        host.noop("daemon.json is as it should be")
        return
    show_diff(changed)
    yield upload(wanted)


def _data_root() -> str:
    """The folder an operator gave Docker for its data: to forget it would be to lose them."""
    text = host.get_fact(FileTexts, paths=[DAEMON_JSON]).get(DAEMON_JSON, "")
    try:
        return str(json.loads(text).get("data-root", ""))
    except (ValueError, AttributeError):
        return ""


@operation()
def repository(report: HostReport) -> Commands:
    """Docker's apt repository, trusted by the fingerprint of its key."""
    source = RenderedFile(
        "/etc/apt/sources.list.d/docker.list",
        f"deb [signed-by={KEYRING}] https://download.docker.com/linux/{report.distribution}"
        f" {report.codename} stable\n",
    )
    changed = differing([source])
    has_key = host.get_fact(Lines, script=f"[ -s {KEYRING} ] && echo yes || true")
    if not changed and has_key:
        host.noop("the repository is known")
        return
    if not has_key:
        script = (
            f"set -e; mkdir -p {KEYRING.rsplit('/', 1)[0]}; t=$(mktemp); trap 'rm -f $t' EXIT;"
            f" curl -fsS --retry 3 -o $t https://download.docker.com/linux/{report.distribution}/gpg;"
            f" gpg --show-keys --with-colons $t | grep -q '^fpr:*{KEY_FINGERPRINT}:'"
            " || { echo 'the key is not the one Docker publishes' >&2; exit 1; };"
            f" install -m 0644 $t {KEYRING}"
        )
        yield f"sh -c {shlex.quote(script)}"
    for file in changed:
        yield upload(file)
    yield f"sh -c {shlex.quote(APT_UPDATE)}"
