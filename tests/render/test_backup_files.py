"""What the host gets for its backups: one configuration, secrets by name, units that systemd takes,
and verbs that run with nothing but their own packages."""

from __future__ import annotations

import configparser
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from settings_lab import R2R_PASSWORDS, R2R_SETTINGS
from test_host_files import ELSEWHERE, run, tool

from ops.render import backup as rendering
from ops.render.backup import (
    CREDENTIALS,
    JOBS,
    TIMERS,
    Backups,
    host_bundle,
    program,
    render_backups,
)
from ops.render.files import ROOT, RenderedFile
from ops.render.stack import render_stack
from ops.settings import Environment, load_environment
from ops.settings.host import (
    Credentials,
    HostConfig,
    PostgresSource,
    RabbitmqSource,
    load_host_config,
)

WriteEnvironment = Callable[..., Path]
TEMPLATES = {
    "stackroom-job.service.j2",
    "stackroom-job.timer.j2",
    "stackroom-notify@.service.j2",
    "stackroom.sh.j2",
}
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
SFTP = f"""
[backup.offsite]
repository = "sftp:u1@box.example.com:stackroom"
port = 23
host_key = "{HOST_KEY}"
"""
SECRETS = {
    "qdrant_api_key": "canary-qdrant-key-0123456789abcdefghij",
    "api_token": "canary-api-token-0123456789abcdefghijkl",
    "restic_password": "canary-restic-password-0123456789abcde",
    "mistral_api_key": "canary-mistral-key",
    "offsite_ssh_key": "canary-ssh-key-line-1\ncanary-ssh-key-line-2\n",
    "rclone_config": "[far]\ntype = canary-type\n",
    "notice_urls": ["ntfy://canary-topic"],
    "ping_urls": {"backup": "https://ping.example.com/canary-ping"},
    "offsite_env": {"AWS_ACCESS_KEY_ID": "canary-id", "AWS_SECRET_ACCESS_KEY": "canary=secret"},
}


def toml_of(secrets: dict[str, Any]) -> str:
    import tomlkit

    return tomlkit.dumps({"secrets": secrets})


@pytest.fixture
def make(write_environment: WriteEnvironment) -> Callable[..., Environment]:
    """`make(settings text, **secrets)` -> an Environment; secrets replace or (None) leave out."""

    def made(settings: str = "", **secrets: Any) -> Environment:
        given = {k: v for k, v in (SECRETS | secrets).items() if v is not None}
        return load_environment(write_environment(settings, secrets=toml_of(given)))

    return made


@pytest.fixture
def wanted(make: Callable[..., Environment]) -> Backups:
    return render_backups(make(SFTP))


def by_path(backups: Backups) -> dict[str, RenderedFile]:
    found = {file.path: file for file in backups.files}
    assert len(found) == len(backups.files), "two files of one path"
    return found


def config_of(backups: Backups, folder: Path) -> HostConfig:
    """As the host reads it."""
    path = folder / "backup.json"
    path.write_text(by_path(backups)["/etc/stackroom/backup.json"].content, encoding="utf-8")
    return load_host_config(path)


# the configuration


def test_the_host_reads_what_the_inventory_says(wanted: Backups, tmp_path: Path) -> None:
    config = config_of(wanted, tmp_path)
    assert [(r.name, r.url) for r in config.repositories] == [
        ("local", "/var/backups/stackroom"),
        ("offsite", "sftp:u1@box.example.com:stackroom"),
    ]
    away = config.repositories[1]
    assert (away.port, away.host_key, away.connections, away.append_only) == (
        23,
        HOST_KEY,
        3,
        False,
    )
    assert config.environment == "team"
    assert config.stack == "qdrant"
    assert config.stackroom == wanted.bundle.name
    assert config.timeout_hours == 12
    assert config.keep.daily == 14
    assert str(config.metrics) == "/var/lib/prometheus/node-exporter"
    assert config.offsite_expected


