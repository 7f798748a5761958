"""A change of one person: drafted, compared with the host, written, applied, and put back."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import people_lab
import pytest
from team_lab import OLD_KEY, Team, error_of, make_team

from ops.deploy import run
from ops.deploy.pyinfra import Part
from ops.developers import change as changing
from ops.developers import roster, rotation
from ops.developers.change import Draft
from ops.developers.reality import Reality
from ops.developers.tokens import new_token_id
from ops.errors import DeployError, ServiceError, SettingsError, StackroomError, UnreachableError
from ops.settings import Developer, load_environment

EVE = people_lab.EVE


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    return make_team(tmp_path / "inventory" / "team", monkeypatch, "")


def adding(team: Team, name: str = "eve", **fields: object) -> Draft:
    typed: dict[str, object] = {"addresses": ["198.51.100.9"], "keys": [EVE]} | fields
    person = Developer(**typed)  # type: ignore[arg-type]
    return changing.draft(team.environment, name, lambda text: roster.add(text, name, person))


def changing_bob(team: Team, **fields: object) -> Draft:
    return changing.draft(
        team.environment, "bob", lambda text: roster.change(text, "bob", **fields)
    )


def removing(team: Team, name: str = "bob") -> Draft:
    return changing.draft(
        team.environment, name, lambda text: roster.remove(text, name), removes=True
    )


# -- what a change would do ------------------------------------------------------------------


def test_somebody_new_is_told_whole(team: Team) -> None:
    token = new_token_id()
    draft = adding(
        team,
        addresses=["198.51.100.9", "2001:db8:e::/48"],
        collections=["books"],
        expires=people_lab.LATER,
        token=token,
    )
    assert changing.effects(draft) == [
        "opens port 443, 22 to 198.51.100.9",
        "opens port 443, 22 to 2001:db8:e::/48",
        "makes the account dev-eve, for SSH tunnels and nothing else",
        f"admits a token to read books, shelf until {people_lab.LATER}",
    ]
    assert "+[developers.eve]" in draft.diff()


def test_the_whole_internet_is_let_to_the_edge_alone(team: Team) -> None:
    draft = adding(team, addresses=["0.0.0.0/0"], anywhere=True)
    assert changing.effects(draft) == ["opens port 443 to 0.0.0.0/0"]


def test_somebody_who_goes_is_told_whole(team: Team) -> None:
    assert changing.effects(removing(team)) == [
        "closes port 443, 22 to 198.51.100.7, and cuts what is open from there",
        "ends the account dev-bob, its sessions and its keys",
        "revokes 1 token, at once",
    ]


def test_an_address_of_somebody_else_stays_open_and_says_so(team: Team) -> None:
    text = team.text().replace(
        '"203.0.113.40"]', '"203.0.113.40", "198.51.100.7"]\nshares_address = true'
    )
    (team.folder / "developers.toml").write_text(text)
    told = changing.effects(removing(team))
    assert "198.51.100.7 stays open: somebody else is listed with it" in told
    # what is there stays: another's rights to it are nobody's to close


def test_a_second_token_and_the_end_of_the_first(team: Team) -> None:
    token = new_token_id()
    draft = changing_bob(team, token=token, retiring=people_lab.BOB_TOKEN)
    (told,) = changing.effects(draft)
    assert told.startswith("admits a token to write books, shelf")
    changing.carry(draft, "rotate")
    assert changing.effects(changing_bob(team, retiring="")) == ["revokes 1 token, at once"]


@pytest.mark.parametrize(
    "fields",
    [{"expires": people_lab.LATER + timedelta(1)}, {"access": "read"}, {"collections": ["notes"]}],
    ids=["a later day", "other rights", "other collections"],
)
def test_a_token_of_other_rights_is_told_to_end(team: Team, fields: dict[str, object]) -> None:
    (told,) = changing.effects(changing_bob(team, **fields))
    assert told.startswith("ends the token of bob as it was")
    assert "new kit (stackroom -e team developer kit bob)" in told


# -- writing and applying --------------------------------------------------------------------


def test_the_file_is_written_and_applied_and_nothing_else_of_the_host(team: Team) -> None:
    draft = adding(team)
    assert changing.carry(draft, "stackroom -e team developer add eve") == ["firewall and SSH"]
    assert team.text() == draft.new
    assert team.done == [("people", "stackroom -e team developer add eve")]
    assert "eve" in team.applied.settings.developers


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_the_file_keeps_its_mode(team: Team, mode: int) -> None:
    path = team.folder / "developers.toml"
    path.chmod(mode)
    changing.carry(adding(team), "add")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert [each.name for each in team.folder.iterdir() if each.name.startswith(".")] == []


def test_a_file_behind_a_link_is_written_where_it_is(team: Team, tmp_path: Path) -> None:
    real, link = tmp_path / "people.toml", team.folder / "developers.toml"
    link.rename(real)
    link.symlink_to(real)
    changing.carry(adding(team), "add")
    assert link.is_symlink()
    assert "[developers.eve]" in real.read_text()


@pytest.mark.parametrize(
    "error",
    [
        DeployError("a step failed"),
        UnreachableError("the login broke"),
        KeyboardInterrupt(),
        RuntimeError("a fault of ours"),
    ],
)
def test_an_apply_that_fails_puts_the_file_back(team: Team, error: BaseException) -> None:
    before, team.fails = team.text(), error
    with pytest.raises(type(error)) as caught:
        changing.carry(adding(team), "add")
    assert team.text() == before
    if isinstance(caught.value, StackroomError):
        assert "as it was before, but the host may have some of it" in caught.value.message
        assert "stackroom -e team deploy" in caught.value.hint


def test_a_removal_that_fails_brings_nobody_back(team: Team) -> None:
    team.fails = DeployError("a step failed")
    with pytest.raises(DeployError, match="may still reach the host") as caught:
        changing.carry(removing(team), "remove")
    assert "bob" not in team.environment.settings.developers
    assert caught.value.hint.startswith("stackroom -e team developer remove bob, again")


@pytest.mark.parametrize(
    "fields",
    [
        {"token": new_token_id(), "retiring": ""},
        {"addresses": ["198.51.100.8/32"]},
        {"keys": []},
    ],
    ids=["a token that leaked", "an address", "a key"],
)
@pytest.mark.parametrize("error", [DeployError("a step failed"), KeyboardInterrupt()])
def test_what_a_failed_change_took_away_never_comes_back(
    team: Team, fields: dict[str, object], error: BaseException
) -> None:
    draft, team.fails = changing_bob(team, **fields), error
    with pytest.raises(type(error)) as caught:
        changing.carry(draft, "rotate")
    assert team.text() == draft.new
    if isinstance(caught.value, StackroomError):
        assert "takes from bob may still work" in caught.value.message
        assert caught.value.hint == "stackroom -e team deploy, at once"


def test_the_end_of_a_retiring_token_never_comes_undone(team: Team) -> None:
    changing.carry(changing_bob(team, token=new_token_id(), retiring=people_lab.BOB_TOKEN), "on")
    draft, team.fails = changing_bob(team, retiring=""), DeployError("a step failed")
    with pytest.raises(DeployError, match="may still work"):
        changing.carry(draft, "rotate --finish")
    assert people_lab.BOB_TOKEN not in team.text()


@pytest.mark.parametrize("part", ["people", "all"])
def test_a_record_that_cannot_be_written_fails_no_change_of_people(
    team: Team, monkeypatch: pytest.MonkeyPatch, part: Part
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ServiceError("the record could not be written: no space")

    monkeypatch.setattr(run, "hold_lock", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(run, "apply", lambda *_, **__: ["grants"])
    monkeypatch.setattr(run, "_rendered", lambda *_: [])
    monkeypatch.setattr(run, "write_record", refused)
    steps: list[tuple[str, str]] = []

    def carried() -> list[str]:
        return run.carry_out(
            team.environment, "rotate", part=part, on_step=lambda *told: steps.append(told)
        )

    if part == "all":
        with pytest.raises(ServiceError):
            carried()
    else:
        assert carried() == ["grants"]
        assert steps == [
            ("the record of it: the record could not be written: no space", "Not written")
        ]


def test_what_somebody_wrote_meanwhile_is_never_lost(team: Team) -> None:
    path = team.folder / "developers.toml"
    team.meanwhile = lambda: path.write_text(f"{team.text()}# a word of anna's\n") and None
    with pytest.raises(SettingsError, match="was edited meanwhile"):
        changing.carry(adding(team), "add")
    assert "a word of anna's" in team.text()
    assert "developers.eve" not in team.text()
    assert team.done == []


def test_a_file_that_was_edited_during_the_apply_is_not_put_back_over(team: Team) -> None:
    path = team.folder / "developers.toml"

    def edited_during(*_: object) -> None:
        path.write_text(f"{team.text()}# a word of anna's\n")

    team.fails = DeployError("a step failed")
    with pytest.raises(DeployError, match="could not be put back"):
        changing.carry(adding(team), "add", on_step=edited_during)
    assert "a word of anna's" in team.text()


def test_two_operators_at_once_the_second_sees_the_first(team: Team) -> None:
    """Both read the same file; the one who waits for the lock must not undo the other."""
    second = adding(team, "eve")
    first = adding(team, "mallory", addresses=["198.51.100.11"], keys=[])
    changing.carry(first, "add mallory")
    with pytest.raises(SettingsError):
        changing.carry(second, "add eve")
    assert set(team.applied.settings.developers) == {"bob", "dave", "mallory"}


# -- nobody but the person it names ----------------------------------------------------------


def test_an_old_checkout_cuts_nobody_off(team: Team) -> None:
    """Another operator added carol from their own checkout; ours does not have her."""
    carol = adding(team, "carol", addresses=["198.51.100.30"])
    team.applied = carol.after
    for draft in (adding(team), changing_bob(team, keys=[])):
        with pytest.raises(SettingsError, match="the host is not as") as caught:
            changing.carry(draft, "a verb")
        assert "carol" in caught.value.message
        assert "git pull" in caught.value.hint
    assert team.done == []
    assert team.text() == carol.old


def test_nothing_stands_in_the_way_of_a_removal(team: Team) -> None:
    """Qdrant is down, and another operator's carol is unknown here: bob goes all the same."""
    team.applied = adding(team, "carol", addresses=["198.51.100.30"]).after
    warnings: list[str] = []
    changing.carry(removing(team), "remove", on_warning=warnings.append)
    assert "carol" in warnings[0]
    assert "nothing was changed" not in warnings[0]
    assert "bob" not in team.applied.settings.developers


