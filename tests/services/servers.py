"""Real servers for tests: restic itself, S3 (SeaweedFS), SFTP (OpenSSH in a container), rclone.

Everything listens on loopback or on Docker's bridge, keeps its data in a given folder, and goes
with the test. What cannot be had is an error: nothing is skipped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ops.render.files import ROOT
from ops.sandbox import engine
from ops.sandbox.build import base_image, content_hash
from ops.sandbox.layout import IMAGES, LABEL
from ops.settings.host import (
    OFFSITE_ENV,
    OFFSITE_SSH_KEY,
    RCLONE_CONFIG,
    RESTIC_PASSWORD,
    Credentials,
)

TOOLS = ROOT / ".stackroom" / "tools"
IMAGE_FOLDER = Path(__file__).parent / "images" / "services"
TEST_LABEL = "stackroom.test=services"  # on every container that a test starts
RESTIC_AT_LEAST = (0, 17, 1)
PASSWORD = "the password of the tests' repositories"


# restic ---------------------------------------------------------------------------------------


def restic_program() -> Path:
    """A restic that is new enough: PATH's, else Debian 13's, kept in .stackroom/tools.

    Raises MissingToolError or ServiceError where there is no Docker, or the build fails.
    """
    named = os.environ.get("STACKROOM_RESTIC", "")
    for found in (named, shutil.which("restic"), str(TOOLS / "restic")):
        if found and Path(found).is_file() and _restic_version(found) >= RESTIC_AT_LEAST:
            return Path(found)
    TOOLS.mkdir(parents=True, exist_ok=True)
    image = services_image()
    name = f"stackroom-test-{uuid.uuid4().hex[:8]}"
    engine.docker("create", "--name", name, "--label", TEST_LABEL, image)
    try:
        new = TOOLS / f"restic.{os.getpid()}"
        engine.docker("cp", f"{name}:/usr/bin/restic", str(new))
        new.replace(TOOLS / "restic")
    finally:
        engine.docker("rm", "--force", name)
    version = _restic_version(str(TOOLS / "restic"))
    assert version >= RESTIC_AT_LEAST, f"Debian's restic is {version}: too old"
    return TOOLS / "restic"


def _restic_version(program: str) -> tuple[int, ...]:
    try:
        done = subprocess.run([program, "version"], capture_output=True, text=True, check=False)
    except OSError:
        return ()
    found = re.match(r"restic (\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else ()


def services_image() -> str:
    """The image with restic and sshd, built on the sandbox's Debian where its recipe changed."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run twice at once
        base = base_image(print)
        base_id = (engine.inspect("image", base) or {})["Id"]
        tag = f"{IMAGES}/test-services:{content_hash(IMAGE_FOLDER, {}, base_id)}"
        if not engine.inspect("image", tag):
            log = TOOLS / "build-services.log"
            labels = [LABEL, "stackroom.build=test-services"]
            # the engine wants a context of ours alone
            with tempfile.TemporaryDirectory(prefix="stackroom-") as folder:
                context = shutil.copytree(IMAGE_FOLDER, Path(folder, "context"))
                engine.build(tag, context, {"BASE": base}, labels, log)
        return tag


# credentials ----------------------------------------------------------------------------------


def credentials(folder: Path, *, password: str = PASSWORD, **others: str) -> Credentials:
    """A folder of credentials as a deploy leaves it; `others` by name: offsite_env="...".

    The restic password is there in any case; an argument of "" writes an empty file.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in {RESTIC_PASSWORD: password, **others}.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
    return Credentials(folder)


# S3 -------------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def beside_python(program: str) -> str:
    """A program that a wheel laid beside this Python."""
    path = Path(sys.executable).with_name(program)
    assert path.is_file(), f"{path} is missing: make tools"
    return str(path)


@dataclass
class S3Server:
    """SeaweedFS with one account. Start and stop it as often as needed; the data stays."""

    folder: Path
    host: str = "127.0.0.1"
    access_key: str = field(default_factory=lambda: f"AK{secrets.token_hex(9).upper()}")
    secret_key: str = field(default_factory=lambda: f"s3-{secrets.token_hex(20)}")
    ports: list[int] = field(default_factory=lambda: free_ports(9))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The endpoint: http://<host>:<port>."""
        return f"http://{self.host}:{self.ports[0]}"

    def repository(self, bucket: str = "", path: str = "restic") -> str:
        """The URL of a restic repository in a bucket of its own; restic makes the bucket."""
        return f"s3:{self.url}/{bucket or new_bucket()}/{path}"

    @property
    def offsite_env(self) -> str:
        """The content of the credential of that name."""
        return f"AWS_ACCESS_KEY_ID={self.access_key}\nAWS_SECRET_ACCESS_KEY={self.secret_key}\n"

    def start(self) -> None:
        """Start it and wait until it answers as the account. Raises AssertionError."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        config.write_text(json.dumps(self._identities()), encoding="utf-8")
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc, metrics = (
            map(str, self.ports)
        )  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(beside_python("weed"), f"-logdir={self.folder}", "server", f"-dir={data}"),
                    *(f"-ip={self.host}", f"-ip.bind={self.host}", f"-metricsPort={metrics}"),
                    *(f"-master.port={master}", f"-master.port.grpc={master_grpc}"),
                    *(f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}"),
                    *(f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"),
                    *("-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-s3.config={config}"),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                    *("-master.volumeSizeLimitMB=64", "-volume.max=200"),
                    *("-master.telemetry=false", "-iam=false"),
                    "-master.electionTimeout=1s",  # nobody else stands
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.rclone("lsd", ":s3:", check=False).returncode == 0 and self._can_write():
                return
            time.sleep(0.2)
        self.stop(signal.SIGKILL)
        raise AssertionError(f"the S3 server did not start:\n{self.log[-3000:]}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, in order or not (SIGKILL); its data stays."""
        if self.process is None:
            return
        process, self.process = self.process, None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def remove_bucket(self, bucket: str) -> None:
        """Take a bucket away with all that is in it."""
        self.rclone("purge", f":s3:{bucket}")

    def rclone(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """rclone as a client of this server: `rclone("lsf", ":s3:bucket")`."""
        account = {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_S3_PROVIDER": "SeaweedFS",
            "RCLONE_S3_ENDPOINT": self.url,
            "RCLONE_S3_ACCESS_KEY_ID": self.access_key,
            "RCLONE_S3_SECRET_ACCESS_KEY": self.secret_key,
        }
        once = ("--retries=1", "--low-level-retries=1", "--contimeout=5s", "--timeout=30s")
        return subprocess.run(
            [beside_python("rclone"), *arguments, *once],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **account},
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )

    def _can_write(self) -> bool:
        """The first volume comes some seconds after the listing answers."""
        probe = self.folder / "probe"
        probe.write_text("probe", encoding="utf-8")
        return self.rclone("copy", str(probe), ":s3:probe", check=False).returncode == 0

    def _identities(self) -> dict[str, object]:
        keys = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        return {"identities": [{"name": "tests", "credentials": keys, "actions": actions}]}