def test_every_source_of_the_stack_is_backed_up(
    make: Callable[..., Environment], tmp_path: Path
) -> None:
    def sources(settings: str) -> dict[str, str]:
        config = config_of(render_backups(make(settings)), tmp_path)
        return {s.name: getattr(s, "volume", "") or getattr(s, "path", "") for s in config.sources}

    plain = {
        "qdrant": "stackroom_qdrant_storage",
        "edge": "stackroom_edge_data",
        "settings": "/etc/stackroom/settings",
    }
    assert sources("") == plain
    assert sources("[edge]\nmode = 'tunnel'\n") == {k: v for k, v in plain.items() if k != "edge"}
    assert sources("[api]\nimage = 'a:1'\n") == {
        **plain,
        **{f"api-{kind}": f"stackroom_api_{kind}" for kind in ("library", "sessions", "configs")},
    }


@pytest.mark.parametrize("orchestration", ["simple", "hatchet"])
def test_no_volume_of_the_r2r_stack_is_forgotten(
    orchestration: str, make: Callable[..., Environment], tmp_path: Path
) -> None:
    environment = make(R2R_SETTINGS + f"orchestration = '{orchestration}'\n", r2r=R2R_PASSWORDS)
    backups, stack = render_backups(environment), render_stack(environment, 16000, 4)
    config = config_of(backups, tmp_path)
    saved = {volume for s in config.sources if (volume := getattr(s, "volume", ""))}
    # what Caddy keeps in the other it makes anew from its Caddyfile
    assert saved == {volume.name for volume in stack.volumes} - {"stackroom_edge_config"}
    assert config.sources[-1].name == "settings"
    # no Qdrant, and no key of one
    assert "qdrant" not in {s.kind for s in config.sources}
    key = "/etc/stackroom/secrets/qdrant_api_key"
    assert key in backups.unwanted and key not in by_path(backups)
    for file in backups.files:
        for name, password in R2R_PASSWORDS.items():
            assert password not in file.content, (file.path, name)


def test_the_sources_of_the_r2r_stack_are_its_services(
    make: Callable[..., Environment], tmp_path: Path
) -> None:
    environment = make(R2R_SETTINGS, r2r=R2R_PASSWORDS)
    config = config_of(render_backups(environment), tmp_path)
    stack = render_stack(environment, 16000, 4)
    services = {f"stackroom-{service.name}-1": service for service in stack.services}
    stays = {name for name, service in services.items() if not service.once}
    files = ("r2r/compose.yaml", "r2r/hatchet.yaml", "edge/compose.yaml", "edge/r2r.yaml")
    texts = [(ROOT / "compose" / name).read_text(encoding="utf-8") for name in files]
    compose = [item for text in texts for item in yaml.safe_load(text)["services"].items()]
    for source in config.sources:
        for name in getattr(source, "containers", []):
            assert name in stays, f"{name} is none that a restore could start again"
        if isinstance(source, PostgresSource | RabbitmqSource):
            assert source.image == services[source.container].image
    # who is waited for is started before
    order = {name: place for place, name in enumerate(config.start_order)}
    assert set(order) <= stays
    for name, said in compose:
        mine = f"stackroom-{name}-1"
        for needed in said.get("depends_on", {}):
            if mine in order and f"stackroom-{needed}-1" in order:
                assert order[f"stackroom-{needed}-1"] < order[mine]
    database = next(s for s in config.sources if s.name == "postgres")
    assert isinstance(database, PostgresSource) and database.user == "r2r"
    assert database.data is not None and "library.documents" in database.data


def test_volumes_and_images_are_those_of_the_stack(
    make: Callable[..., Environment], tmp_path: Path
) -> None:
    from ops.render.stack import render_stack

    environment = make("[api]\nimage = 'a:1'\n")
    stack = render_stack(environment, 8192, 4)
    config = config_of(render_backups(environment), tmp_path)
    volumes = {s.volume for s in config.sources if s.kind in ("qdrant", "files") and s.volume}
    there = {volume.name for volume in stack.volumes}
    assert volumes <= there
    # what holds nothing of anybody's: Caddy's own copy of its configuration, and snapshots
    assert there - volumes == {"stackroom_edge_config", "stackroom_qdrant_snapshots"}
    (qdrant,) = [source for source in config.sources if source.kind == "qdrant"]
    assert qdrant.image in {service.image for service in stack.services}
    containers = {c for s in config.sources if s.kind == "files" for c in s.containers}
    assert containers == {"stackroom-edge-1", "stackroom-api-1"}
    assert containers <= {f"stackroom-{service.name}-1" for service in stack.services}