@pytest.mark.parametrize("part", changing.NEEDED)
def test_what_cannot_be_seen_stops_no_removal(team: Team, part: str) -> None:
    field = {"firewall": "tables"}.get(part, part)
    team.fiddle = lambda reality: replace(reality, **{field: None}, unknown={part: "no answer"})
    warnings: list[str] = []
    changing.carry(removing(team), "remove", on_warning=warnings.append)
    assert f"{part}: no answer" in warnings[0]
    assert "bob" not in team.text()


@pytest.mark.parametrize(
    "fields",
    [
        {"addresses": ["198.51.100.7/32", "198.51.100.8/32"]},
        {"token": new_token_id(), "retiring": people_lab.BOB_TOKEN},
    ],
    ids=["ip add", "rotate"],
)
def test_an_old_checkout_brings_nobody_back(team: Team, fields: dict[str, object]) -> None:
    """Another operator removed bob; ours has him still."""
    draft = changing_bob(team, **fields)
    team.applied = removing(team).after
    with pytest.raises(SettingsError, match="host has nothing of them") as caught:
        changing.carry(draft, "a verb")
    assert "git pull" in caught.value.hint
    assert "stackroom -e team deploy" in caught.value.hint
    assert (team.text(), team.done) == (draft.old, [])


def test_somebody_without_a_key_is_known_by_the_address(team: Team) -> None:
    def of_dave() -> Draft:
        addresses = ["203.0.113.40/32", "203.0.113.41/32"]
        return changing.draft(
            team.environment, "dave", lambda text: roster.change(text, "dave", addresses=addresses)
        )

    draft = of_dave()
    team.applied = removing(team, "dave").after
    with pytest.raises(SettingsError, match=r"dave is in .* host has nothing of them"):
        changing.carry(draft, "ip add")
    team.applied = team.environment
    changing.carry(draft, "ip add")
    assert team.done


