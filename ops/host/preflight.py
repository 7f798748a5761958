"""Is this a machine the stack can live on? Looks only; every refusal names its reason."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from pyinfra import host
from pyinfra.api import FactBase
from pyinfra.api.exceptions import DeployError

from ops.render.host import HALF_RESTORED
from ops.render.project import PROJECT, STACK_DIR
from ops.settings import Settings
from ops.settings.model import LOOPBACK_PORTS

SUPPORTED = {("debian", "12"), ("debian", "13"), ("ubuntu", "22.04"), ("ubuntu", "24.04")}
MINIMUM_KERNEL = (5, 10)
MINIMUM_MEMORY_MIB = 1800  # the smallest Hetzner VM has 2 GB, of which the kernel keeps some
# images, their layers while pulling, and room for a first collection or the first documents
MINIMUM_FREE_MIB = {"qdrant": 5000, "r2r": 16000}
NEEDED_LATER_MIB = 300  # a filling disk must not stand between an operator and the firewall
MAXIMUM_CLOCK_SKEW_SECONDS = 120  # beyond it TLS and token expiry go wrong
# databases corrupt their data on network and FUSE filesystems, and memory is not storage
UNFIT_FILESYSTEMS = ("nfs", "cifs", "smb", "fuse", "9p", "tmpfs", "ramfs")
# Docker listens for its containers; which of them are not ours, it says itself
_DOCKER = ("dockerd", "docker-proxy")


@dataclass(frozen=True)
class HostReport:
    """What preflight needs to know. Sizes in MiB, time in seconds since the epoch."""

    distribution: str
    version: str
    codename: str
    kernel: str
    memory_mib: int
    cpus: int
    free_mib: int
    filesystem: str
    now: float
    init: str
    listeners: tuple[tuple[int, str], ...]
    deployed: bool = False
    half_restored: bool = False


class Report(FactBase[HostReport]):
    """The machine as it is, in one round trip, with nothing but what a minimal system has."""

    def command(self) -> str:
        return (
            ". /etc/os-release; d=/var/lib/docker; [ -d $d ] || d=/var/lib;"
            ' echo "distribution=$ID"; echo "version=$VERSION_ID";'
            ' echo "codename=$VERSION_CODENAME";'
            ' echo "kernel=$(uname -r)"; echo "init=$(cat /proc/1/comm)";'
            ' echo "cpus=$(getconf _NPROCESSORS_ONLN)";'
            " echo \"memory_mib=$(awk '/^MemTotal/ {print int($2/1024)}' /proc/meminfo)\";"
            " echo \"free_mib=$(df -Pm $d | awk 'NR==2 {print $4}')\";"
            ' echo "filesystem=$(findmnt -n -o FSTYPE -T $d)"; echo "now=$(date +%s)";'
            ' ss -Hltnp 2>/dev/null | awk \'{print "listener=" $4 " " $6}\';'
            f" [ -d {STACK_DIR} ] && echo deployed=yes || echo deployed=no;"
            f" {HALF_RESTORED} && echo restore=half;"
            " docker ps --format"
            " '{{.Label \"com.docker.compose.project\"}}|{{.Names}}|{{.Ports}}' 2>/dev/null"
            f" | sed -n '/^{PROJECT}|/!s/^/container=/p'"
        )

    def process(self, output: list[str]) -> HostReport:
        values = dict(line.split("=", 1) for line in output)
        listeners = []
        for line in output:
            if line.startswith("listener="):
                local, _, users = line.removeprefix("listener=").partition(" ")
                program = users.split('"')[1] if '"' in users else "an unknown process"
                if program not in _DOCKER:
                    listeners.append((int(local.rsplit(":", 1)[1]), program))
            elif line.startswith("container="):
                _, name, ports = line.removeprefix("container=").split("|")
                # neighbouring ports stand there as one: 127.0.0.1:6333-6334->6333-6334/tcp
                for first, last in re.findall(r":(\d+)(?:-(\d+))?->[\d-]+/tcp", ports):
                    published = range(int(first), int(last or first) + 1)
                    listeners += [(port, f"the container {name}") for port in published]
        return HostReport(
            distribution=values["distribution"],
            version=values.get("version", ""),
            codename=values.get("codename", ""),
            kernel=values["kernel"],
            memory_mib=int(values["memory_mib"]),
            cpus=int(values["cpus"]),
            free_mib=int(values["free_mib"]),
            filesystem=values["filesystem"],
            now=float(values["now"]),
            init=values["init"],
            listeners=tuple(listeners),
            deployed=values["deployed"] == "yes",
            half_restored=values.get("restore") == "half",
        )


def problems(report: HostReport, settings: Settings, now: float) -> list[str]:
    """Every reason not to deploy to this machine, each with what to do about it."""
    found = []
    if (report.distribution, report.version) not in SUPPORTED:
        supported = ", ".join(f"{name} {version}" for name, version in sorted(SUPPORTED))
        found.append(
            f"{report.distribution} {report.version} is not supported; reinstall with: {supported}"
        )
    if report.init != "systemd":
        found.append(f"the machine runs {report.init}, not systemd, as its first process")
    if _kernel(report.kernel) < MINIMUM_KERNEL:
        found.append(f"kernel {report.kernel} is older than 5.10; upgrade and reboot")
    if report.memory_mib < MINIMUM_MEMORY_MIB:
        found.append(f"{report.memory_mib} MiB of memory; the stack needs {MINIMUM_MEMORY_MIB}")
    needed = NEEDED_LATER_MIB if report.deployed else MINIMUM_FREE_MIB[settings.stack]
    if report.free_mib < needed:
        found.append(f"{report.free_mib} MiB free below /var/lib; a deploy needs {needed}")
    if report.filesystem.startswith(UNFIT_FILESYSTEMS):
        found.append(
            f"/var/lib/docker is on {report.filesystem}; databases need a local disk (ext4, xfs)"
        )
    skew = report.now - now
    if abs(skew) > MAXIMUM_CLOCK_SKEW_SECONDS:
        found.append(f"the machine's clock is {skew:+.0f} s off; set it (timedatectl set-ntp true)")
    if report.half_restored:
        found.append(
            "a restore is under way or was broken off, with half of the data in place; where none"
            " runs, `drill` finishes it or takes it back"
        )
    wanted = {*LOOPBACK_PORTS[settings.stack], *settings.edge_ports(), *settings.world_ports()}
    if settings.api:
        wanted.add(settings.api.port)
    for port, program in sorted(set(report.listeners)):
        if port in wanted:
            found.append(f"port {port} is held by {program}; stop it or choose another port")
    return found


def _kernel(release: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def preflight(settings: Settings) -> HostReport:
    """Refuse a machine that cannot carry the stack, by pyinfra's DeployError, before any change."""
    report: HostReport = host.get_fact(Report)
    found = problems(report, settings, time.time())
    if found:
        raise DeployError("this machine cannot take the stack: " + "; ".join(found))
    return report
