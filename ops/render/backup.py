"""What the host gets for its backups: configuration, credentials, units, and the verbs themselves.

Everything follows from the settings alone, so that the same files are known without a host.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import SecretStr

from ops.render.files import ROOT, RenderedFile, render
from ops.render.sources import SETTINGS_COPY, sources, start_order
from ops.settings import Environment, Settings
from ops.settings import host as names
from ops.settings.backup import Weekday
from ops.settings.host import HostConfig, Repository

HOME = "/opt/stackroom"  # the verbs' source and their Python environments, by content
PROGRAM = "/usr/local/bin/stackroom"
UNITS = "/etc/systemd/system"
JOBS = ("backup", "check", "drill", "prune")
TIMERS = tuple(f"stackroom-{job}.timer" for job in JOBS)
LOCK = "requirements/host.lock"
# the part of ops/ that runs on the host; a test imports all of it without anything else
PARTS = (
    "__init__.py",
    "errors.py",
    "backup/**/*.py",
    "restore/**/*.py",
    "settings/**/*.py",
    "clients/*.py",
    # by name: most verbs are an operator's, and need packages and rooms that are not given
    *(f"cli/{name}.py" for name in ("__init__", "common", "host", "place", "progress", "runs")),
    *(f"cli/{name}.py" for name in ("backup", "restore", "snapshot")),
)
# these need packages that the host is not given
NOT_ON_HOST = ("clients/edge.py", "clients/qdrant.py")
# what was never asked for is removed again once it is no longer
CREDENTIALS = (
    names.QDRANT_API_KEY,
    names.RESTIC_PASSWORD,
    names.OFFSITE_ENV,
    names.OFFSITE_SSH_KEY,
    names.RCLONE_CONFIG,
    names.NOTICES,
)
_DAYS: tuple[Weekday, ...] = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_VERBS = {
    "backup": "backup run",
    "check": "backup check",
    "drill": "drill",
    "prune": "backup prune",
}
# of the weekly jobs, hours behind weekly_at: a prune follows the check that it depends on
_HOURS_LATER = {"check": 0, "drill": 1, "prune": 2}


@dataclass(frozen=True)
class Bundle:
    """The host's verbs as one archive; `name` is of its content, `venv` of the packages' lock."""

    archive: bytes
    name: str
    venv: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.archive).hexdigest()


@dataclass(frozen=True)
class Backups:
    """What the host needs. `folders` are (path, mode); `unwanted` files must not be there."""

    files: tuple[RenderedFile, ...]
    folders: tuple[tuple[str, int], ...]
    unwanted: tuple[str, ...]
    packages: tuple[str, ...]
    bundle: Bundle
    enabled: bool


def render_backups(environment: Environment) -> Backups:
    """The backups of an environment. Reads its inventory folder and this checkout."""
    settings = environment.settings
    bundle = host_bundle()
    config = host_config(environment, bundle.name)
    secrets = _credentials(settings)
    files = [
        RenderedFile(str(names.CONFIG), config.model_dump_json(indent=2) + "\n"),
        *secrets,
        *(settings_copy(environment, name) for name in ("settings.toml", "developers.toml")),
        *_services(settings, config, [Path(file.path).name for file in secrets]),
    ]
    timers = _timers(settings)
    there = {file.path for file in secrets}
    unwanted = [
        path for name in CREDENTIALS if (path := f"{names.CREDENTIALS}/{name}") not in there
    ]
    if settings.backup.enabled:
        files += timers
    else:
        unwanted += [file.path for file in timers]
    return Backups(
        files=tuple(files),
        folders=_folders(settings, config),
        unwanted=tuple(unwanted),
        packages=tuple(_tools(settings)),
        bundle=bundle,
        enabled=settings.backup.enabled,
    )


def settings_copy(environment: Environment, name: str) -> RenderedFile:
    """A file of the inventory as it goes into backups. Raises OSError."""
    text = (environment.folder / name).read_text(encoding="utf-8")
    return RenderedFile(f"{SETTINGS_COPY}/{name}", text, mode=0o600)


def program(bundle: Bundle) -> RenderedFile:
    """The command `stackroom` on the host: put into its place last, when all it needs is there."""
    text = render("host/stackroom.sh.j2", home=HOME, source=bundle.name, venv=bundle.venv)
    return RenderedFile(PROGRAM, text, mode=0o755)


def host_config(environment: Environment, revision: str) -> HostConfig:
    """What the host's verbs are told. No secret is in it."""
    settings = environment.settings
    backup = settings.backup
    repositories = [Repository(name="local", url=backup.local)]
    if backup.offsite:
        away = backup.offsite
        repositories.append(
            Repository(
                name="offsite",
                url=away.repository,
                append_only=away.append_only,
                port=away.port,
                host_key=away.host_key,
                connections=away.connections,
            )
        )
    return HostConfig(
        environment=environment.name,
        stack=settings.stack,
        stackroom=revision,
        repositories=repositories,
        sources=sources(settings),
        start_order=start_order(settings),
        keep=backup.keep,
        timeout_hours=backup.timeout_hours,
        metrics=Path(backup.metrics),
        offsite_expected=not backup.local_only,
    )


