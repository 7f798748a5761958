"""What the host's own verbs read: /etc/stackroom/backup.json, and credentials by name.

Rendered by a deploy from the inventory; no secret stands in the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from ops.errors import SettingsError
from ops.settings.backup import Keep

CONFIG = Path("/etc/stackroom/backup.json")
CREDENTIALS = Path("/etc/stackroom/secrets")  # a folder 0700, one file 0600 a credential
BASE = Path("/var/lib/stackroom/backup")
# the credentials by name; what is not needed is absent
QDRANT_API_KEY = "qdrant_api_key"
RESTIC_PASSWORD = "restic_password"  # noqa: S105 - its name
OFFSITE_ENV = "offsite_env"  # lines NAME=value for restic: AWS_ACCESS_KEY_ID and the like
OFFSITE_SSH_KEY = "offsite_ssh_key"
RCLONE_CONFIG = "rclone_config"
NOTICES = "notices"  # JSON: {"urls": [apprise URL, ...], "pings": {"backup": URL, ...}}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Repository(_Model):
    """One restic repository. `url` as restic takes it; a folder for the local one."""

    name: Literal["local", "offsite"]
    url: str
    append_only: bool = False
    port: int = 22  # of sftp
    host_key: str = ""  # of sftp: "ssh-ed25519 AAAA..."
    connections: int = 3


class QdrantSource(_Model):
    kind: Literal["qdrant"] = "qdrant"
    name: str = "qdrant"
    url: str = "http://127.0.0.1:6333"
    container: str = "stackroom-qdrant-1"
    volume: str = "stackroom_qdrant_storage"
    image: str  # the pinned one


class FilesSource(_Model):
    """A folder on the host, or a Docker volume by name; `uid` owns what is restored there."""

    kind: Literal["files"] = "files"
    name: str
    path: str = ""
    volume: str = ""
    # the containers that use it: stopped around the switch of a restore
    containers: list[str] = []
    deployed: bool = False  # a deploy makes its files: they are in nobody's way


class PostgresSource(_Model):
    """`databases` empty: every database but the templates.

    `data`: the tables, as "schema.table", whose rows are somebody's work: they are in the way of a
    restore, and a drill shows their counts. None: those of any table are.
    """

    kind: Literal["postgres"] = "postgres"
    name: str
    container: str
    user: str = "postgres"
    databases: list[str] = []
    data: list[str] | None = None
    shown: list[str] = []  # others whose counts a drill names
    volume: str = ""
    image: str = ""
    # those that write into it: stopped around the switch of a restore
    containers: list[str] = []


class RabbitmqSource(_Model):
    """Without a volume, a restore proves the definitions and leaves the broker as it is."""

    kind: Literal["rabbitmq"] = "rabbitmq"
    name: str
    container: str
    volume: str = ""
    image: str = ""
    containers: list[str] = []


Source = Annotated[
    QdrantSource | FilesSource | PostgresSource | RabbitmqSource, Field(discriminator="kind")
]


class HostConfig(_Model):
    """Everything the host's verbs need to know. Paths are absolute."""

    schema_version: Literal[1] = 1
    environment: str
    stack: str
    stackroom: str  # revision that was deployed
    base: Path = BASE  # staging, scratch, lock, records
    repositories: list[Repository]
    sources: list[Source]
    # containers that a restore starts in this order; the others come behind, in that of the sources
    start_order: list[str] = []
    keep: Keep = Keep()
    timeout_hours: float = 12.0
    period_hours: float = 24.0  # of backups; checks, drills and prunes: a week
    metrics: Path | None = None
    drill_image_pull: bool = True  # an image of the manifest that is not here may be pulled
    offsite_expected: bool = True  # false: local_only was set


class Credentials:
    """Secrets by name, from where systemd put them for this unit, else from the root's folder."""

    def __init__(self, folder: Path | None = None) -> None:
        given = os.environ.get("CREDENTIALS_DIRECTORY")
        self.folder = folder or (Path(given) if given else CREDENTIALS)

    def path(self, name: str) -> Path | None:
        """The credential's file, for tools that read files; None where there is none."""
        path = self.folder / name
        return path if path.is_file() else None

    def get(self, name: str) -> SecretStr | None:
        """The credential without the line end behind it; None where it is absent.

        Raises SettingsError for one that is empty: a tool would take that for "no password".
        """
        path = self.path(name)
        if path is None:
            return None
        try:
            text = path.read_text(encoding="utf-8").rstrip("\n")
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be read: {error.strerror}", "run it as root"
            ) from None
        if not text:
            raise SettingsError(f"{path} is empty", "deploy again: stackroom -e <env> deploy")
        return SecretStr(text)

    def need(self, name: str) -> SecretStr:
        """The credential. Raises SettingsError where it is missing or empty."""
        found = self.get(name)
        if found is None:
            raise SettingsError(
                f"the credential {name} is missing in {self.folder}",
                "deploy again: stackroom -e <env> deploy",
            )
        return found


def load_host_config(path: Path = CONFIG) -> HostConfig:
    """Raises SettingsError where the file is missing, unreadable or of another schema."""
    try:
        return HostConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}",
            "on the host, as root, after a deploy; from elsewhere: stackroom -e <environment> ...",
        ) from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{path}: {where}: {first['msg']}", "deploy again: stackroom -e <env> deploy"
        ) from None
