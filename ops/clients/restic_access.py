"""How restic gets at a repository: its program, environment and options. No secret in an argument.

The environment is made from scratch; the password stays in its file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.clients.child import run_child
from ops.errors import MissingToolError, ServiceError, SettingsError
from ops.settings.host import (
    OFFSITE_ENV,
    OFFSITE_SSH_KEY,
    RCLONE_CONFIG,
    RESTIC_PASSWORD,
    Credentials,
    Repository,
)

PROGRAM = "STACKROOM_RESTIC"  # environment: another program than PATH's restic
AT_LEAST = (0, 17, 1)  # the first whose exit codes tell a wrong password from a missing repository
INSTALL = "apt-get install restic  (Debian 13), or: stackroom -e <env> deploy"
DEPLOY = "set it in secrets.toml, then: stackroom -e <env> deploy"
LOCK_BYTES = 64 * 1024
_HOST_ALIAS = "stackroom-offsite"  # of the configured host key, whatever the server's address


def program() -> str:
    """Raises MissingToolError."""
    name = os.environ.get(PROGRAM) or "restic"
    found = shutil.which(name)
    if found is None:
        raise MissingToolError(f"{name} is not installed", INSTALL)
    return found


def version_of(restic: str, timeout: float) -> str:
    """Such as "0.18.0". Raises MissingToolError where it does not work or is too old."""
    ended = run_child([restic, "version"], {"PATH": os.environ.get("PATH", "")}, timeout=timeout)
    found = re.match(r"restic (\d+)\.(\d+)\.(\d+)", ended.stdout)
    if ended.code != 0 or not found:
        raise MissingToolError(f"{restic} is no restic that works", INSTALL)
    version = ".".join(found.groups())
    if tuple(int(part) for part in found.groups()) < AT_LEAST:
        needed = ".".join(map(str, AT_LEAST))
        raise MissingToolError(f"restic is {version}; {needed} or newer is needed", INSTALL)
    return version


class Access:
    """One repository with its credentials. `cache` is a folder of ours."""

    def __init__(self, repository: Repository, credentials: Credentials, cache: Path) -> None:
        self._repository = repository
        self._credentials = credentials
        self._cache = cache
        self._ssh_log = cache / f"ssh-{repository.name}.log"
        scheme = re.match(r"(s3|sftp|rclone):", repository.url)
        self.kind = scheme[1] if scheme else "local"

    def environment(self) -> dict[str, str]:
        """All that restic is given. Raises SettingsError for a credential missing or empty."""
        if not self._password().strip():
            raise SettingsError(
                f"the credential {RESTIC_PASSWORD} in {self._credentials.folder} is empty", DEPLOY
            )
        given = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "HOME": os.environ.get("HOME", "/root"),
            "RESTIC_PASSWORD_FILE": str(self._credentials.path(RESTIC_PASSWORD)),
            "RESTIC_PROGRESS_FPS": "2",
        }
        if "TMPDIR" in os.environ:
            given["TMPDIR"] = os.environ["TMPDIR"]
        if self.kind == "rclone":
            _need_program("rclone")
            given["RCLONE_CONFIG"] = str(self._rclone_config())
        return given | self._offsite_env()

    def secrets(self) -> list[str]:
        """What must not be seen in a message, longest first."""
        values = [self._password().strip(), *self._offsite_env().values()]
        return sorted((value for value in values if len(value) >= 8), key=len, reverse=True)

    @contextmanager
    def options(self) -> Iterator[list[str]]:
        """Options before restic's own; what they refer to is there as long as this lasts.

        Raises SettingsError, MissingToolError.
        """
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        options = ["--repo", self._url(), "--cache-dir", str(self._cache)]
        if self.kind != "local":
            options += ["--option", f"{self.kind}.connections={self._repository.connections}"]
        if self.kind == "rclone":
            append_only = " --append-only" if self._repository.append_only else ""
            serve = f"rclone.args=serve restic --stdio --b2-hard-delete{append_only}"
            options += ["--option", serve]
        if self.kind != "sftp":
            yield options
            return
        key = self._ssh_key()
        self._ssh_log.unlink(missing_ok=True)
        try:
            yield [*options, "--option", f"sftp.command={self._ssh(key)}"]
        finally:
            if key.parent == self._cache:
                key.unlink(missing_ok=True)

    def asides(self) -> list[str]:
        """What ssh has said in the last call; restic may end before it has passed that on."""
        try:
            return self._ssh_log.read_text(errors="replace").splitlines()[-20:]
        except OSError:
            return []

    def _password(self) -> str:
        return self._credentials.need(RESTIC_PASSWORD).get_secret_value()

    def _offsite_env(self) -> dict[str, str]:
        """The lines NAME=value of that credential. S3 needs both of its keys."""
        if self.kind not in ("s3", "rclone"):
            return {}
        s3 = self.kind == "s3"
        secret = self._credentials.need(OFFSITE_ENV) if s3 else self._credentials.get(OFFSITE_ENV)
        found: dict[str, str] = {}
        for line in secret.get_secret_value().splitlines() if secret else []:
            if not line.strip() or line.startswith("#"):
                continue
            name, _, value = line.strip().partition("=")
            if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name) or not value:
                raise SettingsError(
                    f"the credential {OFFSITE_ENV} has a line that is no NAME=value", DEPLOY
                )
            found[name] = value
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if s3 else ():
            if name not in found:
                raise SettingsError(f"the credential {OFFSITE_ENV} lacks {name}", DEPLOY)
        return found

    def _url(self) -> str:
        """As restic takes it: an IPv6 address only in the long form."""
        found = re.fullmatch(r"sftp:([^@/]+@\[[^\]]+\]):(.*)", self._repository.url)
        return f"sftp://{found[1]}/{found[2]}" if found else self._repository.url

    def _ssh_key(self) -> Path:
        """The key's file as ssh takes it: closed to others, with an end of line. Else a copy."""
        _need_program("ssh")
        text = self._credentials.need(OFFSITE_SSH_KEY).get_secret_value()
        path = self._credentials.path(OFFSITE_SSH_KEY)
        if path and not path.stat().st_mode & 0o077 and path.read_bytes().endswith(b"\n"):
            return path
        copy = self._cache / f".{OFFSITE_SSH_KEY}"
        _write_closed(copy, text + "\n")
        return copy

    def _rclone_config(self) -> Path:
        """A copy that rclone may write: it keeps there the tokens that a service hands it anew.

        It stays until the credential itself is another one.
        """
        text = self._credentials.need(RCLONE_CONFIG).get_secret_value() + "\n"
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        copy, mark = self._cache / "rclone.conf", self._cache / "rclone.conf.sha256"
        if copy.is_file() and mark.is_file() and mark.read_text(errors="replace") == digest:
            return copy
        mark.unlink(missing_ok=True)  # until the copy is whole
        _write_closed(copy, text)
        mark.write_text(digest, encoding="ascii")
        return copy

    def _ssh(self, key: Path) -> str:
        """ssh that knows this one key and this one server, asks nobody and notices a dead line."""
        found = re.match(r"sftp:([^@/]+)@(\[[^\]]+\]|[^:]+):", self._repository.url)
        if not found:
            raise SettingsError(f"{self._repository.url} must be sftp:<user>@<host>:<path>")
        known = self._cache / f"known_hosts-{self._repository.name}"
        known.write_text(f"{_HOST_ALIAS} {self._repository.host_key}\n", encoding="ascii")
        options = {
            "UserKnownHostsFile": known,
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": _HOST_ALIAS,
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "ConnectTimeout": 20,
            "ServerAliveInterval": 20,
            "ServerAliveCountMax": 3,
        }
        told = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        target = f"{found[1]}@{found[2].strip('[]')}"
        port = str(self._repository.port)
        # restic adds nothing to a command of ours: "-s ... sftp" asks for the subsystem
        files = ["-F", "none", "-E", str(self._ssh_log), "-i", str(key)]
        return shlex.join(["ssh", *files, "-p", port, *told, "-s", "--", target, "sftp"])


