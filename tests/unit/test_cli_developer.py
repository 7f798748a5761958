"""The verbs about developers as they are typed: what they show, ask, change, and never show."""

from __future__ import annotations

import datetime
import io
import json
import re
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jwt
import people_lab
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from team_lab import OLD_KEY, Team, make_team

from ops import escrow
from ops.cli import main
from ops.developers import roster
from ops.developers.reality import Account, HostKey
from ops.developers.tokens import mint
from ops.errors import DeployError
from ops.settings.rights import id_of, value_of

EVE = people_lab.EVE
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Type = Callable[..., Said]


@pytest.fixture(scope="module")
def ca_pem() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ca_pem: str) -> Team:
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    return make_team(tmp_path / "inventory" / "team", monkeypatch, ca_pem)


@pytest.fixture
def type_(
    team: Team,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Type:
    """`type_("add", "eve", ..., stdin="y\\n")` with -e team."""

    def run(*words: str, stdin: str = "") -> Said:
        monkeypatch.setattr("sys.argv", ["stackroom", "-e", "team", "developer", *words])
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return run


ADD = ("add", "eve", "--ip", "198.51.100.9", "--ip", "2001:db8:e::/48", "--key", EVE)
BOOKS = ("--collections", "books", "--expires", "90d")


def token_of(folder: Path) -> str:
    return (folder / "token").read_text().strip()


# -- add -------------------------------------------------------------------------------------


def test_one_line_lets_somebody_in(team: Team, type_: Type) -> None:
    said = type_(*ADD, *BOOKS, stdin="y\n")
    assert said.code == 0, said.err
    eve = team.environment.settings.developers["eve"]
    assert eve.addresses == ["198.51.100.9/32", "2001:db8:e::/48"]
    assert (eve.keys, eve.access, eve.collections) == ([EVE], "read", ["books"])
    assert eve.expires == datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=90)
    assert team.applied.settings.developers["eve"].token == eve.token != ""
    assert team.done == [("people", "stackroom -e team developer add eve")]
    for told in (
        "+[developers.eve]",
        "on 192.0.2.1: opens port 443, 22 to 198.51.100.9",
        "makes the account dev-eve",
        "admits a token to read books, shelf",
        "the kit is in stackroom-team-eve",
        "developers.toml",
    ):
        assert told in said.out
    assert "Let eve in? [y/N]" in said.err


def test_the_kit_holds_the_token_and_nothing_that_was_printed_does(team: Team, type_: Type) -> None:
    said = type_(*ADD, *BOOKS, "--yes")
    folder = Path("stackroom-team-eve")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
    token = token_of(folder)
    claims = jwt.decode(token, OLD_KEY, algorithms=["HS256"])
    assert claims["subject"] == "eve"
    assert claims["access"] == [
        {"collection": "books", "access": "r"},
        {"collection": "shelf", "access": "r"},
    ]
    assert token not in said.out + said.err
    assert not TOKEN.search(said.out + said.err + team.text())


def test_without_collections_there_is_no_token_and_it_says_so(team: Team, type_: Type) -> None:
    said = type_(*ADD, "--yes")
    eve = team.environment.settings.developers["eve"]
    assert (eve.token, eve.expires, eve.collections) == ("", None, [])
    assert "no token" in said.out
    assert not Path("stackroom-team-eve/token").exists()


def test_a_token_ends_in_a_year_where_nobody_says(team: Team, type_: Type) -> None:
    type_(*ADD, "--collections", "books,notes", "--access", "write", "--yes")
    eve = team.environment.settings.developers["eve"]
    assert eve.collections == ["books", "notes"]
    assert eve.access == "write"
    assert eve.expires == datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=365)


def test_all_collections_are_written_by_name(team: Team, type_: Type) -> None:
    type_(*ADD, "--collections", "all", "--yes")
    assert team.environment.settings.developers["eve"].collections == ["books", "notes"]


def private_key() -> str:
    return (
        ed25519.Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        .decode()
    )


