"""A service on restored data, before anybody writes to it: its own password, and what it holds.

The data bring the passwords of the backup's day along; those that connect have the deploy's. So the
service is given the one that its own container was started with. No password passes through here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ops.backup.rabbitmq import USER as BROKER_USER
from ops.clients.docker import docker
from ops.clients.postgres import Postgres
from ops.errors import BackupError

COUNT_SECONDS = 3600.0
_OBJECTS = "large objects"
CONTROL_SECONDS = 120.0
# psql takes it from the environment of its container itself: it stands in no argument list
# and the server writes no statement that fails into its log
_POSTGRES = """\\getenv password POSTGRES_PASSWORD
\\if :{?password}
set log_min_error_statement = panic;
alter role current_user password :'password';
\\endif
"""
# the broker takes it from its environment itself; rabbitmqctl would want it as an argument
_RABBITMQ = """\
case {os:getenv("RABBITMQ_DEFAULT_USER"), os:getenv("RABBITMQ_DEFAULT_PASS")} of
    {[_ | _] = User, [_ | _] = Password} ->
        ok = rabbit_auth_backend_internal:change_password(
            unicode:characters_to_binary(User), unicode:characters_to_binary(Password),
            <<"stackroom">>);
    _ -> ok
end.
"""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PostgresHandover(_Model):
    """`rows` by database and "schema.table"; `large_objects` by database: what has to be there."""

    kind: Literal["postgres"] = "postgres"
    container: str
    user: str
    rows: dict[str, dict[str, int]]
    large_objects: dict[str, int]

    def make(self) -> None:
        """Raises BackupError where less is there than was restored, StackroomError of Docker."""
        server = Postgres(self.container, self.user)
        server.run(_POSTGRES)
        for database, promised in self.rows.items():
            with server.snapshot(database, timeout=COUNT_SECONDS) as snapshot:
                content = snapshot.content()
            found = content.rows | {_OBJECTS: content.large_objects}
            for what, least in (promised | {_OBJECTS: self.large_objects[database]}).items():
                if found.get(what, 0) < least:
                    raise BackupError(
                        f"the live database {database} has {found.get(what, 0)} of {what}"
                        f" instead of {least}"
                    )


class RabbitmqHandover(_Model):
    """The user that the broker makes at its first start."""

    kind: Literal["rabbitmq"] = "rabbitmq"
    container: str

    def make(self) -> None:
        """Raises StackroomError of Docker, or where the broker refuses."""
        command = ("rabbitmqctl", "--quiet", "eval", _RABBITMQ)
        docker("exec", "--user", BROKER_USER, self.container, *command, timeout=CONTROL_SECONDS)


Handover = Annotated[PostgresHandover | RabbitmqHandover, Field(discriminator="kind")]
