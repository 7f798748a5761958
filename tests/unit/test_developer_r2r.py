"""Developers of the R2R stack: what the file makes of them, and the verbs, without a machine."""

from __future__ import annotations

import io
import json
import re
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import people_lab
import pytest
from settings_lab import R2R_PASSWORDS
from settings_lab import SECRETS as GENERAL
from team_lab import Team, make_team

from ops.cli import main
from ops.deploy import Plan
from ops.developers import change as changing
from ops.developers.accounts import accounts_of
from ops.developers.audit import audit
from ops.developers.kit import make_kit
from ops.developers.proof import judged
from ops.developers.r2r import names
from ops.developers.r2r.accounts import R2RAccounts, account_answer
from ops.developers.reality import Reality, User, reality_of
from ops.errors import SettingsError, StackroomError, UnreachableError
from ops.health.developers import agreement, developer_checks
from ops.health.model import Report, Status
from ops.settings import Edge, Environment

CA = ssl.DER_cert_to_PEM_cert(b"a certificate")
SETTINGS = """\
stack = "r2r"
[edge]
mode = "tunnel"
[r2r]
admin_email = "Librarian@example.com"
[litellm.models.chat]
model = "openai/a"
[litellm.models.text-embedding-3-team]
model = "openai/b"
"""
SECRETS = "[secrets]\n" + "".join(f'{name} = "{value}"\n' for name, value in GENERAL.items())
SECRETS += "[secrets.r2r]\n" + "".join(f'{k} = "{v}"\n' for k, v in R2R_PASSWORDS.items())
BOB = people_lab.BOB_TOKEN
EMAIL = f"bob.{BOB.replace('-', '')[:12]}@stackroom.internal"


@dataclass
class Said:
    code: int
    out: str
    err: str


@dataclass
class Server:
    """In the place of what asks R2R: what it was asked."""

    done: list[str] = field(default_factory=list)
    fails: StackroomError | None = None

    def ready(self, _: Any, _environment: Any, name: str, _remote: Any, *, present: bool) -> None:
        self.done.append(f"ready {name}{', now' if present else ''}")

    def settle(self, _: Any, environment: Environment, _remote: Any, on_step: Any) -> list[str]:
        if self.fails:
            raise self.fails
        told = (
            f"users {', '.join(one.email for one in names.wanted(environment.settings).values())}"
        )
        self.done.append(told)
        on_step(told, "Success")
        return [told]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    for name in ("ready", "settle"):
        monkeypatch.setattr(R2RAccounts, name, lambda *a, _n=name, **k: getattr(made, _n)(*a, **k))
    return made


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Team:
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    folder = tmp_path / "inventory" / "team"
    return make_team(folder, monkeypatch, "", settings=SETTINGS, secrets=SECRETS)


