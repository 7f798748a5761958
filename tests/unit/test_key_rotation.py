"""Two operators and the server's own key: neither ends what the other has handed out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from team_lab import Team, error_of, make_team

from ops.developers import rotation
from ops.errors import SettingsError


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    return make_team(tmp_path / "inventory" / "team", monkeypatch, "")


def carry(team: Team, make: Callable[..., rotation.Phase]) -> None:
    rotation.carry(make(team.environment), "rotate --server-key")


@pytest.mark.parametrize("make", [rotation.begin, rotation.finish])
def test_a_rotation_that_another_operator_has_begun_is_not_undone(
    team: Team, make: Callable[..., rotation.Phase]
) -> None:
    """Their kits are signed with a key that this secrets.toml does not hold."""
    stale = team.text("secrets.toml")
    carry(team, rotation.begin)
    theirs = team.applied.settings.secrets.qdrant_alt_api_key
    assert theirs
    (team.folder / "secrets.toml").write_text(stale)
    with pytest.raises(
        SettingsError, match=r"alt_api_key that .*/secrets.toml does not hold"
    ) as caught:
        carry(team, make)
    assert "secrets.toml of whoever did it last" in caught.value.hint
    assert theirs.get_secret_value() not in error_of(caught.value)
    assert team.text("secrets.toml") == stale
    assert team.applied.settings.secrets.qdrant_alt_api_key == theirs


@pytest.mark.parametrize("make", [rotation.begin, rotation.finish])
def test_two_operators_who_begin_at_once_end_in_one_rotation(
    team: Team, make: Callable[..., rotation.Phase]
) -> None:
    """Each file has a second key by then, and the host's is the other one."""
    before = team.text("secrets.toml")
    carry(team, rotation.begin)
    theirs = team.applied
    (team.folder / "secrets.toml").write_text(before)
    (team.folder / "secrets.toml").write_text(rotation.begin(team.environment).new)
    with pytest.raises(SettingsError, match="does not hold"):
        carry(team, make)
    assert team.applied is theirs


def test_keys_that_cannot_be_seen_are_not_replaced(team: Team) -> None:
    why = {"qdrant_keys": "no such file"}
    team.fiddle = lambda reality: replace(reality, qdrant_keys=None, unknown=why)
    with pytest.raises(SettingsError, match="no such file"):
        carry(team, rotation.begin)
    assert team.done == []


def test_only_one_and_the_same_key_on_both_sides_is_the_end(team: Team) -> None:
    def is_finished() -> bool:
        return rotation.is_finished(
            rotation.finish(team.environment), team.look(team.environment, None)
        )

    stale = team.text("secrets.toml")
    assert is_finished()
    carry(team, rotation.begin)
    assert not is_finished()
    between = team.applied
    carry(team, rotation.finish)
    assert is_finished()
    done, team.applied = team.applied, between  # cut off: written, and never deployed
    assert not is_finished()
    team.applied = done
    (team.folder / "secrets.toml").write_text(stale)
    assert not is_finished()


def test_a_rotation_begins_when_the_one_before_it_is_finished(team: Team) -> None:
    """secrets.toml has dropped the old key, and the host has not: somebody's kit may be of it."""
    carry(team, rotation.begin)
    between = team.applied
    carry(team, rotation.finish)
    team.applied = between
    with pytest.raises(SettingsError, match="a --finish broke off") as caught:
        carry(team, rotation.begin)
    assert caught.value.hint.endswith("rotate --server-key --finish")
    assert team.applied is between
    carry(team, rotation.finish)
    assert team.applied.settings.secrets.qdrant_alt_api_key is None
