"""Work in a process of its own, which is killed before one of its steps.

Never in a fork of the test run: that has threads, and a fork keeps the locks they held, without
the threads that would give them back. A clean process, asked over a pipe, forks in their stead.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ops.backup.source import Event

PATIENCE = 600  # seconds, for work on a slow machine


@dataclass(frozen=True)
class Work:
    """`do(*arguments, tell=..., **named)`; everything in it is pickled, functions by their names.

    `before` is called first, without arguments: it lays what takes the place of a real part.
    """

    do: Callable[..., object]
    arguments: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Step:
    """The n-th step whose name begins so."""

    name: str = ""
    number: int = 1


class Killer:
    """Does work again and again, each time in a new fork of one clean process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def kill_at(self, step: Step, work: Work) -> bool:
        """Whether the work came to that step, and was killed; else it has ended well."""
        assert self._process.stdin and self._process.stdout
        # what a fork of the tests would have had
        asked = (step, work, dict(os.environ), sys.path)
        pickle.dump(asked, self._process.stdin)
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        assert ready, f"not ended after {PATIENCE} s: {work.do}"
        answer = self._process.stdout.readline()
        assert answer, f"the process that forks has died of {work.do}"
        status = json.loads(answer)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL, status
            return True
        assert status == 0, f"{work.do} failed: its traceback is above"
        return False


@contextmanager
def killer() -> Iterator[Killer]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", "import killing; killing.serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        yield Killer(process)
    finally:
        # with what it has forked, where a test gave up on that
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _carry_out(step: Step, work: Work) -> None:
    steps = 0

    def tell(event: Event) -> None:
        nonlocal steps
        steps += event.step.startswith(step.name)
        if steps == step.number:
            os.kill(os.getpid(), signal.SIGKILL)

    if work.before:
        work.before()
    work.do(*work.arguments, tell=tell, **work.named)


def serve() -> None:
    """Fork for each question that comes, and answer with the status that the fork has ended with.

    What is asked is read before the fork: its modules are imported once.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the work prints is no answer
    while True:
        try:
            step, work, environment, sys.path[:] = pickle.load(sys.stdin.buffer)  # noqa: S301
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            os.environ.clear()
            os.environ.update(environment)
            try:
                _carry_out(step, work)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(status, file=answers, flush=True)