def test_local_only_is_told(make: Callable[..., Environment], tmp_path: Path) -> None:
    config = config_of(render_backups(make("[backup]\nlocal_only = true\n")), tmp_path)
    assert not config.offsite_expected
    assert [repository.name for repository in config.repositories] == ["local"]


# secrets


def test_a_secret_stands_in_its_own_file_and_nowhere_else(wanted: Backups) -> None:
    for path, file in by_path(wanted).items():
        if path.startswith("/etc/stackroom/secrets/"):
            assert (file.mode, file.uid, file.secret) == (0o600, 0, True), path
        else:
            assert "canary" not in file.content, path
            assert not file.secret
    assert "canary" not in program(wanted.bundle).content
    assert b"canary-" not in wanted.bundle.archive
    assert ("/etc/stackroom/secrets", 0o700) in wanted.folders


def test_the_host_finds_its_credentials(wanted: Backups, tmp_path: Path) -> None:
    for path, file in by_path(wanted).items():
        if path.startswith("/etc/stackroom/secrets/"):
            (tmp_path / Path(path).name).write_text(file.content, encoding="utf-8")
    credentials = Credentials(tmp_path)
    found = {name: credentials.get(name) for name in CREDENTIALS}
    told = {name: value.get_secret_value() for name, value in found.items() if value}
    assert told == {
        "qdrant_api_key": SECRETS["qdrant_api_key"],
        "restic_password": SECRETS["restic_password"],
        "offsite_env": "AWS_ACCESS_KEY_ID=canary-id\nAWS_SECRET_ACCESS_KEY=canary=secret",
        "offsite_ssh_key": "canary-ssh-key-line-1\ncanary-ssh-key-line-2",
        "rclone_config": "[far]\ntype = canary-type",
        "notices": told["notices"],
    }
    assert json.loads(told["notices"]) == {
        "urls": ["ntfy://canary-topic"],
        "pings": {"backup": "https://ping.example.com/canary-ping"},
    }


def test_what_is_not_given_is_not_there_and_is_taken_away(make: Callable[..., Environment]) -> None:
    backups = render_backups(
        make(
            offsite_ssh_key=None, rclone_config=None, notice_urls=None, ping_urls=None,
            offsite_env=None,
        )
    )  # fmt: skip
    there = {Path(path).name for path in by_path(backups) if "/secrets/" in path}
    gone = {Path(path).name for path in backups.unwanted if "/secrets/" in path}
    assert there == {"qdrant_api_key", "restic_password"}
    assert gone == {"offsite_env", "offsite_ssh_key", "rclone_config", "notices"}
    text = by_path(backups)["/etc/systemd/system/stackroom-backup.service"].content
    assert "rclone_config" not in text


def test_the_settings_lie_beside_the_data_without_their_secrets(
    make: Callable[..., Environment],
) -> None:
    environment = make("[host]\njournal_max = '300M'\n")
    files = by_path(render_backups(environment))
    copies = {Path(path).name: file for path, file in files.items() if "/settings/" in path}
    assert set(copies) == {"settings.toml", "developers.toml"}
    for name, file in copies.items():
        assert file.content == (environment.folder / name).read_text(encoding="utf-8")
        assert file.mode == 0o600


# units


def unit(file: RenderedFile) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(file.content)
    return parser


def units(backups: Backups) -> dict[str, RenderedFile]:
    return {Path(p).name: f for p, f in by_path(backups).items() if p.startswith("/etc/systemd/")}


