"""What a host remembers of revoked tokens, and what it makes of a Qdrant that does not answer."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import OperationError
from settings_lab import readers

from ops.grants import readmitted, revocations, revoked_for_good
from ops.host import grants
from ops.settings.rights import value_of

BOBS, OLD, EVES = (f"00000000-0000-4000-8000-00000000000{number}" for number in "123")
PATH = "/collections/stackroom_access"


def answers(*ids: Any) -> dict[str, Any]:
    """A list with these tokens, each with the rights of everybody here."""
    settings = readers(bob={})
    rows = [
        {"id": one, "payload": {"token": value_of(settings, settings.developers["bob"], str(one))}}
        for one in ids
    ]
    return {
        PATH: {"result": {"payload_schema": {"token": {}}}},
        f"{PATH}/points/scroll": {"result": {"points": rows, "next_page_offset": None}},
    }


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state" / "revoked-tokens"
    monkeypatch.setattr(grants, "REVOKED", str(path))
    return path


def sh(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True)


# what is remembered


def test_what_the_file_no_longer_has_never_comes_back() -> None:
    given = answers(BOBS, OLD, EVES, 7)
    assert revoked_for_good(readers(bob={"token": BOBS}), given) == [OLD, EVES]
    assert revoked_for_good(readers(bob={"token": BOBS, "retiring": OLD}), given) == [EVES]
    assert revoked_for_good(readers(), {}) == []


def test_a_last_day_that_has_passed_is_no_revocation() -> None:
    """A later day is another token under that id: the old one stays refused."""
    settings = readers(bob={"token": BOBS, "expires": date(2020, 1, 1)})
    assert len(revocations(settings, answers(BOBS))) == 1
    assert revoked_for_good(settings, answers(BOBS)) == []


def test_a_token_that_hid_under_anothers_id_is_remembered() -> None:
    given = answers(BOBS)
    hidden = answers(EVES)[f"{PATH}/points/scroll"]["result"]["points"][0]["payload"]
    given[f"{PATH}/points/scroll"]["result"]["points"][0]["payload"] = hidden
    assert revoked_for_good(readers(bob={"token": BOBS}), given) == [EVES]


def test_a_revoked_token_in_the_file_is_refused_by_name() -> None:
    old_checkout = readers(bob={"token": BOBS, "retiring": OLD}, eve={"token": EVES})
    assert readmitted(old_checkout, {OLD}) == ["bob"]
    told = grants.refusal(old_checkout, [OLD], "team")
    assert "token of bob that was revoked" in told
    assert "git pull" in told
    assert "stackroom -e team developer rotate bob --now" in told
    # rotate refuses somebody of whom the machine has nothing
    assert "developer remove, then add" in told
    assert " eve" not in told
    assert grants.refusal(old_checkout, [], "team") == ""
    # who has no token in force needs none back
    assert readmitted(readers(bob={"token": OLD, "expires": date(2020, 1, 1)}), {OLD}) == []


def test_ids_are_kept_for_root_alone_and_found_again(remembered: Path) -> None:
    assert sh(grants.recall([OLD])).stdout == ""
    for one in (OLD, EVES):
        assert sh(grants.remember([one])).returncode == 0
    today = datetime.now(UTC).date()
    assert remembered.read_text() == f"{today} {OLD}\n{today} {EVES}\n"
    assert remembered.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in remembered.parent.iterdir()] == ["revoked-tokens"]
    found = sh(grants.recall([BOBS, OLD]))
    assert (found.returncode, found.stdout) == (0, f"{OLD}\n")
    assert sh(grants.recall([BOBS])).returncode == 0


def test_what_is_too_old_to_work_is_forgotten_and_nothing_else(remembered: Path) -> None:
    today = datetime.now(UTC).date()
    last = today - timedelta(days=grants.REMEMBERED - 1)
    gone = today - timedelta(days=grants.REMEMBERED + 2)
    remembered.parent.mkdir()
    remembered.write_text(f"{gone} {BOBS}\n{last} {OLD}\n")
    assert sh(grants.remember([EVES])).returncode == 0
    assert remembered.read_text() == f"{last} {OLD}\n{today} {EVES}\n"


def test_a_memory_that_cannot_be_read_is_not_an_empty_one(remembered: Path) -> None:
    remembered.mkdir(parents=True)
    assert sh(grants.recall([OLD])).returncode != 0
    assert sh(grants.remember([OLD])).returncode != 0


@pytest.mark.parametrize(
    ("qdrant", "or_else", "returned"),
    [("true", "r=1", 0), ("false", "r=1", 1), ("false", "echo later >&2", 0)],
)
def test_a_token_is_remembered_whatever_becomes_of_its_point(
    remembered: Path, monkeypatch: pytest.MonkeyPatch, qdrant: str, or_else: str, returned: int
) -> None:
    monkeypatch.setattr(grants, "relayed", lambda requests: qdrant)
    assert sh(grants.ending([], [OLD], or_else=or_else)).returncode == returned
    assert OLD in remembered.read_text()


def test_a_token_is_revoked_though_it_cannot_be_remembered(
    tmp_path: Path, remembered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered.mkdir(parents=True)
    monkeypatch.setattr(grants, "relayed", lambda requests: f"touch {tmp_path}/revoked")
    assert sh(grants.ending([], [OLD], or_else="r=1")).returncode != 0
    assert (tmp_path / "revoked").exists()


# a Qdrant that does not answer


def read(script: str) -> Any:
    fact = grants.Answers()
    return fact.process(sh(fact.command(script)).stdout.splitlines())


def test_only_a_machine_without_a_stack_has_no_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "STACK_DIR", str(tmp_path / "none"))
    assert grants.answered(read("echo asked >&2; false")) == {}
    monkeypatch.setattr(grants, "STACK_DIR", str(tmp_path))
    given = json.dumps(answers(BOBS))
    assert grants.answered(read(f"echo '{given}'")) == answers(BOBS)
    for script in ("sh -c 'echo refused >&2; exit 1'", "true", "echo 5", "echo '{\"a\":'"):
        with pytest.raises(OperationError, match="Qdrant does not answer on this machine"):
            grants.answered(read(script))
    with pytest.raises(OperationError, match="refused"):
        grants.answered(read("sh -c 'echo refused >&2; exit 1'"))
    with pytest.raises(OperationError, match="it said nothing"):
        grants.answered(None)
