"""A token says what the inventory says, and no more; read here without the code that made it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ops.developers.tokens import claims, mint, new_token_id
from ops.errors import SettingsError
from ops.settings import Settings, load_environment

LIVE, RETIRING = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26", "0a9d3a9b-2f7e-4b53-9a53-2f1f6f0f4f11"
TODAY = datetime.now(UTC).date()
LAST_DAY = TODAY + timedelta(days=90)
COLLECTIONS = """\
[collections.library]
vector = { size = 4 }
aliases = ["books", "current"]

[collections.notes]
vector = { size = 4 }
aliases = ["memos"]

[collections.private]
vector = { size = 4 }
"""
OLD_KEY = "old-key-0123456789-0123456789-0123456789"
NEW_KEY = "new-key-0123456789-0123456789-0123456789"
OTHERS = f'api_token = "{"t" * 32}"\nrestic_password = "{"r" * 32}"\n'

MakeSettings = Callable[..., Settings]


def secrets(key: str = OLD_KEY, alternative: str = "") -> str:
    text = f'[secrets]\nqdrant_api_key = "{key}"\n{OTHERS}'
    return text + (f'qdrant_alt_api_key = "{alternative}"\n' if alternative else "")


@pytest.fixture
def make_settings(write_environment: Callable[..., Path], public_key: str) -> MakeSettings:
    """`make_settings(developer lines..., secrets=...)`: the settings with a developer bob."""

    def make(*lines: str, **files: str) -> Settings:
        people = [
            *("[operators.anna]", 'addresses = ["198.51.100.20"]', f'keys = ["{public_key}"]'),
            *("[developers.bob]", 'addresses = ["198.51.100.7"]', *lines),
        ]
        given = {"settings": COLLECTIONS, "secrets": secrets()} | files
        return load_environment(write_environment(developers="\n".join(people), **given)).settings

    return make


def bob(*collections: str, access: str = "", expires: date = LAST_DAY) -> list[str]:
    return [
        f"collections = {json.dumps(collections)}",
        f"expires = {expires}",
        f'token = "{LIVE}"',
        *([f'access = "{access}"'] if access else []),
    ]


def opened(token: str, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token whose HMAC is right, by RFC 7515 alone."""
    signed, _, signature = token.rpartition(".")
    expected = hmac.digest(key.encode(), signed.encode(), hashlib.sha256)
    assert base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)) == expected
    header, body = (
        json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        for part in signed.split(".")
    )
    return header, body


def digest(body: dict[str, Any]) -> str:
    """Of the rights that a token says, written down here a second time."""
    rules = sorted(body["access"], key=lambda rule: str(rule["collection"]))
    told = ",".join(f'{{"access":"{r["access"]}","collection":"{r["collection"]}"}}' for r in rules)
    text = f'{{"access":[{told}],"exp":{body["exp"]}}}'
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_it_says_what_the_developer_may_do_and_nothing_else(make_settings: MakeSettings) -> None:
    settings = make_settings(*bob("library", "private"))

    header, body = opened(mint(settings, "bob").get_secret_value(), OLD_KEY)

    assert header == {"alg": "HS256", "typ": "JWT"}
    midnight = datetime(LAST_DAY.year, LAST_DAY.month, LAST_DAY.day, tzinfo=UTC) + timedelta(days=1)
    assert body == {
        "exp": int(midnight.timestamp()),
        "subject": "bob",
        "access": [
            {"collection": "library", "access": "r"},
            {"collection": "books", "access": "r"},
            {"collection": "current", "access": "r"},
            {"collection": "private", "access": "r"},
        ],
        "value_exists": {
            "collection": "stackroom_access",
            "matches": [{"key": "token", "value": f"{LIVE}.{digest(body)}"}],
        },
    }


def test_a_writer_may_write_points_and_no_more(make_settings: MakeSettings) -> None:
    settings = make_settings(*bob("notes", access="write"))

    rules = claims(settings, "bob", LIVE)["access"]

    assert rules == [
        {"collection": "notes", "access": "prw"},
        {"collection": "memos", "access": "prw"},
    ]


@pytest.mark.parametrize(
    ("named", "reached"),
    [
        (("memos",), ["memos"]),  # an alias alone does not open what lies behind it
        (("memos", "notes"), ["memos", "notes"]),  # Qdrant refuses a token with a name twice
        (("notes", "memos"), ["notes", "memos"]),
        (("books", "library"), ["books", "library", "current"]),
    ],
)
def test_aliases_have_rules_of_their_own(
    make_settings: MakeSettings, named: tuple[str, ...], reached: list[str]
) -> None:
    rules = claims(make_settings(*bob(*named)), "bob", LIVE)["access"]

    assert [rule["collection"] for rule in rules] == reached


