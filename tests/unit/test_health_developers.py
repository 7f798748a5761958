"""The doctor on people: who reaches without being listed, last days, rotations left open."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from people_lab import BOB_TOKEN, NOW, environment, host_of

from ops.clients.ssh import Remote
from ops.developers.audit import audit
from ops.developers.reality import Account, Reality
from ops.errors import UnreachableError
from ops.health import developers
from ops.health.model import Status, Verdict
from ops.settings import Settings

OK, WARNING, CRITICAL, UNKNOWN = Status.OK, Status.WARNING, Status.CRITICAL, Status.UNKNOWN
LAB = environment()
HOST = host_of(LAB)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def judged(host: Reality) -> Verdict:
    return developers.agreement(audit(LAB, host, NOW))


def test_a_host_in_step_is_well() -> None:
    verdict = judged(HOST)
    assert (verdict.status, verdict.summary) == (
        OK,
        "the host lets in the 4 people of the file, and nobody else",
    )


def test_somebody_who_reaches_and_is_not_listed_is_critical() -> None:
    assert HOST.accounts is not None
    eve = Account("dev-eve", 1600, False, False, True)
    verdict = judged(replace(HOST, accounts=(*HOST.accounts, eve)))
    assert verdict.status is CRITICAL
    assert "eve: the account dev-eve is there" in verdict.summary
    assert verdict.hint == "stackroom -e {environment} developer audit"


def test_somebody_listed_who_lacks_something_is_a_warning() -> None:
    verdict = judged(replace(HOST, tokens=()))
    assert verdict.status is WARNING
    assert "bob: the token" in verdict.summary and "(and 1 more)" in verdict.summary
    assert verdict.hint == "stackroom -e {environment} deploy"


def test_reach_outweighs_lack_and_lack_what_is_unknown() -> None:
    assert HOST.accounts is not None
    eve = Account("dev-eve", 1600, False, False, True)
    both = replace(HOST, tokens=(), accounts=(*HOST.accounts, eve), unknown={"keys": "gone"})
    assert judged(both).status is CRITICAL
    assert judged(replace(HOST, tokens=(), unknown={"keys": "gone"})).status is WARNING


def test_what_could_not_be_seen_is_unknown_and_never_ok() -> None:
    verdict = judged(replace(HOST, keys=None, sshd=None, unknown={"keys": "sshd -T: no"}))
    assert (verdict.status, verdict.summary) == (UNKNOWN, "could not look at keys: sshd -T: no")


@pytest.mark.parametrize(
    ("expires", "status"),
    [
        (date(2026, 11, 19), CRITICAL),
        (date(2026, 11, 20), CRITICAL),
        (date(2026, 11, 21), WARNING),  # today still
        (date(2026, 12, 4), WARNING),
        (date(2026, 12, 5), OK),
        (None, OK),
    ],
)
def test_last_days(expires: date | None, status: Status) -> None:
    people = {"eve": {"addresses": ["203.0.113.9"], "expires": expires}}
    verdict = developers.expiry(environment(developers=people).settings, NOON)
    assert verdict.status is status
    assert status is OK or f"eve ({expires})" in verdict.summary


@pytest.mark.parametrize("expires", [date(2026, 11, 19), date(2026, 11, 25)])
@pytest.mark.parametrize("token", [True, False])
def test_whoever_renews_is_told_that_the_token_ends(expires: date, token: bool) -> None:
    more: dict[str, Any] = {"collections": ["books"], "token": BOB_TOKEN} if token else {}
    people = {
        "bob": {"addresses": ["203.0.113.8"], "expires": date(2027, 1, 1)},
        "eve": {"addresses": ["203.0.113.9"], "expires": expires, **more},
    }
    hint = developers.expiry(environment(developers=people).settings, NOON).hint
    assert "developer remove eve" in hint
    assert "stackroom -e {environment} deploy" in hint
    assert ("developer kit eve: the token of now ends with it" in hint) is token


def with_alternative_key(settings: Settings) -> Settings:
    held = settings.secrets.model_copy(update={"qdrant_alt_api_key": "x" * 32})
    return settings.model_copy(update={"secrets": held})


def test_a_rotation_that_nobody_finished() -> None:
    settings = LAB.settings
    assert developers.rotation(settings).status is OK
    server = developers.rotation(with_alternative_key(settings))
    assert server.status is WARNING
    assert server.hint.endswith("developer rotate --server-key --finish")
    bob = settings.developers["bob"].model_copy(update={"retiring": BOB_TOKEN})
    verdict = developers.rotation(settings.model_copy(update={"developers": {"bob": bob}}))
    assert (verdict.status, verdict.summary) == (WARNING, "two tokens are good for bob")
    assert verdict.hint == "stackroom -e {environment} developer rotate bob --finish"


def test_collections_without_a_token() -> None:
    def told(**bob: Any) -> Verdict:
        one = {"addresses": ["203.0.113.9"], "collections": ["books"], **bob}
        return developers.tokens(environment(developers={"bob": one}).settings, NOON)

    assert told(expires=date(2026, 12, 1), token=BOB_TOKEN).status is OK
    lacking = told(expires=date(2026, 12, 1))
    assert (lacking.status, lacking.summary) == (WARNING, "collections but no token: bob")
    assert lacking.hint == "stackroom -e {environment} developer rotate bob"
    # who has expired has no token, and needs none
    assert told(expires=date(2026, 11, 1)).status is OK


def test_it_takes_one_round_trip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trips: list[str] = []

    def run(self: Remote, command: str, *, stdin: str = "", timeout: float = 30) -> Any:
        trips.append(command)
        raise UnreachableError("no SSH login as root@192.0.2.1")

    monkeypatch.setattr(Remote, "run", run)
    lab = replace(LAB, folder=tmp_path)
    for check in developers.developer_checks(lab, Remote(lab)):
        if check.id == "developers.access":
            with pytest.raises(UnreachableError):
                check.probe()
        else:
            check.probe()
    assert len(trips) == 1
    assert trips[0].startswith("python3 - ")
