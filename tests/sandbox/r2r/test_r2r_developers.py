"""Somebody is let into the R2R stack with one line, and out again: their kit, as they paste it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hands import plan, stackroom
from r2r_hands import sql

from ops.sandbox import layout
from ops.sandbox.layout import ipv4
from ops.settings import Environment

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("deployed")]

SHELF = "reading_room"


@dataclass
class Zoe:
    """Works on the operator's own machine, so that both ways in are open to her kit from here."""

    kit: Path
    key: Path

    def types(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.kit, capture_output=True, text=True, timeout=120, check=False
        )

    def verb(self, *words: str) -> str:
        done = stackroom("developer", *words, "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def zoe(tmp_path: Path) -> Iterator[Zoe]:
    key, file = tmp_path / "id", layout.ENVIRONMENT / "developers.toml"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    before = file.read_text()
    yield Zoe(tmp_path / "kit", key)
    if file.read_text() != before:
        stackroom("developer", "remove", "zoe", "--yes")
    assert file.read_text() == before


def users() -> list[str]:
    rows = sql("SELECT email FROM stackroom.users ORDER BY email").splitlines()
    return [each for each in rows if each.endswith("@stackroom.internal")]


def test_one_line_lets_somebody_in_and_one_takes_it_all_away(
    deployed: Environment, zoe: Zoe
) -> None:
    words = ("--ip", ipv4(1), "--shared", "--key", f"{zoe.key}.pub", "--to", str(zoe.kit))
    zoe.verb("add", "zoe", *words, "--collections", SHELF, "--expires", "9d")
    (email,) = users()
    checked = zoe.types("sh", "check.sh")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout == f"ok      logged in as {email}\nok      {SHELF}\n"
    example = zoe.types(sys.executable, "example.py")
    assert (example.returncode, example.stdout) == (0, f"{SHELF}: 0 documents\n"), example.stderr
    # the tunnel of the kit leads to R2R, and to nothing else of the host
    line = (zoe.kit / "tunnel.sh").read_text()
    assert "-L 127.0.0.1:7272:127.0.0.1:7272" in line
    # the host is as the file says, for the verbs, and for a plan
    assert plan() == set()
    shown = stackroom("developer", "show", "zoe")
    assert "on the host as the file says" in shown.stdout, shown.stdout + shown.stderr
    # what somebody does to the database by hand is seen, and a deploy puts it right
    sql("UPDATE stackroom.users SET is_superuser = true WHERE name = 'zoe'")
    assert plan() == {f"{email} is no superuser of R2R any more"}
    audited = stackroom("developer", "audit")
    assert audited.returncode == 2
    assert "is a superuser" in audited.stdout
    # a new password: the old one is shown to R2R, on loopback and at the edge, and refused
    told = zoe.verb("rotate", "zoe", "--to", str(zoe.kit))
    assert told.count("no: answered 40") == 3, told
    assert users() != [email]
    assert sql("SELECT count(*) FROM stackroom.users WHERE is_superuser") == "1"
    assert zoe.types("sh", "check.sh").returncode == 0
    gone = zoe.verb("remove", "zoe")
    assert "GONE: " in gone
    assert users() == []
    ended = zoe.types("sh", "check.sh")
    assert (ended.returncode, "ask for a new kit" in ended.stderr) == (1, True)
    assert plan() == set()
