"""Runs on the machine: looks at everything the doctor judges there and prints it as one JSON line.

Sent over SSH, see ops/clients/script.py: standard library only, Python 3.9 or newer. It changes
nothing, judges nothing and reads no secret: of a container it takes neither environment nor
command.
"""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ops.clients.on_host import answer, chains
from ops.clients.on_host import run as run_for

SECTION_SECONDS = 8.0
COMMAND_SECONDS = 6.0
PROJECT = "stackroom"
STACK = Path("/etc/stackroom/stack")
STATE = Path("/var/lib/stackroom")
HASHED_AT_MOST = 16 * 1024 * 1024  # bytes; rendered files are far smaller
CHAINS = ("INPUT", "FORWARD", "ufw-user-input", "ufw6-user-input", "DOCKER-USER", "STACKROOM-IN")
BACKUP_JOBS = ("backup", "check", "drill", "prune")
RECORDS_AT_MOST = 30
RECORD_KEYS = ("run", "started", "finished", "outcome", "error", "bytes", "subject")
TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer")

run = partial(run_for, seconds=COMMAND_SECONDS)


def disk() -> list[dict[str, Any]]:
    """Each filesystem once: sizes in bytes, as a non-root user sees them."""
    docker_root = "/var/lib/docker"
    with contextlib.suppress(RuntimeError):
        docker_root = run("docker", "info", "--format", "{{.DockerRootDir}}").strip() or docker_root
    seen: dict[int, dict[str, Any]] = {}
    for path in ("/", docker_root, f"{docker_root}/volumes", "/var/lib/stackroom"):
        if Path(path).is_dir():
            stat = os.statvfs(path)
            seen.setdefault(
                Path(path).stat().st_dev,
                {
                    "path": path,
                    "size": stat.f_frsize * (stat.f_blocks - stat.f_bfree + stat.f_bavail),
                    "free": stat.f_frsize * stat.f_bavail,
                    "inodes": stat.f_files,
                    "inodes_free": stat.f_favail,
                },
            )
    return list(seen.values())


def memory() -> dict[str, int]:
    """MiB."""
    fields = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) // 1024
    return {
        "total": fields["MemTotal"],
        "available": fields["MemAvailable"],
        "swap_total": fields["SwapTotal"],
        "swap_free": fields["SwapFree"],
    }


def oom() -> dict[str, Any]:
    """Kills for lack of memory since boot: of this machine, or of the container that plays it."""
    own = Path("/sys/fs/cgroup/memory.events")
    source = own if own.exists() else Path("/proc/vmstat")
    counters = dict(line.split() for line in source.read_text().splitlines())
    return {"kills": int(counters["oom_kill"])}


def load() -> dict[str, Any]:
    return {"minutes_15": os.getloadavg()[2], "cpus": os.cpu_count() or 1}


def units() -> dict[str, Any]:
    listing = run("systemctl", "list-units", "--failed", "--no-legend", "--plain", "--no-pager")
    return {"failed": [line.split()[0] for line in listing.splitlines() if line.strip()]}


def clock() -> dict[str, Any]:
    virtual = run("systemd-detect-virt", "-c", codes=(0, 1)).strip()
    answer = run("timedatectl", "show", "-p", "NTPSynchronized", "--value").strip()
    return {"synchronized": answer == "yes", "container": "" if virtual == "none" else virtual}


def reboot() -> dict[str, Any]:
    flag = Path("/run/reboot-required")
    return {"required": flag.exists(), "days": age(flag) / 86400 if flag.exists() else 0.0}


def updates() -> dict[str, Any]:
    states = run("systemctl", "is-enabled", *TIMERS, codes=(0, 1)).split()
    line = run("apt-config", "dump", "APT::Periodic::Unattended-Upgrade")
    return {
        "timers": dict(zip(TIMERS, states)),  # noqa: B905 - strict= is newer than 3.9
        "unattended": '"1"' in line and shutil.which("unattended-upgrade") is not None,
    }


def containers() -> list[dict[str, Any]]:
    """Every container of the machine, running or not."""
    ids = run("docker", "ps", "-aq", "--no-trunc").split()
    found = json.loads(run("docker", "inspect", *ids)) if ids else []
    return sorted((container(item) for item in found), key=lambda each: str(each["name"]))


def container(found: dict[str, Any]) -> dict[str, Any]:
    """What the doctor needs of one `docker inspect`; nothing that could hold a secret."""
    state, config, host = found["State"], found["Config"], found["HostConfig"]
    labels = config.get("Labels") or {}
    options = host.get("SecurityOpt") or []
    return {
        "name": found["Name"].lstrip("/"),
        "project": labels.get("com.docker.compose.project", ""),
        "service": labels.get("com.docker.compose.service", ""),
        "state": state["Status"],
        "health": (state.get("Health") or {}).get("Status", ""),
        "exit_code": state.get("ExitCode", 0),
        "up_seconds": seconds_since(state["StartedAt"]) if state["Status"] == "running" else 0.0,
        "restarts": found.get("RestartCount", 0),
        "oom_killed": bool(state.get("OOMKilled")),
        "image": config["Image"],
        "image_id": found["Image"],
        "config": labels.get("stackroom.config", ""),
        "read_only": bool(host.get("ReadonlyRootfs")),
        "memory": host.get("Memory") or 0,
        "pids": host.get("PidsLimit") or 0,
        "no_new_privileges": any(
            option in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")
            for option in options
        ),
        "drops_all": "ALL" in (host.get("CapDrop") or []),
        "privileged": bool(host.get("Privileged")),
        "ports": published((found.get("NetworkSettings") or {}).get("Ports") or {}),
    }


