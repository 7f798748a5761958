"""A small live stack of our own: Qdrant, a container with a volume of files, a restic repository.

Its names are those of nobody else's stack. It is looked at over raw HTTP and the files themselves,
never through the code under test.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
from cheap_repository import lay_repository
from servers import restic_program

from ops.backup.manifest import new_run
from ops.backup.records import Record, write_record
from ops.backup.run import back_up
from ops.backup.store import repositories
from ops.sandbox.archive import BORROWED, CA_BUNDLE
from ops.sandbox.build import base_image, built_image
from ops.settings.host import Credentials, FilesSource, HostConfig, QdrantSource, Repository
from ops.settings.people import ACCESS_COLLECTION

LABEL = "stackroom.test.live"
REPOSITORY_PASSWORD = "a-password"
DIMENSION = 8
HOSTED_UID = 1000


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"docker {arguments[0]}: {done.stderr}"
    return done.stdout.strip()


def qdrant_image() -> str:
    """The real server's image where STACKROOM_QDRANT_IMAGE names one; else the stand-in."""
    if named := os.environ.get("STACKROOM_QDRANT_IMAGE"):
        return named
    passing = {"ca-certificates.crt": CA_BUNDLE}
    return built_image("qdrant", print, passing=passing, label=f"{BORROWED}=stand-in")


def vector(seed: int) -> list[float]:
    chance = random.Random(seed)  # noqa: S311 - the same points in every run
    return [chance.uniform(-1, 1) for _ in range(DIMENSION)]


