"""A verb imports its own group, and the list of all of them says the same as ever."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ops.cli.common import new_app
from ops.cli.later import later
from ops.cli.operator import app as operator

GROUPS = {"developer", "backup", "restore", "snapshot", "escrow", "migrate"}


def test_what_is_not_asked_for_is_not_imported() -> None:
    asked = "from ops.cli.operator import app; import sys; app(['escrow', '--help'])"
    told = f"import atexit, sys; atexit.register(lambda: print(*sys.modules)); {asked}"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    imported = {name for name in GROUPS if f"ops.cli.{name}" in done.stdout.split()}
    assert "recovery file" in done.stdout and imported == {"escrow"}
    assert "ops.health" not in done.stdout.split()


def test_every_group_and_verb_is_in_the_help() -> None:
    told = CliRunner().invoke(operator, ["--help"]).output
    verbs = {
        line.split()[1] for line in told.splitlines() if line.startswith("│ ") and line[2:3] != " "
    }
    assert verbs >= GROUPS | {"sandbox", "drill", "deploy", "doctor", "demo"}


@pytest.mark.parametrize("words", [["drill", "--help"], ["migrate", "plan", "--help"]])
def test_a_verb_and_a_verb_of_a_group(words: list[str]) -> None:
    done = CliRunner().invoke(operator, words)
    assert done.exit_code == 0 and f"{' '.join(words[:-1])} [OPTIONS]" in done.output


def test_a_verb_that_is_not_there_is_guessed_without_an_import() -> None:
    app = new_app("For a test.", later(known="no.such.module:app"))
    app.callback()(lambda: None)
    done = CliRunner().invoke(app, ["knwon"])
    assert done.exit_code == 2 and "Did you mean 'known'?" in done.output
