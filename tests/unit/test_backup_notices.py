"""Who is told what, and that telling is never more than telling. Nothing is sent here."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ops.backup import notices, post
from ops.backup.lock import hold
from ops.backup.notices import announce_unit, compose, finished, started
from ops.backup.post import load_notices, ping_id, ping_url
from ops.backup.records import Record, RepositoryResult, read_records, write_record
from ops.backup.units import UnitState, kind_of, read_state, unit_state
from ops.errors import SettingsError
from ops.settings.host import Credentials, HostConfig

NOW = datetime(2026, 11, 21, 2, 30, tzinfo=UTC)
ADDRESS = "https://canary.example.org/uuid-canary"
Sent = list[dict[str, Any]]


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    return HostConfig(
        environment="team",
        stack="qdrant",
        stackroom="0123456789ab",
        base=tmp_path / "base",
        repositories=[],
        sources=[],
    )


def credentials_of(tmp_path: Path, text: str | None) -> Credentials:
    folder = tmp_path / "secrets"
    folder.mkdir(exist_ok=True)
    if text is not None:
        (folder / "notices").write_text(text, encoding="utf-8")
    return Credentials(folder)


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    addresses = {"urls": ["json://canary.example.org"], "pings": {"backup": ADDRESS}}
    return credentials_of(tmp_path, json.dumps(addresses))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What would have been handed to the messenger; every address takes it."""
    messages: Sent = []

    def send(message: str) -> dict[str, list[bool]]:
        messages.append(json.loads(message))
        return {kind: [True] * len(messages[-1][kind]) for kind in ("pings", "notices")}

    monkeypatch.setattr(post, "_send", send)
    return messages


def made(hours: float = 0, **facts: Any) -> Record:
    at = NOW - timedelta(hours=hours)
    given = {
        "kind": "backup",
        "run": f"{at:%Y%m%dT%H%M%SZ}-00000a",
        "outcome": "ok",
        "exit_code": 0,
        "finished": at + timedelta(seconds=151),
    }
    return Record(started=at, **{**given, **facts})


FAILED = {"outcome": "failed", "exit_code": 2, "error": "Qdrant does not answer"}


def test_a_failure_says_what_when_why_and_what_next(config: HostConfig) -> None:
    results = [
        RepositoryResult(name="local", ok=True, snapshot="ab" * 32),
        RepositoryResult(name="offsite", ok=False, error="no answer"),
    ]
    record = made(trigger="timer", repositories=results, details={"log": "a log"}, **FAILED)
    told = compose(config, record, [made(24), record])
    assert told is not None
    title, body, mood = told
    assert (title, mood) == ("stackroom team: backup failed", "failure")
    assert body.splitlines() == [
        "Qdrant does not answer",
        "",
        "what: backup 20261121T023000Z-00000a of the qdrant stack, by its timer",
        "when: 2026-11-21 02:30 UTC, 2 min 31 s",
        "where: local ok, offsite failed",
        "last good: 2026-11-20 02:30 UTC",
        "next: stackroom -e team backup show 20261121T023000Z-00000a",
        "      stackroom -e team doctor",
        "      stackroom -e team backup run",
    ]


@pytest.mark.parametrize(
    ("facts", "title", "mood"),
    [
        ({"outcome": "warning", "exit_code": 1}, "backup needs a look", "warning"),
        ({"outcome": "warning", "exit_code": 2}, "backup failed in part", "warning"),
        ({"outcome": "died", "exit_code": 2}, "backup was killed", "failure"),
        ({"kind": "drill", "outcome": "unproven", "exit_code": 3}, "drill unproven", "failure"),
        ({"kind": "check", **FAILED}, "check failed", "failure"),
    ],
)
def test_each_outcome_has_its_title(
    config: HostConfig, facts: dict[str, Any], title: str, mood: str
) -> None:
    told = compose(config, made(**facts), [])
    assert told is not None
    assert (told[0], told[2]) == (f"stackroom team: {title}", mood)
    assert "last good: never" in told[1]


def test_a_failed_drill_says_of_each_repository_when_it_was_last_proven(
    config: HostConfig,
) -> None:
    """They take turns: a good drill of the other one says nothing of this."""

    def drilled(hours: float, repository: str, **facts: Any) -> Record:
        return made(hours, kind="drill", details={"repository": repository}, **facts)

    record = drilled(0, "offsite", **FAILED)
    earlier = [drilled(48, "offsite"), drilled(24, "local")]
    told = compose(config, record, [*earlier, record])
    assert told is not None
    assert [line for line in told[1].splitlines() if line.startswith("last good")] == [
        "last good from offsite: 2026-11-19 02:30 UTC",
        "last good from local: 2026-11-20 02:30 UTC",
    ]
    told = compose(config, record, [earlier[1], record])
    assert told is not None and "last good from offsite: never" in told[1]


