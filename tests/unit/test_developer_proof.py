"""Whether somebody is really gone: each way in is tried, and what cannot be tried is not proven."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import live_rules
import pytest
from people_lab import BOB, BOB_TOKEN, EVE, LATER, environment, fingerprint, host_of
from pydantic import SecretStr

from ops.developers import proof, show
from ops.developers.proof import Probe, judged, login_answer, without
from ops.developers.qdrant import REVOKED, token_answer
from ops.developers.reality import Account, Connection, HostKey, Reality, Token, reality_of
from ops.errors import UnreachableError
from ops.render.files import ROOT
from ops.settings import Environment
from ops.settings.rights import id_of, value_of

sys.path.insert(0, str(ROOT / "tests" / "contract"))
from stand_in_process import StandIn, make

WITH_BOB = environment()
GONE = host_of(without(WITH_BOB, "bob"))


def probes(host: Reality, before: Environment = WITH_BOB) -> dict[str, Probe]:
    return {each.what: each for each in judged(before, "bob", host)}


def bad(host: Reality, before: Environment = WITH_BOB) -> dict[str, str]:
    return {what: each.answer for what, each in probes(host, before).items() if not each.ok}


def with_rules(before: Environment, *rules: str) -> Reality:
    facts = {"values": {"firewall": live_rules.live(without(before, "bob").settings, rules)}}
    return replace(GONE, tables=reality_of(facts).tables)


def test_of_somebody_gone_every_way_in_is_named_with_its_answer() -> None:
    found = probes(GONE)
    assert all(each.ok for each in found.values()), bad(GONE)
    assert {
        "198.51.100.128/25 reaches port 22",
        "198.51.100.128/25 reaches port 443",
        "2001:db8:b0b::/48 reaches port 22",
        "2001:db8:b0b::/48 reaches port 443",
        "a connection from 198.51.100.128/25 is open",
        "a connection from 2001:db8:b0b::/48 is open",
        "the account dev-bob can be used",
        "a key opens dev-bob from anywhere",
        f"the key {fingerprint(BOB)} opens an account",
        "Qdrant honours a token of bob",
    } == set(found)
    assert all(each.answer.startswith("no") for each in found.values())


def test_of_somebody_who_is_still_there_no_probe_passes() -> None:
    there = replace(host_of(WITH_BOB), connections=(Connection("198.51.100.130", 443, 2),))
    failed = bad(there)
    assert set(probes(there)) - set(failed) == {"a connection from 2001:db8:b0b::/48 is open"}
    assert (
        "by -A ufw-user-input -s 198.51.100.128/25" in failed["198.51.100.128/25 reaches port 22"]
    )
    assert failed["a connection from 198.51.100.128/25 is open"] == (
        "yes: 2 from 198.51.100.130 to port 443"
    )


@pytest.mark.parametrize(
    "rule",
    [
        "-A ufw-user-input -s 198.51.100.130/32 -p tcp -m tcp --dport 22 -j ACCEPT",
        "-A INPUT -s 198.51.100.0/24 -p tcp -m tcp --dport 22 -j ACCEPT",
        "-A ufw6-user-input -s 2001:db8:b0b:1::/64 -p tcp -m tcp --dport 22 -j ACCEPT",
        "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT",
    ],
)
def test_a_rule_that_lets_in_any_part_of_an_address_is_found(rule: str) -> None:
    (failed,) = bad(with_rules(WITH_BOB, rule)).values()
    assert failed == f"yes, by {rule}"


def test_an_address_that_somebody_else_has_stays_open_and_is_told() -> None:
    shared = {
        "bob": {"addresses": ["198.51.100.130"], "shares_address": True, "keys": [BOB]},
        "carol": {"addresses": ["198.51.100.128/25"]},
    }
    before = environment(developers=shared)
    host = replace(
        host_of(without(before, "bob")), connections=(Connection("198.51.100.130", 443, 1),)
    )
    found = probes(host, before)
    assert bad(host, before) == {}
    door = found["198.51.100.130 reaches port 443"]
    assert door.answer == "yes, and it stays open: 198.51.100.128/25 (carol) is listed"
    connection = found["a connection from 198.51.100.130 is open"]
    assert connection.answer == "1 from 198.51.100.130 to port 443: an address of carol, too"


def test_an_ssh_that_is_open_to_the_world_is_told() -> None:
    before = environment(ssh={"open_to_world": True})
    host = host_of(without(before, "bob"))
    assert bad(host, before) == {}
    door = probes(host, before)["2001:db8:b0b::/48 reaches port 22"]
    assert door.answer == "yes, and it stays open: ::/0 (open to the world) is listed"


@pytest.mark.parametrize(
    ("account", "sessions", "passes"),
    [
        (None, {}, True),
        (None, {"dev-bob": 1}, False),
        (Account("dev-bob", 1500, False, False, True), {}, False),
        (Account("dev-bob", 1500, False, False, True, locked=True), {}, False),  # keys still work
        (
            Account("dev-bob", 1500, False, False, True, locked=True, ends=date(1970, 1, 2)),
            {},
            True,
        ),
        (
            Account(
                "dev-bob", 1500, False, False, True, locked=True, ends=date(1970, 1, 2), processes=1
            ),
            {},
            False,
        ),
    ],
)
def test_an_account_is_gone_or_shut_and_nothing_runs_as_it(
    account: Account | None, sessions: dict[str, int], passes: bool
) -> None:
    assert GONE.accounts is not None
    accounts = (*GONE.accounts, *([account] if account else []))
    host = replace(GONE, accounts=accounts, sessions=sessions)
    assert probes(host)["the account dev-bob can be used"].ok is passes


def test_a_key_and_a_token_that_stay_anywhere_are_found() -> None:
    assert GONE.keys is not None
    # one that the file never had, in the file of an account that is gone
    left = HostKey("", "/etc/ssh/stackroom-keys/dev-bob", fingerprint(EVE))
    failed_ones = bad(replace(GONE, keys=(*GONE.keys, left)))
    assert list(failed_ones) == ["a key opens dev-bob from anywhere"]
    assert "/etc/ssh/stackroom-keys/dev-bob" in failed_ones["a key opens dev-bob from anywhere"]
    key = HostKey("root", "/root/.ssh/authorized_keys2", fingerprint(BOB))
    (failed,) = bad(replace(GONE, keys=(*GONE.keys, key))).values()
    assert failed == "yes: /root/.ssh/authorized_keys2"
    # by its id under another's name, and by the name under another id
    for token in (Token(BOB_TOKEN, "carol"), Token("another", "bob")):
        (failed,) = bad(replace(GONE, tokens=(token,))).values()
        assert failed == f"yes: {token.id}"


@pytest.mark.parametrize(
    ("part", "fields", "count"),
    [
        ("firewall", {"tables": None}, 4),
        ("connections", {"connections": None}, 2),
        ("accounts", {"accounts": None, "sessions": None}, 1),
        ("keys", {"keys": None}, 2),
        ("tokens", {"tokens": None}, 1),
    ],
)
def test_a_probe_that_cannot_be_made_is_unknown_and_proves_nothing(
    part: str, fields: Any, count: int
) -> None:
    failed = bad(replace(GONE, **fields, unknown={part: "no such tool"}))
    assert list(failed.values()) == ["unknown: no such tool"] * count


# --- the login, as OpenSSH 9.2 tells of it

OFFER = "debug1: Offering public key: /tmp/0.pub ED25519 SHA256:CxTyfeRPAP4veTqR2Rm0QJ4h explicit\n"
DENIED = "dev-bob@192.0.2.1: Permission denied (publickey).\n"
TAKEN = "debug1: Server accepts key: /tmp/0.pub ED25519 SHA256:CxTyfeRPAP4veTqR2Rm0QJ4h explicit\n"


@pytest.mark.parametrize(
    ("keys", "code", "said", "passes", "answer"),
    [
        (1, 255, OFFER + DENIED, True, "no: refused here, with 1 keys of theirs offered"),
        (0, 255, DENIED, True, "no: refused here, with 0 keys of theirs offered"),
        # without the private half it goes no further, and it is far enough
        (1, 255, OFFER + TAKEN + "Load key: bad permissions\n" + DENIED, False, "yes: sshd takes"),
        (1, 0, OFFER, False, "yes: it logged in"),
        (1, 1, "Authenticated to 192.0.2.1 using \"publickey\".\nThis account is not available\n",
         False, "yes: it logged in"),
        (2, 255, OFFER + DENIED, False, "unknown: 1 of 2 keys were tried"),
        (1, 255, "debug1: x\nssh: connect to host 192.0.2.1 port 22: Connection refused\n", False,
         "unknown: ssh: connect to host 192.0.2.1 port 22: Connection refused"),
        (1, 255, "", False, "unknown: ssh said nothing"),
    ],
)  # fmt: skip
def test_a_login_counts_as_refused_only_where_sshd_refused_every_key(
    keys: int, code: int, said: str, passes: bool, answer: str
) -> None:
    probe = login_answer("dev-bob logs in over SSH from this machine", keys, code, said)
    assert probe.ok is passes
    assert probe.answer.startswith(answer)


def test_the_login_offers_public_keys_alone_in_one_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in the place of ssh writes down what it is given."""
    program = tmp_path / "ssh"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/arguments\n'
        f'for a; do case "$a" in *.pub) cat "$a" >>{tmp_path}/keys;; esac; done\n'
        f'echo once >>{tmp_path}/attempts\necho "{OFFER.strip()}" >&2\n'
        f'echo "{DENIED.strip()}" >&2\nexit 255\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (probe,) = proof._login(replace(WITH_BOB, folder=tmp_path), "bob")
    assert probe == Probe(
        "dev-bob logs in over SSH from this machine",
        "no: refused here, with 1 keys of theirs offered",
        True,
    )
    assert (tmp_path / "keys").read_text().strip() == BOB
    assert (tmp_path / "attempts").read_text() == "once\n"
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert "dev-bob@192.0.2.1" in arguments
    assert "IdentityAgent=none" in arguments and "IdentitiesOnly=yes" in arguments