def test_somebody_whom_only_others_addresses_tell_of_is_not_taken_for_removed(team: Team) -> None:
    text = team.text().replace('"203.0.113.40"]', '"198.51.100.7"]\nshares_address = true')
    (team.folder / "developers.toml").write_text(text)
    team.applied = team.environment
    draft = changing.draft(
        team.environment,
        "dave",
        lambda text: roster.change(text, "dave", addresses=["198.51.100.7/32", "203.0.113.4/32"]),
    )
    changing.carry(draft, "ip add")
    assert team.done


@pytest.mark.parametrize("left", ["accounts", "keys", "tokens"])
def test_somebody_of_whom_a_part_is_left_is_not_taken_for_removed(team: Team, left: str) -> None:
    whole, gone = team.look(team.environment, None), removing(team).after
    draft = changing_bob(team, keys=[people_lab.BOB, EVE])
    team.applied = gone
    team.fiddle = lambda reality: replace(reality, **{left: getattr(whole, left)})
    changing.carry(draft, "a verb")
    assert team.done


def test_a_person_whom_an_earlier_run_left_half_done_is_finished(team: Team) -> None:
    team.applied = adding(team).after  # on the host, and not in the file
    changing.carry(adding(team), "add")
    assert "eve" in team.environment.settings.developers


