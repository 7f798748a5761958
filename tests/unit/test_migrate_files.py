"""Which files are copied, which are never touched, and when an index job may run at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.errors import UnreachableError
from ops.migrate import reindex
from ops.migrate.copying import BATCH_BYTES, BATCH_FILES, batches, compare, parents
from ops.migrate.indexjob import plain
from ops.migrate.places import Place, place
from ops.migrate.plan import Plan, Wish
from ops.migrate.shelf import Entry, Listing, parsed
from ops.settings import load_environment

NAMES = st.sampled_from([f"library/{name}" for name in "abcde"])
ENTRIES = st.builds(Entry, st.sampled_from(["file", "link", "other"]), st.sampled_from("123"))
LISTINGS = st.dictionaries(NAMES, ENTRIES)
API = '[api]\nimage = "a:1"\n'
INDEX = f'{API}index = ["python", "-m", "index"]\n'


@given(LISTINGS, LISTINGS, st.dictionaries(NAMES, st.lists(ENTRIES)))
def test_what_others_put_there_is_never_touched_and_nothing_is_forgotten(
    source: Listing, target: Listing, put: dict[str, list[Entry]]
) -> None:
    ours = {path: [each.mark for each in marks] for path, marks in put.items()}
    found = compare(source, target, ours)
    for path in {*found.copy, *found.gone} & target.keys():
        assert target[path].mark in ours[path]
    after = {path: each for path, each in target.items() if path not in found.gone}
    after |= {path: source[path] for path in found.copy}
    for path, entry in source.items():
        if entry.kind == "other":
            assert path in found.left_out
        elif path in found.taken:
            assert after[path] == target[path] != entry
        else:
            assert after[path].mark == entry.mark
    for path in target.keys() - source.keys():
        assert (path in found.extra) == (path in after)


@given(st.lists(st.integers(0, 2 * BATCH_BYTES), max_size=30))
def test_batches_are_bounded_and_hold_everything_once(sizes: list[int]) -> None:
    source = {f"library/{n}": Entry("file", "", size) for n, size in enumerate(sizes)}
    made = list(batches(list(source), source))
    assert [path for batch in made for path in batch] == list(source)
    for batch in made:
        assert batch and len(batch) <= BATCH_FILES
        assert len(batch) == 1 or sum(source[path].size for path in batch) <= BATCH_BYTES


def test_the_folders_above_a_path() -> None:
    assert parents("library/a/b/c") == ["library/a/b", "library/a"]
    assert parents("library/a") == []


def test_a_listing_that_was_cut_off_is_not_taken_for_a_short_one() -> None:
    digest = b"0" * 64
    whole = b"d\0library/a\0\0f\0library/a/b\0005\0f\0library/gone\0001\0l\0library/l\0a\0sums\0"
    found = parsed(whole + digest + b" *library/a/b\0")
    assert found == {
        "library/a": Entry("folder"),
        "library/a/b": Entry("file", digest.decode(), 5),
        "library/l": Entry("link", "a"),
    }
    assert parsed(b"f\0sums\0001\0sums\0" + digest + b" *sums\0")["sums"].size == 1
    for end in range(len(whole) - 1):
        with pytest.raises(UnreachableError, match="in the middle"):
            parsed(whole[:end])


def test_what_a_job_prints_does_not_steer_a_terminal() -> None:
    assert (
        plain(b"\x1b[2J\x1b]0;title\x07 7 of \xff9\x9b1m\x08 files ") == "]0;title 7 of �9�1m files"
    )
    assert len(plain(b"x" * 5000)) == 200


class Target:
    """The Qdrant of the target, as far as a plan asks it."""

    name = "to"

    def collections(self) -> list[str]:
        return ["books"]

    def count(self, _: str) -> int:
        return 7


def ends(write_environment: Any, tmp_path: Path, settings: str) -> tuple[Place, Place]:
    (tmp_path / "kb" / "library").mkdir(parents=True, exist_ok=True)
    environment = load_environment(write_environment(settings=settings))
    return (
        place("from", str(tmp_path / "kb"), tmp_path),
        Place("to", "team", "environment", environment),
    )


def planned(both: tuple[Place, Place]) -> reindex.FilesPlan:
    shelves = reindex.shelf_of(both[0]), reindex.shelf_of(both[1])
    return reindex.make_plan(shelves, Target(), both, Wish(mode="reindex"))  # type: ignore[arg-type]


def test_without_an_index_job_the_setting_is_named(
    write_environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reindex, "_read", lambda *_: None)
    made = planned(ends(write_environment, tmp_path, API))
    assert made.refusals == [
        "team/settings.toml names no index job: set [api] index, such as "
        'index = ["python", "-m", "library.index"]'
    ]
    assert "refused: team/settings.toml names no index job" in "\n".join(made.lines())
    assert planned(ends(write_environment, tmp_path, INDEX)).refusals == []


def test_ends_without_files_of_an_api_are_refused(write_environment: Any, tmp_path: Path) -> None:
    both = ends(write_environment, tmp_path, 'stack = "qdrant"\n')
    assert "no environment with an [api]" in planned(both).refusals[0]
    url = place("from", "https://q.example", tmp_path), both[1]
    assert "has no files of an api" in planned(url).refusals[0]


@pytest.mark.parametrize(
    ("settings", "mode", "unmovable", "picked"),
    [
        (INDEX, "auto", ["books has shard keys of its own"], True),
        (INDEX, "stream", ["books has shard keys of its own"], False),
        (INDEX, "auto", [], False),
        (API, "auto", ["books has shard keys of its own"], False),
    ],
)
def test_auto_comes_to_it_only_where_nothing_else_works(
    write_environment: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: str,
    mode: Any,
    unmovable: list[str],
    picked: bool,
) -> None:
    monkeypatch.setattr(reindex, "_read", lambda *_: None)
    both = ends(write_environment, tmp_path, settings)
    plan = Plan("a", "b", "1", "1", "stream", "", unmovable=unmovable)
    made = reindex.instead(plan, both, Target(), Wish(mode=mode))  # type: ignore[arg-type]
    assert (made is not None) == picked
    if made:
        assert "because nothing else works: books has shard keys of its own" in made.lines()[0]
        assert made.migration().mode == "reindex"
