"""The settings of backups and escrow: the operator's half of what the host is told."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Weekday = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def _clock(text: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        raise ValueError('must be a time such as "02:30"')
    return text


def _folder(text: str) -> str:
    if not re.fullmatch(r"(/(?!\.\.?(/|$))[\w.@+-]+)+", text):
        raise ValueError("must be an absolute path on the host, below the root folder")
    return text


def _offsite_repository(text: str) -> str:
    # ssh takes a name that begins with a hyphen for an option
    login = r"[A-Za-z0-9_][\w.-]*@[A-Za-z0-9\[][\w.:\[\]-]*"
    kinds = rf"s3:https?://\S+|sftp:{login}:[\w./~@+-]+|rclone:\w[\w .-]*:\S*"
    if not re.fullmatch(kinds, text):
        raise ValueError(
            'must be a restic repository: "s3:https://<server>/<bucket>/<path>",'
            ' "sftp:<user>@<host>:<path>" or "rclone:<remote>:<path>"'
        )
    if re.match(r"s3:https?://[^/]*@", text):
        raise ValueError("must not hold a password; keys belong into secrets.toml")
    return text


def _host_key(text: str) -> str:
    if text and not re.fullmatch(r"(ssh-|ecdsa-)[a-z0-9-]+ [A-Za-z0-9+/]+=*", text):
        raise ValueError('must be a kind and a key, such as "ssh-ed25519 AAAA..."')
    return text


def _recipient(text: str) -> str:
    if not re.fullmatch(r"age1[a-z0-9]{58}|(ssh-ed25519|ssh-rsa) [A-Za-z0-9+/=]+( .*)?", text):
        raise ValueError("must be an age public key (age1...) or a line of an OpenSSH .pub file")
    return text


Clock = Annotated[str, AfterValidator(_clock)]
Folder = Annotated[str, AfterValidator(_folder)]


class Offsite(_Model):
    """A second repository, away from the machine."""

    repository: Annotated[str, AfterValidator(_offsite_repository)]
    # sftp: the server's port and its host key, a line of known_hosts without the name
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    host_key: Annotated[str, AfterValidator(_host_key)] = ""
    connections: Annotated[int, Field(ge=1, le=32)] = 3
    # the far side refuses deletions: history is pruned there, not from the machine
    append_only: bool = False

    @model_validator(mode="after")
    def _sftp_knows_its_server(self) -> Offsite:
        if self.repository.startswith("sftp:") and not self.host_key:
            raise ValueError(
                "needs host_key: ssh-keyscan -t ed25519 <host> prints it; compare it first"
            )
        return self


class Keep(_Model):
    """For how many days one backup a day, a week, a month is kept; and how many in any case."""

    daily: Annotated[int, Field(ge=1, le=3650)] = 14
    weekly: Annotated[int, Field(ge=0, le=3650)] = 60
    monthly: Annotated[int, Field(ge=0, le=36500)] = 365
    last: Annotated[int, Field(ge=1, le=1000)] = 3
    remove_at_most: Annotated[int, Field(ge=1, le=1000)] = 10


class Backup(_Model):
    """When, where to and how long. Times are the host's."""

    enabled: bool = True
    local: Folder = "/var/backups/stackroom"
    offsite: Offsite | None = None
    # true: the doctor does not warn that every copy is on one machine
    local_only: bool = False
    daily_at: Clock = "02:30"
    weekly_on: Weekday = "Sun"
    weekly_at: Clock = "04:30"
    timeout_hours: Annotated[int, Field(ge=1, le=72)] = 12
    keep: Keep = Keep()
    metrics: Folder = "/var/lib/prometheus/node-exporter"

    @model_validator(mode="after")
    def _one_decision(self) -> Backup:
        if self.offsite and self.local_only:
            raise ValueError("has offsite and local_only; choose one")
        return self


class Escrow(_Model):
    """Who can open the recovery file; each of them alone."""

    recipients: list[Annotated[str, AfterValidator(_recipient)]] = []

    @model_validator(mode="after")
    def _two_or_none(self) -> Escrow:
        if len({line.split(" ")[1] if " " in line else line for line in self.recipients}) == 1:
            raise ValueError("recipients needs two keys or more: one lost laptop must not matter")
        return self