@pytest.mark.parametrize("broken", [False, True])
def test_systemd_takes_every_unit(wanted: Backups, tmp_path: Path, broken: bool) -> None:
    found = units(wanted)
    assert set(found) == {
        *TIMERS,
        *(f"stackroom-{job}.service" for job in JOBS),
        "stackroom-notify@.service",
    }
    for file in (*found.values(), program(wanted.bundle)):
        text = file.content
        if broken and file.path.endswith("stackroom-drill.service"):
            text = text.replace("LoadCredential=", "LoadCredentials=")
        path = tmp_path / file.path.removeprefix("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(file.mode)
    for name in ("sysinit", "basic", "shutdown", "timers", "network-online", "time-sync"):
        (tmp_path / f"etc/systemd/system/{name}.target").write_text("[Unit]\n")
    names = [name.replace("@.", "@stackroom-backup.service.") for name in found]
    done = run(
        tool("systemd-analyze", "systemd"), "verify", f"--root={tmp_path}", "--man=no", *names
    )
    told = [line for line in done.stderr.splitlines() if "stackroom-" in line]
    assert done.returncode == 0, done.stderr
    assert bool(told) == broken, done.stderr


@pytest.mark.parametrize("job", JOBS)
def test_a_job_gets_its_secrets_from_systemd_and_tells_when_it_fails(
    wanted: Backups, job: str
) -> None:
    file = units(wanted)[f"stackroom-{job}.service"]
    loaded = {
        line.partition("=")[2] for line in file.content.splitlines() if "LoadCredential=" in line
    }
    names = {Path(path).name for path in by_path(wanted) if "/secrets/" in path}
    assert loaded == {f"{name}:/etc/stackroom/secrets/{name}" for name in names}
    assert unit(file)["Unit"]["OnFailure"] == "stackroom-notify@%n.service"
    service = unit(file)["Service"]
    assert service["ExecStart"].startswith("/usr/local/bin/stackroom ")
    assert service["ExecStart"].endswith(" --timer")
    assert service["Type"] == "oneshot"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == ("full" if job == "drill" else "strict")
    # as long as it may run, after as long as it may have to wait for another
    assert service["TimeoutStartSec"] == "25h"
    if job != "drill":
        assert service["ReadWritePaths"].split() == [
            "/var/lib/stackroom/backup",
            "-/var/backups/stackroom",
            "-/var/lib/prometheus/node-exporter",
        ]
    # without it, a folder that hands its group down is rebuilt without that bit
    assert ("CAP_FSETID" in service["CapabilityBoundingSet"].split()) == (job == "drill")


@pytest.mark.parametrize("told", [True, False])
def test_the_notifier_gets_what_telling_needs_and_no_more(
    make: Callable[..., Environment], told: bool
) -> None:
    nobody = {} if told else {"notice_urls": None, "ping_urls": None}
    file = units(render_backups(make(SFTP, **nobody)))["stackroom-notify@.service"]
    loaded = [line for line in file.content.splitlines() if "LoadCredential=" in line]
    assert loaded == (["LoadCredential=notices:/etc/stackroom/secrets/notices"] if told else [])
    service = unit(file)["Service"]
    assert service["ReadWritePaths"] == (
        "/var/lib/stackroom/backup -/var/lib/prometheus/node-exporter"
    )
    assert "CAP_FSETID" not in service["CapabilityBoundingSet"]


def calendar(backups: Backups) -> dict[str, str]:
    found = units(backups)
    return {job: unit(found[f"stackroom-{job}.timer"])["Timer"]["OnCalendar"] for job in JOBS}


@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ("", ("*-*-* 02:30:00", "Sun *-*-* 04:30", "Sun *-*-* 05:30", "Sun *-*-* 06:30")),
        (
            '[backup]\ndaily_at = "23:05"\nweekly_on = "Sat"\nweekly_at = "22:15"\n',
            ("*-*-* 23:05:00", "Sat *-*-* 22:15", "Sat *-*-* 23:15", "Sun *-*-* 00:15"),
        ),
    ],
)
def test_when_the_jobs_run(
    make: Callable[..., Environment], settings: str, times: tuple[str, ...]
) -> None:
    backups = render_backups(make(settings))
    found = calendar(backups)
    wanted = [time if time.endswith(":00:00") else f"{time}:00" for time in times[1:]]
    assert found == dict(zip(JOBS, [times[0], *wanted], strict=True))
    done = run(tool("systemd-analyze", "systemd"), "calendar", *found.values())
    assert done.returncode == 0, done.stderr
    for job in JOBS:
        timer = unit(units(backups)[f"stackroom-{job}.timer"])["Timer"]
        assert (timer["Persistent"], timer["RandomizedDelaySec"]) == ("true", "15m")


