"""Measured migrations: a collection of so many points on one server, and children that move it.

Each measurement is a process of its own (migrate_driver.py), so that its memory is its own too.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measured import child
from migrate_data import PATIENCE, Rest

DRIVER = Path(__file__).with_name("migrate_driver.py")
DIMENSIONS = 384
TEXT = 400  # bytes: a short chunk of a document
BATCH = 1000
MB = 1e6

Json = dict[str, Any]


@dataclass(frozen=True)
class Took:
    """One child's work: seconds, also by step; bytes of memory; what it came to."""

    seconds: float
    steps: dict[str, float]
    peak: int
    found: Json

    @property
    def green(self) -> float:
        """Seconds from the end of the work until the index was built."""
        return float(self.found["green"])


class Bench:
    """One collection of `points`, and what is made of it on the other server."""

    def __init__(self, source: Rest, target: Rest, folder: Path, points: int) -> None:
        self.source, self.target, self.points = source, target, points
        self.folder = folder
        self.collection = f"bench-{secrets.token_hex(4)}"
        folder.mkdir()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.drop(self.collection)

    def fill(self) -> None:
        """Random vectors as an embedding model makes them, with a text and four fields each."""
        vectors = {"size": DIMENSIONS, "distance": "Cosine"}
        path = f"/collections/{self.collection}"
        self.source.send("PUT", path, {"vectors": vectors})
        for field, kind in (("page", "integer"), ("book", "keyword")):
            body = {"field_name": field, "field_schema": kind}
            self.source.send("PUT", f"{path}/index?wait=true", body)
        chance = np.random.default_rng(1)
        for start in range(0, self.points, BATCH):
            count = min(BATCH, self.points - start)
            rows = np.round(chance.standard_normal((count, DIMENSIONS)), 4).tolist()
            self.source.put(
                self.collection,
                *(
                    {"id": start + place, "vector": row, "payload": payload(start + place)}
                    for place, row in enumerate(rows)
                ),
            )
        settle(self.source, self.collection)

    def child(self, way: str) -> Took:
        """Move it in one of migrate_driver's ways; what it made is looked at and dropped.

        Raises AssertionError with what it printed.
        """
        given = {
            "source": _end(self.source),
            "target": _end(self.target),
            "collection": self.collection,
            "folder": str(self.folder),
        }
        took = Took(**child(DRIVER, way, given, PATIENCE * 6))
        made = took.found.get("collection", self.collection)
        assert self.target.count(made) == self.points, f"{way} lost points"
        self.target.drop(made)
        return took


def payload(number: int) -> Json:
    text = f"chunk {number} of a document that somebody wrote about doors. "
    return {
        "text": (text * (TEXT // len(text) + 1))[:TEXT],
        "book": f"book-{number % 97}",
        "page": number % 400,
        "score": number / 7,
        "tags": ["door", f"tag-{number % 13}"],
    }


def settle(rest: Rest, name: str) -> None:
    """Until the index is built: what it takes is not the migration's."""
    deadline = time.monotonic() + PATIENCE * 6
    while rest.send("GET", f"/collections/{name}")["status"] != "green":
        assert time.monotonic() < deadline, "the collection does not come to rest"
        time.sleep(0.5)


def _end(rest: Rest) -> Json:
    return {"url": rest.url, "grpc_port": rest.grpc_port, "key": rest.key}
