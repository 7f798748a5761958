"""A password that a volume keeps: real Postgres, RabbitMQ and R2R say whose it is, asked by what
is sent to a machine; and the lines that a person is told to paste change it."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from data_services import answers, container
from pydantic import SecretStr
from r2r_live import R2rStack
from settings_lab import R2R_PASSWORDS, SECRETS, settings_with

from ops.clients.ssh import Completed, Remote
from ops.deploy.passwords import Keeper, keepers, refusing
from ops.settings import Environment
from ops.settings.environment import Machine

pytestmark = pytest.mark.services

OLD, NEW = "canary-first-rabbit-0123456789abcdef", "canary-another-one-0123456789abcdef0"
MODELS = {"chat": {"model": "openai/a"}, "text-embedding-3-team": {"model": "openai/b"}}
ENVIRONMENT = Environment(
    Path("inventory/team"),
    settings_with(
        stack="r2r",
        r2r={"admin_email": R2rStack.admin_email},
        litellm={"models": MODELS},
        secrets=SECRETS | {"r2r": R2R_PASSWORDS},
    ),
    Machine("198.51.100.10"),
)
SECONDS = 120


class Here(Remote):
    """This machine, as the one that is asked."""

    def run(self, command: str, *, stdin: str = "", timeout: float = 30) -> Completed:
        done = subprocess.run(
            ["sh", "-c", command], input=stdin, capture_output=True, text=True, timeout=timeout
        )
        return Completed(done.returncode, done.stdout, done.stderr)


HERE = Here(ENVIRONMENT)


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    def ready(name: str) -> bool:
        return answers(name, "rabbitmq-diagnostics", "--quiet", "check_running")

    user = ("--env", "RABBITMQ_DEFAULT_USER=hatchet", "--env", f"RABBITMQ_DEFAULT_PASS={OLD}")
    with container("rabbitmq", ready, "--hostname", "rabbitmq", "--user", "999:999", *user) as name:
        yield name


@pytest.fixture
def kept(r2r: R2rStack, broker: str) -> dict[str, Keeper]:
    """The keepers of a deploy with their right passwords, led to the servers of this test."""
    right = {
        "postgres_password": (r2r.container("postgres"), r2r.secrets.postgres_password),
        "rabbitmq_password": (broker, OLD),
        "admin_password": (r2r.container("r2r"), r2r.secrets.admin_password),
    }
    return {
        each.secret: replace(
            each,
            container=right[each.secret][0],
            password=SecretStr(right[each.secret][1]),
            change=each.change.replace(each.container, right[each.secret][0]),
            port=int(r2r.url.rpartition(":")[2]),
        )
        for each in keepers(ENVIRONMENT)
        if each.secret in right
    }


def changed(keeper: Keeper, password: str = NEW) -> Keeper:
    return replace(keeper, password=SecretStr(password))


def refused(*asked: Keeper) -> list[str]:
    return [each.secret for each in refusing(list(asked), HERE)]


@contextmanager
def watched(secret: str) -> Iterator[tuple[set[str], set[str]]]:
    """The programs that ran meanwhile, and those that had the secret where others see it."""
    seen: set[str] = set()
    shown: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    words = (process / "cmdline").read_bytes()
                    open_to_view = words + (process / "environ").read_bytes()
                except OSError:  # it has ended
                    continue
                seen.update(Path(word).name for word in words.decode(errors="replace").split("\0"))
                if secret.encode() in open_to_view:
                    shown.add(words.decode(errors="replace"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen, shown
    finally:
        over.set()
        thread.join()


def typed(line: str, *words: str) -> str:
    """What a terminal shows of a line: each word is typed when it is asked for."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        ["sh", "-c", line], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown, since, left = "", "", list(words)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 1)[0]:
            continue
        try:
            piece = os.read(ours, 4096).decode()
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown, since = shown + piece, since + piece
        if left and since.rstrip("\r\n").endswith(": "):
            time.sleep(0.5)  # the echo goes off
            os.write(ours, f"{left.pop(0)}\n".encode())
            since = ""
    else:
        process.kill()
    os.close(ours)
    assert process.wait() == 0, shown
    assert not left, shown
    return shown


def test_a_service_is_told_by_the_password_that_it_does_not_take(
    kept: dict[str, Keeper],
) -> None:
    assert set(kept) == {"postgres_password", "rabbitmq_password", "admin_password"}
    assert refused(*kept.values()) == []
    assert refused(*(changed(each) for each in kept.values())) == list(kept)
    for name, keeper in kept.items():
        others = [each for other, each in kept.items() if other != name]
        assert refused(changed(keeper), *others) == [name]


def test_what_is_asked_shows_in_no_process_list(kept: dict[str, Keeper]) -> None:
    asking = {"psql", "rabbitmqctl", "python3"}
    with watched(NEW) as (seen, shown):
        for _ in range(10):  # a busy machine looks too seldom for a program that is gone at once
            assert len(refused(*(changed(each) for each in kept.values()))) == 3
            if asking <= seen:
                break
    assert asking <= seen, "nobody watched"
    assert shown == set()


def test_what_does_not_run_or_cannot_say_raises_no_alarm(kept: dict[str, Keeper]) -> None:
    for keeper in kept.values():
        wrong = changed(keeper)
        assert refused(replace(wrong, container="stackroom-test-not-there")) == []
    # it runs, but has no such program, or answers no login
    elsewhere = kept["admin_password"].container
    assert refused(replace(changed(kept["postgres_password"]), container=elsewhere)) == []
    assert refused(replace(changed(kept["admin_password"]), port=9)) == []


def test_another_address_for_the_administrator_is_an_account_to_be_made(
    kept: dict[str, Keeper],
) -> None:
    assert refused(replace(changed(kept["admin_password"]), user="new@example.com")) == []


@pytest.mark.parametrize(
    ("secret", "times"),
    [("postgres_password", 2), ("rabbitmq_password", 1), ("admin_password", 2)],
)
def test_the_line_of_the_message_changes_it_and_asks_for_no_old_one(
    kept: dict[str, Keeper], secret: str, times: int
) -> None:
    keeper = kept[secret]
    old = keeper.password.get_secret_value()
    assert not set(shlex.split(keeper.change)) & {old, NEW}
    shown = typed(keeper.change, *[NEW] * times)
    try:
        assert NEW not in shown
        assert refused(keeper) == [secret]
        assert refused(changed(keeper)) == []
    finally:
        typed(keeper.change, *[old] * times)
    assert refused(keeper) == []
