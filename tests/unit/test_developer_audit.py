"""Who can reach what: the host as it really is against the file, in both directions."""

from __future__ import annotations

import io
import ipaddress
import json
from dataclasses import replace
from datetime import date
from typing import Any

import live_rules
import pytest
from hypothesis import given
from hypothesis import strategies as st
from people_lab import (
    ANNA,
    BOB,
    BOB_TOKEN,
    EVE,
    LATER,
    NOW,
    SSHD,
    environment,
    fingerprint,
    host_of,
)
from rich.console import Console

from ops.developers import show
from ops.developers.audit import Audit, audit
from ops.developers.audit_words import Visit
from ops.developers.reach import Table, networks_of, passing, spans_of, union, without
from ops.developers.reality import Account, HostKey, LastSeen, Reality, reality_of
from ops.settings import Machine


def told(found: Audit) -> list[tuple[str, bool, str]]:
    return [(each.person, each.reaches, each.text) for each in found.differences]


def only(found: Audit) -> tuple[str, bool, str]:
    assert len(found.differences) == 1, told(found)
    return told(found)[0]


def rows(found: Audit, who: str) -> list[Any]:
    return [row for row in found.rows if row.who == who]


def test_a_host_as_the_file_says_is_in_step() -> None:
    lab = environment()
    found = audit(lab, host_of(lab), NOW)
    assert told(found) == []
    assert found.exit_code == 0
    bob, bob6 = rows(found, "bob")
    assert (bob.source, bob6.source) == ("198.51.100.128/25", "2001:db8:b0b::/48")
    assert bob.ports == bob6.ports == (22, 443)
    assert (bob.account, bob.collections, bob.rights) == ("dev-bob", ("books", "shelf"), "write")
    assert (bob.expires, bob.seen) == (LATER, Visit(NOW))
    (carol,) = rows(found, "carol")
    assert (carol.account, carol.collections, carol.rights) == ("", ("shelf",), "read")
    assert carol.seen == Visit(None)
    (dave,) = rows(found, "dave")
    assert (dave.ports, dave.collections, dave.rights) == ((22, 443), (), "no token")
    assert {row.account for row in rows(found, "anna")} == {"stackroom"}
    assert show.first_line(found).startswith("IN STEP: the host lets in the 4 people")


@pytest.mark.parametrize(
    "changes",
    [
        {"ssh": {"open_to_world": True}},
        {"edge": {"mode": "tunnel"}},
        {"edge": {"mode": "acme", "domain": "a.example.com", "email": "a@example.com"}},
        {"api": {"image": "example/api:1"}},
        {"developers": {"wide": {"addresses": ["0.0.0.0/0", "::/0"], "anywhere": True}}},
        {"developers": {"old": {"addresses": ["203.0.113.9"], "expires": date(2020, 1, 1)}}},
    ],
)
def test_whatever_the_settings_the_rules_they_ask_for_are_no_difference(changes: Any) -> None:
    lab = environment(**changes)
    assert told(audit(lab, host_of(lab), NOW)) == []


@pytest.mark.parametrize(
    ("rule", "source", "ports"),
    [
        (
            "-A STACKROOM-IN -s 203.0.113.66/32 -p tcp -m conntrack --ctorigdstport 443"
            " --ctdir ORIGINAL -j RETURN",
            "203.0.113.66/32",
            (443,),
        ),
        (
            "-A STACKROOM-IN -s 2001:db8:66::/48 -p tcp -m conntrack --ctorigdstport 443"
            " --ctdir ORIGINAL -j RETURN",
            "2001:db8:66::/48",
            (443,),
        ),
        ("-A DOCKER-USER -s 203.0.113.66/32 -j ACCEPT", "203.0.113.66/32", (443,)),
        ("-A FORWARD -s 203.0.113.66/32 -j ACCEPT", "203.0.113.66/32", (443,)),
        ("-A INPUT -s 203.0.113.66/32 -j ACCEPT", "203.0.113.66/32", (22,)),
        (
            "-A ufw6-user-input -s 2001:db8:66::66/128 -p tcp -m tcp --dport 22 -j ACCEPT",
            "2001:db8:66::66/128",
            (22,),
        ),
        (
            "-A ufw-user-input -s 203.0.113.66/32 -p tcp -m tcp --dport 22 -j"
            " ufw-user-limit-accept",
            "203.0.113.66/32",
            (22,),
        ),
        (
            "-A INPUT -s 203.0.113.66/32 -i eth0 -p tcp -m tcp --dport 22 -j ACCEPT",
            "203.0.113.66/32",
            (22,),
        ),
        (
            "-A INPUT -p tcp -m iprange --src-range 203.0.113.60-203.0.113.66 -m multiport"
            " --dports 22,5432 -j ACCEPT",
            "203.0.113.60-203.0.113.66",
            (22, 5432),
        ),
        ("-A INPUT ! -s 10.0.0.0/8 -p tcp -j ACCEPT", "all but 10.0.0.0/8", (22,)),
        ("-A INPUT -m conntrack --ctstate NEW -j ACCEPT", "0.0.0.0/0", (22,)),
    ],
)
def test_whoever_a_rule_lets_in_by_hand_is_in_the_table(
    rule: str, source: str, ports: tuple[int, ...]
) -> None:
    lab = environment()
    found = audit(lab, host_of(lab, rule), NOW)
    (row,) = (row for row in found.rows if not row.listed)
    assert (row.source, row.ports) == (source, ports)
    assert found.exit_code == 2
    assert all(each.reaches for each in found.differences)
    assert rule in " ".join(each.text for each in found.differences)
    # what stands in UFW's or Docker's own chains is a person's to take out
    assert found.differences[0].applies is not rule.startswith("-A INPUT")


