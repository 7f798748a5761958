"""Collections moved between two servers, read back by raw HTTP: no point lost, none changed."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from migrate_data import INDEXES, KINDS, Dataset, fill_folder
from migrate_pair import PLAIN, REAL, Pair, Wish, make_pair, points
from typer.testing import CliRunner

from ops.backup.source import Event
from ops.cli.migrate import app
from ops.cli.place import Elsewhere
from ops.clients.rest import RefusedError
from ops.clients.snapshots import Snapshots
from ops.errors import LockedError, ServiceError, UnreachableError
from ops.migrate import cutover, verify
from ops.migrate import target as making
from ops.migrate.side import MigrationError
from ops.settings import ACCESS_COLLECTION

pytestmark = pytest.mark.services

HERE = list(KINDS) if REAL else list(PLAIN)
DENSE = {"size": 4, "distance": "Dot"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with make_pair(tmp_path_factory.mktemp("migrate")) as made:
        yield made


@pytest.fixture
def pair(both: Pair) -> Iterator[Pair]:
    """Each test's collections are gone after it."""
    both.names = []
    yield both
    for server in (both.source, both.target):
        for alias in server.send("GET", "/aliases")["aliases"]:
            if alias["collection_name"] in both.names:
                server.drop_alias(alias["alias_name"])
        for name in set(both.names):
            server.drop(name)
    both.names = []


def info(rest: Any, name: str) -> Any:
    found = rest.send("GET", f"/collections/{name}")
    schema = {field: each.get("params") for field, each in found["payload_schema"].items()}
    return found["config"], schema


def config(rest: Any, name: str) -> Any:
    return rest.send("GET", f"/collections/{name}")["config"]


@pytest.mark.parametrize("kind", HERE)
@pytest.mark.parametrize("count", [0, 1, 3000])
def test_every_kind_of_point_arrives_as_it_was(pair: Pair, kind: str, count: int) -> None:
    name = pair.new_name()
    pair.source.fill(name, Dataset(kind, count), indexes=True)
    _, migration = pair.move([name])
    target = migration.moves[0].target
    assert migration.phase == "ready"
    assert points(pair.target, target) == points(pair.source, name)
    assert info(pair.target, target) == info(pair.source, name)


@pytest.mark.parametrize("kind", HERE)
def test_a_local_folder_is_moved_whole(pair: Pair, kind: str, tmp_path: Path) -> None:
    name = pair.new_name()
    fill_folder(tmp_path / "local", name, Dataset(kind, 300))
    _, migration = pair.move([name], tmp_path / "local")
    with pair.ends(tmp_path / "local") as (one, other, _):
        names = {name: migration.moves[0].target}
        report = verify.verify(one, other, names, verify.Wish(aliases=False))
    assert (report.outcome, report.differences) == ("same", 0), list(report.lines())
    assert pair.target.count(migration.moves[0].target) == 300


def test_every_setting_of_a_collection_comes_along(pair: Pair) -> None:
    if not REAL:
        pytest.xfail("the stand-in knows few settings")
    name = pair.new_name()
    create = {
        "vectors": {
            "text": DENSE | {"on_disk": True, "hnsw_config": {"m": 24}},
            "small": DENSE
            | {"datatype": "float16", "quantization_config": {"binary": {"always_ram": True}}},
        },
        "sparse_vectors": {"words": {"modifier": "idf", "index": {"on_disk": True}}},
        "shard_number": 3,
        "on_disk_payload": False,
        "hnsw_config": {"m": 12, "ef_construct": 80, "payload_m": 8},
        "optimizers_config": {"indexing_threshold": 777, "default_segment_number": 3},
        "wal_config": {"wal_capacity_mb": 16},
        "quantization_config": {"scalar": {"type": "int8", "quantile": 0.9, "always_ram": True}},
        "strict_mode_config": {"enabled": True, "max_query_limit": 50, "upsert_max_batchsize": 70},
        "metadata": {"team": "books", "n": 1},
    }
    pair.source.send("PUT", f"/collections/{name}", create)
    for field, schema in INDEXES.items():
        body = {"field_name": field, "field_schema": schema}
        pair.source.send("PUT", f"/collections/{name}/index?wait=true", body)
    some = [{"id": n, "vector": {"text": [n, 1, 2, 3]}, "payload": {"page": n}} for n in range(60)]
    pair.source.put(name, *some)
    _, migration = pair.move([name])
    target = migration.moves[0].target
    assert info(pair.target, target) == info(pair.source, name)
    assert pair.target.count(target) == 60


