"""pyinfra's words as typed errors and steps; the lock and the login, with a stand-in for `ssh`.

The stand-in is a shell script on PATH that runs the command here instead of on a machine, so what
is tested is our side of the pipe: arguments, exit codes, timeouts, and the lock's protocol.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops.clients.ssh import Remote
from ops.deploy import apply as applying
from ops.deploy import lock, plan, record
from ops.deploy import pyinfra as starting
from ops.deploy import run as running
from ops.deploy.pyinfra import Finished, failure
from ops.errors import DeployError, LockedError, ServiceError, StackroomError, UnreachableError
from ops.render.files import ROOT, RenderedFile
from ops.settings import Environment, load_environment

WriteEnvironment = Callable[..., Path]

# logs as pyinfra 3.10 wrote them
START = """\
--> Loading config...
--> Loading inventory...
--> Connecting to hosts...
"""
FIRST_LOGIN = """\
    Failed to load host keys from inventory/team/known_hosts: [Errno 2] No such file or directory
    No host key for 198.51.100.10 found in known_hosts, accepting & adding to host keys file
    Added host key for 198.51.100.10 to known_hosts
"""
CONNECTED = """\
    [198.51.100.10] Connected

--> Preparing operation files...
    Loading: deploy.py
"""
READY = """\
    [198.51.100.10] Ready: deploy.py

--> Skipping change detection
--> Beginning operation run...
"""
END = """

--> Disconnecting from hosts...
--> pyinfra error: No hosts remaining!
"""
RUN = """\
--> Starting operation: Base | packages 
    [198.51.100.10] No changes

--> Starting operation: Docker | engine 
    [198.51.100.10] Success is what the package manager prints
    [198.51.100.10] Error response from daemon: a word of a command, not of pyinfra
    [198.51.100.10] Success

--> Starting operation: Stack | services 
    [198.51.100.10] stackroom-apply: the new stack did not become healthy
    [198.51.100.10] Could not resolve hostname git.example.com: what a command says
    [198.51.100.10] Error: executed 3 commands
"""
OPERATION_ERROR = """\
--> Starting operation: Access | firewall and SSH 
Traceback (most recent call last):
  File "src/gevent/greenlet.py", line 912, in gevent._gevent_cgreenlet.Greenlet.run
  File "pyinfra/api/operation.py", line 341, in command_generator
    for command in func(*args, **kwargs):
pyinfra.api.exceptions.OperationError: you come from 198.51.100.9, which is not listed
2030-01-02T03:04:05Z <Greenlet at 0x7f45af8c4ea0: _run_host_op> failed with OperationError

--> Disconnecting from hosts...
--> Operation error in ops/host/access.py line 4: you come from 198.51.100.9, which is not listed
"""
CALLBACK_ERROR = """\
--> Starting operation: Access | firewall and SSH 
    Traceback (most recent call last):
  File "pyinfra/api/command.py", line 262, in execute
    raise exception
pyinfra.api.exceptions.OperationError: the fresh connection could not confirm: too late

    [198.51.100.10] Unexpected error in Python callback: OperationError('the fresh connection',)
    [198.51.100.10] Error: executed 1 commands
"""
PREFLIGHT = """
--> Disconnecting from hosts...
--> pyinfra error in deploy.py line 27: this machine cannot take the stack: kernel 4.19 is old
"""
SETTINGS_ERROR = """
--> Disconnecting from hosts...
--> An exception occurred in: deploy.py:

Traceback (most recent call last):
  File "deploy.py", line 28, in <module>
    wanted = render_stack(environment, report.memory_mib)
ops.errors.SettingsError: qdrant.memory: 0 MiB for Qdrant do not fit
"""
NO_KEY_FILE = """\
Traceback (most recent call last):
  File "pyinfra/connectors/ssh_util.py", line 162, in load_key_with_certificate
    raise PyinfraError(f"No such private key file: {key_filename}")
pyinfra.api.exceptions.PyinfraError: No such private key file: keys/absent
2030-01-02T03:04:05Z <Greenlet at 0x7f7fab04e660: <bound method Host.connect>> failed

