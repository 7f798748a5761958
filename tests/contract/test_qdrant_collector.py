"""The Qdrant collector: what it lays down restores as it was; the server stays as it was."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from contract_server import Server
from fault_proxy import Fault, FaultProxy, before
from pydantic import SecretStr

from ops.backup import qdrant as module
from ops.backup.manifest import QdrantCollection, QdrantFacts, sha256_of
from ops.backup.qdrant import QdrantCollector, file_name
from ops.backup.qdrant_leftovers import Leftovers, Note
from ops.backup.qdrant_sample import dense_vectors
from ops.backup.source import Collected, Event, Tell, silent
from ops.clients.snapshots import SnapshotInfo, Snapshots
from ops.errors import BackupError, ServiceError, SettingsError, StackroomError, UnreachableError
from ops.settings.host import Credentials, QdrantSource

pytestmark = pytest.mark.slow

SILENCE = 1.0
Act = Callable[[], object]


@dataclass
class Run:
    """One base folder on the host, and runs of the collector into it."""

    base: Path
    url: str
    credentials: Credentials

    def collector(self, silence: float = 60) -> QdrantCollector:
        source = QdrantSource(url=self.url, container="", image="qdrant/qdrant:v1.19.0")
        return QdrantCollector(source, self.credentials, silence=silence)

    def staging(self) -> Path:
        partial = self.base / f".partial-{uuid4().hex}"
        partial.mkdir()
        return partial

    def collect(
        self, tell: Tell = silent, staging: Path | None = None, silence: float = 60
    ) -> Collected:
        return self.collector(silence).collect(staging or self.staging(), tell)


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Run:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "qdrant_api_key").write_text(server.key)
    return Run(tmp_path, server.url, Credentials(folder))


@pytest.fixture
def proxy(server: Server, run: Run) -> Iterator[FaultProxy]:
    with before(server.url) as opened:
        run.url = opened.url
        yield opened


def collected(result: Collected, name: str) -> QdrantCollection:
    assert isinstance(result.facts, QdrantFacts)
    (found,) = [each for each in result.facts.collections if each.name == name]
    return found


def left(server: Server, name: str) -> list[str]:
    return [each["name"] for each in server.result("GET", f"/collections/{name}/snapshots")]


def made_by_hand(server: Server, name: str) -> str:
    """A snapshot that is none of the collector's, and not of the second that comes next."""
    made: str = server.result("POST", f"/collections/{name}/snapshots")["name"]
    time.sleep(1.05)
    return made


def notes(run: Run) -> list[Path]:
    return list(run.base.glob("*.snapshots.json"))


def put(server: Server, name: str, *points: dict[str, Any]) -> None:
    server.result("PUT", f"/collections/{name}/points?wait=true", {"points": list(points)})


def points(server: Server, name: str) -> list[Any]:
    body = {"limit": 1000, "with_payload": True, "with_vector": True}
    return list(server.result("POST", f"/collections/{name}/points/scroll", body)["points"])


def at(step: str, name: str, act: Act) -> Tell:
    """A `Tell` that acts when this step of this collection begins."""

    def tell(event: Event) -> None:
        if event.step == f"collect:qdrant:{step}" and event.item in (
            name,
            f"qdrant/{name}.snapshot",
        ):
            act()

    return tell