def test_a_rule_behind_the_drop_opens_nothing_and_is_told_all_the_same() -> None:
    lab = environment()
    rule = "-A STACKROOM-IN -s 203.0.113.66/32 -p tcp -j RETURN"
    found = audit(lab, host_of(lab, last=(rule,)), NOW)
    assert [row for row in found.rows if not row.listed] == []
    assert only(found)[2] == f"a rule that is not ours (v4): {rule}"


def test_a_source_wider_than_declared_is_told_of_whom_it_holds() -> None:
    lab = environment()
    rule = (
        "-A STACKROOM-IN -s 203.0.113.0/27 -p tcp -m conntrack --ctorigdstport 443"
        " --ctdir ORIGINAL -j RETURN"
    )
    found = audit(lab, host_of(lab, rule), NOW)
    person, reaches, text = only(found)
    assert (person, reaches) == ("carol", True)
    assert "203.0.113.0/27 reaches port 443, more than is listed for carol" in text


def test_a_rule_before_ours_that_shuts_somebody_out_is_told() -> None:
    lab = environment()
    found = audit(lab, host_of(lab, "-A STACKROOM-IN -s 203.0.113.9/32 -j DROP"), NOW)
    assert ("carol", False, "203.0.113.9/32 does not reach port 443") in told(found)
    assert rows(found, "carol")[0].ports == (22,)


def test_a_firewall_that_is_off_lets_everybody_in() -> None:
    lab = environment()
    host = host_of(lab)
    assert host.tables
    off = {family: Table({"INPUT": "ACCEPT"}, {}) for family in host.tables}
    found = audit(lab, replace(host, tables=off), NOW)
    strangers = {(row.source, row.ports) for row in found.rows if not row.listed}
    assert strangers == {("0.0.0.0/0", (22, 443)), ("::/0", (22, 443))}


def test_what_opens_at_the_next_boot_is_told_before_it_does() -> None:
    lab = environment()
    rule = "-A ufw-user-input -p tcp --dport 22 -s 203.0.113.66 -j ACCEPT"
    later = reality_of({"values": {"stored": live_rules.stored(lab.settings, [rule])}}).stored
    person, reaches, text = only(audit(lab, replace(host_of(lab), stored=later), NOW))
    assert (person, reaches) == ("", True)
    assert text.startswith("203.0.113.66 reaches port 22 after the next boot, and nobody listed")


def test_somebody_the_file_does_not_have_is_found_whole_and_named() -> None:
    """Another operator has added bob; this checkout is older."""
    lab = environment()
    developers = {name: one for name, one in lab.settings.developers.items() if name != "bob"}
    old = replace(lab, settings=lab.settings.model_copy(update={"developers": developers}))
    found = audit(old, host_of(lab), NOW)
    texts = [each.text for each in found.differences]
    assert {each.person for each in found.differences} == {"bob"}
    assert all(each.reaches for each in found.differences)
    assert found.about_others("bob") == []
    assert found.about_others("carol") == list(found.differences)
    for part in ("198.51.100.128/25", "2001:db8:b0b::/48", "dev-bob", fingerprint(BOB)):
        assert any(part in text for text in texts), part
    assert any(BOB_TOKEN[:8] in text for text in texts)
    assert BOB_TOKEN not in " ".join(texts)