BAD = {
    "a name that is no user name": (("add", "Eve!", "--ip", "198.51.100.9"), "Eve!"),
    "a name that is there": (("add", "bob", "--ip", "198.51.100.9"), "already"),
    "a name of an operator": (("add", "anna", "--ip", "198.51.100.9"), "operator of that name"),
    "no address": (("add", "eve", "--ip", "somewhere"), "not an IP address"),
    "host bits": (("add", "eve", "--ip", "198.51.100.9/24"), "host bits"),
    "the whole internet": (("add", "eve", "--ip", "0.0.0.0/0"), "--anywhere"),
    "the whole of IPv6": (("add", "eve", "--ip", "::/0"), "--anywhere"),
    "a private address": (("add", "eve", "--ip", "10.0.0.7"), "a private address"),
    "an address of another": (("add", "eve", "--ip", "198.51.100.7"), "shares_address"),
    "a key of another": ((*ADD[:4], "--key", people_lab.BOB), "one key is one person's"),
    "no key": ((*ADD[:4], "--key", "ssh-ed25519 AAAA"), "--key"),
    "a DSA key": ((*ADD[:4], "--key", "ssh-dss AAAAB3NzaC1kc3MAAACB"), "DSA"),
    "no file": ((*ADD[:4], "--key", "absent.pub"), "no file"),
    "a collection that is not there": ((*ADD, "--collections", "bookz"), "did you mean books"),
    "no collection's name": ((*ADD, "--collections", "a/b"), "collections"),
    "another right": ((*ADD, "--access", "admin"), "neither read nor write"),
    "a day that has passed": ((*ADD, *BOOKS[:2], "--expires", "2020-01-01"), "has passed"),
    "no day": ((*ADD, *BOOKS[:2], "--expires", "soon"), "90d"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_with_the_reason_and_changes_nothing(
    team: Team, type_: Type, what: str
) -> None:
    words, reason = BAD[what]
    before = team.text()
    said = type_(*words, "--yes")
    assert said.code == 3, said.out + said.err
    assert reason in said.err
    assert "Traceback" not in said.err
    assert team.text() == before
    assert team.done == []
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_private_key_is_refused_and_never_repeated(
    team: Team, type_: Type, in_a_file: bool
) -> None:
    secret = private_key()
    given = secret
    if in_a_file:
        Path("id_ed25519").write_text(secret)
        given = "id_ed25519"
    said = type_(*ADD[:4], "--key", given, "--yes")
    assert said.code == 3
    assert "private key" in said.err
    for line in secret.splitlines()[1:-1]:
        assert line not in said.out + said.err
    assert team.done == []


def test_a_short_rsa_key_is_refused_by_its_length(team: Team, type_: Type, tmp_path: Path) -> None:
    path = tmp_path / "short"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", path], check=True
    )
    said = type_(*ADD[:4], "--key", f"{path}.pub", "--yes")
    assert (said.code, team.done) == (3, [])
    assert "2048" in said.err


def test_a_shared_address_and_the_whole_internet_are_taken_when_said(
    team: Team, type_: Type
) -> None:
    assert type_("add", "eve", "--ip", "198.51.100.7", "--shared", "--yes").code == 0
    assert type_("add", "wide", "--ip", "0.0.0.0/0", "--anywhere", "--yes").code == 0
    developers = team.environment.settings.developers
    assert developers["eve"].shares_address
    assert developers["wide"].anywhere


def test_a_folder_of_somebody_else_is_refused_before_anything_is_changed(
    team: Team, type_: Type
) -> None:
    Path("stackroom-team-eve").mkdir()
    Path("stackroom-team-eve/thesis.txt").write_text("mine")
    before = team.text()
    said = type_(*ADD, *BOOKS, "--yes")
    assert said.code == 3
    assert "something else in it" in said.err
    assert (team.text(), team.done) == (before, [])


def test_nobody_is_let_in_without_a_yes(team: Team, type_: Type) -> None:
    before = team.text()
    for stdin, code in (("n\n", 1), ("", 1), ("\n", 1)):
        assert type_(*ADD, *BOOKS, stdin=stdin).code == code
    assert (team.text(), team.done) == (before, [])
    assert list(Path().iterdir()) == []


DRY = {
    "add": (*ADD, *BOOKS),
    "ip add": ("ip", "add", "bob", "198.51.100.8"),
    "ip remove": ("ip", "remove", "bob", "198.51.100.7"),
    "rotate": ("rotate", "bob"),
    "rotate now": ("rotate", "bob", "--now"),
    "remove": ("remove", "bob"),
    "server key": ("rotate", "--server-key"),
}


@pytest.mark.parametrize("what", DRY)
def test_a_dry_run_touches_nothing(team: Team, type_: Type, what: str) -> None:
    if what == "ip remove":
        text = team.text().replace('["198.51.100.7"]', '["198.51.100.7", "198.51.100.8"]')
        (team.folder / "developers.toml").write_text(text)
        team.applied = team.environment
    before = {path.name: path.read_bytes() for path in team.folder.iterdir()}
    said = type_(*DRY[what], "--dry-run")
    assert said.code == 0, said.err
    assert "dry run: nothing was changed" in said.out
    assert {path.name: path.read_bytes() for path in team.folder.iterdir()} == before
    assert team.done == []
    assert list(Path().iterdir()) == []
    if what != "server key":
        assert re.search(r"^[+-]", said.out, re.MULTILINE)
        assert "on 192.0.2.1: " in said.out
    assert OLD_KEY not in said.out


@pytest.mark.parametrize("what", [each for each in DRY if each != "remove"])
def test_a_dry_run_refuses_what_the_verb_would(team: Team, type_: Type, what: str) -> None:
    if what == "ip remove":
        type_("ip", "add", "bob", "198.51.100.8", "--yes")
    carol = team.text() + '\n[developers.carol]\naddresses = ["198.51.100.30"]\n'
    (team.folder / "developers.toml").write_text(carol)
    team.applied = team.environment
    (team.folder / "developers.toml").write_text(carol.partition("\n[developers.carol]")[0])
    said = type_(*DRY[what], "--dry-run")
    assert said.code == 3
    assert "198.51.100.30" in said.err
    assert "git pull" in said.err


def test_a_dry_run_of_a_removal_says_whom_else_it_is_about(team: Team, type_: Type) -> None:
    rule = "-A ufw-user-input -s 203.0.113.66/32 -p tcp -m tcp --dport 22 -j ACCEPT"
    fiddled = people_lab.host_of(team.applied, rule)
    team.fiddle = lambda reality: replace(reality, tables=fiddled.tables)
    said = type_("remove", "bob", "--dry-run")
    assert (said.code, team.done) == (0, [])
    assert "CAREFUL: the host is not as" in said.out
    assert "203.0.113.66" in said.out
    assert "bob" in team.environment.settings.developers


def test_an_apply_that_fails_leaves_no_kit(team: Team, type_: Type) -> None:
    before, team.fails = team.text(), DeployError("a step failed")
    said = type_(*ADD, *BOOKS, "--yes")
    assert said.code == 6
    assert "developers.toml is as it was before" in said.err
    assert team.text() == before
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        (*ADD, *BOOKS, "--yes"),
        ("rotate", "bob", "--yes"),
        ("rotate", "bob", "--now", "--yes"),
        ("kit", "bob"),
        ("kit", "bob", "--print"),
    ],
    ids=["add", "rotate", "rotate --now", "kit", "kit --print"],
)
def test_a_key_that_was_rotated_away_signs_nothing(
    team: Team, type_: Type, words: tuple[str, ...]
) -> None:
    """Another operator rotated the server's key; our secrets.toml is the one of before."""
    before = team.text()
    stale = team.text("secrets.toml").replace(OLD_KEY, "canary-of-before-0123456789abcdefghijklmn")
    (team.folder / "secrets.toml").write_text(stale)
    said = type_(*words)
    assert (said.code, team.done, team.text()) == (3, [], before)
    assert "somebody has rotated it since" in said.err
    assert "bring in the secrets.toml" in said.err
    assert "canary" not in said.out + said.err
    assert list(Path().iterdir()) == []


