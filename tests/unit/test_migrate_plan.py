"""What a person names as an end, which mode is picked and why, and what a collection is made of."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.backup.source import Event
from ops.cli.migrate import app
from ops.cli.pace import Pace
from ops.cli.place import Elsewhere
from ops.errors import ServiceError, SettingsError, StackroomError
from ops.migrate import state
from ops.migrate.places import place
from ops.migrate.plan import MANY, ModeWish, Plan, _mode, _unmovable, lines
from ops.migrate.ranges import Checkpoint
from ops.migrate.server import NO_ROOM, BusyError, Server
from ops.migrate.side import NEVER_MOVED, CollectionInfo, described
from ops.migrate.state import Migration, Move, Store, find
from ops.migrate.target import create_body, put_off
from ops.restore.answers import readable
from ops.settings import ACCESS_COLLECTION


class End:
    def __init__(self, *, is_server: bool = True) -> None:
        self.is_server = is_server
        self.name = "an end"


def info(points: int = 0, **config: Any) -> CollectionInfo:
    params = {"vectors": {"size": 4, "distance": "Dot", "on_disk": None}} | config.pop("params", {})
    return described("books", {"config": {"params": params} | config}, points, [])


@pytest.mark.parametrize(
    ("wish", "versions", "points", "folder", "mode", "says"),
    [
        ("auto", ("1.19.0", "1.19.0"), MANY - 1, False, "stream", "soon built"),
        ("auto", ("1.19.0", "1.19.0"), MANY, False, "snapshot", "index comes along"),
        ("auto", ("1.18.2", "1.19.0"), MANY, False, "snapshot", "index comes along"),
        ("auto", ("1.17.2", "1.19.0"), MANY, False, "stream", "cannot read"),
        ("auto", ("1.19.0", "1.18.2"), MANY, False, "stream", "cannot read"),
        ("auto", ("1.20.0", "1.19.0"), MANY, True, "stream", "no snapshots"),
        ("stream", ("1.2.0", "1.19.0"), MANY, False, "stream", "as asked"),
        ("snapshot", ("1.19.0", "1.19.1"), 1, False, "snapshot", "as asked"),
    ],
)
def test_the_mode_and_why(
    wish: ModeWish, versions: tuple[str, str], points: int, folder: bool, mode: str, says: str
) -> None:
    found, why, refusals = _mode(
        End(is_server=not folder),  # type: ignore[arg-type]
        End(),  # type: ignore[arg-type]
        versions,
        {"books": info(points)},
        wish,
    )
    assert (found, refusals) == (mode, []) and says in why


@pytest.mark.parametrize(
    ("wish", "versions", "folder", "says"),
    [
        ("snapshot", ("1.17.0", "1.19.0"), False, "cannot read a snapshot"),
        ("snapshot", ("1.19.0", "1.18.0"), False, "cannot read a snapshot"),
        ("snapshot", ("1.19.0", "1.19.0"), True, "no snapshots"),
    ],
)
def test_what_cannot_work_is_refused(
    wish: ModeWish, versions: tuple[str, str], folder: bool, says: str
) -> None:
    _, _, refusals = _mode(
        End(is_server=not folder),  # type: ignore[arg-type]
        End(),  # type: ignore[arg-type]
        versions,
        {"books": info(1)},
        wish,
    )
    assert says in refusals[0]


class Keyed(Server):
    """A server of a cluster, whose answers were taken from Qdrant 1.19."""

    def request(self, _: str, path: str, *__: Any) -> Any:
        params = {"vectors": {"size": 4, "distance": "Dot"}, "sharding_method": "custom"}
        return {
            "/collections": {"collections": [{"name": "k"}]},
            "/aliases": {"aliases": []},
            "/collections/k": {"status": "green", "config": {"params": params}},
            "/collections/k/points/count": {"count": 1},
            "/collections/k/points/scroll": {"points": [], "next_page_offset": None},
            "/collections/k/cluster": {
                "local_shards": [{"shard_id": 2, "shard_key": 7}, {"shard_id": 3, "shard_key": 7}],
                "remote_shards": [{"shard_id": 1, "shard_key": "alpha"}, {"shard_id": 4}],
            },
        }[path]


def test_shard_keys_are_read_and_refused_by_name() -> None:
    server = Keyed("one", "http://127.0.0.1:1", None)
    found = server.info("k")
    server.close()
    assert found.shard_keys == (7, "alpha")
    assert "shard keys of its own (7, alpha), which neither" in _unmovable({"k": found})[0]


@pytest.mark.parametrize(
    ("versions", "says"),
    [(("1.18.2", "1.19.0"), "reads its snapshots"), (("1.17.2", "1.19.0"), "cannot read its")],
)
def test_a_plan_says_whether_the_versions_read_each_other(
    versions: tuple[str, str], says: str
) -> None:
    plan = Plan("a", "b", *versions, "stream", "as asked", readable=readable(*versions))
    assert says in "\n".join(lines(plan))


def test_progress_has_a_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0, 104.0])
    monkeypatch.setattr("ops.cli.pace.time.monotonic", lambda: next(clock))
    pace = Pace()
    assert pace.words(Event("load", "books", 1000, 9000)) == ""  # resumed at a thousand
    assert pace.words(Event("load", "books", 2000, 9000)) == "2000 of 9000, 500 points/s, 14 s left"
    assert pace.words(Event("copy", "files", 5, 9)) == "", "another step begins anew"


def test_an_end_is_an_environment_a_url_or_a_folder(write_environment: Any, tmp_path: Path) -> None:
    inventory = write_environment().parent
    (tmp_path / "local").mkdir()
    assert place("to", "team", inventory).environment is not None
    assert place("from", "https://q.example:443/", inventory).text == "https://q.example:443"
    assert place("from", str(tmp_path / "local"), inventory).kind == "folder"
    with pytest.raises(SettingsError, match=r"no environment \(team\)"):
        place("from", "production", inventory)


@pytest.mark.parametrize("url", ["https://:geheim@q.example", "https://q.example/?api-key=geheim"])
def test_a_key_in_a_url_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        place("to", url, tmp_path)
    assert "STACKROOM_TO_KEY" in caught.value.hint
    assert "geheim" not in caught.value.message + caught.value.hint


def test_a_collection_is_made_with_what_is_set_and_nothing_that_is_not() -> None:
    source = info(
        params={"shard_number": 3, "on_disk_payload": False, "read_fan_out_factor": 2},
        hnsw_config={"m": 8, "payload_m": None},
        optimizer_config={"indexing_threshold": 500, "prevent_unoptimized": True},
        quantization_config=None,
        strict_mode_config={"enabled": True, "upsert_max_batchsize": 5},
        metadata={"team": "books"},
    )
    assert create_body(source) == {
        "vectors": {"size": 4, "distance": "Dot"},
        "shard_number": 3,
        "on_disk_payload": False,
        "hnsw_config": {"m": 8},
        "optimizers_config": {"indexing_threshold": 500},
        "metadata": {"team": "books"},
    }
    # what would refuse or hide points while they pour in comes behind them
    assert put_off(source, info(optimizer_config={"indexing_threshold": 500})) == {
        "optimizers_config": {"indexing_threshold": 500, "prevent_unoptimized": True},
        "strict_mode_config": {"enabled": True, "upsert_max_batchsize": 5},
        "params": {"read_fan_out_factor": 2},
    }


def test_tokens_of_developers_are_never_moved() -> None:
    assert ACCESS_COLLECTION in NEVER_MOVED


@pytest.mark.parametrize(
    "words",
    [
        "No space left on device: WAL buffer size exceeds available disk space",
        "Not enough space available for optimization",
    ],
)
def test_a_full_disk_is_known_by_qdrants_own_words(words: str) -> None:
    assert NO_ROOM.search(words)


def test_a_refusal_says_how_long_to_wait() -> None:
    import httpx

    server = Server("one", "http://127.0.0.1:1", None)
    answer = httpx.Response(429, headers={"retry-after": "7"}, json={"status": {"error": "slow"}})
    error = server._refused(answer, "PUT /points")
    assert isinstance(error, BusyError) and error.after == 7
    server.close()


def stored(folder: Path, **changes: Any) -> Store:
    migration = Migration(
        id=folder.name,
        source="https://a.example",
        destination="https://b.example",
        mode="stream",
        created="2026-11-21T14:00:00Z",  # type: ignore[arg-type]
        moves=[Move(name="books", target="books-20261121", points=7)],
    )
    store = Store(folder)
    store.create(migration.model_copy(update=changes))
    return store


def test_the_newest_migration_is_meant_where_none_is_named(tmp_path: Path) -> None:
    for name in ("20261121-140000-aaaa", "20261121-150000-0000"):
        stored(tmp_path / name)
    assert find(tmp_path).folder.name == "20261121-150000-0000"
    assert find(tmp_path, "20261121-140000-aaaa").load().id == "20261121-140000-aaaa"
    for bad in ("../x", ".hidden"):
        with pytest.raises(SettingsError):
            find(tmp_path, bad)
    with pytest.raises(SettingsError, match="no migration"):
        find(tmp_path / "none")


def test_a_state_that_is_torn_is_refused(tmp_path: Path) -> None:
    store = stored(tmp_path / "one")
    text = (store.folder / "migration.json").read_text()
    (store.folder / "migration.json").write_text(text[: len(text) // 2])
    with pytest.raises(SettingsError, match="cannot be read"):
        store.load()


def test_a_state_that_cannot_be_written_is_an_error_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "one")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state, "write_durably", full)
    with pytest.raises(ServiceError, match=r"one/0-checkpoint\.json .*No space left"):
        store.save_checkpoint(0, Checkpoint())
    with pytest.raises(ServiceError, match="File exists"):
        stored(tmp_path / "one")


@pytest.mark.parametrize("text", ["[]", "{}", '{"cursors": {"a": 1}, "done": [], "moved": 0}'])
def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    store = stored(tmp_path / "one")
    (store.folder / "0-checkpoint.json").write_text(text)
    with pytest.raises(SettingsError, match="is no checkpoint"):
        store.checkpoint(0)


def test_status_asks_no_server(tmp_path: Path) -> None:
    stored(tmp_path / "20261121-140000-aaaa")
    done = CliRunner().invoke(app, ["status", "--state", str(tmp_path)])
    assert done.exit_code == 0
    assert "books as books-20261121: planned, 0 of 7 points" in done.output


def test_undo_and_confirm_are_two_things(tmp_path: Path) -> None:
    stored(tmp_path / "one")
    for words in (["--undo", "--confirm"], ["--drop-old"]):
        done = CliRunner().invoke(app, ["cutover", "--state", str(tmp_path), *words])
        assert isinstance(done.exception, SettingsError)


def test_a_run_without_a_place_to_go_to_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["plan", "--from", "https://a.example"], obj=Elsewhere("", tmp_path)
    )
    assert isinstance(done.exception, StackroomError) and "where to" in done.exception.message
