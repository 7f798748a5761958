"""What this machine allows: whether a sandbox can run here, and with which rights it must run."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.errors import MissingToolError
from ops.sandbox import engine
from ops.sandbox.layout import NAME, NETWORK_IPV4, NETWORK_IPV6

# By bit number, see capabilities(7). Old engines do not know the ones that came after these.
# fmt: off
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
)
# fmt: on
KERNEL_MODULES = Path("/lib/modules")


@dataclass(frozen=True)
class MachineKind:
    """`bounding` and `known`: capabilities as bit masks, of this machine and of its kernel."""

    bounding: int
    known: int
    cgroup_v2: bool
    modules: bool

    @property
    def all_capabilities(self) -> bool:
        return self.bounding & self.known == self.known


def this_machine() -> MachineKind:
    """Look at the capabilities and control groups of this machine."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd"))
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    return MachineKind(
        bounding=int(bounding, 16),
        known=(1 << last + 1) - 1,
        cgroup_v2=engine.docker("info", "--format", "{{.CgroupVersion}}") == "2",
        modules=KERNEL_MODULES.is_dir(),
    )


def rights(kind: MachineKind) -> list[str]:
    """The arguments of `docker run` that let systemd and a nested Docker run in a container."""
    arguments = ["--tmpfs", "/run", "--tmpfs", "/run/lock", "-e", "container=docker"]
    if kind.modules:  # for the modprobe of iptables
        arguments += ["-v", f"{KERNEL_MODULES}:{KERNEL_MODULES}:ro"]
    if kind.all_capabilities:
        arguments += ["--privileged"]
    else:  # --privileged would ask for a capability that this machine cannot give
        arguments += ["--security-opt", "seccomp=unconfined", "--security-opt"]
        arguments += ["apparmor=unconfined", "--device-cgroup-rule", "a *:* rwm"]
        for bit, name in enumerate(CAPABILITIES):
            if kind.bounding >> bit & 1:
                arguments += ["--cap-add", name]
    if kind.all_capabilities and kind.cgroup_v2:
        return [*arguments, "--cgroupns=private"]
    arguments += ["--cgroupns=host", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw"]
    if not kind.cgroup_v2:  # systemd 256 and 257 run on version 1 only when told to
        arguments += ["-e", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
    return arguments


def check_machine() -> None:
    """Refuse a machine that cannot hold a sandbox.

    Raises MissingToolError listing everything that is missing, with what to install.
    """
    missing = []
    if os.geteuid() != 0:
        missing.append(("root rights", "run it as root: sudo -s"))
    missing += [
        (f"the command {tool}", f"apt-get install {package}")
        for tool, package in (("ssh-keygen", "openssh-client"), ("ip", "iproute2"))
        if not shutil.which(tool)
    ]
    if not shutil.which("docker"):
        missing.append(("a Docker engine", engine.INSTALL))
    elif not engine.engine_answers():
        missing.append(("a running Docker engine", f"systemctl start docker, or {engine.INSTALL}"))
    if missing:
        what = ", ".join(name for name, _ in missing)
        raise MissingToolError(
            f"this machine lacks {what}", "\n".join(command for _, command in missing)
        )
    taken = clashes(_routes(), _own_bridge())
    if taken:
        raise MissingToolError(
            f"the sandbox needs {NETWORK_IPV4} and {NETWORK_IPV6}, but this machine already routes "
            + ", ".join(taken),
            "docker network ls  (a network of another tool?); remove what holds the range",
        )


def clashes(routes: Iterable[dict[str, Any]], own_bridge: str) -> list[str]:
    """Routes into the sandbox's ranges through anything but its own bridge, as sentences.

    `routes` is what `ip -j route show` answers.
    """
    ours = [ipaddress.ip_network(NETWORK_IPV4), ipaddress.ip_network(NETWORK_IPV6)]
    found = []
    for route in routes:
        if route["dst"] == "default" or route.get("dev") == own_bridge:
            continue
        network = ipaddress.ip_network(route["dst"], strict=False)
        if any(network.version == our.version and network.overlaps(our) for our in ours):
            found.append(f"{route['dst']} through {route.get('dev', 'nowhere')}")
    return found


def _routes() -> list[dict[str, Any]]:
    routes: list[dict[str, Any]] = []
    for family in ("-4", "-6"):
        done = subprocess.run(
            ["ip", "-j", family, "route", "show"], capture_output=True, text=True, check=False
        )
        routes += json.loads(done.stdout or "[]")
    return routes


def _own_bridge() -> str:
    network = engine.inspect("network", NAME)
    return f"br-{network['Id'][:12]}" if network else ""