def test_who_has_no_token_needs_no_key(team: Team, type_: Type) -> None:
    stale = team.text("secrets.toml").replace(OLD_KEY, "canary-of-before-0123456789abcdefghijklmn")
    (team.folder / "secrets.toml").write_text(stale)
    assert type_("kit", "dave").code == 0


# -- addresses -------------------------------------------------------------------------------


def test_addresses_come_and_go(team: Team, type_: Type) -> None:
    assert type_("ip", "add", "bob", "2001:db8:b::/64", "198.51.100.8", "--yes").code == 0
    bob = team.environment.settings.developers["bob"]
    assert bob.addresses == ["198.51.100.7/32", "2001:db8:b::/64", "198.51.100.8/32"]
    said = type_("ip", "remove", "bob", "198.51.100.7", "--yes")
    assert "closes port 443, 22 to 198.51.100.7, and cuts what is open" in said.out
    assert team.applied.settings.developers["bob"].addresses == bob.addresses[1:]
    assert bob.token == team.environment.settings.developers["bob"].token


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("ip", "remove", "bob", "198.51.100.99"), "no address of bob (listed: 198.51.100.7)"),
        (("ip", "remove", "bob", "198.51.100.7"), "no address left"),
        (("ip", "add", "nobody", "198.51.100.9"), "there is no developer 'nobody'"),
        (("ip", "add", "bob", "0.0.0.0/0"), "--anywhere"),
    ],
)
def test_addresses_that_cannot_be_changed(
    team: Team, type_: Type, words: tuple[str, ...], reason: str
) -> None:
    said = type_(*words, "--yes")
    assert (said.code, team.done) == (3, [])
    assert reason in said.err


