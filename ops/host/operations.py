"""Operations the pyinfra library lacks: many files in one step, and units by state.

Every operation decides from what stands on the host, never from what this run has changed: a
deploy that failed half-way is mended by the next one.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Generator, Iterable
from pathlib import PurePosixPath
from typing import Any

import click
from pyinfra import host, state
from pyinfra.api import StringCommand, operation

from ops.host.facts import FileState, FileStates, FileTexts, Lines, NewestChange, Units
from ops.render.files import RenderedFile

Commands = Generator[Any, None, None]

# another installation (of a new machine's own upgrades, of a killed deploy) is waited for
_APT = "DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300"
APT_INSTALL = f"{_APT} -o Dpkg::Options::=--force-confold --no-install-recommends install"
APT_MEND = f"{_APT} -qq check >/dev/null 2>&1 || {{ dpkg --configure -a; {APT_INSTALL} -f; }}"
# apt never waits for the lock of its lists, whatever it is told
APT_UPDATE = (
    "n=0; until e=$(LC_ALL=C apt-get update 2>&1 >/dev/null); do"
    ' case "$e" in *lists/lock*) ;; *) n=60 ;; esac; n=$((n+1));'
    ' [ $n -lt 60 ] || { echo "$e" >&2; exit 1; }; sleep 5; done'
)


def differing(files: Iterable[RenderedFile]) -> list[RenderedFile]:
    """Those of `files` whose content, mode or owner on the host is another, or that are absent."""
    files = list(files)
    states: dict[str, FileState] = host.get_fact(FileStates, paths=[file.path for file in files])
    return [
        file
        for file in files
        if states.get(file.path) != FileState(file.sha256, file.mode, file.uid)
    ]


def upload(file: RenderedFile, path: str = "") -> StringCommand:
    """Write a file in one step: through standard input, never readable by others, renamed last.

    A connection that breaks ends the input early: half a file is not put into its place.
    """
    target = shlex.quote(path or file.path)
    folder = shlex.quote(str(PurePosixPath(path or file.path).parent))
    script = (
        f"set -e; mkdir -p {folder}; umask 077; cat >{target}.new;"
        f" [ $(wc -c <{target}.new) -eq {len(file.content.encode())} ];"
        f" chown {file.uid}:{file.uid} {target}.new; chmod {file.mode:o} {target}.new;"
        f" mv {target}.new {target}"
    )
    return StringCommand(f"sh -c {shlex.quote(script)}", _stdin=file.content)


def show_diff(files: list[RenderedFile]) -> None:
    """Unified diffs on standard error, when asked for; a secret file shows only its name."""
    if not state.config.DIFF or not files:
        return
    current = host.get_fact(FileTexts, paths=[file.path for file in files if not file.secret])
    for file in files:
        if file.secret:
            click.echo(f"--- {file.path}: differs (a secret; not shown)", err=True)
            continue
        before = current.get(file.path, "").splitlines()
        for line in difflib.unified_diff(
            before,
            file.content.splitlines(),
            file.path,
            file.path,
            "on the host",
            "wanted",
            lineterm="",
        ):
            click.echo(line, err=True)


@operation()
def place(files: list[RenderedFile]) -> Commands:
    """Write those of the files that differ. Directories above them are made, root's, 0755."""
    changed = differing(files)
    if not changed:
        host.noop(f"{len(files)} files are as they should be")
        return
    show_diff(changed)
    for file in changed:
        yield upload(file)
    if any(file.path.startswith("/etc/systemd/system/") for file in changed):
        yield "systemctl daemon-reload"


@operation()
def unit(unit_name: str, after: list[str] | None = None, running: bool = True) -> Commands:
    """A unit that is enabled and, if `running`, was started after its files last changed.

    `after` lists those files. A unit whose conditions do not hold (timesyncd in a container) is
    left alone once it is enabled.
    """
    facts = host.get_fact(Units, units=[unit_name]).get(unit_name, {})
    changed = host.get_fact(NewestChange, paths=after) if after else 0
    done = True
    if facts.get("UnitFileState") not in ("enabled", "static", "alias", "indirect"):
        done = False
        yield f"systemctl daemon-reload && systemctl enable {shlex.quote(unit_name)}"
    started = int(facts.get("StartedAt") or 0)
    fresh = facts.get("ActiveState") == "active" and started >= changed
    ruled_out = (
        facts.get("ConditionResult") == "no" and facts.get("ConditionTimestampMonotonic") != "0"
    )
    if running and not fresh and not ruled_out:
        done = False
        quoted = shlex.quote(unit_name)
        yield f"systemctl reset-failed {quoted}; systemctl restart {quoted}"
    if done:
        host.noop(f"{unit_name} is enabled and as it should be")


@operation()
def packages(names: list[str]) -> Commands:
    """Distribution packages without their recommendations; the index is read only if needed.

    What an interrupted installation has left half-way is finished first.
    """
    quoted = " ".join(shlex.quote(name) for name in names)
    found = host.get_fact(
        Lines,
        script="dpkg-query -W -f '${Package} ${db:Status-Status}\\n'"
        f' {quoted} 2>/dev/null; [ -z "$(dpkg --audit)" ] || echo interrupted',
    )
    missing = [name for name in names if f"{name} installed" not in found]
    if not missing and "interrupted" not in found:
        host.noop(f"{', '.join(names)}: installed")
        return
    yield f"sh -c {shlex.quote(APT_MEND)}"
    if missing:
        yield f"sh -c {shlex.quote(APT_UPDATE)}"
        yield f"{APT_INSTALL} {' '.join(shlex.quote(name) for name in missing)}"
