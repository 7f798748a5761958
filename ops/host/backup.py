"""Backups on the host: restic, the host's own verbs in an environment of their own, and timers.

Every step compares first. What is built is built beside its place and renamed when it is whole, so
a deploy that is killed leaves the verbs that were there at work.
"""

from __future__ import annotations

import io
import shlex
from typing import Any

from pyinfra import host
from pyinfra.api import FileUploadCommand, StringCommand, deploy, operation

from ops.host.facts import Lines, Units
from ops.host.operations import Commands, differing, packages, place, show_diff, upload
from ops.host.preflight import HostReport
from ops.render.backup import HOME, LOCK, TIMERS, Backups, Bundle, program

# the oldest restic whose exit codes and options the backups rely on
RESTIC = (0, 17, 1)
RESTIC_IMAGE = "restic/restic:0.18.1"
RESTIC_PROGRAM = "/usr/local/bin/restic"
# a distribution whose own restic is new enough
HAS_RESTIC = {("debian", "13")}
# Ubuntu 22.04's own Python is 3.10
PYTHONS = {("ubuntu", "22.04"): "python3.11"}
# what shows that an environment is whole, and its interpreter still that of the machine
PROBE = "import apprise, httpx, prometheus_client, pydantic_settings, tenacity, tomlkit, typer"


@deploy("Backup")
def backup(wanted: Backups, report: HostReport) -> None:
    """What makes, checks, drills and prunes the backups, and when."""
    release = (report.distribution, report.version)
    python = PYTHONS.get(release, "python3")
    names = [f"{python}-venv", *wanted.packages]
    packages(name="packages", names=[*names, *(["restic"] if release in HAS_RESTIC else [])])
    restic(name="restic")
    verbs(name="verbs", bundle=wanted.bundle, python=python)
    folders(name="folders", wanted=wanted)
    place(name="files", files=list(wanted.files))
    timers(name="timers", enabled=wanted.enabled)


@operation()
def restic() -> Commands:
    """A restic that is new enough: where the distribution's is not, the one of a pinned image.

    Taken out of the image, it needs no container: it reads, locks and reports as any program does.
    """
    found = host.get_fact(Lines, script="restic version 2>/dev/null || true")
    if _version(found) >= RESTIC:
        host.noop(f"{found[0].partition(' compiled')[0]} is there")
        return
    yield from restic_commands()


def restic_commands() -> list[str]:
    """Shell commands that put the pinned image's restic into its place."""
    image, target = shlex.quote(RESTIC_IMAGE), RESTIC_PROGRAM
    told = f"{RESTIC_IMAGE} cannot be pulled; put a restic of 0.17.1 or newer at {target} yourself"
    return [
        f"docker image inspect {image} >/dev/null 2>&1 || docker pull -q {image}"
        f" || {{ echo {shlex.quote(told)} >&2; exit 1; }}",
        f"c=$(docker create {image}) && docker cp $c:/usr/bin/restic {target}.new;"
        " s=$?; docker rm $c >/dev/null; [ $s -eq 0 ]"
        f" && {target}.new version && mv {target}.new {target}",
    ]


def _version(lines: list[str]) -> tuple[int, ...]:
    """Of "restic 0.18.0 compiled with ..."; (0,) where there is none."""
    words = lines[0].split() if lines else []
    try:
        return tuple(int(part) for part in words[1].split("-")[0].split("."))
    except (IndexError, ValueError):
        return (0,)


@operation()
def verbs(bundle: Bundle, python: str) -> Commands:
    """The verbs' source and its Python environment, by their hashes; then the command itself.

    The versions before stay for runs that are at work with them; older ones are removed.
    """
    source, environment = f"{HOME}/{bundle.name}", f"{HOME}/{bundle.venv}"
    found = host.get_fact(
        Lines,
        script=f"[ -d {source} ] && echo source;"
        f" {environment}/bin/python -c {shlex.quote(PROBE)} 2>/dev/null && echo environment; true",
    )
    command = program(bundle)
    changed = differing([command])
    if {"source", "environment"} <= set(found) and not changed:
        host.noop("the verbs are there")
        return
    show_diff(changed)
    if "source" not in found:
        yield from _unpack(bundle, source)
    if "environment" not in found:
        yield _install(f"{source}/{LOCK}", environment, python)
    yield f"PYTHONPATH={source} {environment}/bin/python -m ops.cli.host --help >/dev/null"
    yield upload(command)
    yield _forget_all_but(bundle.name, bundle.venv)


