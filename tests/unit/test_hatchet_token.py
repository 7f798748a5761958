"""When a deploy makes R2R's token for Hatchet anew, by what the machine would read of it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ops.host import token

DAY = 86400


def said(path: Path) -> str:
    command = [sys.executable, "-c", token._ENDS_SOON, str(path), str(token.RENEWED_DAYS * DAY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def jwt(**claims: object) -> str:
    parts = [json.dumps(each).encode() for each in ({"alg": "ES256"}, claims)]
    parts = [base64.urlsafe_b64encode(each).rstrip(b"=") for each in parts]
    return b".".join([*parts, b"c2lnbmVk"]).decode()


@pytest.mark.parametrize(
    ("days", "expected"), [(-1, "soon"), (0, "soon"), (29, "soon"), (31, "later"), (3650, "later")]
)
def test_a_token_is_renewed_in_its_last_month(tmp_path: Path, days: int, expected: str) -> None:
    file = tmp_path / "token"
    file.write_text(jwt(exp=int(time.time()) + days * DAY, sub="tenant"), encoding="ascii")
    assert said(file) == expected


@pytest.mark.parametrize("text", ["", "nonsense", "a.b.c", jwt(sub="tenant"), jwt(exp="never")])
def test_what_is_no_token_is_made_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text, encoding="ascii")
    assert said(file) == "soon"


def test_one_that_is_not_there_is_made_without_being_asked(tmp_path: Path) -> None:
    assert said(tmp_path / "token") == ""
