"""People: real keys of every kind, each mistake with its reason, and nobody's secret in a message.

The keys are made by ssh-keygen in the test: what it prints is what people paste.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ops.errors import SettingsError
from ops.settings import Developer, Settings, load_environment
from ops.settings.addresses import overlap, short
from ops.settings.keys import KINDS, blob_of, check_public_key, fingerprint

WriteEnvironment = Callable[..., Path]
TOKENS = ["7f1c3c5a-9d0b-4c1e-8a51-0d3a2f6b9c11", "0b9f7a52-31c4-4e0f-9a66-4f6d1a2b3c4d"]
SETTINGS = """\
[collections.knowledge_library]
vector = { size = 4 }
aliases = ["library"]

[collections.notes]
vector = { size = 4 }
"""
DAY = "expires = 2027-02-19\n"
SECURITY_KEYS = ("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com")


def made(folder: Path, *kind: str, comment: str = "bob@desk") -> tuple[str, str]:
    """A private key and its public line, fresh from ssh-keygen."""
    path = folder / "key"
    for old in (path, path.with_suffix(".pub")):
        old.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", *kind, "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(command, check=True)
    return path.read_text(), path.with_suffix(".pub").read_text()


@pytest.fixture(scope="module")
def ed25519(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return made(tmp_path_factory.mktemp("ed25519"), "ed25519")


def line(kind: str, *fields: bytes, name: str = "") -> str:
    """A line of a .pub file with these fields behind its kind."""
    parts = [(name or kind).encode(), *fields]
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return f"{kind} {base64.b64encode(blob).decode()} bob@desk"


def reason(key: str) -> str:
    try:
        taken = check_public_key(key)
    except ValueError as error:
        return str(error)
    pytest.fail(f"taken: {taken.split()[0]}")


# keys


@pytest.mark.parametrize(
    "kind",
    [
        ("ed25519",),
        ("ecdsa", "-b", "256"),
        ("ecdsa", "-b", "384"),
        ("ecdsa", "-b", "521"),
        ("rsa", "-b", "3072"),
        ("rsa", "-b", "4096"),
    ],
)
def test_what_ssh_keygen_makes_is_taken(tmp_path: Path, kind: tuple[str, ...]) -> None:
    _, public = made(tmp_path, *kind)
    assert check_public_key(f"  {public}\n") == public.strip()
    printed = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.split()[1] == fingerprint(public.strip())


def test_security_keys_are_taken(tmp_path: Path) -> None:
    point = b"\4" + bytes(range(64))
    keys = [
        line(SECURITY_KEYS[0], bytes(32), b"ssh:"),
        line(SECURITY_KEYS[1], b"nistp256", point, b"ssh:"),
    ]
    assert [check_public_key(key) for key in keys] == keys


@pytest.mark.parametrize("bits", ["1024", "2048"])
def test_a_short_rsa_key_is_refused_with_its_size(tmp_path: Path, bits: str) -> None:
    _, public = made(tmp_path, "rsa", "-b", bits)
    assert reason(public) == (
        f"is an RSA key of {bits} bits, too short for years to come (3072 at least);"
        " make one with ssh-keygen -t ed25519"
    )


def test_a_private_key_is_named_as_one_in_each_of_its_forms(tmp_path: Path) -> None:
    private, _ = made(tmp_path, "rsa", "-b", "3072")
    forms = [private, "".join(private.splitlines()[1:-1])]
    for form in ("PEM", "PKCS8"):
        command = ["ssh-keygen", "-q", "-p", "-N", "", "-m", form, "-f", str(tmp_path / "key")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        forms.append((tmp_path / "key").read_text())
        forms.append(" ".join(forms[-1].splitlines()))  # as a field of one line takes it
    for form in forms:
        assert reason(form) == "is a private key; paste the line of the .pub file"
    for putty in (
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPrivate-Lines: 1\nAAAAIG==",
        "Private-Lines: 1 AAAAIG==",
    ):
        assert reason(putty).startswith("is a private key of PuTTY; paste what PuTTYgen shows")


def test_other_forms_of_public_keys_are_told_apart(
    tmp_path: Path, ed25519: tuple[str, str]
) -> None:
    _, public = ed25519
    kind, blob, comment = public.split()
    made(tmp_path, "rsa", "-b", "3072")
    exported = {}
    for form in ("RFC4716", "PKCS8", "PEM"):
        command = ["ssh-keygen", "-e", "-m", form, "-f", str(tmp_path / "key.pub")]
        exported[form] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    said = {
        public + public: "is several lines; one line of an OpenSSH .pub file is one key",
        f'from="198.51.100.7" {public}': "has something in front of the key (options, or the name "
        "of a host); begin with its kind, such as ssh-ed25519",
        f"host.example.com {public}": "has something in front of the key (options, or the name of "
        "a host); begin with its kind, such as ssh-ed25519",
        f"ssh-dss {blob} {comment}": "is a DSA key, which sshd no longer takes; make one with "
        "ssh-keygen -t ed25519",
        f"ssh-ed25519-cert-v01@openssh.com {blob}": "is a certificate; paste the .pub file of the "
        "key it was made for",
        exported["RFC4716"]: "is in the format of RFC 4716; ssh-keygen -i -f <file> prints it as "
        "a line",
        exported["PKCS8"]: "is in the format of PEM; ssh-keygen -i -m PKCS8 -f <file> prints it "
        "as a line",
        exported["PEM"]: "is in the format of PEM; ssh-keygen -i -m PEM -f <file> prints it as a "
        "line",
        f"ssh-rsa {blob}": "says ssh-rsa in front, but holds a key of another kind",
        f"{kind} {blob[:-4]}": "is cut off or damaged: its end is missing; paste the whole line",
        f"{kind} {blob[:-3]}": "is cut off or damaged: it is no base64; paste the whole line",
        f"{kind} {blob[:30]}*{blob[31:]}": "is cut off or damaged: it is no base64; paste the "
        "whole line",
        f"{kind} {blob} bob\x1b[31m": "must be one line of an OpenSSH .pub file",
        f"{kind}": "must be one line of an OpenSSH .pub file",
        "": "must be one line of an OpenSSH .pub file",
        "ssh-ed448 AAAA": "must be one line of an OpenSSH .pub file",
    }
    assert {text: reason(text) for text in said} == said


POINT = b"\4" + bytes(64)
HUGE = b"\1" + bytes(2048) + b"\1"
DAMAGED = [
    line("ssh-ed25519", bytes(31)),
    line("ssh-ed25519", bytes(32), b"more"),
    line("ssh-ed25519"),
    line("ecdsa-sha2-nistp256", b"nistp384", POINT),
    line("ecdsa-sha2-nistp256", b"nistp256", POINT[:-1]),
    line("ecdsa-sha2-nistp256", b"nistp256", b"\2" + bytes(32)),
    line("ecdsa-sha2-nistp384", b"nistp384", POINT),
    line("ecdsa-sha2-nistp256", b"nistp256"),
    line("ecdsa-sha2-nistp256"),
    line(SECURITY_KEYS[0], bytes(32)),
    line(SECURITY_KEYS[0], bytes(32), b""),
    line(SECURITY_KEYS[1], b"nistp256", POINT),
    line("ssh-rsa", b"\1\0\1"),
    line("ssh-rsa", b"\1\0\1", b"\xff" * 384),  # negative
    line("ssh-rsa", b"\1\0\1", b"\0" + b"\xfe" * 384),  # even
    line("ssh-rsa", b"\1", b"\0" + b"\xff" * 384),
    line("ssh-rsa", b"\1\0\1", HUGE),
    line("ssh-rsa", b"\1\0\1", b""),
]


@pytest.mark.parametrize("key", DAMAGED)
def test_a_key_that_does_not_hold_what_its_kind_does_is_damaged(key: str) -> None:
    assert reason(key).startswith("is damaged: it does not hold what a key of ")


@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_any_bytes_give_a_reason_or_a_key(kind: str, blob: bytes) -> None:
    """Nothing but ValueError, and never the text itself."""
    encoded = base64.b64encode(blob).decode()
    said = ""
    try:
        check_public_key(f"{kind} {encoded}")
    except ValueError as error:
        said = str(error)
    else:
        assert blob_of(f"{kind} {encoded}") == blob
    assert len(blob) < 6 or encoded not in said


def test_no_message_about_a_key_repeats_it(
    write_environment: WriteEnvironment, ed25519: tuple[str, str], public_key: str
) -> None:
    private, public = ed25519
    secret = private.splitlines()[2][:20]
    pasted = [private, "".join(private.splitlines()[1:-1]), public + private, f"x {secret}"]
    for text in [*pasted, f"ssh-ed25519 {secret}", f"ssh-rsa {secret} {secret}", f"{secret} a"]:
        folder = write_environment(
            developers=f'[operators.anna]\naddresses = ["198.51.100.20"]\nkeys = ["{public_key}"]\n'
            f'[developers.bob]\naddresses = ["198.51.100.7"]\nkeys = [{json.dumps(text)}]\n'
        )
        with pytest.raises(SettingsError) as caught:
            load_environment(folder)
        assert caught.value.message.startswith(f"{folder}/developers.toml: developers.bob.keys.0 ")
        assert secret not in f"{caught.value!r} {caught.value.__cause__!r}"


# days


def bob(**fields: object) -> Developer:
    return Developer.model_validate({"addresses": ["198.51.100.7"], **fields})


def test_the_last_day_is_a_whole_day_in_utc() -> None:
    someone = bob(expires=date(2027, 2, 19))
    end = datetime(2027, 2, 20, tzinfo=UTC)
    assert someone.ends() == end
    assert not someone.is_expired(end - timedelta(microseconds=1))
    assert someone.is_expired(end)
    # an operator's own clock is further east
    assert someone.is_expired(datetime(2027, 2, 20, 2, tzinfo=timezone(timedelta(hours=2))))
    assert not someone.is_expired(datetime(2027, 2, 20, 1, tzinfo=timezone(timedelta(hours=2))))
    assert bob(expires=date(2020, 1, 1)).is_expired()
    assert (bob().ends(), bob().is_expired()) == (None, False)


def test_whoever_has_expired_counts_as_not_there(
    write_environment: WriteEnvironment, public_key: str
) -> None:
    people = (
        f'[operators.anna]\naddresses = ["198.51.100.20"]\nkeys = ["{public_key}"]\n'
        '[developers.bob]\naddresses = ["198.51.100.7"]\nexpires = 2020-01-31\n'
        '[developers.carl]\naddresses = ["198.51.100.8", "0.0.0.0/0"]\nanywhere = true\n'
    )
    settings = load_environment(write_environment(developers=people)).settings
    assert list(settings.developers) == ["bob", "carl"]
    assert list(settings.current_developers()) == ["carl"]
    before = datetime(2020, 1, 31, 23, 59, tzinfo=UTC)
    assert list(settings.current_developers(before)) == ["bob", "carl"]
    assert settings.addresses() == ["0.0.0.0/0", "198.51.100.20/32", "198.51.100.8/32"]
    assert settings.ssh_addresses() == ["198.51.100.20/32", "198.51.100.8/32"]


# what a file may say of one person, and of two

ANNA = '[operators.anna]\naddresses = ["198.51.100.20", "2001:db8:a::/48"]\nkeys = ["{key}"]\n'
BOB = '[developers.bob]\naddresses = ["198.51.100.7"]\n'
CARL = '[developers.carl]\naddresses = ["198.51.100.8"]\n'
NEEDS_ANYWHERE = (
    "developers.bob lists {}, which is too much of the internet: list the addresses they work"
    " from, or say anywhere = true (opens the edge only, never SSH)"
)
MISTAKES = [
    (BOB + "access = 'admin'", 'developers.bob.access must be "read" or "write"'),
    (BOB + "expires = '2027-02-19'", "developers.bob.expires must be a date such as 2027-02-19, "
     "without quotes"),
    (BOB + "expires = 2027-02-19T00:00:00Z", "developers.bob.expires must be a date such as "
     "2027-02-19, without quotes"),
    (BOB + "expires = 9999-12-31", "developers.bob.expires must be 9998-12-31 or less"),
    (BOB + "collections = ['notes']", "developers.bob has collections, so a token, but no last "
     "day: add one, such as expires = 2027-02-19"),
    (BOB + DAY + "collections = ['notes', 'notes']", "developers.bob names a collection twice"),
    (BOB + DAY + "collections = ['knowlege_library']", "developers.bob.collections: "
     "knowlege_library is not declared in settings.toml; did you mean knowledge_library or "
     "library?"),
    (BOB + DAY + "collections = ['zzz']", "developers.bob.collections: zzz is not declared in "
     "settings.toml (declared: knowledge_library, library, notes)"),
    (BOB + DAY + "collections = ['stackroom_access']", "developers.bob.collections: "
     "stackroom_access is not declared in settings.toml (declared: knowledge_library, library, "
     "notes)"),
    (BOB + "expire = 2027-02-19", "developers.bob.expire is not a key of Stackroom; did you mean "
     "developers.bob.expires?"),
    *(
        (BOB + DAY + f"collections = ['notes']\ntoken = '{token}'", "developers.bob.token must be "
         "the id of a token (a random UUID); the verbs write it")
        for token in ("x", TOKENS[0].upper(), TOKENS[0].replace("-", ""), f"{{{TOKENS[0]}}}",
                      "7f1c3c5a-9d0b-1c1e-8a51-0d3a2f6b9c11")
    ),
    (BOB + f"token = '{TOKENS[0]}'", "developers.bob has a token but no collections: take out "
     "token and retiring, and it is revoked"),
    (BOB + DAY + f"collections = ['notes']\nretiring = '{TOKENS[0]}'", "developers.bob has a "
     "retiring token but no live one: call it token"),
    (BOB + DAY + f"collections = ['notes']\ntoken = '{TOKENS[0]}'\nretiring = '{TOKENS[0]}'",
     "developers.bob.retiring: is developers.bob.token, too; take it out, and stackroom developer "
     "rotate bob"),
    (BOB + DAY + f"collections = ['notes']\ntoken = '{TOKENS[0]}'\n" + CARL + DAY
     + f"collections = ['notes']\ntoken = '{TOKENS[0]}'", "developers.carl.token: is "
     "developers.bob.token, too; take it out, and stackroom developer rotate carl"),
    (BOB.replace("198.51.100.7", "0.0.0.0/0"), NEEDS_ANYWHERE.format("0.0.0.0/0")),
    (BOB.replace("198.51.100.7", "::/0"), NEEDS_ANYWHERE.format("::/0")),
    (BOB.replace("198.51.100.7", "64.0.0.0/2"), NEEDS_ANYWHERE.format("64.0.0.0/2")),
    (BOB.replace("198.51.100.7", "224.0.0.1") + "anywhere = true", "developers.bob.addresses.0 "
     "'224.0.0.1' is no address that somebody can come from"),
    (BOB.replace("bob", "anna"), "developers.anna: there is an operator of that name; one of them "
     "needs another"),
    (BOB.replace("bob", "b" * 29), f"developers.{'b' * 29} must be a name of a-z, 0-9, - and _, "
     "28 characters at most"),
    (BOB + 'keys = ["{key} bob"]', "developers.bob.keys: has a key of operators.anna; one key is "
     "one person's"),
    (BOB + 'keys = ["{other}"]\n' + CARL + 'keys = ["{other} carl"]', "developers.carl.keys: has a "
     "key of developers.bob; one key is one person's"),
    (BOB + CARL.replace("100.8", "100.7"), "developers.carl.addresses: 198.51.100.7 overlaps "
     "198.51.100.7 of developers.bob; where they share it, say shares_address = true (--shared)"),
    (BOB + CARL.replace("100.8", "100.0/28"), "developers.carl.addresses: 198.51.100.0/28 overlaps "
     "198.51.100.7 of developers.bob; where they share it, say shares_address = true (--shared)"),
    (BOB.replace("198.51.100.7", "2001:db8:a:7::/64"), "developers.bob.addresses: "
     "2001:db8:a:7::/64 overlaps 2001:db8:a::/48 of operators.anna; where they share it, say "
     "shares_address = true (--shared)"),
]  # fmt: skip


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(tmp_path_factory.mktemp("other"), "ed25519", comment="other")[1].strip()


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_about_people(
    write_environment: WriteEnvironment, public_key: str, other_key: str, text: str, message: str
) -> None:
    people = (ANNA + text).replace("{key}", public_key).replace("{other}", other_key)
    folder = write_environment(SETTINGS, people)
    with pytest.raises(SettingsError) as caught:
        load_environment(folder)
    assert caught.value.message == f"{folder}/developers.toml: {message}"


def test_every_mistake_between_people_is_told_at_once(
    write_environment: WriteEnvironment, public_key: str
) -> None:
    people = ANNA.replace("{key}", public_key) + BOB + CARL.replace("100.8", "100.7")
    folder = write_environment(SETTINGS, people + DAY + "collections = ['note', 'x']\n")
    with pytest.raises(SettingsError) as caught:
        load_environment(folder)
    lines = caught.value.message.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{folder}/developers.toml", "developers.carl.collections"],
        [f"{folder}/developers.toml", "developers.carl.collections"],
        [f"{folder}/developers.toml", "developers.carl.addresses"],
    ]


GOOD = [
    BOB + CARL,
    BOB + "access = 'write'\ncollections = ['notes', 'library']\n" + DAY,
    BOB + f"collections = ['notes']\ntoken = '{TOKENS[0]}'\nretiring = '{TOKENS[1]}'\n" + DAY,
    BOB + CARL.replace("100.8", "100.7") + "shares_address = true",
    BOB + "shares_address = true\n" + CARL.replace("100.8", "100.7"),
    BOB.replace("198.51.100.7", "198.51.100.20") + "shares_address = true",
    # the whole internet is nobody's own address
    BOB.replace("198.51.100.7", "0.0.0.0/0") + "anywhere = true\n" + CARL,
    BOB.replace("198.51.100.7", "::/0") + "anywhere = true\n" + CARL,
    # one address twice at one person is no contradiction
    BOB.replace('"198.51.100.7"', '"198.51.100.7", "198.51.100.0/24"').replace(".0/24", ".0/28"),
    "[operators.bert]\naddresses = ['198.51.100.20']\nkeys = ['{other}']",
    BOB.replace("bob", "b" * 28),
]


@pytest.mark.parametrize("text", GOOD)
def test_what_is_no_mistake(
    write_environment: WriteEnvironment, public_key: str, other_key: str, text: str
) -> None:
    people = (ANNA + text).replace("{key}", public_key).replace("{other}", other_key)
    assert load_environment(write_environment(SETTINGS, people)).settings.operators


RESERVED = [
    "[collections.stackroom_access]\nvector = { size = 4 }\n",
    '[collections.a]\nvector = { size = 4 }\naliases = ["stackroom_access"]\n',
]


@pytest.mark.parametrize("text", RESERVED)
def test_the_name_of_the_list_of_tokens_is_kept(
    write_environment: WriteEnvironment, text: str
) -> None:
    folder = write_environment(text)
    name = "stackroom_access" if "[collections.stackroom" in text else "a"
    with pytest.raises(SettingsError) as caught:
        load_environment(folder)
    assert caught.value.message == (
        f"{folder}/settings.toml: collections.{name}: the name stackroom_access is kept for"
        " Stackroom's own list of tokens"
    )


def test_the_operators_account_cannot_be_taken_for_a_developers(
    write_environment: WriteEnvironment,
) -> None:
    folder = write_environment('[host]\noperator_account = "dev-anna"\n')
    with pytest.raises(SettingsError, match="operator_account must not begin with dev-"):
        load_environment(folder)


def test_a_developer_comes_back_from_json(public_key: str) -> None:
    """What goes to the host and returns says the same, the day included."""
    someone = bob(keys=[public_key], collections=["notes"], expires=date(2027, 2, 19))
    assert Developer.model_validate_json(someone.model_dump_json()) == someone


networks = st.ip_addresses().flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(lambda bits: (address, bits))
)


@given(networks, networks)
def test_ranges_overlap_as_their_addresses_do(one: tuple, other: tuple) -> None:  # type: ignore[type-arg]
    (first, bits), (second, other_bits) = one, other
    ours, theirs = (_network(first, bits), _network(second, other_bits))
    fewer = min(bits, other_bits)
    same = first.version == second.version and _network(first, fewer) == _network(second, fewer)
    assert overlap(ours, theirs) == same
    assert ("/" in short(ours)) == (bits < first.max_prefixlen)


def _network(address: object, bits: int) -> str:
    return str(ipaddress.ip_network((address, bits), strict=False))  # type: ignore[arg-type]


def test_the_settings_hold_the_name_of_developers_to_what_linux_takes() -> None:
    longest = TypeAdapter(Settings.model_fields["developers"].annotation)
    longest.validate_python({"b" * 28: {"addresses": ["198.51.100.7"]}})
    with pytest.raises(ValidationError):
        longest.validate_python({"b" * 29: {"addresses": ["198.51.100.7"]}})