@pytest.fixture
def type_(
    team: Team,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Said]:
    def run(*words: str) -> Said:
        monkeypatch.setattr("sys.argv", ["stackroom", "-e", "team", "developer", *words])
        monkeypatch.setattr("sys.stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return run


ADD = ("add", "eve", "--ip", "198.51.100.9", "--key", people_lab.EVE, "--collections", "notes")


# -- names and passwords -----------------------------------------------------------------------


def test_the_same_files_make_the_same_address_and_password_and_others_another(team: Team) -> None:
    settings = team.environment.settings
    assert names.wanted(settings) == {"bob": names.Wanted(EMAIL, ("books",))}
    secret = names.password_of(settings, EMAIL).get_secret_value()
    assert re.fullmatch(r"[\w-]{43}", secret)
    assert secret == names.password_of(team.environment.settings, EMAIL).get_secret_value()
    others = [names.password_of(settings, f"x{EMAIL}")]
    assert settings.secrets.r2r
    key = settings.secrets.r2r.model_copy(
        update={"secret_key": settings.secrets.r2r.admin_password}
    )
    changed = settings.secrets.model_copy(update={"r2r": key})
    others.append(names.password_of(settings.model_copy(update={"secrets": changed}), EMAIL))
    assert secret not in [each.get_secret_value() for each in others]
    assert names.user_id("bob") == UUID("5897ff1c-6836-5b29-9dbb-0473130e6cdc")
    assert (names.name_in(EMAIL), names.name_in("bob@example.com")) == ("bob", "")


# -- the verbs -----------------------------------------------------------------------------------


def test_one_line_lets_somebody_in(team: Team, type_: Callable[..., Said], server: Server) -> None:
    said = type_(*ADD, "--yes")
    assert said.code == 0, said.err
    eve = team.environment.settings.developers["eve"]
    email = names.email_of("eve", eve.token)
    assert server.done == ["ready eve", f"users {EMAIL}, {email}"]
    for told in (
        "opens port 22 to 198.51.100.9",
        "makes the account dev-eve",
        f"makes R2R's user {email}",
        "makes eve a member of notes",
        "added: eve is in",
    ):
        assert told in said.out
    folder = Path("stackroom-team-eve")
    assert {each.name for each in folder.iterdir()} == {
        *("README.md", ".gitignore", "tunnel.sh", "env.sh", "check.sh", "example.py"),
        *("known_hosts", "password"),
    }
    secret = (folder / "password").read_text().strip()
    assert secret == names.password_of(team.environment.settings, email).get_secret_value()
    kit = "".join(p.read_text() for p in folder.iterdir() if p.name != "password")
    assert secret not in kit + said.out + said.err + team.text()
    assert "qdrant" not in kit.lower()
    assert "6333" not in kit
    assert "-L 127.0.0.1:7272:127.0.0.1:7272" in kit
    assert email in kit


def test_a_rotation_is_at_once_and_the_old_one_is_shown_to_r2r(
    team: Team, type_: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []
    monkeypatch.setattr(
        "ops.cli.rotation.prove_refused", lambda _e, _n, ids, _r: shown.append(ids) or []
    )
    said = type_("rotate", "bob", "--yes")
    assert said.code == 0, said.err
    bob = team.environment.settings.developers["bob"]
    assert (bob.token == BOB, bob.retiring, shown) == (False, "", [[BOB]])
    becomes = names.email_of("bob", bob.token)
    assert f"{EMAIL} becomes {becomes}: its password, tokens and API keys end" in said.out
    assert "the kit with the new password" in said.out
    assert "--finish" not in said.out
    said = type_("rotate", "bob", "--finish", "--yes")
    assert (said.code, said.out) == (0, "no R2R account of bob is retiring: nothing to finish\n")


def test_there_is_no_key_of_the_server_to_rotate(team: Team, type_: Callable[..., Said]) -> None:
    before = team.text("secrets.toml")
    for more in ((), ("--finish",), ("--now",)):
        said = type_("rotate", "--server-key", *more, "--yes")
        assert said.code != 0
        assert "each developer has a password of their own" in said.err
        assert "stackroom -e team developer rotate <name>" in said.err
    assert team.text("secrets.toml") == before


def test_a_removal_closes_the_network_first_and_is_proven(
    team: Team, type_: Callable[..., Said], server: Server
) -> None:
    said = type_("remove", "bob", "--yes")
    assert said.code == 0, said.out + said.err
    assert f"ends R2R's user {EMAIL}, its tokens and API keys; the documents stay" in said.out
    assert said.out.index("firewall and SSH") < said.out.index("users ")
    assert "R2R has a user of bob: no" in said.out
    assert server.done == ["users "]


def test_a_removal_that_r2r_does_not_carry_out_is_told_and_stays_in_the_file(
    team: Team, type_: Callable[..., Said], server: Server
) -> None:
    server.fails = UnreachableError("R2R gives no answer")
    said = type_("remove", "bob", "--yes")
    assert said.code != 0
    assert "bob stays out of developers.toml, but may still reach the host" in said.err
    assert "bob" not in team.environment.settings.developers


def test_a_failed_addition_is_taken_back(
    team: Team, type_: Callable[..., Said], server: Server
) -> None:
    before = team.text()
    server.fails = UnreachableError("R2R gives no answer")
    assert type_(*ADD, "--yes").code != 0
    assert team.text() == before
    assert not Path("stackroom-team-eve").exists()


def test_kit_asks_r2r_whether_the_password_is_the_one_of_now(
    type_: Callable[..., Said], server: Server
) -> None:
    said = type_("kit", "bob", "--print")
    assert said.code == 0, said.err
    assert server.done == ["ready bob, now"]
    assert "cat >password <<'END-OF-PASSWORD'" in said.out


def test_list_and_show_speak_of_r2r(type_: Callable[..., Said]) -> None:
    said = type_("list")
    assert "R2R account" in said.out
    assert "write" not in said.out  # R2R has members, and no other rights
    said = type_("show", "bob")
    assert said.code == 0, said.err
    assert "member of R2R's books: read all, add documents of their own" in said.out
    assert "on the host as the file says" in said.out
    said = type_("add", "eve", "--ip", "198.51.100.9", "--key", people_lab.EVE, "--yes")
    assert "no R2R account: nobody named --collections for it" in said.out
    said = type_(*ADD[:-1], "all", "--yes")
    assert (said.code != 0, "name them" in said.err) == (True, True)


def test_a_change_of_collections_is_told(team: Team) -> None:
    text = team.text().replace('["books"]', '["notes"]')
    draft = changing.draft(team.environment, "bob", lambda _: text)
    assert changing.effects(draft) == [
        "makes bob a member of notes; what is not there is made",
        "takes bob out of books, at once",
    ]
    gone = names.wanted(team.environment.settings)
    assert gone["bob"].collections == ("books",)


def test_plan_shows_them_and_deploy_makes_them(
    team: Team, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [f"makes R2R's user {EMAIL}"]
    carried: list[Any] = []

    def carry_out(*_: Any, last: Callable[[], list[str]], **__: Any) -> list[str]:
        carried.append(last())
        return carried[-1]

    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["stackroom", "-e", "team", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    monkeypatch.setattr("ops.deploy.make_plan", lambda *_, **__: Plan((), 7))
    monkeypatch.setattr("ops.deploy.carry_out", carry_out)
    monkeypatch.setattr("ops.health.examine", lambda _: Report("team", people_lab.NOW, ()))
    monkeypatch.setattr(R2RAccounts, "pending", lambda *_: told)
    assert run("plan", "--json") == 2
    assert json.loads(capsys.readouterr().out)["changes"] == told
    run("deploy", "--yes")
    assert carried == [[f"users {EMAIL}"]]

    def silent(*_: Any) -> list[str]:
        raise UnreachableError("R2R gives no answer")

    capsys.readouterr()
    monkeypatch.setattr(R2RAccounts, "pending", silent)
    assert run("plan") == 0  # on a machine where it does not run yet
    assert "looked at later: R2R gives no answer" in capsys.readouterr().err
    assert team.done == []


@pytest.mark.parametrize("mode", ["internal", "acme", "external", "tunnel"])
def test_a_kit_is_a_shell_s_and_python_s_in_every_mode_and_says_nothing_of_qdrant(
    team: Team, tmp_path: Path, mode: str
) -> None:
    edge: dict[str, str] = {"mode": mode}
    edge |= {"domain": "r2r.example.com", "email": "a@example.com"} if mode != "tunnel" else {}
    if mode == "external":
        edge |= {"certificate": "/etc/ssl/r2r.pem", "private_key": "/etc/ssl/r2r.key"}
    settings = team.environment.settings.model_copy(update={"edge": Edge.model_validate(edge)})
    environment = replace(team.environment, settings=settings)
    secret = names.password_of(settings, EMAIL)
    known = f"{environment.machine.address} {people_lab.EVE}"
    kit = make_kit(environment, "bob", ca_pem=CA, host_keys=known, secret=secret)
    assert ("ca.pem" in kit.files) is (mode == "internal")
    url = "http://127.0.0.1:7272" if mode == "tunnel" else "https://r2r.example.com:443"
    for name, text in kit.files.items():
        path = tmp_path / name
        path.write_text(text)
        if name.endswith(".sh"):
            subprocess.run(["sh", "-n", str(path)], check=True)
        if name.endswith(".py"):
            compile(text, name, "exec")
        if name in ("README.md", "env.sh", "check.sh", "example.py"):
            assert url in text, name
        assert "qdrant" not in text.lower()
        assert "{{" not in text
        assert (secret.get_secret_value() in text) is (name == "password")


# -- what R2R really has -------------------------------------------------------------------------


def told(environment: Environment, reality: Reality) -> list[tuple[str, str, bool, bool]]:
    found = audit(environment, reality, people_lab.NOW).differences
    return [(each.person, each.text, each.reaches, each.applies) for each in found]


def having(reality: Reality, *users: User) -> Reality:
    return replace(reality, users=(*(reality.users or ()), *users))


def changed(reality: Reality, **fields: Any) -> Reality:
    users = [
        replace(each, **fields) if each.email == EMAIL else each for each in reality.users or ()
    ]
    return replace(reality, users=tuple(users))


def test_an_audit_compares_users_with_the_file(team: Team) -> None:
    lab = team.environment
    host = people_lab.host_of(lab)
    assert told(lab, host) == []
    admin = "librarian@example.com"
    admin = "librarian@example.com"
    theirs = (("books", admin), ("mine", EMAIL))
    assert told(lab, changed(host, collections=theirs)) == []
    cases = [
        (having(host, User("1", "eve@example.com")),
         ("", "R2R has a user eve@example.com, and the file does not have it", True, False)),
        (having(host, User("1", "eve@example.com", superuser=True)),
         ("", "R2R has a user eve@example.com, a superuser, who may do everything, and the file"
          " does not have it", True, False)),
        (having(host, User("1", "eve.123@stackroom.internal")),
         ("eve", "R2R has a user eve.123@stackroom.internal, and the file does not have it",
          True, True)),
        (changed(host, superuser=True, collections=theirs),
         ("bob", f"R2R's user {EMAIL} is a superuser, who may do everything", True, True)),
        (changed(host, email="bob.old@stackroom.internal", collections=theirs),
         ("bob", f"R2R lets in bob.old@stackroom.internal, and the file says {EMAIL}", True, True)),
        (changed(host, collections=(*theirs, ("papers", admin))),
         ("bob", "is a member of R2R's papers", True, True)),
        (changed(host, collections=()), ("bob", "is no member of R2R's books", False, True)),
        (replace(host, users=tuple(each for each in host.users or () if each.superuser)),
         ("bob", f"there is no R2R user {EMAIL}", False, True)),
    ]  # fmt: skip
    for reality, difference in cases:
        assert told(lab, reality) == [difference]
    # who made themselves a second user has nothing of the team's by it
    judged_so = [agreement(audit(lab, reality, people_lab.NOW)).status for reality, _ in cases]
    warned = (0, len(cases) - 2, len(cases) - 1)
    assert judged_so == [
        Status.WARNING if at in warned else Status.CRITICAL for at in range(len(cases))
    ]
    shares = having(host, User("1", "eve@example.com", collections=(("books", admin),)))
    assert agreement(audit(lab, shares, people_lab.NOW)).status is Status.CRITICAL


def test_what_cannot_be_read_is_unknown_and_stops_all_but_a_removal(team: Team) -> None:
    lab = team.environment
    blind = replace(people_lab.host_of(lab), users=None, unknown={"users": "docker: no answer"})
    found = audit(lab, blind, people_lab.NOW)
    assert (found.exit_code, found.unknown) == (3, {"users": "docker: no answer"})
    assert [row.rights for row in found.rows if row.who == "bob"] == ["?"]
    with pytest.raises(SettingsError, match="users: docker: no answer"):
        changing.refuse_for_others(lab, blind)
    probe = next(each for each in judged(lab, "bob", blind) if "R2R" in each.what)
    assert (probe.ok, probe.answer) == (False, "unknown: docker: no answer")


def test_the_look_at_a_host_is_read(team: Team) -> None:
    row = {"id": "1", "email": EMAIL, "superuser": False, "keys": 2, "seen": 1.5,
           "collections": [["books", None]]}  # fmt: skip
    found = reality_of({"values": {"users": [row]}}, stack="r2r")
    assert "tokens" not in found.unknown
    assert found.users is not None
    (user,) = found.users
    assert (user.keys, user.collections) == (2, (("books", ""),))
    assert user.seen is not None
    assert accounts_of(team.environment.settings).traces(found, "bob") == [f"R2R's user {EMAIL}"]


@pytest.mark.parametrize(
    ("code", "said", "ok", "answer"),
    [
        (200, "", False, "yes: answered 200"),
        (404, '{"message":"User not found"}', True, "no: answered 404"),
        (401, '{"message":"Invalid token or API key"}', True, "no: answered 401"),
        (401, '{"message":"Incorrect email or password"}', False, "unknown: there is such a user"),
        (404, "page not found", False, "unknown: answered 404, page not found"),
        (502, "", False, "unknown: answered 502"),
    ],
)
def test_an_answer_proves_a_refusal_only_where_r2r_said_it(
    code: int, said: str, ok: bool, answer: str
) -> None:
    probe = account_answer("it is taken", code, said)
    assert probe.ok is ok
    assert probe.answer.startswith(answer)


def test_the_doctor_has_no_check_of_what_this_stack_has_not(team: Team) -> None:
    remote: Any = None
    checks = [each.id for each in developer_checks(team.environment, remote)]
    assert checks == ["developers.access", "developers.expiry", "developers.tokens"]