--> Disconnecting from hosts...
--> pyinfra error in src/gevent/greenlet.py line 912: No such private key file: keys/absent
"""


@pytest.fixture
def environment(write_environment: WriteEnvironment) -> Environment:
    return load_environment(write_environment())


@pytest.mark.parametrize(
    "said",
    [
        "Could not connect ([Errno None] Unable to connect to port 22 on 198.51.100.10)",
        "Could not connect (timed out)",
        "Could not resolve hostname ([Errno -2] Name or service not known)",
        "Authentication error (username=root, pkey=None): Authentication failed.",
        "SSH host key error (Host key for 198.51.100.10 does not match.)",
        "SSH error (Error reading SSH protocol banner)",
        "EOF error ()",
    ],
)
@pytest.mark.parametrize("first", ["", FIRST_LOGIN.splitlines(keepends=True)[0]])
def test_no_connection(environment: Environment, first: str, said: str) -> None:
    error = failure(environment, Finished(1, "", f"{START}{first}    [198.51.100.10] {said}{END}"))
    assert isinstance(error, UnreachableError)
    assert error.message == f"198.51.100.10: {said}"
    assert "log in with ssh" in error.hint


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (READY + OPERATION_ERROR, "you come from 198.51.100.9, which is not listed"),
        (READY + CALLBACK_ERROR + END, "the fresh connection could not confirm: too late"),
        (PREFLIGHT, "this machine cannot take the stack: kernel 4.19 is old"),
        (SETTINGS_ERROR, "qdrant.memory: 0 MiB for Qdrant do not fit"),
        (
            READY + RUN + END,
            "Stack | services failed:\n"
            "stackroom-apply: the new stack did not become healthy\n"
            "Could not resolve hostname git.example.com: what a command says\n"
            "Error: executed 3 commands",
        ),
    ],
)
@pytest.mark.parametrize("first", ["", FIRST_LOGIN])
def test_a_step_that_failed(environment: Environment, first: str, log: str, message: str) -> None:
    """Also on the first login, when pyinfra has words of its own about host keys."""
    error = failure(environment, Finished(1, "", START + first + CONNECTED + log))
    assert isinstance(error, DeployError)
    assert error.message == message
    assert error.hint == "stackroom -e team deploy, once that is mended"


def test_a_failure_before_the_connection(environment: Environment) -> None:
    error = failure(environment, Finished(1, "", START + NO_KEY_FILE))
    assert error.message == "No such private key file: keys/absent"
    silent = failure(environment, Finished(1, "", ""))
    assert silent.message == "pyinfra failed without a word"


def test_a_long_failure_shows_its_last_lines(environment: Environment) -> None:
    lines = "".join(f"    [198.51.100.10] line {number}\n" for number in range(40))
    log = f"{START}{CONNECTED}{READY}--> Starting operation: images \n{lines}{END}"
    shown = failure(environment, Finished(1, "", log)).message.splitlines()
    assert shown[0] == "images failed:"
    assert 5 < len(shown) < 30
    assert shown[1:] == [f"line {number}" for number in range(41 - len(shown), 40)]


def replay(log: str, returncode: int, stdout: str = "") -> Callable[..., Finished]:
    def run(*_: Any, on_line: Callable[[str], None] = lambda line: None, **__: Any) -> Finished:
        for line in log.splitlines():
            on_line(line)
        return Finished(returncode, stdout, log)

    return run


def test_apply_follows_the_log(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []
    log = START + CONNECTED + READY + RUN.replace("Error: executed 3 commands", "Success")
    monkeypatch.setattr(applying, "run_pyinfra", replay(log, 0))
    changed = applying.apply(environment, on_step=lambda *step: steps.append(step))
    assert changed == ["Docker | engine", "Stack | services"]
    assert steps == [
        ("Base | packages", ""),
        ("Base | packages", "No changes"),
        ("Docker | engine", ""),
        ("Docker | engine", "Success"),
        ("Stack | services", ""),
        ("Stack | services", "Success"),
    ]


def test_apply_tells_the_step_that_failed(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, str]] = []
    monkeypatch.setattr(applying, "run_pyinfra", replay(START + CONNECTED + READY + RUN + END, 1))
    with pytest.raises(DeployError, match=r"^Stack \| services failed:"):
        applying.apply(environment, on_step=lambda *step: steps.append(step))
    assert steps[-1] == ("Stack | services", "Error")


DIFF = """\
--- /etc/stackroom/stack/compose.yaml\ton the host
+++ /etc/stackroom/stack/compose.yaml\twanted
@@ -1,4 +1,4 @@
 services:
 