def test_all_well_is_silent_and_the_first_good_one_after_a_bad_one_is_not(
    config: HostConfig,
) -> None:
    good = made()
    assert compose(config, good, [good]) is None
    assert compose(config, good, [made(24), good]) is None
    told = compose(config, good, [made(48), made(24, **FAILED), good])
    assert told is not None
    assert (told[0], told[2]) == ("stackroom team: backup recovered", "success")
    assert told[1].startswith("The backup went well again; the one before failed.")


def test_a_long_error_is_cut(config: HostConfig) -> None:
    told = compose(config, made(**{**FAILED, "error": "x" * 5000}), [])
    assert told is not None
    assert len(told[1]) < 1400


def test_pings_carry_the_exit_code_and_pair_start_with_end(
    credentials: Credentials, config: HostConfig, sent: Sent
) -> None:
    record = made(trigger="timer")
    started(credentials, record.model_copy(update={"outcome": "running", "exit_code": None}))
    finished(config, credentials, record)
    finished(config, credentials, record.model_copy(update=FAILED))
    rid = ping_id(record.run)
    assert [message["pings"] for message in sent] == [
        [f"{ADDRESS}/{end}?rid={rid}"] for end in ("start", "0", "2")
    ]
    assert [message["notices"] for message in sent] == [[], [], ["json://canary.example.org"]]


def test_a_run_by_hand_does_not_start_the_clock(credentials: Credentials, sent: Sent) -> None:
    started(credentials, made(trigger="hand"))
    assert sent == []


def test_a_dry_run_is_nobodys_business(
    credentials: Credentials, config: HostConfig, sent: Sent
) -> None:
    assert finished(config, credentials, made(dry_run=True, **FAILED)) is False
    assert sent == []


def test_a_kind_without_an_address_pings_nobody(
    credentials: Credentials, config: HostConfig, sent: Sent
) -> None:
    started(credentials, made(kind="drill", trigger="timer"))
    assert finished(config, credentials, made(kind="drill", trigger="timer")) is False
    assert sent == []


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://hc.example.org/abc/", "https://hc.example.org/abc/start?rid="),
        ("http://10.0.0.1:8000/ping/k/n?create=1", "http://10.0.0.1:8000/ping/k/n/start?create=1"),
    ],
)
def test_addresses_of_pings(tmp_path: Path, address: str, url: str) -> None:
    found = load_notices(credentials_of(tmp_path, json.dumps({"pings": {"backup": address}})))
    assert ping_url(found.pings["backup"], "start", "r").startswith(url)


