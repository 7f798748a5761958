"""Developers in a real R2R: let in, changed, renewed and shut out; what they hold ends at once.

What came of it is asked over plain HTTP, and Postgres is looked at as on a host.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from pydantic import SecretStr
from r2r_live import PROJECT, R2rStack

from ops.clients.r2r import R2R, Login
from ops.clients.ssh import Completed
from ops.developers.accounts import accounts_of
from ops.developers.audit_words import Difference
from ops.developers.kit import make_kit, write_kit
from ops.developers.r2r import names
from ops.developers.reality import Reality, program, reality_of
from ops.errors import SettingsError
from ops.settings import Environment, Machine, Settings
from ops.settings.people import Developer
from ops.settings.r2r import R2R as R2RSettings

pytestmark = pytest.mark.slow

OPERATOR = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICrKKM31PmHQ+9XR/FI+5ywIg4+difWnVlW0GWcd00tb anna"
SECRET = "k" * 32
PASSWORDS = (
    *("secret_key", "admin_password", "postgres_password", "hatchet_postgres_password"),
    *("hatchet_admin_password", "rabbitmq_password"),
)


@dataclass
class Host:
    """The stack in the place of a Remote's machine."""

    stack: R2rStack

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[int]:
        assert port == 7272
        yield int(self.stack.url.rsplit(":", 1)[1])

    def run(self, command: str, *, stdin: str = "", timeout: float = 30) -> Completed:
        there = command.replace("stackroom-postgres-1", self.stack.container("postgres"))
        done = subprocess.run(
            ["sh", "-c", there], input=stdin, capture_output=True, text=True, timeout=timeout
        )
        return Completed(done.returncode, done.stdout, done.stderr)


@dataclass
class Team:
    """The developers of a file, and the real server."""

    stack: R2rStack
    people: dict[str, tuple[str, list[str]]]
    strangers: frozenset[Difference] = frozenset()  # of other tests on the same server

    def environment(self) -> Environment:
        secrets = dict.fromkeys(("qdrant_api_key", "api_token", "restic_password"), SECRET)
        own = dict.fromkeys(PASSWORDS, SECRET) | {"litellm_master_key": f"sk-{SECRET}"}
        settings = Settings.model_validate(
            {
                "operators": {"anna": {"addresses": ["198.51.100.20"], "keys": [OPERATOR]}},
                "secrets": {**secrets, "r2r": own},
                "edge": {"mode": "tunnel"},
            }
        )
        assert settings.secrets.r2r
        real = {
            "secret_key": SecretStr(self.stack.secrets.r2r_secret_key),
            "admin_password": SecretStr(self.stack.secrets.admin_password),
        }
        of_r2r = settings.secrets.r2r.model_copy(update=real)
        changes = {
            "stack": "r2r",
            "r2r": R2RSettings(project=PROJECT, admin_email=self.stack.admin_email),
            "secrets": settings.secrets.model_copy(update={"r2r": of_r2r}),
            "developers": {
                name: Developer(
                    addresses=["203.0.113.9/32"],
                    keys=[OPERATOR],
                    collections=collections,
                    expires=date(2990, 1, 1),
                    token=token,
                )
                for name, (token, collections) in self.people.items()
            },
        }
        return Environment(Path("team"), settings.model_copy(update=changes), Machine("192.0.2.1"))

    def settle(self) -> list[str]:
        """What was done."""
        environment, told = self.environment(), list[str]()
        accounts = accounts_of(environment.settings)
        done = accounts.settle(
            environment, as_remote(self.stack), lambda step, _: told.append(step)
        )
        assert done == told
        return done

    def pending(self) -> list[str]:
        environment = self.environment()
        return accounts_of(environment.settings).pending(environment, as_remote(self.stack))

    def email(self, name: str) -> str:
        return names.email_of(name, self.people[name][0])

    def secret(self, name: str) -> str:
        settings = self.environment().settings
        return accounts_of(settings).secret(settings, name).get_secret_value()

    def login(self, name: str) -> httpx.Response:
        return login(self.stack, self.email(name), self.secret(name))

    def differences(self) -> list[Difference]:
        environment = self.environment()
        found = accounts_of(environment.settings).differences(
            environment.settings, look(self.stack)
        )
        return [each for each in found if each not in self.strangers]


def as_remote(stack: R2rStack) -> Any:
    return Host(stack)


