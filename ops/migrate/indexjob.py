"""The api's own index job, in its container on the target: started once, followed, judged.

It belongs to the machine, not to the connection that started it: whoever comes back follows it
from where it is. A lock there lets no two of them run; its log and its exit code stay there.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections import deque
from collections.abc import Sequence

from ops.backup.source import Event, Tell
from ops.errors import LockedError, ServiceError
from ops.migrate.load import Patience
from ops.migrate.shelf import PIECE, HostShelf

FOLDER = "/var/lib/stackroom/index-jobs"
STARTS = 1000  # or lost connections, which each have Patience of their own
LONGEST = 200  # letters of a line that are shown
LAST_LINES = 3
LOST = -1  # the machine went down under it, or it was killed with all that watched it
CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# the lock is free only when the job is over, so what was not written before never will be
STATE = """
mkdir -p {folder} && cd {folder} || exit
touch lock
if ! flock -n -s lock true; then
  [ "$(cat running)" = {id} ] && echo running || echo busy
elif [ -s {id}.exit ]; then echo ended "$(cat {id}.exit)"
elif [ -e {id}.log ]; then echo lost
else echo new; fi
"""
START = """
cd {folder} && find . -name '*.log' -mtime +90 -delete
umask 077
setsid flock -n lock sh -c {job} </dev/null >/dev/null 2>&1 &
for _ in $(seq 100); do [ -e {id}.log ] && exit; kill -0 $! 2>/dev/null || exit 0; sleep 0.1; done
"""
JOB = """
echo {id} >running
: >{id}.log
{command} </dev/null >>{id}.log 2>&1
echo $? >{id}.new && sync {id}.new && mv {id}.new {id}.exit
"""
FOLLOW = """
cd {folder} || exit
tail -s 0.3 -c +{first} -f {id}.log & tail=$!
flock -s lock true
kill $tail
"""
READ = """
cd {folder} && tail -c +{first} {id}.log
"""


class IndexJob:
    """`folder` is on the machine. `id`: letters, numbers and hyphens, another one for each try."""

    def __init__(self, host: HostShelf, command: Sequence[str], *, folder: str = FOLDER) -> None:
        self.said = ""  # its last words, once it has ended
        self._host = host
        self._command = command
        self._folder = folder

    def state(self, id: str) -> tuple[str, int]:
        """new, running, busy (another one runs), lost, or ended with an exit code."""
        found = self._ran(STATE.format(folder=self._folder, id=id)).split()
        if found[:1] == ["lost"]:
            return "lost", LOST
        return found[0], int(found[1]) if found[1:] else 0

    def run(self, id: str, *, patience: Patience, tell: Tell) -> int:
        """Start it where it was not, show what it prints, and wait; its exit code, or LOST.

        Raises LockedError while another one runs there, UnreachableError where the machine stays
        away: the job goes on then. ServiceError where it cannot be started.
        """
        shown = _Shown(tell)
        for _ in range(STARTS):
            state, code = patience.call(self.state, id)
            if state == "busy":
                raise LockedError(
                    f"another index job runs on {self._host.name}",
                    f"wait for it; its log is in {self._folder} there",
                )
            if state == "new":
                patience.call(self._start, id)
            if state in ("ended", "lost"):
                patience.call(self._read, READ, id, shown)
                self.said = "; ".join(shown.last)
                return code
            patience.call(self._read, FOLLOW, id, shown)
        raise ServiceError(f"{self._host.name}: the index job does not start", f"ls -l {FOLDER}")

    def log(self, id: str) -> str:
        return f"{self._folder}/{id}.log"

    def _start(self, id: str) -> None:
        command = shlex.join(["docker", "exec", self._host.api, *self._command])
        job = JOB.format(id=id, command=command)
        self._ran(START.format(folder=self._folder, id=id, job=shlex.quote(job)))

    def _read(self, script: str, id: str, shown: _Shown) -> None:
        command = script.format(folder=self._folder, id=id, first=shown.seen + 1)
        with self._host.remote.stream(command, stdin=subprocess.DEVNULL) as running:
            pipe = running.process.stdout
            assert pipe is not None  # noqa: S101 - for the type checker
            while piece := pipe.read1(PIECE):  # type: ignore[attr-defined]
                shown.add(piece)
            running.ended()

    def _ran(self, script: str) -> str:
        done = self._host.remote.run(script, timeout=60)
        if done.returncode:
            raise ServiceError(f"{self._host.name}: {done.stderr.strip() or 'no index job'}")
        return done.stdout


class _Shown:
    """What a job printed, as lines of progress. `seen` in bytes; `last`: its last lines, for the
    very last may be of the other one of its two streams."""

    def __init__(self, tell: Tell) -> None:
        self.seen = 0
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self._tell = tell
        self._rest = b""

    def add(self, piece: bytes) -> None:
        self.seen += len(piece)
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + piece)
        self._rest = self._rest[-LONGEST:]
        for line in lines:
            if words := plain(line):
                self.last.append(words)
                self._tell(Event("index", words))


def plain(line: bytes) -> str:
    """For a terminal: whatever a program prints, nothing there is steered by it."""
    return CONTROL.sub("", line.decode(errors="replace"))[:LONGEST].strip()
