"""Judges of the stack on the host: containers, files, images against what would be rendered now.

Pure: facts in, verdict out; what should be comes from ops/render/stack.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ops.health.model import Verdict, critical, ok, warning
from ops.render.project import PROJECT, STACK_DIR, Service

Facts = Any  # one section of the collected facts, as JSON gave it

DEPLOY = "stackroom -e {environment} deploy"
PLAN = "stackroom -e {environment} plan --diff"
LOOPING_RESTARTS = 5
RECENT_SECONDS = 24 * 3600.0


def of_the_stack(containers: Facts) -> list[dict[str, Any]]:
    return [each for each in containers if each["project"] == PROJECT]


def running(containers: Facts, services: Sequence[Service]) -> Verdict:
    """Every service has a container that runs and, where it is asked, calls itself healthy; one
    that is to end has ended well."""
    found = {each["service"]: each for each in of_the_stack(containers)}
    down, starting = [], []
    for service in services:
        each = found.get(service.name)
        if each is None:
            down.append(f"{service.name} has no container")
        elif service.once and each["state"] in ("running", "created"):
            starting.append(service.name)
        elif service.once and each["state"] == "exited" and not each["exit_code"]:
            continue
        elif each["state"] != "running":
            reason = "out of memory" if each["oom_killed"] else f"exit code {each['exit_code']}"
            down.append(f"{service.name} is {each['state']} ({reason})")
        elif each["health"] == "unhealthy":
            down.append(f"{service.name} is unhealthy")
        elif each["health"] == "starting":
            starting.append(service.name)
    if down:
        name = down[0].split()[0]
        return critical(", ".join(down), f"on the host: docker logs -n 50 {PROJECT}-{name}-1")
    if starting:
        return warning(f"still starting: {', '.join(starting)}", "look again in a minute")
    staying = [service.name for service in services if not service.once]
    done = [service.name for service in services if service.once]
    ended = f"; {', '.join(done)} ended well" if done else ""
    return ok(f"{', '.join(staying)} run and are healthy{ended}")


def restarts(containers: Facts) -> Verdict:
    """Restarts by Docker of containers whose present life is younger than a day."""
    recent = [
        each
        for each in of_the_stack(containers)
        if each["restarts"] and each["up_seconds"] < RECENT_SECONDS
    ]
    if not recent:
        return ok("no container restarted by itself in the last day")
    told = ", ".join(f"{each['service']} {each['restarts']} times" for each in recent)
    hint = f"on the host: docker logs -n 50 {recent[0]['name']}"
    most = max(each["restarts"] for each in recent)
    judge = critical if most >= LOOPING_RESTARTS else warning
    return judge(f"restarted by itself: {told}", hint)


def limits(containers: Facts) -> Verdict:
    """The hardening as it is in force, not as the compose file asks for it."""
    wrong = [
        f"{each['service']} {lack}" for each in of_the_stack(containers) for lack in _lacks(each)
    ]
    if any(each["privileged"] for each in of_the_stack(containers)):
        return critical(", ".join(wrong), DEPLOY)
    if wrong:
        return warning(", ".join(wrong), DEPLOY)
    return ok("read-only, no new privileges, no capabilities, limits on memory and processes")


def _lacks(container: Mapping[str, Any]) -> list[str]:
    lacks = {
        "is privileged": container["privileged"],
        "can write to its root": not container["read_only"],
        "has no memory limit": container["memory"] <= 0,
        "has no process limit": container["pids"] <= 0,
        "may gain privileges": not container["no_new_privileges"],
        "keeps capabilities": not container["drops_all"],
    }
    return [lack for lack, present in lacks.items() if present]


def files(found: Mapping[str, str], expected: Mapping[str, str]) -> Verdict:
    """SHA-256 by path on the host against the rendered files below the stack's folder."""
    ours = {path: sha for path, sha in expected.items() if path.startswith(f"{STACK_DIR}/")}
    absent = [path for path in ours if path not in found]
    differ = [path for path, sha in ours.items() if path in found and found[path] != sha]
    if absent or differ:
        told = [f"{path} is missing" for path in absent] + [f"{path} differs" for path in differ]
        return warning(", ".join(told), PLAN)
    return ok(f"{len(ours)} files are as the inventory says")


def config(containers: Facts, services: Sequence[Service]) -> Verdict:
    """The label that says with which files a container was started."""
    labels = {each["service"]: each["config"] for each in of_the_stack(containers)}
    stale = [
        service.name
        for service in services
        if service.name in labels and labels[service.name] != service.config_sha256
    ]
    if stale:
        return warning(f"runs with an older configuration: {', '.join(stale)}", PLAN)
    return ok("every container runs with the configuration of the inventory")


def images(containers: Facts, ids: Mapping[str, str], services: Sequence[Service]) -> Verdict:
    """The image that runs against the pinned tag and against what that tag names on the host."""
    wanted = {service.name: service.image for service in services}
    drift = []
    for each in of_the_stack(containers):
        pinned = wanted.get(each["service"], each["image"])
        if each["image"] != pinned:
            drift.append(f"{each['service']} runs {each['image']}, pinned is {pinned}")
        elif ids.get(each["image"]) != each["image_id"]:
            drift.append(f"{each['service']} runs another image than {each['image']} names now")
    if drift:
        return warning(", ".join(drift), PLAN)
    return ok("every container runs its pinned image")