def new_bucket() -> str:
    """A name that no other test uses."""
    return f"bucket-{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def s3_server(folder: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """A running S3 server that is gone afterwards."""
    server = S3Server(folder, host)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


# SFTP -----------------------------------------------------------------------------------------


@dataclass
class SftpServer:
    """OpenSSH in a container on Docker's bridge: the user `store`, keys only, SFTP only."""

    container: str
    host: str
    host_key: str  # "ssh-ed25519 AAAA..."
    private_key: str  # text of an OpenSSH private key
    port: int = 2222

    def repository(self, path: str = "") -> str:
        """The URL of a restic repository in the account's home, a new one each time."""
        return f"sftp:store@{self.host}:{path or f'repository-{uuid.uuid4().hex[:12]}'}"


@contextlib.contextmanager
def sftp_server(folder: Path) -> Iterator[SftpServer]:
    """A running SFTP server with new keys, that is gone afterwards."""
    private, public = _key_pair()
    host_private, host_public = _key_pair()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "authorized_keys").write_text(public + "\n", encoding="ascii")
    (folder / "host_key").write_text(host_private, encoding="ascii")
    name = f"stackroom-test-sftp-{uuid.uuid4().hex[:8]}"
    engine.docker(
        *("run", "--detach", "--name", name, "--label", TEST_LABEL, "--network", "bridge"),
        *("--volume", f"{folder}:/keys:ro", services_image()),
    )
    try:
        found = engine.inspect("container", name) or {}
        host = found["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        _wait_for_ssh(name, host, 2222)
        yield SftpServer(name, host, host_public, private)
    finally:
        engine.docker("rm", "--force", "--volumes", name)


def _key_pair() -> tuple[str, str]:
    """A private key as OpenSSH writes it, and the line of its .pub file without a comment."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return private.decode(), key.public_key().public_bytes(
        Encoding.OpenSSH, PublicFormat.OpenSSH
    ).decode()


def _wait_for_ssh(container: str, host: str, port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 2) as connection:
            if connection.recv(4) == b"SSH-":
                return
        time.sleep(0.1)
    raise AssertionError(f"sshd did not start:\n{engine.attempt('logs', container).stderr}")


# rclone ---------------------------------------------------------------------------------------


@dataclass
class RcloneRemote:
    """A remote named `vault`: a folder of this machine behind rclone."""

    folder: Path
    config: str  # content of rclone.conf

    def repository(self, path: str = "") -> str:
        return f"rclone:vault:{path or f'repository-{uuid.uuid4().hex[:12]}'}"


def rclone_remote(folder: Path) -> RcloneRemote:
    """The remote, with rclone findable on PATH (restic starts it by its name)."""
    folder.mkdir(parents=True, exist_ok=True)
    on_path(Path(beside_python("rclone")).parent)
    return RcloneRemote(folder, f"[vault]\ntype = alias\nremote = {folder}\n")


def on_path(folder: Path) -> None:
    """Put a folder last on this process's PATH, once."""
    parts = os.environ["PATH"].split(os.pathsep)
    if str(folder) not in parts:
        os.environ["PATH"] = os.pathsep.join([*parts, str(folder)])


# disks ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in memory: `size` as mount takes it, "64m". Needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: Sequence[str]) -> None:
    """Change a small disk: `["ro"]`, `["rw", "size=200m"]`."""
    how = ",".join(["remount", *options])
    subprocess.run(["mount", "-o", how, str(folder)], check=True)


__all__ = [
    "OFFSITE_ENV",
    "OFFSITE_SSH_KEY",
    "PASSWORD",
    "RCLONE_CONFIG",
    "RESTIC_PASSWORD",
    "RcloneRemote",
    "S3Server",
    "SftpServer",
    "credentials",
    "rclone_remote",
    "remount",
    "restic_program",
    "s3_server",
    "services_image",
    "sftp_server",
    "small_disk",
]