# --- the token


class Tunnel:
    """A Remote whose tunnel leads to a server of the test's own, or nowhere."""

    def __init__(self, port: int) -> None:
        self.port = port

    @contextlib.contextmanager
    def forward(self, _: int) -> Iterator[int]:
        if not self.port:
            raise UnreachableError("no SSH tunnel as root@192.0.2.1: no route")
        yield self.port


def asked(before: Environment, port: int) -> list[Probe]:
    tunnel: Any = Tunnel(port)
    developer = before.settings.developers["bob"]
    ids = [each for each in (developer.token, developer.retiring) if each]
    return proof.prove_refused(before, "bob", ids, tunnel)


def in_tunnel_mode(key: str, **bob: Any) -> Environment:
    base = {"addresses": ["198.51.100.130"], "collections": ["books"], "expires": LATER}
    before = environment(
        developers={"bob": {**base, "token": BOB_TOKEN, **bob}}, edge={"mode": "tunnel"}
    )
    secrets = before.settings.secrets.model_copy(update={"qdrant_api_key": SecretStr(key)})
    return replace(before, settings=before.settings.model_copy(update={"secrets": secrets}))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    started = make(tmp_path_factory.mktemp("qdrant"), "k" * 40)
    started.start()
    put = httpx.Client(base_url=started.url, headers={"api-key": started.key}).put
    put("/collections/stackroom_access", json={"vectors": {}}).raise_for_status()
    put("/collections/books", json={"vectors": {"size": 4, "distance": "Cosine"}})
    yield started
    started.stop()


