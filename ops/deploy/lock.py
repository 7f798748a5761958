"""One operator at a time: a lock on the machine that lives as long as its holder's connection.

The kernel drops it when the connection ends, so a killed deploy leaves no lock to break.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import shlex
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ops.clients.ssh import Remote
from ops.errors import LockedError, UnreachableError

FOLDER = "/var/lib/stackroom"


def who() -> str:
    """The person and machine this runs as: `anna@laptop`."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@contextlib.contextmanager
def hold_lock(remote: Remote, doing: str) -> Iterator[None]:
    """Hold the machine's lock. Raises LockedError naming the holder, UnreachableError."""
    holder = json.dumps(
        {"who": who(), "since": datetime.now(UTC).isoformat(timespec="seconds"), "doing": doing}
    )
    # `cat` waits on our end of the pipe: whatever ends this process ends the lock
    script = (
        f"mkdir -p {FOLDER} && cd {FOLDER} && exec 9>>deploy.lock && if flock -w 2 9; then"
        f" printf %s {shlex.quote(holder)} >deploy.holder; echo locked; cat >/dev/null;"
        " rm -f deploy.holder; else echo held; cat deploy.holder 2>/dev/null; fi"
    )
    if remote.machine.user != "root":
        script = f"sudo -n sh -c {shlex.quote(script)}"
    session = subprocess.Popen(
        [*remote.ssh_command(), script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert session.stdin and session.stdout and session.stderr  # noqa: S101 - asked for above
    try:
        answer = session.stdout.readline().strip()
        if answer == "held":
            raise LockedError(_describe(session.stdout.read()), "wait until that is done")
        if answer != "locked":
            raise UnreachableError(f"no lock on the machine: {session.stderr.read().strip()}")
        yield
    finally:
        session.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            session.wait(10)
        session.kill()
        session.wait()


def lock_holder(remote: Remote) -> dict[str, Any] | None:
    """Who holds the lock (`who`, `since`, `doing`), or None."""
    done = remote.run(
        f"cd {FOLDER} 2>/dev/null && [ -e deploy.lock ] || exit 0;"
        " flock -n deploy.lock true || cat deploy.holder 2>/dev/null || echo '{}'"
    )
    return json.loads(done.stdout) if done.stdout.strip() else None


def _describe(text: str) -> str:
    try:
        holder = json.loads(text)
    except ValueError:
        return "somebody else is changing this machine"
    return f"{holder['who']} has been running `{holder['doing']}` here since {holder['since']}"