def test_somebody_the_host_does_not_have_is_told_part_by_part() -> None:
    new = environment()
    developers = {n: one for n, one in new.settings.developers.items() if n != "bob"}
    before = replace(new, settings=new.settings.model_copy(update={"developers": developers}))
    found = audit(new, host_of(before), NOW)
    assert {(each.person, each.reaches) for each in found.differences} == {("bob", False)}
    texts = " ".join(each.text for each in found.differences)
    assert "198.51.100.128/25 does not reach ports 22, 443 " in texts
    assert "198.51.100.128/25 does not reach ports 22, 443 after the next boot" in texts
    assert "there is no account dev-bob" in texts
    assert f"the key {fingerprint(BOB)} does not open dev-bob" in texts
    assert "is refused, and the file has it" in texts
    assert rows(found, "bob")[0].ports == ()
    assert rows(found, "bob")[0].rights == "no token"


def test_the_expired_count_as_not_there() -> None:
    lab = environment()
    gone = lab.settings.developers["bob"].model_copy(update={"expires": date(2026, 1, 1)})
    expired = replace(
        lab,
        settings=lab.settings.model_copy(
            update={"developers": lab.settings.developers | {"bob": gone}}
        ),
    )
    found = audit(expired, host_of(lab), NOW)
    assert {(each.person, each.reaches) for each in found.differences} == {("bob", True)}
    assert any("the last day of bob was 2026-01-01" in each.text for each in found.differences)


# --- keys and accounts


def with_key(host: Reality, *more: HostKey) -> Reality:
    assert host.keys is not None
    return replace(host, keys=(*host.keys, *more))


def strange(account: str, path: str = "/root/.ssh/authorized_keys") -> HostKey:
    return HostKey(account, path, fingerprint(EVE), "ssh-ed25519", "eve@laptop")


def test_a_key_of_root_that_nobody_knows_is_reach() -> None:
    lab = environment()
    found = audit(lab, with_key(host_of(lab), strange("root")), NOW)
    person, reaches, text = only(found)
    assert (person, reaches) == ("", True)
    assert fingerprint(EVE) in text and "opens root" in text
    (row,) = (row for row in found.rows if not row.listed)
    assert (row.who, row.rights, row.ports) == ("not in the inventory", "root", (22,))
    assert row.account == "root (eve@laptop)"
    assert not found.differences[0].applies


def test_the_login_of_hosts_py_is_in_the_table_and_no_difference() -> None:
    lab = environment()
    host = replace(with_key(host_of(lab), strange("root")), logins=frozenset({fingerprint(EVE)}))
    found = audit(lab, host, NOW)
    assert told(found) == []
    (row,) = (row for row in found.rows if not row.listed)
    assert (row.who, row.rights) == ("the login of hosts.py", "root")
    elsewhere = with_key(host, strange("postgres", "/var/lib/postgresql/.ssh/authorized_keys"))
    assert only(audit(lab, elsewhere, NOW))[1]


def test_an_operators_key_for_root_is_that_operators_and_a_developers_is_not() -> None:
    lab = environment()
    annas = HostKey("root", "/root/.ssh/authorized_keys", fingerprint(ANNA))
    found = audit(lab, with_key(host_of(lab), annas), NOW)
    assert told(found) == []
    assert rows(found, "anna")[0].account == "stackroom, root"
    bobs = HostKey("root", "/root/.ssh/authorized_keys", fingerprint(BOB))
    person, reaches, text = only(audit(lab, with_key(host_of(lab), bobs), NOW))
    assert (person, reaches) == ("bob", True)
    assert "opens root" in text


def test_keys_of_a_root_that_may_not_log_in_reach_nothing() -> None:
    lab = environment()
    host = with_key(host_of(lab), strange("root"))
    assert host.sshd
    shut = replace(host, sshd={**host.sshd, "root": SSHD | {"permitrootlogin": "no"}})
    found = audit(lab, shut, NOW)
    assert told(found) == []
    assert [row for row in found.rows if not row.listed] == []