def set_points(server: StandIn, *values: str) -> None:
    points = [
        {"id": id_of(each), "vector": {}, "payload": {"token": each, "developer": "bob"}}
        for each in values
    ]
    client = httpx.Client(base_url=server.url, headers={"api-key": server.key})
    where = "/collections/stackroom_access/points"
    client.post(f"{where}/delete?wait=true", json={"filter": {}}).raise_for_status()
    if points:
        client.put(f"{where}?wait=true", json={"points": points}).raise_for_status()


RETIRING = "00000000-0000-4000-8000-00000000000a"


def test_tokens_are_tried_on_the_server_itself(server: StandIn) -> None:
    before = in_tunnel_mode(server.key, retiring=RETIRING)
    set_points(server, value_of(before.settings, before.settings.developers["bob"], BOB_TOKEN))
    live, retired = asked(before, server.http_port)
    assert (live.ok, live.answer) == (False, "yes: answered 200")
    assert (retired.ok, retired.answer) == (True, f"no: answered 401, {REVOKED}")
    set_points(server)
    assert [each.ok for each in asked(before, server.http_port)] == [True, True]
    assert BOB_TOKEN not in " ".join(each.what for each in asked(before, server.http_port))


def test_of_the_expired_it_is_the_revocation_that_is_proven(server: StandIn) -> None:
    """A token that is past its day would be refused for that alone."""
    before = in_tunnel_mode(server.key, expires=date(2026, 1, 1))
    set_points(server, value_of(before.settings, before.settings.developers["bob"], BOB_TOKEN))
    assert [each.answer for each in asked(before, server.http_port)] == ["yes: answered 200"]
    set_points(server)
    (probe,) = asked(before, server.http_port)
    assert (probe.ok, probe.answer) == (True, f"no: answered 401, {REVOKED}")