def test_an_address_that_is_there_is_nothing_to_do(team: Team, type_: Type) -> None:
    said = type_("ip", "add", "bob", "198.51.100.7", "--yes")
    assert (said.code, team.done) == (0, [])
    assert "nothing to change" in said.out


# -- rotation --------------------------------------------------------------------------------


def live(team: Team) -> set[str]:
    return {id_of(token.id) for token in team.look(team.applied, None).tokens or ()}


def test_a_rotation_keeps_the_old_token_until_it_is_finished(team: Team, type_: Type) -> None:
    old = people_lab.BOB_TOKEN
    said = type_("rotate", "bob", "--yes")
    assert said.code == 0, said.err
    bob = team.environment.settings.developers["bob"]
    assert (bob.retiring, live(team)) == (old, {old, bob.token})
    claims = jwt.decode(token_of(Path("stackroom-team-bob")), OLD_KEY, algorithms=["HS256"])
    value = value_of(team.environment.settings, bob, bob.token)
    assert claims["value_exists"]["matches"] == [{"key": "token", "value": value}]
    assert "developer rotate bob --finish" in said.out
    finished = type_("rotate", "bob", "--finish", "--yes")
    assert finished.code == 0
    assert live(team) == {bob.token}
    assert f"the token {old[:8]}" in finished.out
    assert not TOKEN.search(said.out + said.err + finished.out)


def test_a_second_rotation_waits_for_the_end_of_the_first(team: Team, type_: Type) -> None:
    type_("rotate", "bob", "--yes")
    before = team.text()
    said = type_("rotate", "bob", "--yes")
    assert said.code == 3
    assert "next: stackroom -e team developer rotate bob --finish" in said.err
    assert team.text() == before


def test_a_token_that_leaked_dies_at_once_and_the_one_before_it_too(
    team: Team, type_: Type
) -> None:
    type_("rotate", "bob", "--yes")
    said = type_("rotate", "bob", "--now", "--yes")
    assert said.code == 0
    bob = team.environment.settings.developers["bob"]
    assert (bob.retiring, live(team)) == ("", {bob.token})
    assert said.out.count("ok      the token") == 2


def test_a_token_that_is_still_taken_is_exit_code_2(team: Team, type_: Type) -> None:
    type_("rotate", "bob", "--yes")
    stuck = team.look(team.applied, None).tokens
    team.fiddle = lambda reality: replace(reality, tokens=stuck)
    assert type_("rotate", "bob", "--finish", "--yes").code == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("rotate", "dave"), "has no collections"),
        (("rotate", "nobody"), "there is no developer"),
        (("rotate",), "whose token?"),
        (("rotate", "bob", "--now", "--finish"), "one of them"),
        (("rotate", "bob", "--server-key"), "without a name"),
        (("rotate", "--server-key", "--now"), "not --now"),
    ],
)
def test_rotations_that_mean_nothing(
    team: Team, type_: Type, words: tuple[str, ...], reason: str
) -> None:
    said = type_(*words, "--yes")
    assert (said.code, team.done) == (3, [])
    assert reason in said.err


def test_nothing_to_finish_is_said(team: Team, type_: Type) -> None:
    said = type_("rotate", "bob", "--finish", "--yes")
    assert (said.code, team.done) == (0, [])
    assert "nothing to finish" in said.out


def test_of_the_servers_key_too(team: Team, type_: Type) -> None:
    before = team.text("secrets.toml")
    said = type_("rotate", "--server-key", "--finish", "--yes")
    assert (said.code, team.done) == (0, [])
    assert "nothing to finish" in said.out
    assert team.text("secrets.toml") == before