@pytest.mark.parametrize(
    ("lost", "gained", "words"),
    [
        ("restrict", "", "lacks restrict"),
        ("from=", "", 'lacks from="198.51.100.128/25,2001:db8:b0b::/48"'),
        ("expiry-time", "", "lacks expiry-time="),
        ("from=", 'from="0.0.0.0/0"', 'has from="0.0.0.0/0"'),
        ("", 'permitopen="127.0.0.1:22"', 'has permitopen="127.0.0.1:22"'),
        ("", "pty", "has pty"),
    ],
)
def test_a_key_line_that_opens_more_than_ours(lost: str, gained: str, words: str) -> None:
    lab = environment()
    host = host_of(lab)
    assert host.keys is not None and host.accounts is not None
    keys = []
    for each in host.keys:
        if each.account == "dev-bob":
            kept = [o for o in each.options if not (lost and o.startswith(lost))]
            each = replace(each, options=(*kept, *([gained] if gained else [])))
        keys.append(each)
    # with an end of its own on the account, the one in the line may be missing: older sshd
    accounts = tuple(
        replace(each, ends=None) if lost == "expiry-time" else each for each in host.accounts
    )
    found = audit(lab, replace(host, keys=tuple(keys), accounts=accounts), NOW)
    texts = [text for person, reaches, text in told(found) if person == "bob" and reaches]
    assert any(words in text for text in texts), told(found)
    same = tuple(k for k in keys)
    ended = audit(lab, replace(host, keys=same), NOW)
    assert bool(ended.differences) is (lost != "expiry-time")


def test_a_key_file_that_outlived_its_account_is_a_trace() -> None:
    lab = environment()
    left = HostKey("", "/etc/ssh/stackroom-keys/dev-gone", fingerprint(EVE))
    person, reaches, text = only(audit(lab, with_key(host_of(lab), left), NOW))
    assert (person, reaches) == ("gone", False)
    assert "/etc/ssh/stackroom-keys/dev-gone" in text


@pytest.mark.parametrize(
    ("account", "person", "words"),
    [
        (Account("dev-gone", 1600, False, False, True, processes=2), "gone", "with 2 processes"),
        (Account("dev-gone", 1600, False, False, False), "gone", "dev-gone is there"),
        (Account("helper", 1700, False, False, True), "", "helper is there"),
        (Account("debian", 1001, True, True, False), "", "debian is root by sudo"),
        (Account("toor", 0, True, False, False), "", "user id 0"),
        (Account("ci", 1002, True, False, False, ("docker",)), "", "the group docker"),
    ],
)
def test_an_account_that_nobody_declared(account: Account, person: str, words: str) -> None:
    lab = environment()
    host = host_of(lab)
    assert host.accounts is not None
    found = only(audit(lab, replace(host, accounts=(*host.accounts, account)), NOW))
    assert found[:2] == (person, True)
    assert words in found[2]


def test_what_a_deploy_leaves_alone_stands_in_nobodys_way() -> None:
    """An administrator's own account, called as developers' are, is not ours to remove."""
    lab = environment()
    host = host_of(lab)
    assert host.accounts is not None
    ops = Account("dev-ops", 1003, True, True, False)
    ours = Account("dev-gone", 1600, False, False, True)
    audited = audit(lab, replace(host, accounts=(*host.accounts, ops, ours)), NOW)
    told_of = {each.text: each.applies for each in audited.differences}
    assert sorted(told_of.values()) == [False, False, True]
    for text, applies in told_of.items():
        assert ("dev-gone" in text) is applies
    assert any("not in stackroom-developers" in text for text in told_of)
    assert any("dev-ops is root by sudo" in text for text in told_of)
    # nor is the login of hosts.py anything to tell
    login = replace(lab, machine=Machine("192.0.2.1", user="dev-ops"))
    assert not audit(login, replace(host, accounts=(*host.accounts, ops)), NOW).differences


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shell": True}, "has a shell"),
        ({"sudo": True}, "has sudo"),
        ({"root_equal": ("docker",)}, "the group docker"),
        ({"password": True}, "a password"),
        ({"developer": False}, "not the group that holds it to tunnels"),
        ({"ends": None}, "never ends"),
        ({"ends": date(2099, 1, 1)}, "ends on 2099-01-01"),
    ],
)
def test_a_developers_account_with_more_than_tunnels(changes: Any, words: str) -> None:
    lab = environment()
    host = host_of(lab)
    assert host.accounts is not None
    accounts = tuple(
        replace(each, **changes) if each.name == "dev-bob" else each for each in host.accounts
    )
    person, reaches, text = only(audit(lab, replace(host, accounts=accounts), NOW))
    assert (person, reaches) == ("bob", True)
    assert words in text