def test_a_payload_of_a_megabyte_among_small_ones(pair: Pair) -> None:
    name = pair.new_name()
    pair.source.fill(name, Dataset("unnamed", 400, large=30, large_bytes=1_000_000))
    _, migration = pair.move([name])
    assert points(pair.target, migration.moves[0].target) == points(pair.source, name)


def test_it_never_writes_into_what_is_there(pair: Pair) -> None:
    name, taken = pair.new_name(), pair.new_name()
    pair.source.fill(name, Dataset("dot", 50))
    if pair.target.url != pair.source.url:
        pair.target.fill(name, Dataset("dot", 5, seed=9))
    pair.target.fill(taken, Dataset("dot", 5, seed=9))
    before = points(pair.target, taken), points(pair.target, name)
    made = pair.plan(Wish((name,), new_name=taken))
    assert any("never written over" in each for each in made.refusals)
    with pytest.raises(MigrationError, match="nothing was touched"):
        made.migration()
    _, migration = pair.move([name])
    assert migration.moves[0].target.startswith(f"{name}-")
    assert (points(pair.target, taken), points(pair.target, name)) == before


def test_a_collection_that_appears_meanwhile_is_not_taken_for_ours(pair: Pair) -> None:
    name, other = pair.new_name(), pair.new_name()
    pair.source.fill(name, Dataset("dot", 50))
    pair.source.fill(other, Dataset("dot", 50))
    store, migration = pair.prepared([name], new_name=pair.new_name())
    target = migration.moves[0].target
    pair.target.fill(target, Dataset("dot", 5, seed=9))
    before = points(pair.target, target)
    for step in ("planned", "creating"):  # from the beginning, and as after a kill
        migration.moves[0].step = step  # type: ignore[assignment]
        store.save(migration)
        with pytest.raises(MigrationError, match="did not make"):
            pair.go_on(store)
    assert points(pair.target, target) == before


def test_the_tokens_of_developers_stay(pair: Pair) -> None:
    pair.source.send("PUT", f"/collections/{ACCESS_COLLECTION}", {"vectors": {}})
    name = pair.new_name()
    try:
        pair.source.fill(name, Dataset("dot", 5))
        made = pair.plan(Wish())
        assert ACCESS_COLLECTION not in [row.name for row in made.rows]
        with pytest.raises(MigrationError, match="never moved"):
            pair.plan(Wish((ACCESS_COLLECTION,)))
    finally:
        pair.source.drop(ACCESS_COLLECTION)