def test_the_servers_key_is_rotated_with_a_kit_for_everybody(team: Team, type_: Type) -> None:
    said = type_("rotate", "--server-key", "--yes")
    assert said.code == 0, said.err
    secrets = team.environment.settings.secrets
    newer = secrets.qdrant_alt_api_key
    assert newer
    token = token_of(Path("stackroom-team-kits/bob"))
    assert jwt.decode(token, newer.get_secret_value(), algorithms=["HS256"])["subject"] == "bob"
    assert token == mint(team.environment.settings, "bob").get_secret_value()
    assert "rotate --server-key --finish" in said.out
    assert "escrow create" in said.out
    finished = type_("rotate", "--server-key", "--finish", "--yes")
    assert finished.code == 0
    assert team.environment.settings.secrets.qdrant_api_key == newer
    # what was handed over in between works on
    assert token == mint(team.environment.settings, "bob").get_secret_value()
    everything = said.out + said.err + finished.out + finished.err
    for secret in (OLD_KEY, newer.get_secret_value(), token):
        assert secret not in everything


def test_the_recovery_file_follows_the_servers_key(team: Team, type_: Type, tmp_path: Path) -> None:
    keys = []
    for name in ("one", "two"):
        path = tmp_path / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        keys.append(path.with_suffix(".pub").read_text().strip())
    settings = team.text("settings.toml") + f"\n[escrow]\nrecipients = {json.dumps(keys)}\n"
    (team.folder / "settings.toml").write_text(settings)
    escrow.create(team.environment)
    said = type_("rotate", "--server-key", "--yes")
    assert "recovery.age anew" in said.out
    assert escrow.inspect(team.environment).is_current
    # people change often: there it is said, and left to a person
    assert "escrow create" in type_("rotate", "bob", "--yes").out
    assert not escrow.inspect(team.environment).is_current


# -- removal, the kit, and reading -----------------------------------------------------------


def test_a_removal_shows_each_probe(team: Team, type_: Type) -> None:
    said = type_("remove", "bob", "--yes")
    assert said.code == 0, said.out + said.err
    assert "GONE: " in said.out
    for probe in ("198.51.100.7 reaches port 22", "dev-bob", "Qdrant honours a token of bob"):
        assert probe in said.out
    assert "bob" not in team.applied.settings.developers


def test_a_removal_that_is_not_proven_is_exit_code_2(team: Team, type_: Type) -> None:
    stuck = team.look(team.applied, None).tokens
    team.fiddle = lambda reality: replace(reality, tokens=stuck)
    said = type_("remove", "bob", "--yes")
    assert said.code == 2
    assert "NOT PROVEN" in said.out
    assert "NOT OK" in said.out


def test_a_removal_that_failed_is_run_again_until_it_is_proven(team: Team, type_: Type) -> None:
    team.fails = DeployError("a step failed")
    failed = type_("remove", "bob", "--yes")
    assert failed.code == 6
    assert "next: stackroom -e team developer remove bob, again" in failed.err
    team.fails = None
    dry = type_("remove", "bob", "--dry-run")
    assert (dry.code, team.done) == (0, [])
    assert "bob" in team.applied.settings.developers
    said = type_("remove", "bob", "--yes")
    assert said.code == 0, said.out + said.err
    for told in (
        "takes away the account dev-bob",
        f"takes away the key {people_lab.fingerprint(people_lab.BOB)} of dev-bob",
        f"takes away the token {people_lab.BOB_TOKEN[:8]}...",
        "GONE: ",
        "198.51.100.7 reaches port 22",
        "the account dev-bob can be used",
        "Qdrant honours a token of bob",
    ):
        assert told in said.out
    assert "bob" not in team.applied.settings.developers
    again = type_("remove", "bob", "--yes")
    assert (again.code, len(team.done)) == (3, 1)
    assert "no account, no key and no token of that name" in again.err


def test_an_account_that_is_only_called_like_one_is_nobodys_to_sweep(
    team: Team, type_: Type
) -> None:
    ops = Account("dev-ops", 1600, True, False, False)
    key = HostKey("dev-ops", "/k/dev-ops", people_lab.fingerprint(EVE))
    team.fiddle = lambda host: replace(
        host, accounts=(*(host.accounts or ()), ops), keys=(*(host.keys or ()), key)
    )
    said = type_("remove", "ops", "--yes")
    assert (said.code, team.done) == (3, [])
    assert "no account, no key and no token of that name" in said.err


def test_a_sweep_that_leaves_something_is_exit_code_2(team: Team, type_: Type) -> None:
    stuck = team.look(team.applied, None).tokens
    text = roster.remove(team.text(), "bob")
    (team.folder / "developers.toml").write_text(text)
    team.fiddle = lambda reality: replace(reality, tokens=stuck)
    said = type_("remove", "bob", "--yes")
    assert said.code == 2
    assert "NOT PROVEN" in said.out


