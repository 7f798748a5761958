"""Which backup is the latest, and whose turn it is to be drilled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.backup.records import Kind, Outcome, Record, write_record
from ops.clients.restic import Snapshot
from ops.errors import SettingsError, UnreachableError
from ops.restore import fetch
from ops.restore.fetch import LATEST, choose, for_restore, longest_ago, pick
from ops.settings.host import Credentials, HostConfig, Repository

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def run(days_ago: float) -> str:
    return f"{NOW - timedelta(days=days_ago):%Y%m%dT%H%M%SZ}-abcdef"


def snapshot(days_ago: float, name: str | None = None) -> Snapshot:
    at = NOW - timedelta(days=days_ago)
    name = run(days_ago) if name is None else name
    return Snapshot(id=f"{days_ago}", time=at, run=name, path="/current", host="team")


def record(kind: Kind, days_ago: float, outcome: Outcome, repository: str = "") -> Record:
    at = NOW - timedelta(days=days_ago)
    details = {"repository": repository} if repository else {}
    return Record(kind=kind, run=run(days_ago), started=at, outcome=outcome, details=details)


def config(*names: str, base: Path = Path("/nowhere")) -> HostConfig:
    return HostConfig(
        environment="team",
        stack="qdrant",
        stackroom="1",
        base=base,
        repositories=[Repository.model_validate({"name": n, "url": f"/{n}"}) for n in names],
        sources=[],
    )


def test_the_latest_is_the_newest_that_did_not_fail() -> None:
    history = [snapshot(3), snapshot(2), snapshot(1)]
    records = [record("backup", 2, "warning"), record("backup", 1, "failed")]
    assert pick(history, records, LATEST, NOW) == history[1]
    assert pick(history, [record("backup", 1, "died")], LATEST, NOW) == history[1]


def test_without_records_as_on_a_new_machine_the_newest_counts() -> None:
    history = [snapshot(1), snapshot(2)]
    assert pick(history, [], LATEST, NOW) == history[0]


def test_a_snapshot_of_a_clock_that_ran_ahead_is_the_latest_only_without_another() -> None:
    ahead, good = snapshot(-5 * 365), snapshot(1)
    assert pick([good, ahead], [], LATEST, NOW) == good
    assert pick([ahead], [], LATEST, NOW) == ahead


def test_what_is_no_backup_of_ours_is_never_the_latest() -> None:
    assert pick([snapshot(1, ""), snapshot(2, "../../etc")], [], LATEST, NOW) is None


def test_a_run_is_found_by_its_name() -> None:
    history = [snapshot(2), snapshot(1)]
    assert pick(history, [record("backup", 2, "failed")], run(2), NOW) == history[0]
    assert pick(history, [], run(9), NOW) is None


def test_the_repository_drilled_longest_ago_has_its_turn() -> None:
    both = config("local", "offsite")
    assert longest_ago(both, []) == "local"
    first = [record("drill", 9, "ok", "local")]
    assert longest_ago(both, first) == "offsite"
    # one that cannot be reached does not keep the other from being drilled
    second = [*first, record("drill", 2, "unproven", "offsite")]
    assert longest_ago(both, second) == "local"
    assert longest_ago(config("local"), second) == "local"
    with pytest.raises(SettingsError):
        longest_ago(config(), [])


def test_what_is_no_run_is_refused_before_any_repository_is_asked() -> None:
    with pytest.raises(SettingsError, match="no run"):
        choose(config("local"), Credentials(Path("/nowhere")), ["local"], "yesterday")


class Repo:
    """Stands for restic: what it holds, or that it does not answer."""

    def __init__(self, name: str, *held: Snapshot, answers: bool = True) -> None:
        self.name, self.held, self.answers = name, held, answers

    def open(self, *, create: bool = True) -> None:
        assert not create
        if not self.answers:
            raise UnreachableError(f"{self.name} does not answer", "")

    def snapshots(self) -> list[Snapshot]:
        return list(self.held)


@pytest.fixture
def holding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., fetch.Chosen]:
    """What a restore chooses where the repositories hold that."""

    def restore(*repos: Repo, run: str = LATEST, drill: str = "") -> fetch.Chosen:
        monkeypatch.setattr(fetch, "repositories", lambda *_: repos)
        there = config(*(repo.name for repo in repos), base=tmp_path)
        if drill:
            return fetch.for_drill(there, Credentials(tmp_path), drill, run)
        return for_restore(there, Credentials(tmp_path), "", run)

    return restore


@pytest.mark.parametrize("known_by", ["backup", "restore"])
def test_what_a_restore_was_about_to_replace_is_not_the_latest(
    holding: Callable[..., fetch.Chosen], tmp_path: Path, known_by: Kind
) -> None:
    """However the restore ended: it may have been killed before it had a record of its own."""
    good, safety = snapshot(2), snapshot(1)
    write_record(tmp_path, record("backup", 2, "ok"))
    made = record("backup", 1, "ok")
    if known_by == "backup":
        made = made.model_copy(update={"details": {"safety": True}})
    else:
        died = record("restore", 0.5, "died")
        write_record(tmp_path, died.model_copy(update={"details": {"safety": run(1)}}))
    write_record(tmp_path, made)
    repo = Repo("local", good, safety)
    assert holding(repo).snapshot == good
    assert holding(repo, run=run(1)).snapshot == safety
    assert holding(repo, drill="local").snapshot == safety


def test_a_tag_says_it_too_where_the_records_are_lost_with_their_machine(
    holding: Callable[..., fetch.Chosen],
) -> None:
    good, safety = snapshot(2), dataclasses.replace(snapshot(1), safety=True)
    assert holding(Repo("local", good, safety)).snapshot == good
    assert holding(Repo("local", good, safety), run=run(1)).snapshot == safety
    assert holding(Repo("local", good, safety), drill="local").snapshot == safety
    # the run that is chosen has the tag in no repository, whichever is asked first
    assert holding(Repo("local", safety), Repo("offsite", good, safety)).snapshot == good


def test_the_latest_is_the_newest_of_all_repositories(
    holding: Callable[..., fetch.Chosen],
) -> None:
    old, new = snapshot(2), snapshot(1)
    chosen = holding(Repo("local", old), Repo("offsite", old, new))
    assert (chosen.repository.name, chosen.snapshot, chosen.remarks) == ("offsite", new, [])
    # the same run reaches the offsite one later: it is still the same run, and local is nearer
    later = dataclasses.replace(new, id="later", time=new.time + timedelta(minutes=9))
    assert holding(Repo("local", new), Repo("offsite", later)).snapshot == new


def test_a_repository_that_may_have_a_newer_one_and_does_not_answer_is_told_of(
    holding: Callable[..., fetch.Chosen],
) -> None:
    silent = Repo("offsite", answers=False)
    chosen = holding(Repo("local", snapshot(1)), silent)
    assert chosen.repository.name == "local"
    assert "offsite does not answer" in chosen.remarks[0]
    assert holding(Repo("local", snapshot(1)), silent, run=run(1)).remarks == []
    with pytest.raises(UnreachableError):
        holding(Repo("local"), silent)
