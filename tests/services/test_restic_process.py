"""What becomes of restic, and of what restic has started, when we or it come to an end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from restic_places import RUN, Place
from servers import RcloneRemote

from ops.clients.child import Ended, run_child
from ops.errors import MissingToolError
from ops.render.files import ROOT

pytestmark = pytest.mark.services

SECONDS = 60.0


def alive(word: str) -> list[int]:
    """Processes with that word among their arguments or in their environment; not ourselves."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if word.encode() in text and state != "Z" and folder.name != str(os.getpid()):
            found.append(int(folder.name))
    return found


def wait_until(what: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


CALLER = """
import sys
from pathlib import Path
from ops.clients.restic import Restic
from ops.settings.host import Credentials, Repository
folder, url = Path(sys.argv[1]), sys.argv[2]
name = "local" if url.startswith("/") else "offsite"
restic = Restic(
    Repository(name=name, url=url), Credentials(folder / "credentials"), host="team",
    cache=folder / "cache",
)
restic.backup(
    folder / "current", sys.argv[3], timeout=600, on_bytes=lambda *b: print(*b, flush=True)
)
"""


def caller(place: Place) -> subprocess.Popen[str]:
    """Another process that backs up slowly enough to be caught at it."""
    place.back_up()
    place.data(60_000_000, seed=5)
    slow = place.folder / "restic"
    slow.write_text(f'#!/bin/sh\nexec {place.restic} --limit-upload 2000 "$@"\n')
    slow.chmod(0o755)
    return subprocess.Popen(
        [sys.executable, "-c", CALLER, str(place.folder), place.url, RUN.format(9)],
        cwd=ROOT,
        env=os.environ | {"STACKROOM_RESTIC": str(slow)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(params=["local", "rclone"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, restic: Path, rclone: RcloneRemote
) -> Place:
    """With rclone restic has a child of its own, in a process group of its own."""
    if request.param == "local":
        return Place(tmp_path, str(tmp_path / "repository"), restic)
    (tmp_path / "rclone.conf").write_text(rclone.config)
    return Place(
        tmp_path,
        rclone.repository(),
        restic,
        secrets={"rclone_config": rclone.config},
        environment={"RCLONE_CONFIG": str(tmp_path / "rclone.conf")},
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_restic_does_not_outlive_us(place: Place, number: signal.Signals) -> None:
    process = caller(place)
    assert process.stdout
    process.stdout.readline()  # it is at work
    before = place.ids()
    # restic was given a path below credentials, rclone one below cache: its own copy
    given = f"={place.folder}/c"
    count = len(alive(given))
    process.send_signal(number)
    assert process.wait(SECONDS) == -number
    process.stdout.close()
    assert count == (1 if place.url.startswith("/") else 2)
    wait_until(lambda: not alive(given), 20)
    assert place.ids() == before


SILENT = """
import os
from ops.clients.child import run_child
silent = ["sh", "-c", "echo started; exec sleep 1234"]
given = {"PATH": os.environ["PATH"], "MARK": "silent"}
run_child(silent, given, timeout=600, on_line=lambda line: print(line, flush=True))
"""


def test_not_even_a_child_that_hangs_in_silence_outlives_us() -> None:
    """One that writes nothing is not told by a closed stream: the kernel has to end it."""
    process = subprocess.Popen([sys.executable, "-c", SILENT], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"started\n"
    count = len(alive("MARK=silent"))
    process.kill()
    process.wait(SECONDS)
    process.stdout.close()
    assert count == 1
    try:
        wait_until(lambda: not alive("MARK=silent"), 10)
    finally:
        for pid in alive("MARK=silent"):
            os.kill(pid, signal.SIGKILL)


LATE = """
import os, sys
from ops.clients.child import run_child
run_child(["touch", sys.argv[1]], {"PATH": "/usr/bin:/bin"}, timeout=600)
"""


def test_who_is_killed_while_the_child_begins_leaves_no_child(tmp_path: Path) -> None:
    """The kernel tells of no death that was before it was asked to."""
    begins, done, slow = tmp_path / "begins", tmp_path / "done", tmp_path / "setpriv"
    real = shutil.which("setpriv")
    slow.write_text(f'#!/bin/sh\ntouch {begins}\nsleep 1\nexec {real} "$@"\n')
    slow.chmod(0o755)
    given = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for kill in (True, False):
        process = subprocess.Popen([sys.executable, "-c", LATE, done], cwd=ROOT, env=given)
        wait_until(begins.exists)
        begins.unlink()
        if kill:
            process.kill()
        process.wait(SECONDS)
        wait_until(lambda: not alive(str(done)))
        assert done.exists() != kill


def child(body: str, timeout: float = SECONDS, **options: object) -> Ended:
    environment = {"PATH": os.environ["PATH"], "MARK": "of-this-test"}
    return run_child(["sh", "-c", body], environment, timeout=timeout, **options)  # type: ignore[arg-type]


def test_a_child_is_heard_to_its_end() -> None:
    ended = child("seq 100000; echo no >&2; printf last >&2; exit 7")
    assert (ended.code, ended.late, ended.given_up) == (7, False, False)
    assert ended.stdout.splitlines() == [str(number) for number in range(1, 100001)]
    assert ended.stderr == ["no", "last"]


def test_lines_come_as_they_are_written_and_are_not_kept() -> None:
    lines: list[str] = []
    ended = child("printf 'one\\ntw'; sleep 0.2; printf 'o\\nthree'", on_line=lines.append)
    assert (lines, ended.stdout) == (["one", "two", "three"], "")


def test_of_a_long_complaint_the_end_is_kept() -> None:
    ended = child("seq 100000 >&2; head -c 1000000 /dev/zero | tr '\\0' x >&2")
    assert len(ended.stderr) == 60
    assert max(map(len, ended.stderr)) == 2000


@pytest.mark.parametrize("trap", ["", "trap '' TERM INT HUP; "])
def test_at_the_deadline_it_ends_with_all_it_has_started(
    trap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.clients.child.GRACE_SECONDS", 0.5)
    ended = child(f"{trap}setsid --fork true; sleep 1234 & (sleep 1234; true)", timeout=0.5)
    assert ended.late
    assert ended.code < 0
    wait_until(lambda: not alive("MARK=of-this-test"))  # a killed process takes a moment to go


def test_it_may_be_given_up_and_may_take_its_locks_away(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    at_work = "echo hopeless >&2; while :; do sleep 0.1; done"
    ended = child(
        f"touch {lock}; trap 'rm {lock}; exit 130' TERM; {at_work}",
        give_up=lambda line: line == "hopeless",
    )
    assert (ended.given_up, ended.late, ended.code) == (True, False, 130)
    assert not lock.exists()


def test_an_exception_of_the_caller_ends_it() -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child("echo line; sleep 1234", on_line=stop)
    wait_until(lambda: not alive("MARK=of-this-test"))  # a killed process takes a moment to go


def test_who_only_holds_its_output_is_not_waited_for() -> None:
    begun = time.monotonic()
    ended = child("sleep 30 & echo done")
    assert (ended.code, ended.stdout) == (0, "done\n")
    assert time.monotonic() - begun < 20
    wait_until(lambda: not alive("MARK=of-this-test"), 5)  # long before it would end by itself


def test_nothing_of_ours_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "canary")
    said = child("env; cat; pwd").stdout
    assert "CANARY" not in said
    assert said.endswith("/\n")


def test_a_machine_without_setpriv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingToolError, match="setpriv"):
        child("true")