@pytest.mark.parametrize(
    "text",
    [
        "canary-no-json",
        '{"pings": {"backup": "ftp://canary.example.org"}}',
        '{"pings": {"backup": "file:///canary"}}',
        '{"pings": {"canary": "https://example.org"}}',
        '{"urls": "canary"}',
        '{"canary": []}',
        "",
    ],
)
def test_a_credential_that_is_wrong_is_said_without_quoting_it_and_changes_nothing(
    tmp_path: Path, config: HostConfig, text: str, sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = credentials_of(tmp_path, text)
    with pytest.raises(SettingsError) as raised:
        load_notices(credentials)
    started(credentials, made(trigger="timer"))
    assert finished(config, credentials, made(**FAILED)) is False
    assert sent == []
    assert "no notice: " in caplog.text
    assert "canary" not in caplog.text + str(raised.value) + raised.value.hint


def test_without_the_credential_nobody_is_told(
    tmp_path: Path, config: HostConfig, sent: Sent
) -> None:
    credentials = credentials_of(tmp_path, None)
    started(credentials, made(trigger="timer"))
    assert finished(config, credentials, made(**FAILED)) is False
    assert sent == []


def test_a_fault_of_ours_is_a_line_without_its_text(
    config: HostConfig,
    credentials: Credentials,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(_: str) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr(post, "_send", fails)
    assert finished(config, credentials, made(**FAILED)) is False
    assert "unexpected RuntimeError" in caplog.text
    assert "canary" not in caplog.text


UNIT = "stackroom-backup.service"


def state(hours: float = 0.1, result: str = "signal", status: str = "9") -> UnitState:
    return UnitState(NOW - timedelta(hours=hours), result, status)


def announce(config: HostConfig, credentials: Credentials, found: UnitState) -> bool:
    return announce_unit(config, credentials, UNIT, look=lambda unit: found)


def test_a_run_that_told_of_itself_is_left_alone(
    config: HostConfig, credentials: Credentials, sent: Sent
) -> None:
    write_record(config.base, made(notified=True, **FAILED))
    assert announce(config, credentials, state()) is False
    assert announce(config, credentials, UnitState()) is False
    assert sent == []


def test_a_run_that_was_killed_is_marked_and_told_once(
    config: HostConfig, credentials: Credentials, sent: Sent
) -> None:
    write_record(config.base, made(outcome="running", exit_code=None, finished=None))
    assert announce(config, credentials, state()) is True
    assert announce(config, credentials, state()) is False
    (record,) = read_records(config.base)
    assert (record.outcome, record.exit_code, record.notified) == ("died", 2, True)
    assert [message["title"] for message in sent] == ["stackroom team: backup was killed"]
    assert sent[0]["pings"] == [f"{ADDRESS}/2?rid={ping_id(record.run)}"]


def test_a_run_that_could_not_reach_anybody_is_told_again(
    config: HostConfig, credentials: Credentials, sent: Sent
) -> None:
    write_record(config.base, made(**FAILED))
    assert announce(config, credentials, state()) is True
    assert read_records(config.base)[0].notified


def test_a_running_record_under_the_lock_belongs_to_somebody(
    config: HostConfig, credentials: Credentials, sent: Sent
) -> None:
    write_record(config.base, made(outcome="running", exit_code=None, finished=None))
    with hold(config.base, "backup"):
        assert announce(config, credentials, state()) is False
    assert read_records(config.base)[0].outcome == "running"
    assert sent == []


def test_nobody_is_kept_out_while_the_notice_is_sent(
    config: HostConfig, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(message: str) -> dict[str, list[bool]]:
        with hold(config.base, "a backup that begins now"):
            return {"pings": [True], "notices": [True]}

    monkeypatch.setattr(post, "_send", send)
    write_record(config.base, made(outcome="running", exit_code=None, finished=None))
    assert announce(config, credentials, state()) is True


@pytest.mark.parametrize("earlier", [[], [made(24)], [made(24, notified=True, **FAILED)]])
def test_a_run_that_never_began_is_told(
    config: HostConfig, credentials: Credentials, sent: Sent, earlier: list[Record]
) -> None:
    for record in earlier:
        write_record(config.base, record)
    assert announce(config, credentials, state(0, "exit-code", "243")) is True
    assert sent[0]["title"] == "stackroom team: backup did not start"
    assert "exit-code 243" in sent[0]["body"]
    assert "journalctl -u stackroom-backup.service" in sent[0]["body"]
    assert sent[0]["pings"][0].startswith(f"{ADDRESS}/2?rid=")
    assert read_records(config.base) == earlier


def test_a_run_that_was_turned_away_names_who_has_the_lock(
    config: HostConfig, credentials: Credentials, sent: Sent
) -> None:
    with hold(config.base, "drill"):
        assert announce(config, credentials, state(0, "exit-code", "5")) is True
    assert sent[0]["body"].startswith("A drill has been running since ")


def test_another_unit_is_told_by_its_name(
    config: HostConfig, credentials: Credentials, sent: Sent
) -> None:
    found = state(0, "timeout", "")
    assert announce_unit(config, credentials, "stackroom-doctor.service", look=lambda _: found)
    assert sent[0]["title"] == "stackroom team: stackroom-doctor.service failed"
    assert sent[0]["pings"] == []


@pytest.mark.parametrize("kind", ["backup", "check", "prune", "drill"])
def test_units_by_name(kind: str) -> None:
    assert kind_of(f"stackroom-{kind}.service") == kind_of(f"stackroom-{kind}") == kind
    assert kind_of(f"other-{kind}.service") is None


def test_what_systemd_says_is_read() -> None:
    text = "Result=exit-code\nExecMainStatus=2\nInactiveExitTimestamp=Sat 2026-11-21 02:30:00 UTC\n"
    assert read_state(text) == UnitState(NOW, "exit-code", "2")
    assert read_state("Result=success\nInactiveExitTimestamp=\n") == UnitState(None, "success", "")
    assert read_state("") == UnitState()


def test_a_machine_without_systemd_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert unit_state(UNIT) == UnitState()


def test_the_bound_is_what_is_promised() -> None:
    assert post.PATIENCE_SECONDS < post.BOUND_SECONDS <= 29
    assert notices.__doc__ is not None and "30 s" in notices.__doc__
