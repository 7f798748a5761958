"""A password that is changed in secrets.toml, and that a volume does not change with.

A database, a broker and an account take the password of their first start only. Services that
are told another one fail at it, so a deploy asks first, and changes nothing where one would.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from ops.clients import script
from ops.clients.ssh import Remote
from ops.errors import DeployError
from ops.render.r2r_env import DATABASE, QUEUE, USER, secrets_of
from ops.settings import Environment

PROGRAM = script.program("ops.deploy.kept_passwords")
# ahead of what it reads: one line of the program, and the rest of standard input is its own
START = "python3 -c 'import json, sys; exec(json.loads(sys.stdin.readline()))'"
ASK_SECONDS = 60.0
R2R_PORT = 7272


@dataclass(frozen=True)
class Keeper:
    """A service whose first password stays: `secret` is its name in secrets.toml, `holds` where
    the old one is kept, `change` the command on the machine that changes it in place."""

    secret: str
    holds: str
    change: str
    container: str
    kind: str
    user: str
    password: SecretStr
    port: int = R2R_PORT

    def question(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "container": self.container,
            "user": self.user,
            "port": self.port,
            "password": self.password.get_secret_value(),
        }


def refuse_changed(environment: Environment, remote: Remote) -> None:
    """Raises DeployError where a running service keeps another password than secrets.toml has.

    A service that does not run, or cannot say, is passed over. Raises UnreachableError too.
    """
    kept = kept_passwords(environment, remote)
    if not kept:
        return
    machine = environment.machine
    login = " ".join(
        ["ssh", *(["-p", str(machine.port)] if machine.port != 22 else []), machine.login()]
    )
    told = [f"{each.secret}: {each.holds} keeps another one\n    {each.change}" for each in kept]
    raise DeployError(
        "nothing was changed: secrets.toml has passwords that the machine's services do not take\n"
        + "\n".join(told),
        "put the old ones back into secrets.toml; or change them where they are kept, by the lines"
        f" above on the machine ({login}), then at once: stackroom -e {environment.name} deploy",
    )


def kept_passwords(environment: Environment, remote: Remote) -> list[Keeper]:
    """The services that run there and keep another password than the environment's."""
    if environment.settings.stack != "r2r":
        return []
    return refusing(list(keepers(environment)), remote)


def refusing(asked: list[Keeper], remote: Remote) -> list[Keeper]:
    """Those of the services that run and refuse their password."""
    takes = answers(asked, remote)
    return [each for each in asked if takes.get(each.secret) is False]


def answers(asked: list[Keeper], remote: Remote) -> dict[str, bool | None]:
    """By secret whether its service takes it; None or absent where it does not run or say."""
    questions = {each.secret: each.question() for each in asked}
    # a machine of before the first deploy may have neither Python nor Docker, and keeps nothing
    command = f"if command -v docker >/dev/null; then {START}; fi"
    stdin = f"{json.dumps(PROGRAM)}\n{json.dumps(questions)}"
    answer = remote.run(command, stdin=stdin, timeout=ASK_SECONDS)
    try:
        found: dict[str, bool | None] = json.loads(answer.stdout)["values"]
    except ValueError:
        return {}
    return found


def keepers(environment: Environment) -> Iterator[Keeper]:
    """What keeps a password in the R2R stack of this environment."""
    settings = environment.settings
    secrets = secrets_of(settings)
    docker = "docker" if environment.machine.user == "root" else "sudo docker"
    inside = f"{docker} exec -it stackroom-{{}}-1"
    # before its database's: its line goes there with the password that R2R was started with
    yield Keeper(
        "admin_password",
        f"the account {settings.r2r.admin_email} of R2R (volume stackroom_postgres)",
        f"{inside.format('r2r')} /opt/r2r/bin/python -I /opt/r2r/new_password.py"
        f" {shlex.quote(settings.r2r.admin_email)}",
        "stackroom-r2r-1",
        "r2r",
        settings.r2r.admin_email,
        secrets.admin_password,
    )
    yield Keeper(
        "postgres_password",
        "the database of R2R (volume stackroom_postgres)",
        f"{inside.format('postgres')} psql -U {USER} -d {DATABASE} -c '\\password'",
        "stackroom-postgres-1",
        "postgres",
        USER,
        secrets.postgres_password,
    )
    if settings.r2r.orchestration == "hatchet":
        yield Keeper(
            "hatchet_postgres_password",
            "Hatchet's database (volume stackroom_hatchet_postgres)",
            f"{inside.format('hatchet-postgres')} psql -U {QUEUE} -d {QUEUE} -c '\\password'",
            "stackroom-hatchet-postgres-1",
            "postgres",
            QUEUE,
            secrets.hatchet_postgres_password,
        )
        yield Keeper(
            "rabbitmq_password",
            "RabbitMQ (volume stackroom_rabbitmq)",
            f"{inside.format('rabbitmq')} sh -c"
            f" 'stty -echo; exec rabbitmqctl change_password {QUEUE}'",
            "stackroom-rabbitmq-1",
            "rabbitmq",
            QUEUE,
            secrets.rabbitmq_password,
        )