class LiveStack:
    """`folder` holds the credentials, the repositories and the base of the backups."""

    def __init__(self, folder: Path) -> None:
        self.name = f"restore-test-{secrets.token_hex(4)}"
        self.folder = folder
        self.key = f"live-{secrets.token_hex(24)}"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.image = qdrant_image()
        self.qdrant, self.api = f"{self.name}-qdrant", f"{self.name}-api"
        self.storage, self.library = f"{self.name}-storage", f"{self.name}-library"
        self.http = httpx.Client(base_url=self.url, headers={"api-key": self.key}, timeout=60)
        self.credentials = self._credentials()
        for repository in ("local", "offsite"):
            lay_repository(restic_program(), folder / repository, REPOSITORY_PASSWORD)
        (folder / "settings").mkdir()
        (folder / "settings" / "settings.toml").write_text('stack = "qdrant"\n')
        self.config = HostConfig(
            environment=self.name,
            stack="qdrant",
            stackroom="test",
            base=folder / "base",
            repositories=[
                Repository(name="local", url=str(folder / "local")),
                Repository(name="offsite", url=str(folder / "offsite")),
            ],
            sources=[
                QdrantSource(
                    url=self.url, container=self.qdrant, volume=self.storage, image=self.image
                ),
                FilesSource(name="library", volume=self.library, containers=[self.api]),
                FilesSource(name="settings", path=str(folder / "settings")),
            ],
            drill_image_pull=False,
        )

    def _credentials(self) -> Credentials:
        folder = self.folder / "credentials"
        folder.mkdir(mode=0o700)
        for name, value in (("qdrant_api_key", self.key), ("restic_password", REPOSITORY_PASSWORD)):
            (folder / name).write_text(f"{value}\n")
            (folder / name).chmod(0o600)
        return Credentials(folder)

    def up(self) -> None:
        """Volumes as a deploy makes them, and both containers."""
        label = ("--label", f"{LABEL}={self.name}")
        for volume in (self.storage, self.library):
            docker("volume", "create", *label, volume)
            os.chown(self.mounted(volume), HOSTED_UID, HOSTED_UID)
        settings = self.folder / "local.yaml"
        settings.write_text(json.dumps({"service": {"api_key": self.key, "jwt_rbac": True}}))
        settings.chmod(0o444)
        docker(
            *("run", "--detach", "--name", self.qdrant, *label, "--memory", "1g"),
            *("--user", "1000:1000", "--cap-drop", "ALL", "--read-only"),
            *("--tmpfs", "/tmp:size=64m,mode=1777"),
            *("--tmpfs", "/qdrant/snapshots:size=256m,uid=1000,gid=1000"),
            *("--mount", f"type=volume,src={self.storage},dst=/qdrant/storage,volume-nocopy"),
            *("--mount", f"type=bind,src={settings},dst=/qdrant/config/local.yaml,readonly"),
            *("--publish", f"127.0.0.1:{self.port}:6333"),
            *(self.image, "./qdrant"),
        )
        docker(
            *("run", "--detach", "--name", self.api, *label, "--user", "1000:1000"),
            *("--mount", f"type=volume,src={self.library},dst=/data,volume-nocopy"),
            *("--stop-signal", "SIGKILL", base_image(print), "sleep", "infinity"),
        )
        self.wait()

    def wait(self) -> None:
        limit = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/readyz").status_code == 200:
                    return
            assert time.monotonic() < limit, docker("logs", self.qdrant)
            time.sleep(0.2)

    def down(self) -> None:
        """Remove what bears this stack's label, and what a killed test's rehearsals have left."""
        self.http.close()
        for label in (f"{LABEL}={self.name}", f"stackroom.owner={self.name}"):
            by = ("--filter", f"label={label}")
            for kind, listed, removed in (
                ("container", ("ps", "--all", "--quiet"), ("rm", "--force", "--volumes")),
                ("volume", ("volume", "ls", "--quiet"), ("volume", "rm", "--force")),
                ("network", ("network", "ls", "--quiet"), ("network", "rm")),
            ):
                assert kind
                for found in docker(*listed, *by).split():
                    docker(*removed, found, check=False)

    def mounted(self, volume: str) -> Path:
        return Path(docker("volume", "inspect", "--format", "{{.Mountpoint}}", volume))

    def send(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.http.request(method, path, json=body)
        assert answer.status_code == 200, f"{method} {path}: {answer.text}"
        return answer.json()["result"]

    def fill(self) -> None:
        """Two collections, a payload index, an alias, and files of the api."""
        one = {"size": DIMENSION, "distance": "Cosine"}
        for name, vectors in (("books", one), ("sessions", {"text": one | {"distance": "Dot"}})):
            self.send("PUT", f"/collections/{name}", {"vectors": vectors})
        index = {"field_name": "kind", "field_schema": "keyword"}
        self.send("PUT", "/collections/books/index?wait=true", index)
        self.add("books", range(1, 61))
        points = [{"id": n, "vector": {"text": vector(n)}, "payload": {}} for n in range(1, 21)]
        self.send("PUT", "/collections/sessions/points?wait=true", {"points": points})
        self.alias("library", "books")
        self.write("shelf/one.txt", "the first book\n")

    def add(self, collection: str, ids: range, kind: str = "guide") -> None:
        points = [
            {"id": n, "vector": vector(n), "payload": {"kind": kind, "number": n}} for n in ids
        ]
        self.send("PUT", f"/collections/{collection}/points?wait=true", {"points": points})

    def alias(self, alias: str, collection: str) -> None:
        new = {"alias_name": alias, "collection_name": collection}
        self.send("POST", "/collections/aliases", {"actions": [{"create_alias": new}]})

    def let_in(self, *tokens: str) -> None:
        """Make the access points exactly these token ids, as a deploy does."""
        path = f"/collections/{ACCESS_COLLECTION}"
        if {"name": ACCESS_COLLECTION} not in self.send("GET", "/collections")["collections"]:
            self.send("PUT", path, {"vectors": {}})
            index = {"field_name": "token", "field_schema": "keyword"}
            self.send("PUT", f"{path}/index?wait=true", index)
        there = self.send("POST", f"{path}/points/scroll", {"limit": 100})["points"]
        gone = [point["id"] for point in there if point["id"] not in tokens]
        if gone:
            self.send("POST", f"{path}/points/delete?wait=true", {"points": gone})
        points = [
            {"id": t, "vector": {}, "payload": {"token": t, "developer": "bob"}} for t in tokens
        ]
        if points:
            self.send("PUT", f"{path}/points?wait=true", {"points": points})

    def status(self, token: str) -> int:
        """What Qdrant answers a developer who reads the books with this token."""
        match = {"key": "token", "value": token}
        claims = {
            "exp": int(time.time()) + 3600,
            "access": [{"collection": "books", "access": "r"}],
            "value_exists": {"collection": ACCESS_COLLECTION, "matches": [match]},
        }
        signed = jwt.encode(claims, self.key, "HS256")
        count = f"{self.url}/collections/books/points/count"
        return httpx.post(count, json={}, headers={"api-key": signed}).status_code

    def write(self, path: str, text: str) -> None:
        file = self.mounted(self.library) / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    def spoil(self) -> None:
        """What a bad day does: points gone, others overwritten, an alias astray, a file lost."""
        gone = {"points": list(range(1, 31))}
        self.send("POST", "/collections/books/points/delete?wait=true", gone)
        self.add("books", range(31, 61), kind="spoilt")
        self.send("PUT", "/collections/later", {"vectors": {"size": 2, "distance": "Dot"}})
        self.alias("library", "sessions")
        (self.mounted(self.library) / "shelf" / "one.txt").write_text("overwritten\n")

    def data(self) -> dict[str, Any]:
        """Everything that is held: each collection's points, the aliases, the api's files."""
        held: dict[str, Any] = {}
        for entry in self.send("GET", "/collections")["collections"]:
            name = entry["name"]
            wanted = {"limit": 1000, "with_vector": True, "with_payload": True}
            held[name] = self.send("POST", f"/collections/{name}/points/scroll", wanted)["points"]
        found = self.send("GET", "/aliases")["aliases"]
        held["aliases"] = {entry["alias_name"]: entry["collection_name"] for entry in found}
        return held | {"files": self.files()}

    def files(self) -> dict[str, str]:
        root = self.mounted(self.library)
        return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}

    def left_over(self) -> list[str]:
        """Whatever a drill or a restore should have removed."""
        by = ("--filter", f"label=stackroom.owner={self.name}")
        found = [
            *docker("ps", "--all", "--quiet", *by).split(),
            *docker("volume", "ls", "--quiet", *by).split(),
            *docker("network", "ls", "--quiet", *by).split(),
        ]
        scratch = self.config.base / "scratch"
        return [*found, *(str(path) for path in scratch.rglob("*"))]

    def back_up(self) -> str:
        """The run of a whole backup in both repositories."""
        record = back_up(self.config, self.credentials)
        assert record.outcome == "ok", record.error
        return record.run

    def store_changed(
        self,
        change: Callable[[dict[str, Any]], object] = lambda manifest: None,
        files: Callable[[Path], object] = lambda folder: None,
    ) -> str:
        """Store the last backup once more, with its manifest or its files changed; its run.

        For its record it failed: it is nobody's latest.
        """
        run = new_run()
        folder = self.folder / "changed"
        shutil.copytree(self.config.base / "current", folder)
        try:
            path = folder / "manifest.json"
            manifest = json.loads(path.read_text())
            manifest["run"] = run
            change(manifest)
            path.write_text(json.dumps(manifest))
            files(folder)
            for restic in repositories(self.config, self.credentials):
                restic.open(create=False)
                restic.backup(folder, run, timeout=300)
        finally:
            shutil.rmtree(folder)
        record = Record(kind="backup", run=run, started=datetime.now(UTC), outcome="failed")
        write_record(self.config.base, record)
        return run


@contextlib.contextmanager
def live_stack(folder: Path) -> Iterator[LiveStack]:
    """A stack with data in it."""
    stack = LiveStack(folder)
    try:
        stack.up()
        stack.fill()
        yield stack
    finally:
        stack.down()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
