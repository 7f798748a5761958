"""Judges of the machine itself: room, memory, load, units, time, updates. Pure: facts in, verdict
out; the facts' shapes are those of the functions in ops/health/collect.py."""

from __future__ import annotations

from typing import Any

from ops.health.model import Status, Verdict, measured, ok, warning

Facts = Any  # one section of the collected facts, as JSON gave it

FULL_WARN, FULL_CRIT = 80.0, 90.0  # percent
MEMORY_WARN, MEMORY_CRIT = 90.0, 95.0  # percent in use
LOAD_WARN = 2.0  # runnable tasks per cpu, over 15 minutes
GIB = 1024**3


def disk(filesystems: Facts) -> Verdict:
    used = {
        each["path"]: _percent(each["size"] - each["free"], each["size"]) for each in filesystems
    }
    path = max(used, key=lambda name: used[name])
    free = next(each["free"] for each in filesystems if each["path"] == path) / GIB
    return measured(
        f"{path} is {used[path]:.0f} % full, {free:.1f} GiB free",
        used[path],
        FULL_WARN,
        FULL_CRIT,
        "Qdrant refuses writes on a full disk; on the host: docker system df, journalctl"
        " --disk-usage",
    )


def inodes(filesystems: Facts) -> Verdict:
    counted = [each for each in filesystems if each["inodes"]]  # btrfs has no fixed number
    if not counted:
        return ok("the filesystems have no inode limit")
    used = {
        each["path"]: _percent(each["inodes"] - each["inodes_free"], each["inodes"])
        for each in counted
    }
    path = max(used, key=lambda name: used[name])
    return measured(
        f"{path} uses {used[path]:.0f} % of its inodes",
        used[path],
        FULL_WARN,
        FULL_CRIT,
        "many small files: on the host, du --inodes -x / | sort -n | tail",
    )


def memory(found: Facts) -> Verdict:
    used = _percent(found["total"] - found["available"], found["total"])
    swap = found["swap_total"] - found["swap_free"]
    return measured(
        f"{used:.0f} % of {found['total']} MiB in use, {swap} MiB swapped out",
        used,
        MEMORY_WARN,
        MEMORY_CRIT,
        "on the host, docker stats --no-stream; then qdrant.memory in settings.toml",
    )


def oom(found: Facts) -> Verdict:
    if not found["kills"]:
        return ok("no process was killed for memory since boot")
    return warning(
        f"{found['kills']} processes were killed for memory since boot",
        "on the host: journalctl -k --grep 'killed process'; a larger machine or smaller limits",
    )


def load(found: Facts) -> Verdict:
    # never critical: a busy machine serves, or the checks of its services tell that it does not
    each = found["minutes_15"] / found["cpus"]
    busy = each >= LOAD_WARN
    return Verdict(
        Status.WARNING if busy else Status.OK,
        f"{each:.2f} per cpu over 15 minutes on {found['cpus']} cpus",
        "on the host: top, docker stats --no-stream" if busy else "",
        round(each, 2),
        LOAD_WARN,
    )


def units(found: Facts) -> Verdict:
    failed = found["failed"]
    if not failed:
        return ok("no systemd unit has failed")
    return warning(
        f"failed: {', '.join(failed)}",
        f"on the host: journalctl -u {failed[0]} -n 50; then systemctl reset-failed {failed[0]}",
    )


def clock(found: Facts) -> Verdict:
    if found["synchronized"]:
        return ok("the clock is synchronised")
    if found["container"]:
        return ok(f"a container ({found['container']}): the machine below keeps time")
    return warning(
        "the clock is not synchronised",
        "tokens and certificates depend on it; on the host: systemctl status systemd-timesyncd",
    )


def reboot(found: Facts) -> Verdict:
    if not found["required"]:
        return ok("no reboot is waiting")
    return warning(
        f"a reboot is waiting since {found['days']:.0f} days",
        "it comes by itself at host.reboot_at; if it did not: on the host, systemctl reboot",
    )


def updates(found: Facts) -> Verdict:
    off = [timer for timer, state in found["timers"].items() if state != "enabled"]
    missing = off + ([] if found["unattended"] else ["unattended-upgrades"])
    if found["timers"] and not missing:
        return ok("security updates install themselves")
    return warning(
        f"security updates do not install themselves: {', '.join(missing) or 'no timers'} off",
        "stackroom -e {environment} deploy",
    )


def guard(found: Facts) -> Verdict:
    """A firewall or SSH change that nobody has confirmed: at most 180 s, then it is undone."""
    if not found["pending"]:
        return ok("no change waits for confirmation")
    seconds = found["seconds"]
    status = Status.CRITICAL if seconds > 180 + 60 else Status.WARNING
    return measured(
        f"a firewall or SSH change waits for confirmation since {seconds:.0f} s",
        seconds,
        0,
        240,
        "a deploy is running or was cut off: stackroom -e {environment} deploy",
        status,
    )


def deploy(found: Facts) -> Verdict:
    if not found:
        return warning("no deploy is recorded", "stackroom -e {environment} deploy")
    record = found["record"]
    if not isinstance(record, dict) or not {"at", "who", "revision"} <= record.keys():
        return warning(
            f"the record {found['file']} is damaged", "stackroom -e {environment} history"
        )
    return ok(f"last deploy {record['at'][:16]} by {record['who']}, revision {record['revision']}")


def _percent(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 100.0