def test_a_wrong_key_is_said_before_anything_is_touched(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = pair.new_name()
    pair.source.fill(name, Dataset("dot", 5))
    right = pair.target.key
    monkeypatch.setattr(pair.target, "key", "not-the-key-at-all")
    with pytest.raises(ServiceError, match="refuses the key") as caught:
        pair.plan(Wish((name,)))
    assert "STACKROOM_TO_KEY" in caught.value.hint
    assert right not in str(caught.value)


def test_a_dimension_that_differs_behind_an_alias_is_refused(pair: Pair) -> None:
    name, old, alias = pair.new_name(), pair.new_name(), pair.new_name()
    pair.source.send("PUT", f"/collections/{name}", {"vectors": DENSE})
    pair.target.send("PUT", f"/collections/{old}", {"vectors": DENSE | {"size": 8}})
    pair.target.alias(alias, old)
    made = pair.plan(Wish((name,), aliases=(alias,)))
    assert any("8 Dot" in each and "4 Dot" in each for each in made.refusals), made.refusals


def test_what_the_plan_says(pair: Pair) -> None:
    name = pair.new_name()
    pair.source.fill(name, Dataset("named", 500), indexes=True)
    made = pair.plan(Wish((name,)))
    row = made.rows[0]
    assert (row.points, len(row.vectors), row.shards) == (500, 3, 1)
    assert "page (integer)" in row.indexes
    assert row.bytes > 500 * 21 * 4 and made.needed > row.bytes and row.seconds > 0
    assert made.mode == "stream" and made.why
    assert made.to_json()["rows"][0]["name"] == name


def test_a_source_that_lives_is_caught_up_with_and_switched(pair: Pair) -> None:
    """Points are added, changed and deleted while they are moved; programs follow the alias."""
    name, alias = pair.new_name(), f"{pair.new_name()}-alias"
    data = Dataset("dot", 3000)
    pair.source.fill(name, data)
    ids = data.ids()
    stop = threading.Event()

    def live() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            point = {"id": ids[number * 7 % 3000], "vector": [float(number)] * 16}
            pair.source.put(name, point | {"payload": {"changed": number}})
            pair.source.put(name, {"id": 10**12 + number, "vector": [1.0] * 16})
            pair.source.delete(name, ids[number * 11 % 3000])
            time.sleep(0.005)

    writer = threading.Thread(target=live)
    writer.start()
    try:
        store, migration = pair.move([name], aliases=(alias,))
    finally:
        stop.set()
        writer.join()
    target = migration.moves[0].target
    with pair.job(store) as job:
        cutover.cut_over(job)
    assert points(pair.target, target) == points(pair.source, name)
    aliases = {
        each["alias_name"]: each["collection_name"]
        for each in pair.target.send("GET", "/aliases")["aliases"]
    }
    assert aliases[alias] == target
    with pytest.raises(MigrationError, match="would undo"):
        pair.go_on(store)


def test_a_source_that_is_still_written_to_is_not_switched(pair: Pair) -> None:
    name, alias = pair.new_name(), f"{pair.new_name()}-alias"
    pair.source.fill(name, Dataset("dot", 200))
    store, _ = pair.move([name], aliases=(alias,))
    number = 0

    def writes(event: Event) -> None:
        nonlocal number
        if event.step.startswith("pass") and event.done == 0:
            number += 1
            pair.source.put(name, {"id": 10**12 + number, "vector": [1.0] * 16})

    with pair.job(store, tell=writes) as job, pytest.raises(MigrationError, match="still written"):
        cutover.cut_over(job)
    listed = pair.target.send("GET", "/aliases")["aliases"]
    assert alias not in [each["alias_name"] for each in listed]


def test_a_client_that_writes_now_and_then_is_seen_before_the_switch(pair: Pair) -> None:
    """Between two passes, so that each finds what came after the one before it."""
    name, alias = pair.new_name(), f"{pair.new_name()}-alias"
    pair.source.fill(name, Dataset("dot", 50))
    store, _ = pair.move([name], aliases=(alias,))
    ended = threading.Event()

    def write() -> None:
        for number in itertools.count():
            pair.source.put(name, {"id": 10**12 + number, "vector": [1.0] * 16})
            if ended.wait(1):
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pair.job(store) as job, pytest.raises(MigrationError, match="still written"):
            cutover.cut_over(job)
    finally:
        ended.set()
        writer.join()
    listed = pair.target.send("GET", "/aliases")["aliases"]
    assert alias not in [each["alias_name"] for each in listed]


def test_what_is_written_while_the_index_is_waited_for_comes_along(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = pair.new_name()
    pair.source.fill(name, Dataset("dot", 20))
    store, migration = pair.move([name])
    green = making.wait_until_green

    def waits(*given: Any, **more: Any) -> None:
        green(*given, **more)
        pair.source.put(name, {"id": 10**12, "vector": [1.0] * 16})

    monkeypatch.setattr(making, "wait_until_green", waits)
    with pair.job(store) as job:
        cutover.cut_over(job)
    assert points(pair.target, migration.moves[0].target) == points(pair.source, name)


def test_a_cutover_killed_behind_the_switch_takes_no_later_write_away(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, old, alias = pair.new_name(), pair.new_name(), f"{pair.new_name()}-alias"
    pair.source.fill(name, Dataset("dot", 20))
    pair.target.fill(old, Dataset("dot", 10))
    pair.target.alias(alias, old)
    store, migration = pair.move([name], aliases=(alias,))
    switch = making.point_aliases

    def dies(*given: Any) -> None:
        switch(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pair.job(store) as job:
        patched.setattr(making, "point_aliases", dies)
        with pytest.raises(KeyboardInterrupt):
            cutover.cut_over(job)
    pair.target.put(alias, {"id": 10**12, "vector": [1.0] * 16})
    with pair.job(store) as job:
        cutover.cut_over(job)
    assert pair.target.count(migration.moves[0].target) == 21
    assert (store.load().phase, store.load().switches[0].led_to) == ("cut over", old)


def test_no_pass_where_an_alias_was_led_by_hand(pair: Pair) -> None:
    name, alias = pair.new_name(), f"{pair.new_name()}-alias"
    pair.source.fill(name, Dataset("dot", 20))
    store, migration = pair.move([name], aliases=(alias,))
    target = migration.moves[0].target
    pair.target.alias(alias, target)
    pair.target.put(alias, {"id": 10**12, "vector": [1.0] * 16})
    with pair.job(store) as job, pytest.raises(MigrationError, match=r"leads to .* already"):
        cutover.cut_over(job)
    assert pair.target.count(target) == 21


@pytest.mark.parametrize(("had", "has"), [(300, 5), (1, 0)])
def test_a_source_that_lost_its_points_does_not_empty_the_copy(
    pair: Pair, had: int, has: int
) -> None:
    """Such as a server that came back with another volume, where a program made it anew."""
    name = pair.new_name()
    pair.source.fill(name, Dataset("dot", had))
    store, migration = pair.move([name], new_name=pair.new_name())
    pair.source.drop(name)
    pair.source.fill(name, Dataset("dot", has))
    with pair.job(store) as job, pytest.raises(MigrationError, match="nothing was removed"):
        cutover.cut_over(job)
    assert pair.target.count(migration.moves[0].target) == had


def test_a_cutover_is_undone_and_confirmed_by_one_command_each(pair: Pair) -> None:
    name, old, alias = pair.new_name(), pair.new_name(), f"{pair.new_name()}-alias"
    pair.source.fill(name, Dataset("dot", 20))
    pair.target.fill(old, Dataset("dot", 10, seed=3))
    pair.target.alias(alias, old)

    def leads() -> str:
        listed = pair.target.send("GET", "/aliases")["aliases"]
        return next(each["collection_name"] for each in listed if each["alias_name"] == alias)

    for end in ("undo", "confirm"):
        store, migration = pair.move([name], aliases=(alias,))
        assert leads() == old
        with pair.job(store) as job:
            cutover.cut_over(job)
        assert leads() == migration.moves[0].target
        assert pair.target.count(old) == 10
        with pair.job(store) as job:
            if end == "undo":
                cutover.undo(job)
            else:
                assert cutover.confirm(job, drop_old=True) == [old]
        if end == "undo":
            assert leads() == old
    assert leads() == migration.moves[0].target
    there = [each["name"] for each in pair.target.send("GET", "/collections")["collections"]]
    assert old not in there
    assert pair.source.count(name) == 20


def test_what_was_put_off_is_given_back_also_after_a_crash(pair: Pair) -> None:
    """The run ends while it loads: no index is built until another ends it."""
    name = pair.new_name()
    pair.source.fill(name, Dataset("dot", 3000))
    seen: list[int] = []

    def dies(event: Event) -> None:
        if event.step == "load" and event.done:
            found = config(pair.target, migration.moves[0].target)
            seen.append(found["optimizer_config"]["indexing_threshold"])
            raise KeyboardInterrupt

    store, migration = pair.prepared([name], new_name=pair.new_name())
    with pytest.raises(KeyboardInterrupt):
        pair.go_on(store, tell=dies)
    assert seen[0] == 0
    assert store.load().moves[0].step == "loading"
    pair.go_on(store)
    target = migration.moves[0].target
    wanted = config(pair.source, name)["optimizer_config"]
    assert config(pair.target, target)["optimizer_config"] == wanted
    assert points(pair.target, target) == points(pair.source, name)


def test_a_snapshot_carries_a_collection_over_and_leaves_none_behind(pair: Pair) -> None:
    name = pair.new_name()
    pair.source.fill(name, Dataset("dot", 1000), indexes=True)
    _, migration = pair.move([name], mode="snapshot", new_name=pair.new_name())
    target = migration.moves[0].target
    assert points(pair.target, target) == points(pair.source, name)
    assert info(pair.target, target) == info(pair.source, name)
    for server, each in ((pair.source, name), (pair.target, target)):
        assert server.send("GET", f"/collections/{each}/snapshots") == []
    assert not list(pair.state.rglob("*.snapshot"))


def test_a_snapshot_that_was_refused_gives_no_right_to_what_comes_later(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, target = pair.new_name(), pair.new_name()
    pair.source.fill(name, Dataset("dot", 20))
    store, _ = pair.prepared([name], mode="snapshot", new_name=target)

    def refuses(*_: Any, **__: Any) -> None:
        raise RefusedError(400, "of another version")

    with monkeypatch.context() as patched:
        patched.setattr(Snapshots, "upload", refuses)
        with pytest.raises(MigrationError, match="cannot read the snapshot"):
            pair.go_on(store)
    pair.target.fill(target, Dataset("dot", 30, seed=3))
    with pytest.raises(MigrationError, match="did not make"):
        pair.go_on(store)
    assert pair.target.count(target) == 30


def test_what_an_alias_leads_to_is_not_restored_over(pair: Pair) -> None:
    """A run that died in the upload, and another one that moved under the same name since."""
    name, target = pair.new_name(), pair.new_name()
    pair.source.fill(name, Dataset("dot", 20))
    store, migration = pair.prepared([name], mode="snapshot", new_name=target)
    migration.moves[0].step, migration.moves[0].uploading = "creating", True
    store.save(migration)
    pair.target.fill(target, Dataset("dot", 30, seed=3))
    pair.target.alias(f"{target}-alias", target)
    with pytest.raises(MigrationError, match="in use"):
        pair.go_on(store)
    assert pair.target.count(target) == 30


def test_nothing_compared_is_no_proof(pair: Pair) -> None:
    with pair.ends() as (one, other, _), pytest.raises(MigrationError, match="no collection"):
        verify.verify(one, other, {})


def test_verify_runs_on_its_own_and_its_exit_code_says_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a migration that is remembered, at any later time."""
    for variable, key in pair.keys().items():
        monkeypatch.setenv(variable, key)
    name = pair.new_name()
    pair.source.fill(name, Dataset("dot", 300))
    _, migration = pair.move([name])
    ends = ["--from", pair.source.url, "--to", pair.target.url, "--collection", name]
    words = ["verify", *ends, "--as", migration.moves[0].target, "--json"]

    def verified() -> tuple[int, Any]:
        done = CliRunner().invoke(app, words, obj=Elsewhere("", pair.inventory))
        return done.exit_code, json.loads(done.output)

    code, report = verified()
    assert (code, report["outcome"], report["differences"]) == (0, "same", 0)
    pair.target.delete(migration.moves[0].target, Dataset("dot", 300).ids()[7])
    code, report = verified()
    assert (code, report["outcome"], report["differences"]) == (2, "different", 1)
    assert report["collections"][0]["kinds"] == {"missing": 1}


def test_an_alias_that_was_asked_for_is_no_difference_behind_the_cutover(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, key in pair.keys().items():
        monkeypatch.setenv(variable, key)
    name, alias = pair.new_name(), f"{pair.new_name()}-alias"
    pair.source.fill(name, Dataset("dot", 20))
    store, migration = pair.move([name], new_name=pair.new_name(), aliases=(alias,))
    with pair.job(store) as job:
        cutover.cut_over(job)
    words = ["verify", migration.id, "--state", str(pair.state), "--json"]
    done = CliRunner().invoke(app, words, obj=Elsewhere("", pair.inventory))
    assert (done.exit_code, json.loads(done.output)["aliases"]) == (0, [])
    pair.target.drop_alias(alias)
    done = CliRunner().invoke(app, words, obj=Elsewhere("", pair.inventory))
    assert (done.exit_code, json.loads(done.output)["differences"]) == (2, 1)


def test_two_runs_of_one_migration_do_not_meet(pair: Pair) -> None:
    name = pair.new_name()
    pair.source.fill(name, Dataset("dot", 5))
    store, _ = pair.move([name])
    with store.held("another"), pytest.raises(LockedError):
        pair.go_on(store)


def test_a_source_that_nobody_reaches_is_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair.source, "url", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9"):
        pair.plan(Wish())


def test_a_folder_in_use_is_refused(pair: Pair, tmp_path: Path) -> None:
    fill_folder(tmp_path / "local", "one", Dataset("dot", 5))
    with pair.ends(tmp_path / "local"), pytest.raises(LockedError, match="in use"):
        pair.plan(Wish(), tmp_path / "local")


def test_no_key_is_ever_in_the_state(pair: Pair) -> None:
    name = pair.new_name()
    pair.source.fill(name, Dataset("dot", 5))
    store, _ = pair.move([name])
    for path in store.folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0
        text = path.read_text()
        assert pair.source.key not in text and pair.target.key not in text
