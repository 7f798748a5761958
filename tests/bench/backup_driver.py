"""One measured piece of work in a process of its own: `backup_driver.py <work>`.

What it is about comes as JSON on standard input; what it took goes as JSON to standard output.
Its memory is that of the host's verb: the same rooms are loaded, and nothing of the tests.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measured import Steps, measured

import ops.cli.backup
import ops.cli.restore  # noqa: F401 - what the verbs have in memory too
from ops.backup.qdrant import QdrantCollector
from ops.backup.run import back_up
from ops.backup.source import Event
from ops.clients.snapshots import Snapshots
from ops.restore.drill import drill
from ops.settings.host import QDRANT_API_KEY, Credentials, HostConfig, QdrantSource

PIECE = 1024 * 1024
Json = dict[str, Any]


def plain(given: Json, _: Steps) -> Json:
    """What anybody would write: stream it into a file, hash it on the way, and that is all."""
    with tempfile.TemporaryDirectory(dir=given["folder"]) as folder:
        return {"sha256": _streamed(given, given["snapshot"], Path(folder, "plain"))}


def download(given: Json, steps: Steps) -> Json:
    """The same by the very call that the collector makes, told its size and checksum."""
    key = Credentials(Path(given["credentials"])).need(QDRANT_API_KEY)
    with (
        tempfile.TemporaryDirectory(dir=given["folder"]) as folder,
        Snapshots(given["url"], key) as snapshots,
    ):
        sha256 = snapshots.download(
            given["collection"],
            given["snapshot"],
            Path(folder, "ours"),
            checksum=given["sha256"],
            size=given["size"],
            on_bytes=lambda done, total: steps(Event("download", "", done, total)),
        )
    return {"sha256": sha256}


def by_hand(given: Json, steps: Steps) -> Json:
    """Let a snapshot be made, fetch it as `plain` does, delete it. Nothing is proven by that."""
    steps(Event("snapshot"))
    with _asked(given, "POST") as answer:
        name = json.load(answer)["result"]["name"]
    steps(Event("download"))
    with tempfile.TemporaryDirectory(dir=given["folder"]) as folder:
        _streamed(given, name, Path(folder, "plain"))
        steps(Event("delete"))
        with _asked(given, "DELETE", name):
            pass
    return {}


def collect(given: Json, steps: Steps) -> Json:
    """The Qdrant collector as a backup calls it."""
    with tempfile.TemporaryDirectory(dir=given["folder"]) as folder:
        staging = Path(folder, "staging")
        staging.mkdir()
        source = QdrantSource(url=given["url"], container="", image=given["image"])
        collected = QdrantCollector(source, Credentials(Path(given["credentials"]))).collect(
            staging, steps
        )
        return {"bytes": sum(item.size for item in collected.items)}


def backup(given: Json, steps: Steps) -> Json:
    """A whole run: collected, published, stored by restic."""
    config, credentials = _settings(given)
    return back_up(config, credentials, tell=steps).model_dump(mode="json")


def rehearse(given: Json, steps: Steps) -> Json:
    """A whole drill of the newest backup."""
    config, credentials = _settings(given)
    return drill(config, credentials, tell=steps).model_dump(mode="json")


def _settings(given: Json) -> tuple[HostConfig, Credentials]:
    return HostConfig.model_validate(given["config"]), Credentials(Path(given["credentials"]))


def _streamed(given: Json, snapshot: str, target: Path) -> str:
    digest = hashlib.sha256()
    with _asked(given, "GET", snapshot) as answer, target.open("wb") as file:
        while piece := answer.read(PIECE):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _asked(given: Json, method: str, snapshot: str = "") -> Any:
    """urllib and not our client: the other side of a comparison owes us nothing."""
    path = f"/collections/{given['collection']}/snapshots{'/' * bool(snapshot)}{snapshot}"
    key = Path(given["credentials"], QDRANT_API_KEY).read_text().strip()
    request = urllib.request.Request(given["url"] + path, method=method, headers={"api-key": key})
    return urllib.request.urlopen(request, timeout=1800)


WORK: dict[str, Callable[[Json, Steps], Json]] = {
    work.__name__: work for work in (plain, download, by_hand, collect, backup, rehearse)
}


def main() -> None:
    took = measured(WORK[sys.argv[1]], json.load(sys.stdin))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(json.dumps(took | {"children_peak": children}))


if __name__ == "__main__":
    main()