-  old: 1
+  new: 1
--- /etc/stackroom/stack/qdrant/local.yaml: differs (a secret; not shown)"""


def test_the_plan_of_a_dry_run(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        {"name": "packages", "hosts_with_change": []},
        {"name": "services", "hosts_with_change": ["198.51.100.10"]},
    ]
    log = f"{START}{CONNECTED}{DIFF}\n{READY}"
    monkeypatch.setattr(plan, "run_pyinfra", replay(log, 0, json.dumps({"plan": steps})))
    made = plan.make_plan(environment, diff=True)
    assert (made.changes, made.unchanged, made.is_clean) == (("services",), 1, False)
    assert made.diff == DIFF
    assert plan.make_plan(environment).diff == ""
    assert made.to_json()["schema_version"] == 1


def test_a_run_that_prints_no_plan(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stdout in ("", "nonsense", "{}"):
        monkeypatch.setattr(plan, "run_pyinfra", replay(START + CONNECTED, 0, stdout))
        with pytest.raises(DeployError, match="no plan"):
            plan.make_plan(environment)


@pytest.mark.parametrize(
    ("part", "script"), [("all", "deploy.py"), ("people", "ops/host/onboard.py")]
)
def test_each_part_has_its_script(
    environment: Environment,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    part: starting.Part,
    script: str,
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor word; do last=$word; done; echo "$last"; echo "$*" >&2\n')
    python.chmod(0o755)
    monkeypatch.setattr(starting.sys, "executable", str(python))
    started: list[str] = []
    run = starting.run_pyinfra

    def seen(*given: Any, **named: Any) -> Finished:
        finished = run(*given, **named)
        started.append(finished.stdout.strip())
        return dataclasses.replace(finished, stdout='{"plan": []}')

    monkeypatch.setattr(plan, "run_pyinfra", seen)
    monkeypatch.setattr(applying, "run_pyinfra", seen)
    plan.make_plan(environment, part=part)
    applying.apply(environment, part=part)
    assert started == [str(ROOT / script)] * 2
    assert Path(started[0]).is_file()


# with a stand-in for ssh on PATH

FAKE_SSH = """\
#!/bin/sh
# keeps its arguments, one a line, and runs the last one here; SSH_MODE says how it goes
for argument; do printf '%s\\n' "$argument"; done >"$SSH_LOG"
for argument; do command=$argument; done
case "$SSH_MODE" in
works) exec sh -c "$command" ;;
refused) echo 'debug: words' >&2; echo 'connect to port 22: Connection refused' >&2; exit 255 ;;
silent) exec sleep 30 ;;
broken) echo 'no such folder' >&2; exit 3 ;;
esac
"""
FAKE_SUDO = """\
#!/bin/sh
[ "$1" = -n ] || exit 90
shift
AS_ROOT=yes exec "$@"
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, first on PATH; returns the file that holds its last arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("ssh", FAKE_SSH), ("sudo", FAKE_SUDO)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SSH_MODE", "works")
    monkeypatch.setenv("SSH_LOG", str(tmp_path / "arguments"))
    return tmp_path / "arguments"


OPS = 'from ops.settings import machines\nhosts = machines(__file__, "2001:db8::10", {})\n'