def test_where_nothing_can_be_seen_somebody_absent_is_swept_and_not_proven(
    team: Team, type_: Type
) -> None:
    team.fiddle = lambda reality: replace(reality, tokens=None, unknown={"tokens": "no answer"})
    said = type_("remove", "eve", "--yes")
    assert said.code == 2
    assert team.done
    assert "tokens: no answer" in said.out


def test_a_removal_says_what_it_would_do_to_others(team: Team, type_: Type) -> None:
    team.fiddle = lambda reality: replace(reality, tokens=None, unknown={"tokens": "no answer"})
    said = type_("remove", "bob", "--yes")
    assert said.code == 2  # of the token nobody knows
    assert "CAREFUL: it cannot be seen whom a change would cut off (tokens: no answer)" in said.out
    assert "bob" not in team.applied.settings.developers


def test_a_removal_tells_of_the_token_that_the_teams_api_has(team: Team, type_: Type) -> None:
    settings = team.text("settings.toml")
    api = '\n[api]\nimage = "ghcr.io/example/api:1.4.0"\nport = 8123\n'
    (team.folder / "settings.toml").write_text(settings + api)
    team.applied = team.environment
    assert "until api_token in secrets.toml is another one" in type_("remove", "bob", "--yes").out


def test_the_kit_is_the_same_whenever_it_is_made(team: Team, type_: Type) -> None:
    assert type_("kit", "bob").code == 0
    first = token_of(Path("stackroom-team-bob"))
    assert type_("kit", "bob", "--to", "elsewhere").code == 0
    assert token_of(Path("elsewhere")) == first
    assert team.done == []


def test_the_printed_kit_makes_the_same_folder_where_it_is_pasted(
    type_: Type, tmp_path: Path
) -> None:
    said = type_("kit", "bob", "--print")
    assert said.code == 0
    assert list(Path().iterdir()) == []
    type_("kit", "bob")
    _, _, script = said.out.partition("\n\n")
    pasted = tmp_path / "pasted"
    pasted.mkdir()
    subprocess.run(["sh"], input=script, text=True, check=True, cwd=pasted)
    written, made = Path("stackroom-team-bob"), pasted / "stackroom-team-bob"
    names = {each.name for each in written.iterdir()}
    assert {each.name for each in made.iterdir()} == names
    for name in names:
        assert (made / name).read_bytes() == (written / name).read_bytes(), name
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("more", [(), ("--print",)])
def test_a_kit_can_be_tried_without_writing_it(type_: Type, more: tuple[str, ...]) -> None:
    said = type_("kit", "bob", "--dry-run", *more)
    assert said.code == 0
    assert list(Path().iterdir()) == []
    assert "README.md" in said.out
    assert not TOKEN.search(said.out + said.err)


def test_a_kit_of_nobody(type_: Type) -> None:
    said = type_("kit", "nobody")
    assert said.code == 3
    assert "there is no developer 'nobody' (listed: bob, dave)" in said.err


def test_the_list_is_a_table_or_json(type_: Type) -> None:
    table = type_("list").out
    assert re.search(r"bob +198\.51\.100\.7 +1 +write +books +\d{4}-\d\d-\d\d +one", table)
    listed = json.loads(type_("list", "--json").out)
    assert listed["schema_version"] == 1
    assert listed["developers"]["bob"]["collections"] == ["books"]
    assert listed["developers"]["dave"]["token"] == ""


def test_the_list_needs_no_host(team: Team, type_: Type) -> None:
    def gone(_: object) -> object:
        raise AssertionError("it asked the host")

    team.fiddle = gone  # type: ignore[assignment]
    assert type_("list").code == 0


def test_one_person_is_shown_with_what_the_host_has(team: Team, type_: Type) -> None:
    said = type_("show", "bob")
    assert said.code == 0
    assert "write books, shelf" in said.out
    assert "on the host as the file says" in said.out
    team.fiddle = lambda reality: replace(reality, tokens=())
    assert "is refused, and the file has it" in type_("show", "bob").out
    told = json.loads(type_("show", "bob", "--json").out)
    assert told["name"] == "bob"
    assert told["differences"]


def test_the_audit_says_it_by_its_exit_code(team: Team, type_: Type) -> None:
    assert type_("audit").code == 0
    team.fiddle = lambda reality: replace(reality, tokens=())
    said = type_("audit", "--json")
    assert said.code == 2
    assert json.loads(said.out)["exit_code"] == 2
    team.fiddle = lambda reality: replace(reality, tokens=None, unknown={"tokens": "no answer"})
    assert type_("audit").code == 3