@pytest.mark.parametrize(
    ("account", "changes", "person", "words"),
    [
        ("dev-bob", {"permittty": "yes"}, "bob", "permittty yes"),
        ("dev-bob", {"permitopen": "any"}, "bob", "permitopen any"),
        ("dev-bob", {"authorizedkeysfile": ".ssh/authorized_keys"}, "bob", "authorizedkeysfile"),
        ("root", {"trustedusercakeys": "/etc/ssh/ca.pub"}, "", "trustedusercakeys /etc/ssh/ca"),
        ("root", {"authorizedkeyscommand": "/bin/keys"}, "", "authorizedkeyscommand /bin/keys"),
    ],
)
def test_an_sshd_that_lets_in_more(account: str, changes: Any, person: str, words: str) -> None:
    lab = environment()
    host = host_of(lab)
    assert host.sshd
    sshd = {**host.sshd, account: {**host.sshd[account], **changes}}
    found = only(audit(lab, replace(host, sshd=sshd), NOW))
    assert found[:2] == (person, True)
    assert words in found[2]


def test_a_password_that_sshd_takes_is_reach() -> None:
    lab = environment()
    host = host_of(lab)
    assert host.sshd and host.accounts
    accounts = (*host.accounts, Account("paul", 1003, True, False, False, password=True))
    open_door = {**host.sshd, "paul": SSHD | {"passwordauthentication": "yes"}}
    found = only(audit(lab, replace(host, accounts=accounts, sshd=open_door), NOW))
    assert found[1:] == (True, "sshd takes the password of paul")
    assert not audit(lab, replace(host, accounts=accounts), NOW).differences


# --- tokens, keys of Qdrant's, what could not be read


def test_a_token_under_another_name_and_a_key_that_nobody_set() -> None:
    lab = environment()
    host = host_of(lab)
    bobs, carols = host.tokens or ()
    swapped = (replace(bobs, developer="carol"), carols)
    found = audit(lab, replace(host, tokens=swapped), NOW)
    assert ("bob", True) in {(each.person, each.reaches) for each in found.differences}
    keys = {**(host.qdrant_keys or {}), "read_only_api_key": "1" * 64, "alt_api_key": "2" * 64}
    texts = [text for _, reaches, text in told(audit(lab, replace(host, qdrant_keys=keys), NOW))]
    assert any("read-only key" in text for text in texts)
    assert any("a second API key: Qdrant has one" in text for text in texts)


def test_a_token_of_other_rights_than_the_files() -> None:
    """Somebody lowered them in the file and did not deploy."""
    was = environment()
    bob = was.settings.developers["bob"].model_copy(update={"access": "read"})
    people = {**was.settings.developers, "bob": bob}
    lowered = replace(was, settings=was.settings.model_copy(update={"developers": people}))
    found = audit(lowered, host_of(was), NOW)
    (difference,) = found.differences
    assert (difference.person, difference.reaches) == ("bob", True)
    assert "with other rights than the file's" in difference.text
    assert {row.rights for row in rows(found, "bob")} == {"?"}


@pytest.mark.parametrize("part", ["tables", "keys", "accounts", "tokens", "seen", "stored"])
def test_what_could_not_be_read_is_unknown_and_never_taken_for_empty(part: str) -> None:
    lab = environment()
    blind = replace(host_of(lab), **{part: None}, unknown={part: "no such tool"})  # type: ignore[arg-type]
    found = audit(lab, blind, NOW)
    assert found.differences == ()
    assert found.exit_code == 3
    assert dict(found.unknown) == {part: "no such tool"}
    (carol,) = rows(found, "carol")
    shown = {
        "tables": carol.ports,
        "keys": carol.account,
        "tokens": carol.rights,
        "seen": carol.seen,
    }
    if part in shown:
        assert shown[part] in (None, "?", Visit(None, known=False))
    assert show.first_line(found).startswith("UNKNOWN:")


def test_a_log_that_was_not_read_to_its_end_never_says_never() -> None:
    lab = environment()
    found = audit(lab, replace(host_of(lab), seen=LastSeen({}, whole=False)), NOW)
    assert rows(found, "carol")[0].seen == Visit(None, known=False)


# --- the words


def test_the_first_line_is_short_however_many_there_are() -> None:
    lab = environment()
    host = host_of(lab)
    assert host.accounts is not None
    crowd = tuple(
        Account(f"dev-somebody-with-a-name-{number}", 2000 + number, False, False, True)
        for number in range(40)
    )
    found = audit(lab, replace(host, accounts=(*host.accounts, *crowd)), NOW)
    line = show.first_line(found)
    assert line.startswith("DIFFERENT in 40 points: somebody-with-a-name-0")
    assert len(line) < 80
    console = Console(record=True, width=160, file=io.StringIO())
    show.show(found, console)
    assert console.export_text().splitlines()[0] == line