def test_the_same_files_make_the_same_token(make_settings: MakeSettings) -> None:
    first, second = (make_settings(*bob("library")) for _ in range(2))

    assert mint(first, "bob").get_secret_value() == mint(second, "bob").get_secret_value()


def test_another_id_makes_another_token(make_settings: MakeSettings) -> None:
    settings = make_settings(*bob("library"), f'retiring = "{RETIRING}"')

    live, retiring = mint(settings, "bob"), mint(settings, "bob", RETIRING)

    _, body = opened(retiring.get_secret_value(), OLD_KEY)
    assert body["value_exists"]["matches"][0]["value"] == f"{RETIRING}.{digest(body)}"
    assert body | {"value_exists": 0} == opened(live.get_secret_value(), OLD_KEY)[1] | {
        "value_exists": 0
    }


def test_while_the_servers_key_is_rotated_the_newer_one_signs(make_settings: MakeSettings) -> None:
    """What is signed then is good before the old key goes, and after it."""
    during = make_settings(*bob("library"), secrets=secrets(OLD_KEY, alternative=NEW_KEY))
    token = mint(during, "bob").get_secret_value()
    after = make_settings(*bob("library"), secrets=secrets(NEW_KEY))

    opened(token, NEW_KEY)
    assert mint(after, "bob").get_secret_value() == token


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "bob has no collections"),
        ([f"expires = {LAST_DAY}"], "bob has no collections"),
        (bob("library", expires=TODAY - timedelta(days=1)), "the last day of bob was"),
        (bob("library")[:2], "bob has no token yet"),
    ],
)
def test_who_can_have_none_gets_none(
    make_settings: MakeSettings, lines: list[str], reason: str
) -> None:
    """Least of all one without `access`, which would open everything."""
    with pytest.raises(SettingsError, match=reason):
        mint(make_settings(*lines), "bob")


def test_a_stranger_gets_none(make_settings: MakeSettings) -> None:
    with pytest.raises(SettingsError, match="no developer eve"):
        mint(make_settings(*bob("library")), "eve", LIVE)


def test_it_works_to_the_end_of_the_last_day(make_settings: MakeSettings) -> None:
    settings = make_settings(*bob("library", expires=TODAY))

    end = datetime.fromtimestamp(claims(settings, "bob", LIVE)["exp"], UTC)

    assert (end.date(), end.time().isoformat()) == (TODAY + timedelta(days=1), "00:00:00")


def test_a_token_is_not_shown_by_accident(make_settings: MakeSettings) -> None:
    token = mint(make_settings(*bob("library")), "bob")

    assert token.get_secret_value() not in f"{token} {token!r}"


def test_ids_are_random_and_as_the_settings_want_them(make_settings: MakeSettings) -> None:
    ids = {new_token_id() for _ in range(100)}

    assert len(ids) == 100
    assert {uuid.UUID(one).version for one in ids} == {4}
    settings = make_settings(*bob("library")[:2], f'token = "{min(ids)}"')
    assert settings.developers["bob"].token == min(ids)


@pytest.mark.parametrize(
    "changed",
    [
        bob("library", access="write"),
        bob("library", "private"),
        bob("library", expires=LAST_DAY - timedelta(days=1)),
    ],
)
def test_other_rights_are_looked_up_by_another_value(
    make_settings: MakeSettings, changed: list[str]
) -> None:
    def looked_up(lines: list[str]) -> str:
        matches = claims(make_settings(*lines), "bob", LIVE)["value_exists"]["matches"]
        return str(matches[0]["value"])

    assert looked_up(changed) != looked_up(bob("library"))
    assert looked_up(bob("library")) == looked_up(bob("library"))


def test_a_token_for_a_proof_outlives_the_last_day_alone(make_settings: MakeSettings) -> None:
    """It is looked up by the same value, so it is refused only where that one is gone."""
    settings = make_settings(*bob("library", expires=TODAY - timedelta(days=1)))
    later = datetime.now(UTC) + timedelta(days=1)

    _, body = opened(mint(settings, "bob", until=later).get_secret_value(), OLD_KEY)

    own = int(datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC).timestamp())
    assert body["exp"] == int(later.timestamp())
    assert body["value_exists"]["matches"][0]["value"] == f"{LIVE}.{digest(body | {'exp': own})}"