def seconds_since(started: str) -> float:
    """Docker writes nanoseconds, which no parser here reads: the seconds are enough."""
    started_at = calendar.timegm(time.strptime(started[:19], "%Y-%m-%dT%H:%M:%S"))
    return max(0.0, time.time() - started_at)


def published(ports: dict[str, Any]) -> list[dict[str, Any]]:
    """Ports of the machine that lead to a container: address, port and protocol."""
    return [
        {"address": binding["HostIp"], "port": int(binding["HostPort"]), "protocol": protocol}
        for inner, bindings in sorted(ports.items())
        for binding in bindings or []
        for protocol in [inner.partition("/")[2]]
    ]


def images() -> dict[str, str]:
    """The image id that each tag of the stack's containers names today; absent when gone."""
    tags = sorted({each["image"] for each in containers() if each["project"] == PROJECT})
    ids = {}
    for tag in tags:
        with contextlib.suppress(RuntimeError):
            ids[tag] = run("docker", "image", "inspect", "--format", "{{.Id}}", tag).strip()
    return ids


def listeners() -> list[dict[str, Any]]:
    """TCP sockets that listen: address, port and the program's name."""
    return [listener(line) for line in run("ss", "-Htlnp").splitlines() if line.strip()]


def listener(line: str) -> dict[str, Any]:
    fields = line.split()
    address, _, port = fields[3].rpartition(":")
    address = address.strip("[]").partition("%")[0]
    program = line.partition('(("')[2].partition('"')[0]
    return {"address": address, "port": int(port), "program": program}


def sshd() -> dict[str, str]:
    """The effective configuration of the SSH server; of keys that repeat, the last value."""
    pairs = (line.partition(" ") for line in run("sshd", "-T").splitlines())
    return {key: value for key, _, value in pairs}


def firewall() -> dict[str, Any]:
    """UFW's state, and policies and rules as `iptables -S` prints them, by family."""
    return {
        "ufw": "Status: active" in run("ufw", "status"),
        "v4": filters(run("iptables", "-w", "2", "-S")),
        "v6": filters(run("ip6tables", "-w", "2", "-S")),
    }


def filters(listing: str) -> dict[str, Any]:
    """All policies, and the rules of the chains that the doctor judges."""
    found = chains(listing)
    rules = {name: found["rules"][name] for name in CHAINS if name in found["rules"]}
    return {"policies": found["policies"], "rules": rules}


def guard() -> dict[str, Any]:
    flag = STATE / "guard" / "pending"
    return {"pending": flag.exists(), "seconds": age(flag) if flag.exists() else 0.0}


def files() -> dict[str, str]:
    """SHA-256 of each file of the stack, by absolute path."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(STACK.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= HASHED_AT_MOST
    }


def deploy() -> dict[str, Any]:
    """The newest record of a deploy: its file name and content; empty before the first one."""
    records = sorted((STATE / "deploys").glob("*.json"))
    if not records:
        return {}
    return {"file": records[-1].name, "record": json.loads(records[-1].read_text())}


def backups() -> dict[str, Any]:
    """The host's own configuration of backups, its newest records of each kind, and its timers.

    Empty where backups were never deployed. Of a record, what the doctor judges and no more.
    """
    config = Path("/etc/stackroom/backup.json")
    if not config.is_file():
        return {}
    told = json.loads(config.read_text())
    folder = Path(told["base"]) / "records"
    return {
        "now": time.time(),
        "period_hours": told["period_hours"],
        "repositories": [each["name"] for each in told["repositories"]],
        "records": {kind: records(folder, kind) for kind in BACKUP_JOBS},
        "timers": {job: timer(f"stackroom-{job}.timer") for job in BACKUP_JOBS},
        "restore": restore(Path(told["base"]) / "restore.json"),
    }


def restore(journal: Path) -> dict[str, str]:
    """The restore that is under way or not yet confirmed; empty where there is none."""
    if not journal.is_file():
        return {}
    told = json.loads(journal.read_text())
    return {"run": told["run"], "state": told["state"]}


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The newest records of a kind, oldest first; one that cannot be read is left out."""
    found = []
    for path in sorted(folder.glob(f"*.{kind}.json"))[-RECORDS_AT_MOST:]:
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(path.read_text())
            if record.get("dry_run"):
                continue
            told = {key: record.get(key) for key in RECORD_KEYS}
            told["stored"] = [each["name"] for each in record["repositories"] if each["ok"]]
            told["rto_seconds"] = record["details"].get("rto_seconds")
            told["repository"] = record["details"].get("repository") if kind == "drill" else None
            found.append(told)
    return found


def timer(unit: str) -> dict[str, Any]:
    """`since`: when it last began something, else when it was first enabled; 0 if never."""
    states = run("systemctl", "show", "-p", "UnitFileState", "-p", "ActiveState", unit).split()
    values = dict(line.split("=", 1) for line in states)
    stamp = Path("/var/lib/systemd/timers") / f"stamp-{unit}"
    return {
        "enabled": values.get("UnitFileState") == "enabled",
        "active": values.get("ActiveState") == "active",
        "since": stamp.stat().st_mtime if stamp.exists() else 0.0,
    }


def age(path: Path) -> float:
    return max(0.0, time.time() - path.stat().st_mtime)


SECTIONS: dict[str, Callable[[], Any]] = {
    "disk": disk,
    "memory": memory,
    "oom": oom,
    "load": load,
    "units": units,
    "clock": clock,
    "reboot": reboot,
    "updates": updates,
    "containers": containers,
    "images": images,
    "listeners": listeners,
    "sshd": sshd,
    "firewall": firewall,
    "guard": guard,
    "files": files,
    "deploy": deploy,
    "backups": backups,
}


if __name__ == "__main__":
    answer(SECTIONS, SECTION_SECONDS)