def test_with_another_key_than_the_servers_nothing_is_proven_of_a_live_token(
    server: StandIn,
) -> None:
    """Somebody rotated the server's key, and the secrets.toml at hand is from before."""
    before = in_tunnel_mode("z" * 40)
    set_points(server, value_of(before.settings, before.settings.developers["bob"], BOB_TOKEN))
    (probe,) = asked(before, server.http_port)
    assert not probe.ok
    told = "unknown: answered 403, InvalidSignature; has secrets.toml the key of now?"
    assert probe.answer == told


@pytest.mark.parametrize(
    ("code", "said", "passes", "answer"),
    [
        (401, REVOKED, True, f"no: answered 401, {REVOKED}"),
        (403, REVOKED, True, f"no: answered 403, {REVOKED}"),  # the whole collection is gone
        (200, '{"result": {}}', False, "yes: answered 200"),
        (200, REVOKED, False, "yes: answered 200"),
        (403, "ExpiredSignature", False, "unknown: answered 403, ExpiredSignature"),
        (401, "Invalid API key or JWT", False, "unknown: answered 401, Invalid API key or JWT"),
        (401, f"{REVOKED}!", False, f"unknown: answered 401, {REVOKED}!"),
        (403, "", False, "unknown: answered 403"),
        (403, "<html>\n</html>", False, "unknown: answered 403"),
        (401, "x" * 81, False, "unknown: answered 401"),
        (503, REVOKED, False, f"unknown: answered 503, {REVOKED}"),
    ],
)
def test_a_token_is_gone_only_in_the_words_of_the_server(
    code: int, said: str, passes: bool, answer: str
) -> None:
    assert token_answer("t", code, said) == Probe("t", answer, passes)


@pytest.mark.parametrize("port", [0, 9])
def test_a_token_that_could_not_be_shown_is_unknown(port: int, server: StandIn) -> None:
    (probe,) = asked(in_tunnel_mode(server.key), port)
    assert not probe.ok
    assert probe.answer.startswith("unknown: ")


# --- the words


def test_the_first_line_of_a_proof() -> None:
    good, wrong = Probe("a", "no", True), Probe("b", "unknown: no such tool", False)
    name = "a-name-of-28-characters-long"
    assert show.proof_line(name, [good, good]) == f"GONE: 2 of 2 probes find nothing left of {name}"
    assert show.proof_line(name, [good, wrong]).startswith("NOT PROVEN: 1 of 2 probes")
    assert len(show.proof_line(name, [wrong] * 100)) < 80
    # nothing that was asked proves nothing
    assert not show.proof_line(name, []).startswith("GONE")
