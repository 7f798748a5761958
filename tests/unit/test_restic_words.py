"""What a person is told of restic's last words, and what never."""

from __future__ import annotations

import json

import pytest

from ops.clients import restic_words as words
from ops.errors import BackupError, ServiceError, StackroomError, UnreachableError

RETRY = "Stat(<config/>) returned error, retrying after 1.07s: "


@pytest.mark.parametrize(
    ("line", "kind", "means"),
    [
        (f"{RETRY}Stat: The specified bucket does not exist", ServiceError, "bucket is gone"),
        (f"{RETRY}Stat: Access Denied.", ServiceError, "403"),
        ("Save(<lock/1>) failed: open /r/locks/1: read-only file system", ServiceError, "read-"),
        ("Fatal: write /r/1-tmp-2: no space left on device", ServiceError, "no space"),
        (f"{RETRY}Get: dial tcp: lookup s3.test: no such host", UnreachableError, "reached"),
        (f"{RETRY}503 Service Unavailable", UnreachableError, "reached"),
        ("Load(<data/1>, 5, 0) failed: file is too short", BackupError, "damaged"),
        ("subprocess ssh: Host key verification failed.", ServiceError, "host key"),
    ],
)
def test_what_it_says_has_a_meaning(line: str, kind: type[StackroomError], means: str) -> None:
    last = json.dumps({"message_type": "exit_error", "message": "Fatal: context canceled"})
    reason, error = words.meaning([line, last], [])
    assert type(error) is kind
    assert means in error.message
    assert error.hint
    assert reason and reason in line


def test_what_is_not_known_is_told_as_it_is() -> None:
    failed = {"message_type": "error", "error": {"message": "input/output error"}, "item": "/a/b"}
    lines = [json.dumps(failed), "Warning: at least one source file could not be read"]
    assert words.meaning(lines, []) == ("/a/b: input/output error", None)
    assert words.meaning([], []) == ("it said nothing", None)


def test_no_secret_is_told() -> None:
    line = f"{RETRY}The access key ID you provided does not exist: AKID01234567 with 0123secret"
    reason, _ = words.meaning([line], ["AKID01234567", "0123secret"])
    assert reason.endswith("does not exist: *** with ***")


def test_a_refusal_has_to_be_repeated_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1.0]
    monkeypatch.setattr("ops.clients.restic_words.time.monotonic", lambda: clock[0])
    patience = words.Patience()
    refusal = f"{RETRY}Access Denied."
    heard = []
    for clock[0] in (1.0, 2.0, 4.9, 5.1, 300.0, 303.0, 304.5):
        heard.append(patience.is_over(refusal))
    assert heard == [False, False, False, True, False, False, True]
    # an outage may pass
    clock[0] = 305.0
    assert not patience.is_over(f"{RETRY}connection refused")
    assert not patience.is_over("Access Denied.")


def test_a_save_that_has_failed_for_good_has_to_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1.0]
    monkeypatch.setattr("ops.clients.restic_words.time.monotonic", lambda: clock[0])
    patience = words.Patience()
    heard = []
    for clock[0], line in (
        (1.0, ""),
        (100.0, "Load(<data/1>, 5, 0) failed: file is too short"),
        (120.0, "Save(<data/1>) failed: write /r/1: no space left on device"),
        (134.0, "Save(<data/2>) failed: write /r/2: no space left on device"),
        (135.0, ""),
    ):
        heard.append(patience.is_over(line))
    assert heard == [False, False, False, False, True]