def _write_closed(path: Path, text: str) -> None:
    """A new file in its place that nobody else could ever read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _need_program(name: str) -> None:
    if shutil.which(name) is None:
        package = {"ssh": "openssh-client"}.get(name, name)
        raise MissingToolError(f"{name} is not installed", f"apt-get install {package}")


def can_be_locked(folder: Path) -> bool:
    """Whether a file can be written there: not on a read-only file system, nor on a full one."""
    found = os.statvfs(folder)
    return not found.f_flag & os.ST_RDONLY and found.f_bavail * found.f_frsize > LOCK_BYTES


def clear_for_a_repository(folder: Path, who: str) -> None:
    """Raises ServiceError where the folder holds anything but a repository never finished.

    A `restic init` that was killed leaves keys and no config, and restic itself then refuses both
    to open it and to make it. Nothing can have been stored in it.
    """
    if not folder.exists():
        return
    files = [path for path in folder.rglob("*") if path.is_file()]
    harmless = re.compile(r"(keys|locks)/.*|config-tmp-\d+")
    others = [path for path in files if not harmless.fullmatch(str(path.relative_to(folder)))]
    if others:
        raise ServiceError(
            f"{who}: there is no repository, and {folder} holds something else: {others[0].name}",
            f"ls -la {folder}; a repository that has lost its config file needs it back",
        )
    for file in files:
        file.unlink()