def test_a_rule_that_somebody_made_by_hand_refuses_the_verb(team: Team) -> None:
    rule = "-A ufw-user-input -s 203.0.113.66/32 -p tcp -m tcp --dport 22 -j ACCEPT"
    fiddled = people_lab.host_of(team.applied, rule)
    team.fiddle = lambda reality: replace(reality, tables=fiddled.tables)
    with pytest.raises(SettingsError, match=r"203\.0\.113\.66"):
        changing.carry(adding(team), "add")


@pytest.mark.parametrize("part", changing.NEEDED)
def test_what_cannot_be_seen_is_not_taken_for_nobody(team: Team, part: str) -> None:
    field = {"firewall": "tables"}.get(part, part)
    team.fiddle = lambda reality: replace(reality, **{field: None}, unknown={part: "no answer"})
    with pytest.raises(SettingsError, match=f"{part}: no answer"):
        changing.carry(adding(team), "add")
    assert team.done == []


def test_a_log_that_cannot_be_read_stops_nobody(team: Team) -> None:
    team.fiddle = lambda reality: replace(reality, seen=None, unknown={"seen": "no answer"})
    changing.carry(adding(team), "add")
    assert team.done


def test_somebody_past_their_last_day_stops_nobody(team: Team) -> None:
    """What they have left on the host goes with the next apply, whoever it is for."""
    text = team.text().replace(f"expires = {people_lab.LATER}", "expires = 2020-01-01")
    (team.folder / "developers.toml").write_text(text)
    draft = adding(team)
    assert draft.before.settings.developers["bob"].expires == date(2020, 1, 1)
    changing.carry(draft, "add")
    assert team.done


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.1.2.3", "a private address"),
        ("192.168.0.0/16", "a private address"),
        ("fd00::1", "a private address"),
        ("fe80::1", "a link-local address"),
        ("127.0.0.1", "a loopback address"),
    ],
)
def test_an_address_that_no_packet_can_come_from_is_refused(
    team: Team, address: str, reason: str
) -> None:
    draft = changing_bob(team, addresses=["198.51.100.7/32", address])
    with pytest.raises(SettingsError, match=reason):
        changing.carry(draft, "ip add")
    assert address not in team.text()


def test_a_neighbour_in_the_hosts_own_network_is_let_in(team: Team) -> None:
    team.fiddle = lambda reality: replace(reality, networks=("10.1.0.0/16",))
    changing.carry(changing_bob(team, addresses=["198.51.100.7/32", "10.1.2.3/32"]), "ip add")
    assert "10.1.2.3" in team.text()


# -- the server's own key --------------------------------------------------------------------


def carry(team: Team, make: Callable[..., rotation.Phase]) -> None:
    rotation.carry(make(team.environment), "rotate --server-key")


def test_between_the_phases_both_keys_work_and_afterwards_the_new_one(team: Team) -> None:
    carry(team, rotation.begin)
    secrets = team.environment.settings.secrets
    assert secrets.qdrant_api_key.get_secret_value() == OLD_KEY
    newer = secrets.qdrant_alt_api_key
    assert newer
    assert len(newer.get_secret_value()) >= 32
    assert secrets.newest_qdrant_key() == newer
    carry(team, rotation.finish)
    secrets = team.environment.settings.secrets
    assert (secrets.qdrant_api_key, secrets.qdrant_alt_api_key) == (newer, None)
    assert [part for part, _ in team.done] == ["all", "all"]