def login(stack: R2rStack, email: str, password: str) -> httpx.Response:
    form = {"username": email, "password": password}
    return httpx.post(f"{stack.url}/v3/users/login", data=form, timeout=60)


def tokens(answer: httpx.Response) -> tuple[str, str]:
    found = answer.raise_for_status().json()["results"]
    return found["access_token"]["token"], found["refresh_token"]["token"]


def asked(stack: R2rStack, path: str, token: str, **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.request(
        more.pop("method", "GET"), stack.url + path, headers=headers, timeout=60, **more
    )


def shared_with(stack: R2rStack, token: str) -> list[dict[str, Any]]:
    answer = asked(stack, "/v3/collections?limit=1000", token).raise_for_status()
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def collections(stack: R2rStack, token: str) -> set[str]:
    return {each["name"] for each in shared_with(stack, token)}


def look(stack: R2rStack) -> Reality:
    """What the program for a host prints here; of its parts, only R2R's users are meant."""
    question = {"stack": "r2r", "schema": PROJECT, "postgres": stack.container("postgres")}
    done = subprocess.run(
        ["python3", "-", json.dumps(question)],
        input=program(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = reality_of(json.loads(done.stdout), stack="r2r")
    assert found.users is not None, found.unknown
    return found


@pytest.fixture
def team(r2r: R2rStack) -> Iterator[Team]:
    there = Team(r2r, {}).differences()
    made = Team(r2r, {"dora": (str(uuid.uuid4()), ["notes"])}, frozenset(there))
    yield made
    made.people.clear()
    made.settle()


def test_one_who_is_added_logs_in_and_sees_the_collections_of_the_file_alone(
    r2r: R2rStack, team: Team
) -> None:
    team.people["bob"] = (str(uuid.uuid4()), ["papers"])
    assert {each.text for each in team.differences()} >= {
        f"there is no R2R user {team.email('dora')}"
    }
    expected = team.pending()
    assert team.settle() == expected != []
    assert team.pending() == [] == team.differences()
    access, _ = tokens(team.login("dora"))
    assert collections(r2r, access) == {"notes", "Default"}
    me = asked(r2r, "/v3/users/me", access).json()["results"]
    assert (me["is_superuser"], me["is_verified"], me["name"]) == (False, True, "dora")
    assert me["id"] == str(names.user_id("dora"))
    other, _ = tokens(team.login("bob"))
    assert collections(r2r, other) == {"papers", "Default"}
    # what dora adds to the shared one is found by its members alone
    shared = {
        each["name"]: each["id"] for each in asked(r2r, "/v3/collections", access).json()["results"]
    }
    made = asked(
        r2r,
        "/v3/documents",
        access,
        method="POST",
        data={
            # R2R takes the same text of a user for the same document
            "chunks": json.dumps([f"The reading room has door {uuid.uuid4()}."]),
            "collection_ids": json.dumps([shared["notes"]]),
        },
    )
    assert made.is_success, made.text
    document = made.json()["results"]["document_id"]
    assert asked(r2r, f"/v3/documents/{document}", other).status_code == 404
    # another list of collections is another membership, and the same account
    team.people["bob"] = (team.people["bob"][0], ["notes"])
    team.settle()
    assert collections(r2r, other) == {"notes", "Default"}
    assert asked(r2r, f"/v3/documents/{document}", other).status_code == 200
    # who is removed leaves their documents to the team, and finds them where they come back
    dora = team.people.pop("dora")
    team.settle()
    assert asked(r2r, f"/v3/documents/{document}", other).status_code == 200
    team.people["dora"] = (str(uuid.uuid4()), dora[1])
    team.settle()
    again, _ = tokens(team.login("dora"))
    assert asked(r2r, f"/v3/documents/{document}", again, method="DELETE").is_success


def test_who_is_removed_is_refused_at_once_with_all_that_they_hold(
    r2r: R2rStack, team: Team
) -> None:
    team.settle()
    access, refresh = tokens(team.login("dora"))
    path = f"/v3/users/{names.user_id('dora')}/api-keys"
    key = asked(r2r, path, access, method="POST", json={}).json()["results"]["api_key"]
    held = {"x-api-key": key}
    me = f"{r2r.url}/v3/users/me"
    assert httpx.get(me, headers=held, timeout=60).status_code == 200
    before = team.environment()
    token, secret, email = team.people["dora"][0], team.secret("dora"), team.email("dora")
    accounts = accounts_of(before.settings)
    live = accounts.refused(before, "dora", [token], as_remote(r2r))
    assert [each.answer for each in live] == ["yes: answered 200"] * 2
    team.people.clear()
    team.settle()
    assert login(r2r, email, secret).status_code == 404
    assert asked(r2r, "/v3/users/me", access).status_code == 401
    assert httpx.get(me, headers=held, timeout=60).status_code == 401
    # R2R renews a token without looking for its user; what it gives opens nothing
    renewed = httpx.post(f"{r2r.url}/v3/users/refresh-token", json=refresh, timeout=60)
    assert asked(r2r, "/v3/users/me", tokens(renewed)[0]).status_code == 401
    gone = [
        *accounts.refused(before, "dora", [token], as_remote(r2r)),
        *accounts.gone(before.settings.developers["dora"], "dora", look(r2r)),
    ]
    assert [each.ok for each in gone] == [True] * 3, gone
    # nor does it when they are let in again
    team.people["dora"] = (str(uuid.uuid4()), ["notes"])
    team.settle()
    assert asked(r2r, "/v3/users/me", access).status_code == 401
    assert asked(r2r, "/v3/users/me", tokens(renewed)[0]).status_code == 401


@pytest.mark.parametrize("changed", [False, True], ids=["kept", "of-their-own"])
def test_a_rotation_ends_password_tokens_and_keys_and_keeps_the_user(
    r2r: R2rStack, team: Team, changed: bool
) -> None:
    team.settle()
    access, refresh = tokens(team.login("dora"))
    secret, email, token = team.secret("dora"), team.email("dora"), team.people["dora"][0]
    own = asked(
        r2r, "/v3/collections", access, method="POST", json={"name": f"dora's {uuid.uuid4()}"}
    ).json()["results"]
    text = {"raw_text": (None, f"a note of dora's, {uuid.uuid4()}")}
    made = asked(r2r, "/v3/documents", access, method="POST", files=text)
    document = made.json()["results"]["document_id"]
    path = f"/v3/users/{names.user_id('dora')}/api-keys"
    key = asked(r2r, path, access, method="POST", json={}).json()["results"]["api_key"]
    if changed:  # they may, or somebody who has their password
        with R2R(r2r.url, Login(email, SecretStr(secret))) as mine:
            mine.users.change_password(SecretStr("another-password-of-mine"))
        with pytest.raises(SettingsError, match="refuses"):
            accounts_of(team.environment().settings).ready(
                team.environment(), "dora", as_remote(r2r), present=True
            )
    team.people["dora"] = (str(uuid.uuid4()), ["notes"])
    (told,) = [each.text for each in team.differences()]
    assert told == f"R2R lets in {email}, and the file says {team.email('dora')}"
    (done,) = [step for step in team.settle() if "becomes" in step and "@" in step]
    assert "tokens and API keys end" in done
    probes = accounts_of(team.environment().settings).refused(
        team.environment(), "dora", [token], as_remote(r2r)
    )
    assert [each.ok for each in probes] == [True, True]
    assert login(r2r, email, secret).status_code == 404
    assert asked(r2r, "/v3/users/me", access).status_code == 401
    renewed = httpx.post(f"{r2r.url}/v3/users/refresh-token", json=refresh, timeout=60)
    assert asked(r2r, "/v3/users/me", tokens(renewed)[0]).status_code == 401
    key_only = httpx.get(f"{r2r.url}/v3/users/me", headers={"x-api-key": key}, timeout=60)
    assert key_only.status_code == 401
    now, _ = tokens(team.login("dora"))
    assert collections(r2r, now) == {"notes", "Default", own["name"]}
    (first,) = [each["id"] for each in shared_with(r2r, now) if each["name"] == "Default"]
    inside = asked(r2r, f"/v3/collections/{first}/documents", now).json()["results"]
    assert document in [each["id"] for each in inside]
    assert asked(r2r, f"/v3/collections/{own['id']}", now, method="DELETE").is_success


def test_a_rotation_that_broke_off_is_finished(r2r: R2rStack, team: Team) -> None:
    """After the new password, and before the new address."""
    team.settle()
    old, secret = team.email("dora"), team.secret("dora")
    team.people["dora"] = (str(uuid.uuid4()), ["notes"])
    with R2R(r2r.url, Login(old, SecretStr(secret))) as mine:
        mine.users.change_password(SecretStr(team.secret("dora")))
    team.settle()
    assert team.login("dora").status_code == 200


def test_what_somebody_did_in_r2r_by_hand_is_found(r2r: R2rStack, team: Team) -> None:
    team.settle()
    email = f"eve-{uuid.uuid4().hex[:6]}@example.com"
    with r2r.client() as admin:
        body = {"email": email, "password": "a-password-of-eve"}
        eve = admin.post("/v3/users", json=body).raise_for_status().json()["results"]["id"]
        try:
            dora = names.user_id("dora")
            path = f"/v3/users/{dora}"
            admin.post(path, json={"is_superuser": True}).raise_for_status()
            found = team.differences()
            assert (
                Difference(
                    "",
                    f"R2R has a user {email}, and the file does not have it",
                    True,
                    applies=False,
                    slight=True,
                )
                in found
            )
            assert (
                Difference(
                    "dora",
                    f"R2R's user {team.email('dora')} is a superuser, who may do everything",
                    True,
                )
                in found
            )
            assert len(found) == 2
            (row,) = [
                each
                for each in accounts_of(team.environment().settings).strangers(
                    team.environment().settings, look(r2r)
                )
                if not each.listed and email in each.account
            ]
            assert (row.who, row.account, row.rights) == ("?", f"R2R {email}", "member")
            # an apply takes the power, and leaves to a person who is not of the file
            assert [each for each in team.settle() if "superuser" in each]
            assert [each.applies for each in team.differences()] == [False]
            admin.post(f"/v3/users/{eve}", json={"is_superuser": True}).raise_for_status()
            assert [each.text for each in team.differences()] == [
                f"R2R has a user {email}, a superuser, who may do everything, and the file does"
                " not have it"
            ]
        finally:
            admin.delete(f"/v3/users/{eve}").raise_for_status()


def test_the_kit_works_as_it_is(r2r: R2rStack, team: Team, tmp_path: Path) -> None:
    team.settle()
    environment = team.environment()
    secret = SecretStr(team.secret("dora"))
    made = make_kit(environment, "dora", host_keys=f"192.0.2.1 {OPERATOR}", secret=secret)
    port = r2r.url.rsplit(":", 1)[1]
    for name, text in made.files.items():
        made.files[name] = text.replace("127.0.0.1:7272", f"127.0.0.1:{port}")
    folder = tmp_path / "kit"
    write_kit(made, folder)
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=folder, env=bare, capture_output=True, text=True, timeout=120
        )

    checked = run("sh", "check.sh")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.splitlines() == [
        f"ok      logged in as {team.email('dora')}",
        "ok      notes",
    ]
    shown = run(sys.executable, "example.py")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("notes: ")
    said = run("sh", "-c", '. ./env.sh && echo "$R2R_BASE_URL $R2R_EMAIL $R2R_PASSWORD"')
    told = f"http://127.0.0.1:{port} {team.email('dora')} {secret.get_secret_value()}\n"
    assert (said.returncode, said.stdout) == (0, told)
    everything = "".join(text for name, text in made.files.items() if name != "password")
    assert secret.get_secret_value() not in everything
    assert "qdrant" not in everything.lower()
    # the account has ended
    team.people["dora"] = (str(uuid.uuid4()), ["notes"])
    team.settle()
    ended = run("sh", "check.sh")
    assert ended.returncode == 1
    assert "ask for a new kit" in ended.stderr


def test_ids_are_made_as_r2r_makes_them_and_its_key_signs_its_tokens(
    r2r: R2rStack, team: Team
) -> None:
    """Both are relied on: for who comes back, and for the proof that a token is refused."""
    team.settle()
    claims = {"sub": team.email("dora"), "token_type": "access", "exp": time.time() + 60}
    signed = jwt.encode(claims, r2r.secrets.r2r_secret_key, "HS256")
    me = asked(r2r, "/v3/users/me", signed).json()["results"]
    assert me["id"] == str(names.user_id("dora"))


def test_r2r_itself_gives_nobody_an_address_that_is_free(r2r: R2rStack, team: Team) -> None:
    """Why its database is told. Where this ends, its own way is the better one."""
    team.settle()
    with r2r.client() as admin:
        path = f"/v3/users/{names.user_id('dora')}"
        answer = admin.post(path, json={"email": names.email_of("dora", str(uuid.uuid4()))})
    assert answer.status_code == 404, answer.text
    assert team.login("dora").status_code == 200
