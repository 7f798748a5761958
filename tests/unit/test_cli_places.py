"""A verb is typed on the operator's machine and runs on the host: the same words, streams and code.

`ssh` is a shell script on PATH that writes down what it was asked for and ends as it is told to.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.cli import main

WriteEnvironment = Callable[..., Path]

SSH = """\
#!/bin/sh
printf '%s\\n' "$@" >"$ASKED"
env >"$ASKED.env"
cat >"$ASKED.stdin"
echo "out of the host"; echo "err of the host" >&2
exit "${CODE:-0}"
"""
RUN = "20261121T023000Z-1a2b3c"


@dataclass(frozen=True)
class Asked:
    """What came of a call, and what the stand-in for ssh was asked for; `line` "" if nothing."""

    code: int
    out: str
    err: str
    options: list[str]
    line: str
    stdin: str

    @property
    def words(self) -> list[str]:
        """The words behind the program on the host."""
        program, *words = shlex.split(self.line)
        assert program == "/usr/local/bin/stackroom"
        return words


Operate = Callable[..., Asked]


@pytest.fixture
def operate(
    tmp_path: Path,
    write_environment: WriteEnvironment,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Operate]:
    """`operate("backup", "list", code=..., stdin=..., user=...)` with -e team."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    asked = tmp_path / "asked"
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("ASKED", str(asked))
    standard_input = os.dup(0)

    def run(*words: str, code: int = 0, stdin: str = "", user: str = "root") -> Asked:
        place = f'__file__, "198.51.100.10", "{user}"'
        hosts = f"from ops.settings import machines\n\nhosts = machines({place})\n"
        folder = write_environment(hosts=hosts)
        monkeypatch.setattr("ops.inventory.INVENTORY", folder.parent)
        for path in tmp_path.glob("asked*"):
            path.unlink()
        (tmp_path / "typed").write_text(stdin)
        monkeypatch.setenv("CODE", str(code))
        monkeypatch.setattr("sys.argv", ["stackroom", "-e", "team", *words])
        with (tmp_path / "typed").open() as given:
            # what a child inherits is the descriptor
            os.dup2(given.fileno(), 0)
            monkeypatch.setattr("sys.stdin", given)
            with pytest.raises(SystemExit) as ended:
                main()
        told = asked.read_text().splitlines() if asked.exists() else []
        read = asked.with_suffix(".stdin")
        out, err = capfd.readouterr()
        return Asked(
            int(ended.value.code or 0),
            out,
            err,
            told[:-1],
            told[-1] if told else "",
            read.read_text() if read.exists() else "",
        )

    yield run
    os.dup2(standard_input, 0)
    os.close(standard_input)


VERBS = [
    (["backup", "run"], ["backup", "run"]),
    (["backup", "run", "--json"], ["backup", "run", "--json"]),
    (["backup", "list", "--ask", "--all"], ["backup", "list", "--ask", "--all"]),
    (["backup", "show"], ["backup", "show", "--", "latest"]),
    (["backup", "show", RUN], ["backup", "show", "--", RUN]),
    (["backup", "show", "--", "-x; reboot"], ["backup", "show", "--", "-x; reboot"]),
    (["backup", "check", "--full"], ["backup", "check", "--full"]),
    (["backup", "prune", "--dry-run"], ["backup", "prune", "--dry-run"]),
    (["backup", "prune", "-y"], ["backup", "prune", "--yes"]),
    (["backup", "unlock"], ["backup", "unlock"]),
    (["drill"], ["drill", "--run=latest"]),
    (["drill", "--from", "offsite", "--run", RUN], ["drill", f"--run={RUN}", "--from=offsite"]),
    (["restore", "run", "--yes"], ["restore", "run", "--run=latest", "--yes"]),
    (
        ["restore", "run", "--collection", "a b", "--as", "$(reboot)", "--alias", "it's", "-y"],
        ["restore", "run", "--run=latest", "--collection=a b", "--as=$(reboot)",
         "--alias=it's", "--yes"],
    ),
    (["restore", "run", "--replace", "-y"], ["restore", "run", "--run=latest", "--replace",
                                             "--yes"]),
    (["restore", "confirm", "-y"], ["restore", "confirm", "--yes"]),
    (["restore", "undo", "-y"], ["restore", "undo", "--yes"]),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "sent"), VERBS)