def test_secrets_keep_their_words_and_their_mode(team: Team) -> None:
    before = team.text("secrets.toml")
    carry(team, rotation.begin)
    between = team.text("secrets.toml")
    lines = [line for line in between.splitlines() if "qdrant_alt_api_key" not in line]
    assert lines == before.splitlines()
    carry(team, rotation.finish)
    after = team.text("secrets.toml")
    for words in ("# Kept by anna.", "# of March", "canary-access-key"):
        assert words in after
    assert OLD_KEY not in after
    assert stat.S_IMODE((team.folder / "secrets.toml").stat().st_mode) == 0o600


@pytest.mark.parametrize("make", [rotation.begin, rotation.finish])
def test_a_phase_that_was_cut_off_goes_on_with_the_same_keys(
    team: Team, make: Callable[..., rotation.Phase]
) -> None:
    if make is rotation.finish:
        carry(team, rotation.begin)
    team.fails = DeployError("the connection broke")
    with pytest.raises(DeployError, match="none is lost") as caught:
        carry(team, make)
    assert caught.value.hint.endswith("goes on where this ended")
    written, team.fails = team.text("secrets.toml"), None
    phase = make(team.environment)
    assert phase.again
    rotation.carry(phase, "again")
    assert team.text("secrets.toml") == written
    assert team.applied.settings.secrets == team.environment.settings.secrets


def test_the_old_key_stays_until_the_host_takes_the_new_one(team: Team) -> None:
    phase = rotation.begin(team.environment)
    (team.folder / "secrets.toml").write_text(phase.new)  # never deployed
    with pytest.raises(SettingsError, match="does not take the new key yet"):
        carry(team, rotation.finish)
    assert OLD_KEY in team.text("secrets.toml")


@pytest.mark.parametrize("make", [rotation.begin, rotation.finish])
def test_secrets_from_before_somebody_elses_rotation_bring_no_old_key_back(
    team: Team, make: Callable[..., rotation.Phase]
) -> None:
    before = team.text("secrets.toml")
    carry(team, rotation.begin)
    carry(team, rotation.finish)
    (team.folder / "secrets.toml").write_text(before)  # another operator's checkout
    done = list(team.done)
    with pytest.raises(SettingsError, match="somebody has rotated it since") as caught:
        carry(team, make)
    assert team.done == done
    assert OLD_KEY not in error_of(caught.value)


def test_a_rotation_cuts_nobody_off_either(team: Team) -> None:
    team.applied = adding(team, "carol", addresses=["198.51.100.30"]).after
    with pytest.raises(SettingsError, match="carol"):
        carry(team, rotation.begin)
    assert "qdrant_alt_api_key" not in team.text("secrets.toml")


def test_secrets_that_were_edited_meanwhile_are_not_written_over(team: Team) -> None:
    phase = rotation.begin(team.environment)
    path = team.folder / "secrets.toml"
    edited = team.text("secrets.toml").replace("canary-access-key", "canary-newer-key")
    path.write_text(edited)
    with pytest.raises(SettingsError, match="edited meanwhile"):
        rotation.carry(phase, "rotate")
    assert team.text("secrets.toml") == edited


def test_secrets_in_one_line_are_edited_too(team: Team) -> None:
    values = team.environment.settings.secrets
    text = ", ".join(
        f'{key} = "{getattr(values, key).get_secret_value()}"'
        for key in ("qdrant_api_key", "api_token", "restic_password")
    )
    (team.folder / "secrets.toml").write_text(f"secrets = {{ {text} }}\n")
    carry(team, rotation.begin)
    carry(team, rotation.finish)
    assert OLD_KEY not in team.text("secrets.toml")
    assert load_environment(team.folder).settings.secrets.qdrant_alt_api_key is None


def test_every_live_token_is_signed_anew_and_no_other(team: Team) -> None:
    (team.folder / "developers.toml").write_text(
        team.text()
        + f'\n[developers.gone]\naddresses = ["203.0.113.50"]\ncollections = ["books"]\n'
        f'expires = 2020-01-01\ntoken = "{new_token_id()}"\n'
    )
    assert rotation.begin(team.environment).holders() == ["bob"]


def test_a_reality_of_both_keys_is_no_difference(team: Team) -> None:
    """Between the phases, people are added and removed as ever."""
    carry(team, rotation.begin)
    changing.carry(adding(team), "add")
    assert "eve" in team.applied.settings.developers


def test_the_lab_itself_is_in_step(team: Team) -> None:
    reality: Reality = team.look(team.environment, None)
    changing.refuse_for_others(team.environment, reality)