@pytest.fixture
def named(server: Server, new_name: Callable[[], str]) -> str:
    """300 points with numbers, 200 with UUIDs; a vector called "text" and one called "image"."""
    name = new_name()
    text, image = {"size": 8, "distance": "Cosine"}, {"size": 4, "distance": "Euclid"}
    server.result("PUT", f"/collections/{name}", {"vectors": {"text": text, "image": image}})
    chance = random.Random(7)  # noqa: S311 - the same vectors in every run
    ids = [*range(1000, 1300), *(str(UUID(int=(2**128 // 200) * n)) for n in range(200))]
    for start in range(0, 500, 250):
        part = [
            {
                "id": each,
                "vector": {
                    "text": [chance.gauss(0, 1) for _ in range(8)],
                    "image": [n, n % 7, n % 5, 1],
                },
                "payload": {"n": n, "tags": ["a", str(n % 3)]},
            }
            for n, each in enumerate(ids)
        ][start : start + 250]
        put(server, name, *part)
    return name


def test_what_is_collected_restores_as_it_was(
    server: Server, run: Run, named: str, new_name: Callable[[], str]
) -> None:
    alias = {"create_alias": {"collection_name": named, "alias_name": f"{named}-alias"}}
    server.result("POST", "/collections/aliases", {"actions": [alias]})
    index = {"field_name": "n", "field_schema": "integer"}
    server.result("PUT", f"/collections/{named}/index?wait=true", index)
    staging = run.staging()
    told: list[Event] = []
    result = run.collect(told.append, staging)
    assert isinstance(result.facts, QdrantFacts)
    found = collected(result, named)
    (item,) = [each for each in result.items if each.path == found.item]
    file = staging / item.path
    assert item.path == f"qdrant/{named}.snapshot"
    assert (file.stat().st_size, sha256_of(file)) == (item.size, item.sha256)
    laid = [str(each.relative_to(staging)) for each in staging.rglob("*") if each.is_file()]
    assert sorted(laid) == sorted(each.path for each in result.items)
    assert Event("collect:qdrant:download", item.path, item.size, item.size) in told

    live = server.result("GET", f"/collections/{named}")
    assert found.info == {key: live[key] for key in ("config", "payload_schema")}
    assert found.count == (500, 500)
    assert result.facts.version == server.send("GET", "/").json()["version"]
    assert (result.facts.image, result.facts.digest) == ("qdrant/qdrant:v1.19.0", "")
    assert result.facts.aliases[f"{named}-alias"] == named
    assert left(server, named) == [] and notes(run) == []

    name = new_name()
    with Snapshots(server.url, SecretStr(server.key)) as snapshots:
        snapshots.upload(name, file, checksum=item.sha256, timeout=60)
    assert points(server, name) == points(server, named)
    restored = {point["id"]: point for point in points(server, name)}
    assert [point.model_dump() for point in found.samples] == [
        restored[point.id] for point in found.samples
    ]
    for query in found.queries:
        body = {
            "query": query.vector,
            "using": query.using,
            "limit": query.limit,
            "params": {"exact": True},
        }
        hits = server.result("POST", f"/collections/{name}/points/query", body)["points"]
        assert [(hit["id"], hit["score"]) for hit in hits] == query.answers


def test_samples_lie_spread_over_all_ids_and_queries_over_all_vectors(run: Run, named: str) -> None:
    found = collected(run.collect(), named)
    ids = [point.id for point in found.samples]
    assert 18 <= len(set(ids)) == len(ids) <= 20
    numbers = [each for each in ids if isinstance(each, int)]
    assert max(numbers) - min(numbers) > 150
    assert sum(isinstance(each, str) for each in ids) >= 4
    assert [query.using for query in found.queries] == ["image"] * 5 + ["text"] * 5
    assert all(len(query.answers) == query.limit == 5 for query in found.queries)
    assert collected(run.collect(), named) == found


def test_queries_whose_answers_have_no_order_are_left_out(
    server: Server, run: Run, new_name: Callable[[], str]
) -> None:
    name = new_name()
    server.result("PUT", f"/collections/{name}", {"vectors": {"size": 2, "distance": "Cosine"}})
    put(server, name, *({"id": n, "vector": [1, 2]} for n in range(1, 8)))
    found = collected(run.collect(), name)
    assert len(found.samples) == 7
    assert found.queries == []


def test_an_empty_collection_is_one_too(
    server: Server, run: Run, new_name: Callable[[], str]
) -> None:
    name = new_name()
    server.result("PUT", f"/collections/{name}", {"vectors": {"size": 2, "distance": "Dot"}})
    found = collected(run.collect(), name)
    assert (found.count, found.samples, found.queries) == ((0, 0), [], [])


def test_any_name_becomes_a_file(server: Server, run: Run, new_name: Callable[[], str]) -> None:
    name = f"{new_name()} ü~%2F..&?#"
    quoted = name.replace("%", "%25").replace("?", "%3F").replace("#", "%23").replace(" ", "%20")
    if server.send("GET", "/").json()["commit"] == "stand-in":
        name, quoted = name.replace("?", ""), quoted.replace("%3F", "")
    new = {"vectors": {"size": 2, "distance": "Dot"}}
    answer = server.send("PUT", f"/collections/{quoted}", new)
    if answer.status_code == 422:  # the real one takes fewer
        name = name.replace("?", "")
        quoted = quoted.replace("%3F", "")
        server.result("PUT", f"/collections/{quoted}", new)
    try:
        staging = run.staging()
        found = collected(run.collect(silent, staging), name)
        assert re.fullmatch(r"qdrant/[A-Za-z0-9_.%-]+\.snapshot", found.item)
        assert (staging / found.item).is_file()
    finally:
        server.send("DELETE", f"/collections/{quoted}")


def test_file_names_are_short_and_never_the_same() -> None:
    names = [
        "a",
        "a~",
        "a%7E",
        "a b",
        "a%20b",
        "ü",
        "x" * 255,
        "ü" * 255,
        "ü" * 254 + "x",
        "..",
        "",
    ]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(len(file) < 220 and re.fullmatch(r"[A-Za-z0-9_.%-]*", file) for file in files)


def test_only_dense_vectors_are_searched() -> None:
    dense, multi = {"size": 4, "distance": "Dot"}, {"comparator": "max_sim"}
    named = {"a": dense, "b": dense | {"size": 8}, "size": dense | {"multivector_config": multi}}
    assert dense_vectors({"params": {"vectors": dense}}) == {"": 4}
    assert dense_vectors({"params": {"vectors": named}}) == {"a": 4, "b": 8}
    assert dense_vectors({"params": {"vectors": {}, "sparse_vectors": {"s": {}}}}) == {}
    assert dense_vectors({"params": {}}) == {}


def test_what_is_written_meanwhile_is_no_evidence(
    server: Server, run: Run, collection: str
) -> None:
    def write() -> None:
        put(server, collection, {"id": 2, "vector": [0, 0, 0, 1], "payload": {"kind": "new"}})
        put(server, collection, {"id": 3, "vector": [1, 1, 1, 1]})

    before_it = collected(run.collect(), collection)
    assert before_it.count == (3, 3) and len(before_it.samples) == 3 and before_it.queries
    found = collected(run.collect(at("delete", collection, write)), collection)
    assert found.count == (3, 4)
    assert [point.id for point in found.samples] == [1, "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"]
    assert found.queries == []


@pytest.mark.parametrize("step", ["observe", "snapshot", "download", "delete", "compare"])
def test_a_collection_that_is_deleted_meanwhile_is_left_out(
    server: Server, run: Run, collection: str, new_name: Callable[[], str], step: str
) -> None:
    name = new_name()
    server.result("PUT", f"/collections/{name}", {"vectors": {"size": 2, "distance": "Dot"}})
    staging = run.staging()
    drop = at(step, name, lambda: server.result("DELETE", f"/collections/{name}"))
    result = run.collect(drop, staging)
    assert isinstance(result.facts, QdrantFacts)
    names = [each.name for each in result.facts.collections]
    assert collection in names and name not in names
    assert not list((staging / "qdrant").glob(f"{name}*"))
    assert [item.path for item in result.items if name in item.path] == []


def test_a_collection_that_is_made_meanwhile_comes_along(
    server: Server, run: Run, collection: str, new_name: Callable[[], str]
) -> None:
    name = new_name()

    def make() -> None:
        server.result("PUT", f"/collections/{name}", {"vectors": {"size": 2, "distance": "Dot"}})
        swap = {"create_alias": {"collection_name": name, "alias_name": f"{name}-alias"}}
        server.result("POST", "/collections/aliases", {"actions": [swap]})

    result = run.collect(at("observe", collection, make))
    assert collected(result, name).count == (0, 0)
    assert isinstance(result.facts, QdrantFacts)
    assert result.facts.aliases[f"{name}-alias"] == name


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("cut", BackupError),
        ("reset", UnreachableError),
        ("500", ServiceError),
        ("hang", UnreachableError),
        ("longer", BackupError),
        ("shorter", BackupError),
        ("flip", BackupError),
    ],
)
def test_a_failing_download_leaves_nothing_on_either_side(
    server: Server,
    run: Run,
    proxy: FaultProxy,
    collection: str,
    fault: Fault,
    error: type[StackroomError],
) -> None:
    proxy.fault = fault
    staging = run.staging()
    with pytest.raises(error):
        run.collect(silent, staging, SILENCE)
    assert left(server, collection) == [] and notes(run) == []
    assert [each.name for each in staging.rglob("*.partial")] == []
    proxy.fault = "none"
    assert collected(run.collect(), collection).count == (3, 3)


@pytest.mark.parametrize("step", ["snapshot", "download", "delete"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_whoever_stops_it_finds_the_server_as_it_was(
    server: Server, run: Run, collection: str, step: str, stop: type[BaseException]
) -> None:
    def end() -> None:
        raise stop

    with pytest.raises(stop):
        run.collect(at(step, collection, end))
    assert left(server, collection) == []


def test_an_answer_that_never_comes_leaves_no_snapshot(
    server: Server,
    run: Run,
    proxy: FaultProxy,
    collection: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server makes it although nobody hears of it, and nobody has told us its name."""
    monkeypatch.setattr(module, "CREATE_SECONDS", 0.5)
    monkeypatch.setattr(module, "CREATE_RATE", 1e12)
    mine = made_by_hand(server, collection)
    proxy.fault, proxy.where = "hang", rf"POST /collections/{collection}/snapshots\?"
    try:
        with pytest.raises(UnreachableError):
            run.collect(silent, None, SILENCE)
        assert any(re.match(proxy.where, line) for line in proxy.seen)
        assert left(server, collection) == [mine]
    finally:
        server.result("DELETE", f"/collections/{collection}/snapshots/{mine}")


CHILD = """
import json, os, signal, sys
from pathlib import Path
from ops.backup.qdrant import QdrantCollector
from ops.settings.host import Credentials, QdrantSource
url, secrets, staging, step, name = json.load(sys.stdin)
def tell(event):
    if event.step == f"collect:qdrant:{step}" and name in event.item:
        os.kill(os.getpid(), signal.SIGKILL)
source = QdrantSource(url=url, container="", image="i")
QdrantCollector(source, Credentials(Path(secrets))).collect(Path(staging), tell)
"""


@pytest.mark.parametrize("step", ["observe", "snapshot", "download", "delete", "compare"])
def test_what_a_killed_run_left_the_next_one_removes(
    server: Server, run: Run, collection: str, step: str
) -> None:
    mine = made_by_hand(server, collection)
    given = [server.url, str(run.credentials.folder), str(run.staging()), step, collection]
    killed = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(given), text=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(left(server, collection)) == (2 if step in ("download", "delete") else 1)
    assert collected(run.collect(), collection).count == (3, 3)
    try:
        assert left(server, collection) == [mine]
    finally:
        server.result("DELETE", f"/collections/{collection}/snapshots/{mine}")


def test_a_snapshot_that_was_killed_in_the_making_is_found_by_its_time(
    server: Server, run: Run, collection: str
) -> None:
    """SIGKILL after the request and before the answer: its name was never heard."""
    leftovers = Leftovers(run.base / "qdrant.snapshots.json")
    leftovers.asking(collection, left(server, collection))
    server.result("POST", f"/collections/{collection}/snapshots")
    run.collect()
    assert left(server, collection) == [] and notes(run) == []


def info_of(name: str) -> SnapshotInfo:
    return SnapshotInfo(name, 1, "", None)


def test_only_what_was_begun_when_we_asked_is_ours() -> None:
    asked = datetime(2026, 11, 21, 2, 30, 5, tzinfo=UTC)
    note = Note(collection="c", asked=asked, before=["c-1-2026-11-21-02-30-05.snapshot"])
    assert note.is_ours(info_of("c-1-2026-11-21-02-30-06.snapshot"))
    for other in (
        "c-1-2026-11-21-02-30-05.snapshot",  # was there before
        "c-1-2026-11-21-02-30-02.snapshot",
        "c-1-2026-11-21-02-31-00.snapshot",
        "of-an-upload.snapshot",
        "c-1-2026-99-21-02-30-06.snapshot",
    ):
        assert not note.is_ours(info_of(other)), other


def test_two_that_could_be_ours_both_stay(server: Server, run: Run, collection: str) -> None:
    leftovers = Leftovers(run.base / "qdrant.snapshots.json")
    leftovers.asking(collection, [])
    path = f"/collections/{collection}/snapshots"
    made = {made_by_hand(server, collection) for _ in range(2)}
    try:
        run.collect()
        assert set(left(server, collection)) == made
    finally:
        for name in made:
            server.result("DELETE", f"{path}/{name}")


def test_who_took_the_name_of_the_same_second_keeps_off(
    server: Server, run: Run, collection: str
) -> None:
    mine = made_by_hand(server, collection)
    leftovers = Leftovers(run.base / "qdrant.snapshots.json")
    leftovers.made(leftovers.asking(collection, [mine]), mine)
    run.collect()
    assert left(server, collection) == [mine] and notes(run) == []
    server.result("DELETE", f"/collections/{collection}/snapshots/{mine}")


def test_notes_do_not_stay_for_ever(server: Server, run: Run, collection: str) -> None:
    file = run.base / "qdrant.snapshots.json"
    for days, gone in ((1, False), (3, True), (-3, True)):
        then = datetime.now(UTC) - timedelta(days=days)
        Leftovers(file, now=lambda then=then: then).asking(collection, [])
        run.collect()
        assert file.exists() is not gone
        file.unlink(missing_ok=True)
    file.write_text("no notes")
    run.collect()


def test_a_server_that_keeps_the_snapshot_is_told_of_next_time(
    server: Server, run: Run, proxy: FaultProxy, collection: str
) -> None:
    proxy.fault, proxy.where = "500", "DELETE"
    assert collected(run.collect(), collection).count == (3, 3)  # the backup is good
    assert len(left(server, collection)) == 1
    with pytest.raises(ServiceError, match=r"DELETE .*\(500\)"):
        run.collect()
    proxy.fault = "none"
    run.collect()
    assert left(server, collection) == [] and notes(run) == []


def test_what_is_missing_says_so(server: Server, run: Run, tmp_path: Path) -> None:
    for text, error, words in (
        ("wrong-key-0123456789", ServiceError, "refuses the key"),
        ("", SettingsError, "is empty"),
        (None, SettingsError, "qdrant_api_key is missing"),
    ):
        file = run.credentials.folder / "qdrant_api_key"
        file.unlink()
        if text is not None:
            file.write_text(text)
        for ask in (run.collect, lambda: run.collector().expected_bytes()):
            with pytest.raises(error, match=words) as failed:
                ask()
            assert not text or text not in failed.value.message + failed.value.hint
        file.touch()


def test_a_server_that_is_down_is_unreachable(run: Run) -> None:
    run.url = "http://127.0.0.1:1"
    with pytest.raises(UnreachableError):
        run.collector().expected_bytes()
    with pytest.raises(UnreachableError):
        run.collect()


def test_the_size_is_known_beforehand(run: Run, named: str) -> None:
    result = run.collect()
    expected = run.collector().expected_bytes()
    assert sum(item.size for item in result.items) < expected


def test_it_runs_without_what_a_host_has_not() -> None:
    """No official client, no pyinfra, no templates on the host."""
    code = (
        "import sys\n"
        "for name in ('qdrant_client', 'pyinfra', 'jinja2', 'docker', 'numpy', 'grpc'):\n"
        "    sys.modules[name] = None\n"
        "import ops.backup.qdrant, ops.clients.snapshots\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=60)