def test_the_document_is_json_and_says_what_the_table_says() -> None:
    lab = environment()
    document = json.loads(json.dumps(show.to_json(audit(lab, host_of(lab), NOW))))
    assert document["schema_version"] == 1
    assert document["exit_code"] == 0
    bob = next(row for row in document["rows"] if row["who"] == "bob")
    assert bob["ports"] == [22, 443]
    assert bob["expires"] == LATER.isoformat()
    assert bob["last_seen"] == NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    dave = next(row for row in document["rows"] if row["who"] == "dave")
    assert dave["last_seen"] == "never"


# --- the walk through rules


def table(*rules: str, policy: str = "DROP") -> Table:
    chains: dict[str, list[str]] = {"INPUT": []}
    for rule in rules:
        chains.setdefault(rule.split()[1], []).append(rule)
    return Table({"INPUT": policy}, chains)


def who(*rules: str, policy: str = "DROP") -> list[str]:
    found = passing(table(*rules, policy=policy), "v4", "INPUT", 22)
    return networks_of(union(span for each in found for span in each.sources), "v4")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], []),
        (["-A INPUT -s 10.0.0.0/8 -j ACCEPT"], ["10.0.0.0/8"]),
        (["-A INPUT -s 10.0.0.0/9 -j DROP", "-A INPUT -s 10.0.0.0/8 -j ACCEPT"], ["10.128.0.0/9"]),
        # a drop that depends on more is none; an accept that does is one
        (["-A INPUT -m limit --limit 3/min -j DROP", "-A INPUT -s 10.0.0.1/32 -j ACCEPT"],
         ["10.0.0.1/32"]),
        (["-A INPUT -s 10.0.0.1/32 -m limit --limit 3/min -j ACCEPT"], ["10.0.0.1/32"]),
        (["-A INPUT -s 10.0.0.1/32 -p udp -j ACCEPT"], []),
        (["-A INPUT -s 10.0.0.1/32 -p tcp -m tcp ! --dport 22 -j ACCEPT"], []),
        (["-A INPUT -s 10.0.0.1/32 -p tcp -m tcp --dport 20:30 -j ACCEPT"], ["10.0.0.1/32"]),
        (["-A INPUT -s 10.0.0.1/32 -m conntrack ! --ctstate NEW -j ACCEPT"], []),
        (["-A INPUT -i lo -j ACCEPT"], []),
        (["-A INPUT -j A", "-A A -s 10.0.0.1/32 -j RETURN", "-A A -j DROP",
          "-A INPUT -j ACCEPT"], ["10.0.0.1/32"]),
        (["-A INPUT -g A", "-A A -s 10.0.0.1/32 -j RETURN", "-A INPUT -j ACCEPT"], []),
        (["-A INPUT -j NFQUEUE --queue-num 1", "-A INPUT -s 10.0.0.1/32 -j ACCEPT"],
         ["10.0.0.1/32"]),
        (["-A INPUT -s 10.0.0.1/32 -m comment --comment \"-j DROP it\" -j ACCEPT"],
         ["10.0.0.1/32"]),
        (["-A INPUT -j A", "-A A -j INPUT", "-A INPUT -s 10.0.0.1/32 -j ACCEPT"],
         ["10.0.0.1/32"]),
    ],
)  # fmt: skip
def test_first_match_decides(rules: list[str], expected: list[str]) -> None:
    assert who(*rules) == expected


v4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(20, 32)).map(
    lambda pair: str(ipaddress.ip_network(pair, strict=False))
)


@given(st.lists(st.tuples(v4, st.sampled_from(["ACCEPT", "DROP"])), max_size=6), st.booleans(), v4)
def test_all_sources_at_once_agree_with_one_packet_at_a_time(
    rules: list[tuple[str, str]], accept: bool, probe: str
) -> None:
    policy = "ACCEPT" if accept else "DROP"
    texts = [f"-A INPUT -s {network} -j {target}" for network, target in rules]
    found = passing(table(*texts, policy=policy), "v4", "INPUT", 22)
    spans = union(span for each in found for span in each.sources)
    for network in [probe, *(network for network, _ in rules)]:
        address = ipaddress.ip_network(network)[0]
        first = (t for n, t in rules if address in ipaddress.ip_network(n))
        passes = next(first, policy) == "ACCEPT"
        assert (not without(spans_of([str(address)]), spans)) is passes
