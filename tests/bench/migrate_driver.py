"""One measured migration in a process of its own: `migrate_driver.py <way>`.

What it is about comes as JSON on standard input; what it took goes as JSON to standard output.
Its memory is that of the verb: the same rooms are loaded, and nothing of the tests.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measured import Steps, measured
from qdrant_client import QdrantClient
from qdrant_client.migrate import migrate

import ops.cli.migrate  # noqa: F401 - what the verb has in memory too
from ops.migrate.places import CAS, KEYS, opened, place
from ops.migrate.plan import Wish, make_plan
from ops.migrate.run import Job, carry_out
from ops.migrate.state import Store
from ops.migrate.target import wait_until_green
from ops.migrate.verify import verify

PATIENCE = 3600
Json = dict[str, Any]


def client(given: Json, steps: Steps) -> Json:
    """The official client's own function over REST, as its documentation calls it."""
    return _by_client(given, prefer_grpc=False)


def client_grpc(given: Json, steps: Steps) -> Json:
    """The same over gRPC, which it has to be asked for."""
    return _by_client(given, prefer_grpc=True)


def move(given: Json, steps: Steps) -> Json:
    """`stackroom migrate run --still`: planned, moved, counted; content is not compared."""
    return _by_us(given, steps, compare=False)


def proven(given: Json, steps: Steps) -> Json:
    """The same, and then `stackroom migrate verify` of every point."""
    return _by_us(given, steps, compare=True)


def _by_client(given: Json, *, prefer_grpc: bool) -> Json:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Api key is used with an insecure")
        source, target = (
            QdrantClient(
                url=end["url"],
                port=None,
                grpc_port=end["grpc_port"],
                prefer_grpc=prefer_grpc,
                api_key=end["key"],
                timeout=PATIENCE,  # its own five seconds end in an error on a busy server
                check_compatibility=False,
            )
            for end in (given["source"], given["target"])
        )
    migrate(source, target, [given["collection"]])
    return {"points": target.count(given["collection"]).count}


def _by_us(given: Json, steps: Steps, *, compare: bool) -> Json:
    for end, named in (("from", given["source"]), ("to", given["target"])):
        os.environ[KEYS[end]] = named["key"]  # type: ignore[index]
        os.environ.pop(CAS[end], None)  # type: ignore[arg-type]
    nowhere = Path(given["folder"], "inventory")
    ends = (
        place("from", given["source"]["url"], nowhere),
        place("to", given["target"]["url"], nowhere),
    )
    name = given["collection"]
    with (
        tempfile.TemporaryDirectory(dir=given["folder"]) as folder,
        opened(ends[0]) as source,
        opened(ends[1]) as target,
    ):
        made = make_plan(source, target, ends, Wish((name,), mode="stream", live=False))
        migration = made.migration()
        store = Store(Path(folder, migration.id))
        store.create(migration)
        carry_out(Job(source, target, store, migration, tell=steps))
        moved = migration.moves[0].target
        found: Json = {"points": target.count(moved), "collection": moved}
        if compare:
            ranges = {name: store.ranges(0) or []}
            report = verify(source, target, {name: moved}, ranges=ranges, tell=steps)
            found |= {
                "outcome": report.outcome,
                "compared": report.collections[0].compared,
                "report": list(report.lines()),
            }
    return found


def _green(given: Json, collection: str) -> float:
    """Seconds until the index of what was moved is built: the one builds it at once, the other
    after the load."""
    began = time.perf_counter()
    end = place("to", given["target"]["url"], Path("nowhere"))
    os.environ[KEYS["to"]] = given["target"]["key"]
    with opened(end) as target:
        wait_until_green(target, collection, seconds=PATIENCE, tell=lambda _: None)
    return time.perf_counter() - began


WAYS: dict[str, Callable[[Json, Steps], Json]] = {
    way.__name__: way for way in (client, client_grpc, move, proven)
}


def main() -> None:
    given = json.load(sys.stdin)
    took = measured(WAYS[sys.argv[1]], given)
    found = took["found"]
    found["green"] = _green(given, found.get("collection", given["collection"]))
    print(json.dumps(took))


if __name__ == "__main__":
    main()