def test_without_a_schedule_the_rest_stays(make: Callable[..., Environment]) -> None:
    backups = render_backups(make("[backup]\nenabled = false\n"))
    assert not set(TIMERS) & set(units(backups))
    assert {Path(path).name for path in backups.unwanted if path.endswith(".timer")} == set(TIMERS)
    assert {f"stackroom-{job}.service" for job in JOBS} <= set(units(backups))
    assert not backups.enabled


def test_every_template_of_backups_is_used(
    wanted: Backups, make: Callable[..., Environment], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = set()
    render = rendering.render

    def seen(template: str, **values: Any) -> str:
        used.add(Path(template).name)
        return render(template, **values)

    monkeypatch.setattr(rendering, "render", seen)
    backups = render_backups(make(SFTP))
    program(backups.bundle)
    assert used == TEMPLATES
    # what the host's other files leave to this one, so that no template is used by nobody
    assert used <= ELSEWHERE
    for file in (*units(backups).values(), program(backups.bundle)):
        assert "Written by Stackroom" in file.content
        assert not file.mode & 0o022


# the host's verbs


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError("not on the host: " + name)

sys.meta_path.insert(0, Blocker())
import pathlib, importlib
root = pathlib.Path({root!r})
for path in sorted(root.joinpath("ops").rglob("*.py")):
    name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
files = {{n: str(m.__file__) for n, m in sys.modules.items() if n.split(".")[0] == "ops"}}
wrong = [name for name, file in files.items() if not file.startswith({root!r})]
assert not wrong, wrong
"""


def locked_packages() -> set[str]:
    lines = (ROOT / "requirements" / "host.in").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_the_hosts_verbs_need_nothing_that_the_host_lacks(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(host_bundle().archive)) as tar:
        tar.extractall(tmp_path, filter="data")
    foreign = {"pyinfra", "gevent", "jinja2", "qdrant_client", "grpc", "docker", "pyrage",
               "cryptography", "numpy"}  # fmt: skip
    assert not foreign & locked_packages()
    script = BLOCKER.format(blocked=foreign, root=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "requirements/host.lock").is_file()
    verbs = {path.stem for path in (tmp_path / "ops/cli").glob("*.py")}
    operators = {"operator", "escrow", "developer", "people", "person", "server_key", "migrate"}
    assert "host" in verbs
    assert not verbs & operators


def test_the_same_source_makes_the_same_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    first = host_bundle()
    monkeypatch.setattr("time.time", lambda: 0.0)
    host_bundle.cache_clear()
    assert host_bundle() == first


def test_the_command_names_the_bundle_and_its_environment(wanted: Backups, tmp_path: Path) -> None:
    file = program(wanted.bundle)
    assert f"/opt/stackroom/{wanted.bundle.name} " in file.content
    assert f"/opt/stackroom/{wanted.bundle.venv}/bin/python " in file.content
    path = tmp_path / "stackroom"
    path.write_text(file.content, encoding="utf-8")
    done = run("sh", "-n", path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("repository", "packages"),
    [
        (f"'sftp:u@h:p'\nhost_key = '{HOST_KEY}'", ("openssh-client",)),
        ("'rclone:far:p'", ("rclone",)),
        ("'s3:https://s3.example.com/b'", ()),
    ],
)
def test_what_the_off_site_kind_needs(
    make: Callable[..., Environment], repository: str, packages: tuple[str, ...]
) -> None:
    backups = render_backups(make(f"[backup.offsite]\nrepository = {repository}\n"))
    assert backups.packages == packages