def test_the_same_verb_runs_on_the_host(
    operate: Operate, typed: list[str], sent: list[str]
) -> None:
    asked = operate(*typed)
    assert asked.code == 0, asked.err
    assert asked.words == sent
    assert asked.options[-1] == "root@198.51.100.10"
    assert asked.out == "out of the host\n"
    assert "err of the host" in asked.err


@pytest.mark.parametrize("code", [0, 1, 2, 3, 5, 8, 64, 130])
def test_the_exit_code_is_the_hosts(operate: Operate, code: int) -> None:
    assert operate("backup", "run", code=code).code == code


def test_without_a_login(operate: Operate) -> None:
    asked = operate("backup", "list", code=255)
    assert asked.code == 4
    assert "no SSH login as root@198.51.100.10" in asked.err
    assert "next: stackroom -e team doctor" in asked.err


def test_before_the_first_deploy(operate: Operate) -> None:
    asked = operate("backup", "list", code=127)
    assert asked.code == 7
    assert "next: stackroom -e team deploy" in asked.err


def test_another_login_becomes_root_without_a_password(operate: Operate) -> None:
    asked = operate("backup", "show", "it's", user="stackroom")
    sudo, non_interactive, shell, option, line = shlex.split(asked.line)
    assert (sudo, non_interactive, shell, option) == ("sudo", "-n", "sh", "-c")
    assert shlex.split(line) == ["/usr/local/bin/stackroom", "backup", "show", "--", "it's"]


def test_answers_reach_the_host_only_where_it_asks(operate: Operate) -> None:
    assert operate("restore", "confirm", stdin="y\n").stdin == "y\n"
    # a shell loop that reads a list of environments must not lose it to ssh
    for words in (["restore", "confirm", "--yes"], ["backup", "list"], ["drill", "--json"]):
        assert operate(*words, stdin="y\n").stdin == ""


def test_no_terminal_where_there_is_none(operate: Operate) -> None:
    options = operate("backup", "run").options
    assert "-T" in options
    assert "-t" not in options


def test_no_secret_is_given_to_ssh(operate: Operate, canaries: dict[str, str]) -> None:
    asked = operate("restore", "run", "--yes")
    told = " ".join([*asked.options, asked.line, asked.stdin, asked.out, asked.err])
    assert not [name for name, value in canaries.items() if value in told]


MISTAKES = [
    (["backup", "prune", "--kep"], 64, "No such option"),
    (["drill", "--from", "mars"], 64, "'mars' is not one of"),
    (["restore", "run", "--as", "b", "-y"], 3, "--as and --alias are about one collection"),
]


@pytest.mark.parametrize(("typed", "code", "message"), MISTAKES)
def test_a_mistake_is_told_before_anybody_is_asked(
    operate: Operate, typed: list[str], code: int, message: str
) -> None:
    asked = operate(*typed)
    assert asked.line == ""
    assert asked.code == code
    assert message in asked.err


def test_every_verb_says_what_it_does(operate: Operate) -> None:
    groups = {
        "backup": "run|list|show|check|prune|unlock",
        "restore": "run|confirm|undo",
        "snapshot": "create|list|download|delete|prune",
        "escrow": "create|open|check",
    }
    for group, names in groups.items():
        for name in names.split("|"):
            asked = operate(group, name, "--help")
            assert (asked.code, asked.line) == (0, ""), asked.err
            assert "Usage: stackroom" in asked.out
    assert operate("drill", "--help").code == 0
