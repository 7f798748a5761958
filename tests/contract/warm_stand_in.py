"""Stand-ins that start at once: forks of one process that has imported all they need.

Each is a process of its own in a folder of its own, and runs what `python -m standin` would run.
They end with the tests at the latest.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().parents[2] / "ops/sandbox/images/qdrant"
DOOR = "STACKROOM_TESTS_STAND_INS"  # where to ask; of processes that the tests start, too


@dataclass(frozen=True)
class Process:
    """What the tests need of a subprocess.Popen; it can be pickled."""

    pid: int

    def poll(self) -> int | None:
        return _ask({"status": self.pid})

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, f"{self.pid} did not end within {timeout} s"
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def start(folder: Path, environment: Mapping[str, str], log: Path) -> Process:
    """A stand-in in `folder`, which is its working directory. Does not wait until it answers."""
    asked = {"folder": str(folder), "environment": dict(environment), "log": str(log)}
    return Process(_ask(asked))


def _ask(question: Mapping[str, Any]) -> Any:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(os.environ.get(DOOR) or _open())
        asking.sendall(json.dumps(question).encode() + b"\n")
        with asking.makefile() as answer:
            return json.loads(answer.readline())


def _open() -> str:
    """Start the process that forks; it ends when this one does, however it ends."""
    folder = tempfile.mkdtemp(prefix="stand-ins-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    door = f"{folder}/door"
    here = os.pathsep.join([str(PROGRAM), str(Path(__file__).parent)])
    # numpy's threads would make a fork unsafe
    chosen = {"PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", f"import warm_stand_in; warm_stand_in.serve({door!r})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | chosen,
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    assert process.stdout.readline() == b"open\n", "no stand-in can be started"
    atexit.register(process.communicate)
    os.environ[DOOR] = door
    return door


def serve(door: str) -> None:
    """Until standard input ends: start stand-ins, and say how they have ended."""
    from standin.__main__ import main

    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork would lose its threads"
    ended: dict[int, int | None] = {}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(door)
        listening.listen(64)
        print("open", flush=True)
        while True:
            ready, _, _ = select.select([0, listening], [], [])
            if 0 in ready:
                break
            with listening.accept()[0] as asking, asking.makefile("rw") as talk:
                question = json.loads(talk.readline())
                for pid, code in ended.items():
                    if code is None and (found := os.waitpid(pid, os.WNOHANG))[0]:
                        ended[pid] = os.waitstatus_to_exitcode(found[1])
                if "status" in question:
                    answer = ended[question["status"]]
                elif answer := os.fork():
                    ended[answer] = None
                else:
                    for each in (asking, listening):
                        each.close()
                    _become(question, main)
                print(json.dumps(answer), file=talk, flush=True)
    for pid, code in ended.items():
        if code is None:
            os.kill(pid, signal.SIGKILL)


def _become(question: dict[str, Any], main: Any) -> None:
    code = 1
    try:
        os.setsid()
        os.chdir(question["folder"])
        os.environ.clear()
        os.environ.update(question["environment"])
        random.seed()
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(question["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for there, given in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(there, given)
        code = main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
