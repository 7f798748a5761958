"""A changed password that a running service does not know: a plan and a deploy refuse it first."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from settings_lab import R2R_PASSWORDS, SECRETS, settings_with

from ops.clients.ssh import Completed, Remote
from ops.deploy import passwords, plan
from ops.deploy import run as running
from ops.deploy.passwords import keepers, refuse_changed
from ops.deploy.pyinfra import Finished
from ops.errors import DeployError, StackroomError
from ops.settings import Environment
from ops.settings.environment import Machine

MODELS = {"chat": {"model": "openai/a"}, "text-embedding-3-team": {"model": "openai/b"}}


def environment(machine: Machine | None = None, **r2r: Any) -> Environment:
    settings = settings_with(
        stack="r2r",
        r2r=r2r,
        litellm={"models": MODELS},
        secrets=SECRETS | {"r2r": R2R_PASSWORDS},
    )
    return Environment(Path("inventory/team"), settings, machine or Machine("198.51.100.10"))


class Said(Remote):
    """A machine that says it, and remembers what it was asked."""

    def __init__(self, environment: Environment, stdout: str) -> None:
        super().__init__(environment)
        self.stdout = stdout
        self.asked: list[tuple[str, str]] = []

    def run(self, command: str, *, stdin: str = "", **_: Any) -> Completed:
        self.asked.append((command, stdin))
        return Completed(0, self.stdout, "")


def values(**takes: bool | None) -> str:
    return json.dumps({"values": takes, "errors": {}})


def refusal(there: Environment, stdout: str) -> DeployError:
    with pytest.raises(DeployError) as caught:
        refuse_changed(there, Said(there, stdout))
    return caught.value


def test_the_message_names_each_secret_what_keeps_it_and_how_to_change_it() -> None:
    error = refusal(environment(), values(postgres_password=False, rabbitmq_password=False))
    assert error.message == (
        "nothing was changed: secrets.toml has passwords that the machine's services do not take\n"
        "postgres_password: the database of R2R (volume stackroom_postgres) keeps another one\n"
        r"    docker exec -it stackroom-postgres-1 psql -U r2r -d r2r -c '\password'"
        "\n"
        "rabbitmq_password: RabbitMQ (volume stackroom_rabbitmq) keeps another one\n"
        "    docker exec -it stackroom-rabbitmq-1 sh -c"
        " 'stty -echo; exec rabbitmqctl change_password hatchet'"
    )
    assert error.hint == (
        "put the old ones back into secrets.toml; or change them where they are kept, by the lines"
        " above on the machine (ssh root@198.51.100.10), then at once: stackroom -e team deploy"
    )


def test_the_lines_are_those_of_the_login() -> None:
    there = environment(Machine("198.51.100.10", user="ops", port=2222))
    error = refusal(there, values(hatchet_postgres_password=False, admin_password=False))
    assert (
        "\n    sudo docker exec -it stackroom-hatchet-postgres-1 psql -U hatchet" in error.message
    )
    assert (
        "\n    sudo docker exec -it stackroom-r2r-1 /opt/r2r/bin/python -I /opt/r2r/new_password.py"
        in error.message
    )
    assert "(ssh -p 2222 ops@198.51.100.10)" in error.hint


@pytest.mark.parametrize(
    "stdout",
    [
        "",  # a machine of before the first deploy: no Docker
        "no JSON",
        values(),
        values(postgres_password=None, admin_password=True),
        json.dumps({"values": {}, "errors": {"postgres_password": "starting up"}}),
    ],
)
def test_what_does_not_run_or_does_not_say_is_passed_over(stdout: str) -> None:
    there = environment()
    refuse_changed(there, Said(there, stdout))


def test_each_is_asked_for_its_own_password_by_standard_input_alone() -> None:
    there = environment()
    remote = Said(there, values())
    refuse_changed(there, remote)
    ((command, stdin),) = remote.asked
    assert not [name for name, value in R2R_PASSWORDS.items() if value in command]
    questions = json.loads(stdin.splitlines()[1])
    assert {name: (q["container"], q["user"], q["password"]) for name, q in questions.items()} == {
        name: (f"stackroom-{container}-1", user, R2R_PASSWORDS[name])
        for name, container, user in [
            ("postgres_password", "postgres", "r2r"),
            ("hatchet_postgres_password", "hatchet-postgres", "hatchet"),
            ("rabbitmq_password", "rabbitmq", "hatchet"),
            ("admin_password", "r2r", "admin@example.com"),
        ]
    }


def test_without_a_queue_its_services_are_not_asked() -> None:
    asked = [each.secret for each in keepers(environment(orchestration="simple"))]
    assert asked == ["admin_password", "postgres_password"]


def test_the_other_stack_keeps_none_and_nobody_connects() -> None:
    there = Environment(Path("inventory/team"), settings_with(), Machine("198.51.100.10"))
    remote = Said(there, values(postgres_password=False))
    refuse_changed(there, remote)
    assert remote.asked == []


def test_no_secret_stands_in_what_it_says_of_its_own_failure() -> None:
    """The program with a Docker that is broken: its answer names commands, and no password."""
    asked = {each.secret: each.question() for each in keepers(environment())}
    done = subprocess.run(
        ["/bin/sh", "-c", passwords.START],
        input=f"{json.dumps(passwords.PROGRAM)}\n{json.dumps(asked)}",
        env={"PATH": f"{Path(sys.executable).parent}:/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert set(json.loads(done.stdout)["errors"]) == set(asked), done.stderr
    assert "canary" not in done.stdout + done.stderr


# -- where it is asked -----------------------------------------------------------------------


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Postgres keeps another password; what follows is written down instead of done."""
    done: list[str] = []

    def run(*_: object, **__: object) -> Completed:
        done.append("asked")
        return Completed(0, values(postgres_password=False), "")

    def dry(*_: object, **__: object) -> Finished:
        return Finished(0, '{"plan": []}', "")

    def lock(remote: Remote, doing: str) -> Any:
        done.append("locked")
        return nullcontext()

    def apply(*_: object, **__: object) -> list[str]:
        done.append("applied")
        return []

    monkeypatch.setattr(Remote, "run", run)
    monkeypatch.setattr(plan, "run_pyinfra", dry)
    monkeypatch.setattr(running, "hold_lock", lock)
    monkeypatch.setattr(running, "apply", apply)
    return done


def ignore(name: str, result: str) -> None:
    """A step, unheard."""


def test_a_deploy_asks_under_the_lock_and_changes_nothing(kept: list[str]) -> None:
    with pytest.raises(StackroomError, match="postgres_password"):
        running.carry_out(environment(), "it", first=lambda: kept.append("first"), on_step=ignore)
    assert kept == ["locked", "asked"]


def test_a_plan_is_refused_too(kept: list[str]) -> None:
    with pytest.raises(StackroomError, match="postgres_password"):
        plan.make_plan(environment())


def test_a_change_of_people_is_not_held_up_by_it(kept: list[str]) -> None:
    assert plan.make_plan(environment(), part="people").is_clean
    running.carry_out(environment(), "it", part="people", on_step=ignore)
    assert kept == ["locked", "applied"]