def _unpack(bundle: Bundle, source: str) -> Commands:
    archive = f"{source}.tar"
    yield f"mkdir -p {HOME} && rm -rf {source}.new {archive}"
    yield FileUploadCommand(io.BytesIO(bundle.archive), archive)
    yield (
        f"echo '{bundle.sha256}  {archive}' | sha256sum -c --quiet && mkdir {source}.new"
        f" && tar -x --no-same-owner -C {source}.new -f {archive} && rm {archive}"
        f" && sync && mv {source}.new {source}"
    )


def _install(lock: str, environment: str, python: str) -> StringCommand:
    """An environment with exactly the locked packages, none of them built here.

    In a folder of its own: what a deploy that was killed left running may still be at work.
    """
    script = (
        f"set -e; new=$(mktemp -d --suffix=.new {environment}.XXXXXX); {python} -m venv $new;"
        # the machine's own authorities: its way out may be re-signed
        " PIP_CERT=/etc/ssl/certs/ca-certificates.crt $new/bin/python -m pip install --quiet"
        " --disable-pip-version-check --no-input --no-cache-dir --require-hashes"
        f" --only-binary=:all: -r {lock};"
        f" $new/bin/python -c {shlex.quote(PROBE)}; chmod 755 $new; sync;"
        # where the other was quicker, its environment is as good
        f" rm -rf {environment}; mv -T $new {environment} 2>/dev/null"
        f" || {{ rm -rf $new; {environment}/bin/python -c {shlex.quote(PROBE)}; }}"
    )
    return StringCommand(f"sh -c {shlex.quote(script)}")


def _forget_all_but(source: str, venv: str) -> str:
    """Keep these two and the newest other one of each kind; nothing that is half-made."""
    return (
        f"cd {HOME} && rm -rf -- *.new *.tar && touch {source} {venv}"
        f" && ls -1dt venv-* | grep -vx {venv} | tail -n +2 | xargs -r rm -rf --"
        f" && ls -1dt */ | tr -d / | grep -v '^venv-' | grep -vx {source} | tail -n +2"
        " | xargs -r rm -rf --"
    )


@operation()
def folders(wanted: Backups) -> Commands:
    """Folders with their modes, and nothing of what is no longer wanted."""
    paths = " ".join(shlex.quote(path) for path, _ in wanted.folders)
    unwanted = " ".join(shlex.quote(path) for path in wanted.unwanted)
    found = host.get_fact(
        Lines,
        script=f"stat -c '%a %u %n' {paths} 2>/dev/null;"
        f" for f in {unwanted}; do [ -e $f ] && echo surplus $f; done; true",
    )
    missing = [(path, mode) for path, mode in wanted.folders if f"{mode:o} 0 {path}" not in found]
    # a folder that somebody else made, for the metrics of all, stays as it is
    missing = [(p, m) for p, m in missing if m == 0o700 or not _there(p, found)]
    surplus = [line.split(" ", 1)[1] for line in found if line.startswith("surplus ")]
    if not missing and not surplus:
        host.noop("the folders are as they should be")
        return
    for path, mode in missing:
        yield f"install -d -o root -g root -m {mode:o} {shlex.quote(path)}"
    timers = " ".join(name for name in TIMERS if any(path.endswith(name) for path in surplus))
    if timers:
        yield f"systemctl disable --now {timers}"
    if surplus:
        yield f"rm -f {' '.join(shlex.quote(path) for path in surplus)} && systemctl daemon-reload"


def _there(path: str, found: list[str]) -> bool:
    return any(line.endswith(f" {path}") for line in found)


@operation()
def timers(enabled: bool) -> Commands:
    """The timers as their files say: enabled and waiting, or gone."""
    names = list(TIMERS)
    services = [name.replace(".timer", ".service") for name in names]
    facts: dict[str, dict[str, Any]] = host.get_fact(Units, units=[*names, *services])
    stale = [name for name, each in facts.items() if each.get("NeedDaemonReload") == "yes"]
    waiting = all(
        facts.get(name, {}).get("UnitFileState") == "enabled"
        and facts[name].get("ActiveState") == "active"
        for name in names
    )
    if not stale and (waiting or not enabled):
        host.noop("the timers are as they should be")
        return
    yield "systemctl daemon-reload"
    if enabled:
        yield f"systemctl enable --now {' '.join(names)}"
