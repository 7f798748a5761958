"""What a person types about a developer: taken as meant, or refused with the reason."""

from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.developers.inputs import (
    LONGEST_KEY_FILE,
    addresses,
    expiry,
    read_key,
    read_name,
    unreachable,
)
from ops.errors import SettingsError

LETTERS = set("abcdefghijklmnopqrstuvwxyz")
TODAY = date(2026, 11, 21)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "id_ed25519"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bob", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def refusal_of_key(given: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        read_key(given)
    return caught.value


def test_a_key_is_a_line_or_the_file_it_stands_in(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = key.with_suffix(".pub")
    line = public.read_text().strip()
    monkeypatch.setenv("HOME", str(key.parent))
    monkeypatch.chdir(key.parent)
    assert {read_key(given) for given in (line, f" {line}\n", str(public), public.name)} == {line}
    assert read_key("~/id_ed25519.pub") == line


def test_a_private_key_for_a_public_one_is_refused_and_never_repeated(key: Path) -> None:
    private = key.read_text()
    of_file = refusal_of_key(str(key))
    assert of_file.message == (f"--key {key}: is a private key; paste the line of the .pub file")
    assert of_file.hint == f"--key {key}.pub"
    body = private.splitlines()[1:-1]
    for pasted in (private, "".join(body), " ".join(body), body[1], body[1] + ".pub!", body[2]):
        refused = refusal_of_key(pasted)
        assert refused.message.startswith("--key ")
        assert not [part for part in body if part[:16] in f"{refused!r} {refused.hint}"]


def test_a_file_that_is_none_or_no_key(tmp_path: Path) -> None:
    assert refusal_of_key("bob.pub").message == "--key: there is no file bob.pub"
    assert refusal_of_key("").message == "--key must be one line of an OpenSSH .pub file"
    assert refusal_of_key(str(tmp_path)).message.startswith("--key must be one line")
    large = tmp_path / "large.pub"
    large.write_bytes(b"x" * (LONGEST_KEY_FILE + 1))
    assert refusal_of_key(str(large)).message == f"--key {large} is too large for a .pub file"
    binary = tmp_path / "binary.pub"
    binary.write_bytes(bytes(range(256)))
    assert "--key" in refusal_of_key(str(binary)).message
    assert refusal_of_key("~nobody-of-this-name/x").message.startswith("--key must be")
    assert refusal_of_key("/" + "x" * 500).message.startswith("--key must be")


EXPIRIES = {
    "1d": date(2026, 11, 22),
    "90d": date(2027, 2, 19),
    " 12w ": date(2027, 2, 13),
    "2027-02-19": date(2027, 2, 19),
    "2026-11-21": TODAY,
}


@pytest.mark.parametrize("text", EXPIRIES)
def test_a_last_day(text: str) -> None:
    assert expiry(text, TODAY) == EXPIRIES[text]


NO_DAYS = ["", "90", "0d", "-1d", "3m", "1y", "19.02.2027", "2027-2-19", "2027-02-30", "٩d", "d"]


@pytest.mark.parametrize("text", NO_DAYS)
def test_what_is_no_day(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        expiry(text, TODAY)
    assert caught.value.message == (
        f"--expires {text!r} is neither a time from today on, such as 90d or 12w, nor a date such"
        " as 2027-02-19"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-11-20", "--expires 2026-11-20 has passed: today is 2026-11-21 (UTC)"),
        ("9999-12-31", "--expires 9999-12-31 is too far away: ten years at most"),
        ("4000d", "--expires 4000d is too far away: ten years at most"),
        ("99999999999d", "--expires 99999999999d is too far away"),
        ("3000000w", "--expires 3000000w is too far away"),
    ],
)
def test_a_day_that_has_passed_or_is_too_far_away(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        expiry(text, TODAY)
    assert caught.value.message == message


def test_addresses_come_in_canonical_form_once_each() -> None:
    typed = ["198.51.100.7", " 2001:DB8:b0b::/48", "198.51.100.7/32", "198.51.100.0/24"]
    assert addresses(typed) == ["198.51.100.7/32", "2001:db8:b0b::/48", "198.51.100.0/24"]
    assert addresses(["0.0.0.0/0", "::/0"], anywhere=True) == ["0.0.0.0/0", "::/0"]


def test_every_address_that_is_none_is_told() -> None:
    with pytest.raises(SettingsError) as caught:
        addresses(["198.51.100.7/24", "198.51.100.8", "home", "0.0.0.0/0"])
    assert caught.value.message.splitlines() == [
        "--ip: '198.51.100.7/24' has host bits set: write 198.51.100.0/24 for all of it, or"
        " 198.51.100.7 for one",
        "--ip: 'home' is not an IP address or CIDR range",
        "--ip: '0.0.0.0/0' lists too much of the internet (/8 at most); list the addresses people"
        " work from, or add --anywhere (opens the edge only, never SSH)",
    ]
    with pytest.raises(SettingsError, match="--ip is missing"):
        addresses([])


# address -> whether it can reach a host in no private network, one in 10.1.0.0/16 and ULA
REACHES = {
    "198.51.100.7/32": (True, True),
    "2001:db8::7/128": (True, True),
    "203.0.113.0/24": (True, True),
    "10.1.2.3/32": (False, True),
    "10.1.0.0/24": (False, True),
    "10.0.0.0/8": (False, True),
    "10.2.0.0/16": (False, False),
    "172.16.0.1/32": (False, False),
    "172.32.0.1/32": (True, True),
    "192.168.178.20/32": (False, False),
    "100.64.0.7/32": (False, False),
    "100.128.0.7/32": (True, True),
    "169.254.0.7/32": (False, False),
    "127.0.0.1/32": (False, False),
    "::1/128": (False, False),
    "0.0.0.0/32": (False, False),
    "240.0.0.1/32": (False, False),
    "fe80::7/128": (False, False),
    "fd00:1::7/128": (False, True),
    "fd00:2::7/128": (False, False),
    "0.0.0.0/0": (True, True),  # holds public addresses as well
    "::/0": (True, True),
}


@pytest.mark.parametrize("address", REACHES)
def test_private_addresses_reach_only_their_neighbours(address: str) -> None:
    public_only = unreachable([address], ["203.0.113.10/24", "2001:db8:1::10/64"])
    neighbours = unreachable([address], ["10.1.0.5/16", "fd00:1::5/64", "127.0.0.1/8"])
    assert (not public_only, not neighbours) == REACHES[address]


def test_a_reason_names_the_address_and_what_it_is() -> None:
    assert unreachable(["198.51.100.7/32", "192.168.178.20/32"], []) == [
        "192.168.178.20 is a private address (RFC 1918), and the host is in no such network: give"
        " the public address that the host sees (often that of the router)"
    ]
    (loopback,) = unreachable(["127.0.0.1/32"], ["127.0.0.0/8"])
    assert loopback.startswith("127.0.0.1 is a loopback address: nobody else comes from it")


@pytest.mark.parametrize("name", ["bob", "b", "b-2_c", "b" * 28])
def test_names(name: str) -> None:
    assert read_name(name) == name


@given(st.text(max_size=40) | st.sampled_from(["Bob", "1st", "b" * 29, "bob\n", "-b", "bob smith"]))
def test_what_no_account_is_called_is_refused(name: str) -> None:
    fits = 0 < len(name) <= 28 and set(name) <= LETTERS | set("0123456789-_")
    if fits and name[0] in LETTERS:
        assert read_name(name) == name
        return
    with pytest.raises(SettingsError) as caught:
        read_name(name)
    said = "must be a name of a-z, 0-9, - and _, 28 characters at most"
    assert caught.value.message == f"{name!r} {said}"