def test_ssh_is_called_with_everything_that_keeps_it_strict(
    ssh: Path, write_environment: WriteEnvironment
) -> None:
    hosts = OPS.format("user='ops', port=2222, key='id_ed25519'")
    environment = load_environment(write_environment(hosts=hosts))
    done = Remote(environment).run("echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    arguments = ssh.read_text().splitlines()
    options = {arguments[at + 1] for at, word in enumerate(arguments) if word == "-o"}
    assert {
        "BatchMode=yes",
        "ControlPath=none",
        "StrictHostKeyChecking=accept-new",
        "IdentitiesOnly=yes",
    } <= options
    assert arguments[arguments.index("-p") + 1] == "2222"
    assert arguments[arguments.index("-i") + 1] == str(environment.folder / "id_ed25519")
    assert arguments[-2] == "ops@2001:db8::10"


def test_known_hosts_are_the_environments_own(
    ssh: Path, write_environment: WriteEnvironment, tmp_path: Path
) -> None:
    """Asked of the real ssh, whose option splits a bare path at a space."""
    spaced = tmp_path / "my projects" / "team"
    shutil.copytree(write_environment(), spaced)
    command = Remote(load_environment(spaced)).ssh_command("-G")
    found = [real for real in os.environ["PATH"].split(":")[1:] if Path(real, "ssh").is_file()]
    assert found, "apt-get install openssh-client"
    done = subprocess.run(
        [f"{found[0]}/ssh", *command[1:]], capture_output=True, text=True, check=True
    )
    answers = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    assert answers["userknownhostsfile"].strip('"') == str(spaced / "known_hosts")
    assert answers["stricthostkeychecking"] == "accept-new"


@pytest.mark.parametrize("user", ["root", "ops"])
def test_a_command_runs_as_root_whoever_logs_in(
    ssh: Path, write_environment: WriteEnvironment, user: str
) -> None:
    environment = load_environment(write_environment(hosts=OPS.format(f"user={user!r}")))
    command = """printf '%s|' "$0's" 'a "b"' "${AS_ROOT:-}"; cat"""
    done = Remote(environment).run(command, stdin="through the pipe")
    as_root = "yes" if user == "ops" else ""
    assert done.stdout == f'sh\'s|a "b"|{as_root}|through the pipe'


def test_no_login(ssh: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_MODE", "refused")
    with pytest.raises(UnreachableError) as caught:
        Remote(environment).run("true")
    assert caught.value.message == (
        "no SSH login as root@198.51.100.10: connect to port 22: Connection refused"
    )
    with (
        pytest.raises(UnreachableError, match="Connection refused"),
        Remote(environment).forward(6333),
    ):
        pytest.fail("there is no tunnel")


def test_no_answer_in_time(
    ssh: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_MODE", "silent")
    started = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        Remote(environment).run("true", timeout=0.3)
    assert time.monotonic() - started < 10
    assert caught.value.message == "198.51.100.10 gave no answer within 0.3 s"
    assert caught.value.hint == "stackroom -e team doctor"


# the lock


@pytest.fixture
def locks(tmp_path: Path, ssh: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in keeps the lock, in place of the machine's own folder."""
    assert shutil.which("flock"), "apt-get install util-linux"
    folder = tmp_path / "state"
    monkeypatch.setattr(lock, "FOLDER", str(folder))
    return folder


def is_held(folder: Path) -> bool:
    return subprocess.run(["flock", "-n", str(folder / "deploy.lock"), "true"]).returncode != 0


@pytest.mark.parametrize("user", ["root", "ops"])
def test_the_lock_is_held_and_let_go(
    locks: Path, write_environment: WriteEnvironment, user: str
) -> None:
    remote = Remote(load_environment(write_environment(hosts=OPS.format(f"user={user!r}"))))
    assert lock.lock_holder(remote) is None
    with lock.hold_lock(remote, "stackroom -e team deploy"):
        assert is_held(locks)
        holder = lock.lock_holder(remote)
        assert holder is not None
        assert (holder["who"], holder["doing"]) == (lock.who(), "stackroom -e team deploy")
        with pytest.raises(LockedError) as caught, lock.hold_lock(remote, 'it\'s "another" $one'):
            pytest.fail("two hold the lock")
        assert caught.value.message.startswith(
            f"{lock.who()} has been running `stackroom -e team deploy` here since "
        )
        assert is_held(locks), "the loser must not take the holder's lock with it"
        assert lock.lock_holder(remote) == holder
    assert not is_held(locks)
    assert lock.lock_holder(remote) is None
    with lock.hold_lock(remote, "again"):
        assert is_held(locks)


def test_the_lock_goes_with_an_error_and_with_a_killed_holder(
    locks: Path, environment: Environment, tmp_path: Path
) -> None:
    remote = Remote(environment)
    with pytest.raises(StackroomError, match="half-way"), lock.hold_lock(remote, "deploy"):
        raise DeployError("half-way")
    assert not is_held(locks)
    code = (
        "import pathlib, sys, time; from ops.settings import load_environment;"
        "from ops.clients.ssh import Remote; from ops.deploy import lock;"
        "lock.FOLDER = sys.argv[2];"
        "remote = Remote(load_environment(pathlib.Path(sys.argv[1])));"
        "held = lock.hold_lock(remote, 'deploy'); held.__enter__();"
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(environment.folder), str(locks)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert is_held(locks)
    # killed, it can tidy nothing up: the lock goes because its pipe ends
    holder.kill()
    holder.wait()
    deadline = time.monotonic() + 10
    while is_held(locks) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_held(locks)


def test_a_holder_that_wrote_no_name(locks: Path, environment: Environment) -> None:
    locks.mkdir()
    other = subprocess.Popen(
        ["flock", str(locks / "deploy.lock"), "-c", "echo held; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin and other.stdout
    assert other.stdout.readline() == "held\n"
    with pytest.raises(LockedError) as caught, lock.hold_lock(Remote(environment), "deploy"):
        pytest.fail("two hold the lock")
    assert caught.value.message == "somebody else is changing this machine"
    assert lock.lock_holder(Remote(environment)) == {}
    other.stdin.close()
    other.wait(10)


def test_no_lock_without_a_login(
    locks: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_MODE", "refused")
    with (
        pytest.raises(UnreachableError, match="Connection refused"),
        lock.hold_lock(Remote(environment), "deploy"),
    ):
        pytest.fail("nobody holds the lock")


# the record


@pytest.fixture
def records(tmp_path: Path, ssh: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "deploys"
    monkeypatch.setattr(record, "FOLDER", str(folder))
    return folder


def test_history_reads_a_stream_of_documents_newest_first(
    records: Path, environment: Environment
) -> None:
    assert record.history(Remote(environment)) == []
    records.mkdir()
    for number, (name, at) in enumerate([("b", "2030-01-02"), ("a", "2030-01-01"), ("c", "2031")]):
        document = {"at": at, "number": number, "changes": ["a } b", "{"]}
        text = json.dumps(document, indent=2 if number else None)
        (records / f"{name}.json").write_text(text + ("\n" if number else ""))
    (records / "d.json.new").write_text('{"at": "half')
    found = record.history(Remote(environment))
    assert [entry["at"] for entry in found] == ["2031", "2030-01-02", "2030-01-01"]


def test_a_record_is_written_whole_and_the_oldest_go(
    records: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_images", lambda remote: {"qdrant": {"image": "qdrant:1"}})
    records.mkdir()
    for number in range(60):
        (records / f"2019{number:04}T000000Z.json").write_text('{"at": "2019"}')
    file = RenderedFile("/etc/a file", "text")
    written = record.write_record(Remote(environment), [file], ["Stack | services"])
    kept = sorted(path.name for path in records.iterdir())
    assert len(kept) == record.KEPT
    assert kept[0] == "20190011T000000Z.json"
    assert json.loads((records / kept[-1]).read_text()) == written
    assert written["files"] == {"/etc/a file": file.sha256}
    assert written["who"] == lock.who()
    assert record.history(Remote(environment))[0] == written


def test_a_record_that_cannot_be_written(
    records: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_images", lambda remote: {})
    monkeypatch.setenv("SSH_MODE", "broken")
    with pytest.raises(ServiceError, match="no such folder"):
        record.write_record(Remote(environment), [], [])


# the whole of it, under the lock


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that were applied, by a stand-in that changes one step."""
    parts: list[str] = []

    def apply(environment: Environment, *, part: str, **_: Any) -> list[str]:
        parts.append(part)
        return ["People | accounts and keys"]

    monkeypatch.setattr(running, "apply", apply)
    monkeypatch.setattr(record, "_images", lambda remote: {})
    return parts


def ignore(name: str, result: str) -> None:
    """A step, unheard."""


def test_a_change_of_people_says_what_it_did(
    records: Path, locks: Path, environment: Environment, applied: list[str]
) -> None:
    doing = "stackroom -e team developer remove bob"
    changes = running.carry_out(environment, doing, part="people", on_step=ignore)
    assert (changes, applied) == (["People | accounts and keys"], ["people"])
    (written,) = record.history(Remote(environment))
    assert (written["part"], written["doing"], written["changes"]) == ("people", doing, changes)
    assert sorted(written["files"]) == [
        "/etc/ssh/sshd_config.d/10-stackroom.conf",
        "/etc/stackroom/settings/developers.toml",
        "/home/stackroom/.ssh/authorized_keys",
    ]


def test_what_is_looked_at_first_can_end_a_deploy(
    records: Path, locks: Path, environment: Environment, applied: list[str]
) -> None:
    def first() -> None:
        assert is_held(locks), "what is seen before the lock may not hold under it"
        raise DeployError("eve is on the host but not in developers.toml")

    with pytest.raises(DeployError, match="eve is on the host"):
        running.carry_out(environment, "it", part="people", first=first, on_step=ignore)
    assert applied == []
    assert not is_held(locks)
    assert record.history(Remote(environment)) == []