def _credentials(settings: Settings) -> list[RenderedFile]:
    secrets = settings.secrets
    # the databases of the R2R stack trust whoever is inside their containers
    qdrant = secrets.newest_qdrant_key().get_secret_value() if settings.stack == "qdrant" else ""
    texts = {
        names.QDRANT_API_KEY: qdrant,
        names.RESTIC_PASSWORD: secrets.restic_password.get_secret_value(),
        names.OFFSITE_ENV: "\n".join(
            f"{name}={value.get_secret_value()}" for name, value in secrets.offsite_env.items()
        ),
        names.OFFSITE_SSH_KEY: _text(secrets.offsite_ssh_key),
        names.RCLONE_CONFIG: _text(secrets.rclone_config),
        names.NOTICES: _notices(settings),
    }
    return [
        RenderedFile(f"{names.CREDENTIALS}/{name}", f"{text}\n", mode=0o600, secret=True)
        for name, text in texts.items()
        if text
    ]


def _text(secret: SecretStr | None) -> str:
    return secret.get_secret_value().strip("\n") if secret else ""


def _notices(settings: Settings) -> str:
    urls = [url.get_secret_value() for url in settings.secrets.notice_urls]
    pings = {job: url.get_secret_value() for job, url in settings.secrets.ping_urls.items()}
    return json.dumps({"urls": urls, "pings": pings}) if urls or pings else ""


def _folders(settings: Settings, config: HostConfig) -> tuple[tuple[str, int], ...]:
    return (
        (HOME, 0o755),
        (str(names.CREDENTIALS), 0o700),
        (SETTINGS_COPY, 0o700),
        (str(config.base), 0o700),
        (settings.backup.local, 0o700),
        (settings.backup.metrics, 0o755),
    )


def _tools(settings: Settings) -> list[str]:
    offsite = settings.backup.offsite.repository if settings.backup.offsite else ""
    by_kind = {"sftp": "openssh-client", "rclone": "rclone"}
    return [package for kind, package in by_kind.items() if offsite.startswith(f"{kind}:")]


def _services(settings: Settings, config: HostConfig, credentials: list[str]) -> list[RenderedFile]:
    hours = settings.backup.timeout_hours
    base, local, metrics = str(config.base), settings.backup.local, settings.backup.metrics
    paths = {name: f"{names.CREDENTIALS}/{name}" for name in sorted(credentials)}
    units = {
        f"stackroom-{job}.service": render(
            "systemd/stackroom-job.service.j2",
            job=job,
            verb=verb,
            # it may have to wait for another run to end before its own time begins
            start_hours=2 * hours + 1,
            rebuilds=job == "drill",
            program=PROGRAM,
            credentials=paths,
            writable=[base, f"-{local}", f"-{metrics}"],
        )
        for job, verb in _VERBS.items()
    }
    units["stackroom-notify@.service"] = render(
        "systemd/stackroom-notify@.service.j2",
        rebuilds=False,
        program=PROGRAM,
        # it tells and does no more
        credentials={name: path for name, path in paths.items() if name == names.NOTICES},
        writable=[base, f"-{metrics}"],
    )
    return [RenderedFile(f"{UNITS}/{name}", text) for name, text in units.items()]


def _timers(settings: Settings) -> list[RenderedFile]:
    when = {"backup": f"*-*-* {settings.backup.daily_at}:00"}
    when |= {job: weekly(settings, later) for job, later in _HOURS_LATER.items()}
    return [
        RenderedFile(
            f"{UNITS}/stackroom-{job}.timer",
            render("systemd/stackroom-job.timer.j2", job=job, when=when[job]),
        )
        for job in JOBS
    ]


def weekly(settings: Settings, hours_later: int) -> str:
    """An OnCalendar expression: so many hours behind weekly_on and weekly_at."""
    hour, minute = settings.backup.weekly_at.split(":")
    days, hour_of_day = divmod(int(hour) + hours_later, 24)
    day = _DAYS[(_DAYS.index(settings.backup.weekly_on) + days) % len(_DAYS)]
    return f"{day} *-*-* {hour_of_day:02}:{minute}:00"


@cache
def host_bundle() -> Bundle:
    """The same bytes for the same files, whoever packs them and when."""
    ops = ROOT / "ops"
    found = {path for part in PARTS for path in ops.glob(part)}
    found -= {ops / name for name in NOT_ON_HOST}
    contents = {str(path.relative_to(ROOT)): path.read_bytes() for path in [*found, ROOT / LOCK]}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(contents.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    archive = packed.getvalue()
    return Bundle(archive, _short(archive), f"venv-{_short(contents[LOCK])}")


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
