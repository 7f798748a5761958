"""Measured backups and drills: a collection of a given size, and children that work on it.

Each measurement is a process of its own (backup_driver.py), so that its memory is its own too.
"""

from __future__ import annotations

import base64
import secrets
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from measured import child
from qdrant_client import QdrantClient, models
from servers import credentials

DRIVER = Path(__file__).with_name("backup_driver.py")
GB = 1e9
DIMENSIONS = 1024
TEXT = 3072  # random bytes of a point's text, which are 4096 as base64: nothing to compress away
POINT_BYTES = 4 * DIMENSIONS + 4 * TEXT // 3
BATCH = 100
QUIET_SECONDS = 10  # until what was written has left the write-ahead log too
PATIENCE = 3600
# times the size: collection, snapshot, staging, repository, fetched, rebuilt; some of them twice
ROOM = 9

Json = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A Qdrant that holds nothing but what is measured. `image` starts one of its kind."""

    which: str
    url: str
    grpc_port: int
    key: str
    image: str

    def send(self, method: str, path: str, body: Json | None = None) -> Any:
        answer = httpx.request(
            method, self.url + path, json=body, headers={"api-key": self.key}, timeout=PATIENCE
        )
        assert answer.is_success, f"{method} {path}: {answer.text}"
        return answer.json()["result"]

    def collections(self) -> list[str]:
        return [each["name"] for each in self.send("GET", "/collections")["collections"]]


@dataclass(frozen=True)
class Took:
    """One child's work: seconds, also by step; bytes of memory, also of what it had started."""

    seconds: float
    steps: dict[str, float]
    peak: int
    children_peak: int
    found: Json


class Bench:
    """One collection of about `size` bytes, without an index, and a place for its backups."""

    def __init__(self, server: Server, folder: Path, size: int) -> None:
        self.server, self.folder, self.size = server, folder, size
        self.collection = f"bench-{secrets.token_hex(4)}"
        self.folder.mkdir()
        free = shutil.disk_usage(folder).free
        assert free > ROOM * size, (
            f"{folder} has {free / GB:.0f} GB free, and {ROOM * size / GB:.0f} are needed:"
            " set TMPDIR, or a smaller STACKROOM_BENCH_GB"
        )
        self.credentials = credentials(folder / "credentials", qdrant_api_key=server.key).folder
        self.snapshot: Json = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays, on the server or here."""
        path = f"/collections/{self.collection}"
        if self.collection in self.server.collections():
            for left in self.server.send("GET", f"{path}/snapshots"):
                self.server.send("DELETE", f"{path}/snapshots/{left['name']}?wait=true")
            self.server.send("DELETE", f"{path}?timeout=600")
        shutil.rmtree(self.folder)

    def fill(self) -> float:
        """Make the collection; seconds. Vectors and texts are random, and the same every time."""
        began = time.perf_counter()
        self.server.send(
            "PUT",
            f"/collections/{self.collection}",
            {
                "vectors": {"size": DIMENSIONS, "distance": "Cosine", "on_disk": True},
                "hnsw_config": {"m": 0},
                "on_disk_payload": True,
                # little of its own around the data, so that a small one is small
                "wal_config": {"wal_capacity_mb": 1},
                "optimizers_config": {"default_segment_number": 1, "flush_interval_sec": 1},
            },
        )
        client = self._client()
        chance = np.random.default_rng(1)
        points = self.size // POINT_BYTES
        for start in range(0, points, BATCH):
            count = min(BATCH, points - start)
            batch = models.Batch(
                ids=list(range(start, start + count)),
                vectors=chance.standard_normal((count, DIMENSIONS), dtype=np.float32).tolist(),
                payloads=[
                    {"text": base64.b64encode(chance.bytes(TEXT)).decode()} for _ in range(count)
                ],
            )
            client.upsert(self.collection, batch, wait=start + count >= points)
        client.close()
        self._settle()
        return time.perf_counter() - began

    def _client(self) -> QdrantClient:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Api key is used with an insecure")
            return QdrantClient(
                url=self.server.url,
                port=None,
                grpc_port=self.server.grpc_port,
                prefer_grpc=True,  # a vector as JSON is five times as long
                api_key=self.server.key,
                timeout=PATIENCE,
                check_compatibility=False,
            )

    def _settle(self) -> None:
        deadline = time.monotonic() + PATIENCE
        green = 0.0
        while not green or time.monotonic() < green + QUIET_SECONDS:
            assert time.monotonic() < deadline, "the collection does not come to rest"
            status = self.server.send("GET", f"/collections/{self.collection}")["status"]
            green = (green or time.monotonic()) if status == "green" else 0.0
            time.sleep(0.5)

    def make_snapshot(self) -> None:
        """One that stays, to be fetched again and again."""
        path = f"/collections/{self.collection}/snapshots"
        self.snapshot = self.server.send("POST", f"{path}?wait=true")

    def drop_snapshot(self) -> None:
        path = f"/collections/{self.collection}/snapshots/{self.snapshot['name']}?wait=true"
        self.server.send("DELETE", path)

    def child(self, work: str) -> Took:
        """Do one of backup_driver's works. Raises AssertionError with what it printed."""
        given = {
            "url": self.server.url,
            "image": self.server.image,
            "collection": self.collection,
            "credentials": str(self.credentials),
            "folder": str(self.folder),
            "snapshot": self.snapshot.get("name"),
            "size": self.snapshot.get("size"),
            "sha256": self.snapshot.get("checksum"),
            "config": self._config(),
        }
        return Took(**child(DRIVER, work, given, PATIENCE))

    def _config(self) -> Json:
        source = {"kind": "qdrant", "url": self.server.url, "container": "", "volume": ""}
        return {
            # the owner of what a drill starts, and clears before it begins: nobody else's name
            "environment": self.collection,
            "stack": "qdrant",
            "stackroom": "bench",
            "base": str(self.folder / "base"),
            "repositories": [{"name": "local", "url": str(self.folder / "repository")}],
            "sources": [source | {"image": self.server.image}],
            "timeout_hours": PATIENCE / 3600,
            "drill_image_pull": False,
            "offsite_expected": False,
        }
