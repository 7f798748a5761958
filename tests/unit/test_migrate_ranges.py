"""For any ids and any crashes, every id is moved exactly once: none skipped, none changed."""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.clients.rest import RefusedError
from ops.errors import UnreachableError
from ops.migrate.load import Patience, load
from ops.migrate.passes import one_pass
from ops.migrate.ranges import MOST_RANGES, Checkpoint, size_for, split
from ops.migrate.server import BusyError, cut, encoded
from ops.migrate.side import MigrationError, Page, PointId, Record, order, within
from ops.migrate.state import Saver, Store

IDS = st.one_of(st.integers(0, 2**64 - 1), st.uuids().map(str))
SETS = st.sets(IDS, max_size=60)


class CrashedError(Exception):
    """The process is gone: nothing of it runs on, and what was not saved is lost."""


class Memory:
    """A side in memory. Dies at a call when `dies` says so; counts what was written where."""

    name, is_server = "memory", True

    def __init__(self, points: dict[PointId, Any], dies: Iterator[bool] | None = None) -> None:
        self.points = dict(points)
        self.dies = dies or iter(())
        self.writes: list[list[PointId]] = []

    def page(
        self,
        _: str,
        start: PointId | None = None,
        end: PointId | None = None,
        *,
        limit: int = 3,
    ) -> Page:
        self._perhaps_die()
        found = sorted((each for each in list(self.points) if within(each, start, end)), key=order)
        taken = [{"id": each, "payload": self.points[each]} for each in found[:limit]]
        following = found[limit] if len(found) > limit else None
        return Page(encoded(taken), len(taken), following)

    def upsert(self, _: str, points: bytes) -> None:
        self._perhaps_die()
        records = Page(points, 0, None).records()
        self.points |= {record.id: record.payload for record in records}
        self.writes.append([record.id for record in records])
        self._perhaps_die()  # in place, and the answer never came

    def delete(self, _: str, ids: Sequence[PointId]) -> None:
        self._perhaps_die()
        for each in ids:
            self.points.pop(each, None)
        self._perhaps_die()

    def _perhaps_die(self) -> None:
        if next(self.dies, False):
            raise CrashedError


def of(ids: Sequence[PointId]) -> dict[PointId, Any]:
    return {each: {"n": number} for number, each in enumerate(ids)}


@given(SETS, st.integers(1, 7), st.integers(1, 9), IDS)
def test_every_id_stands_in_exactly_one_range(
    ids: set[PointId], size: int, batch: int, other: PointId
) -> None:
    """Also one that comes later."""
    ordered = sorted(ids, key=order)
    batches = [ordered[first : first + batch] for first in range(0, len(ordered), batch)]
    ranges = split(batches, size)
    for each in [*ordered, other]:
        assert sum(within(each, one.start, one.end) for one in ranges) == 1
    for one in ranges:
        assert one.points == sum(within(each, one.start, one.end) for each in ordered) <= size
    assert ranges[0].start is None and ranges[-1].end is None


@given(st.integers(0, 10**10))
def test_a_checkpoint_stays_small_however_many_points_there_are(points: int) -> None:
    assert -(-points // size_for(points)) <= MOST_RANGES


@settings(max_examples=30, deadline=None)  # each syncs files
@given(SETS, st.integers(1, 7), st.lists(st.booleans(), max_size=80), st.integers(1, 3))
def test_whatever_the_crashes_each_id_arrives_once_with_its_content(
    ids: set[PointId], size: int, crashes: list[bool], workers: int
) -> None:
    ordered = sorted(ids, key=order)
    source, target = Memory(of(ordered)), Memory({})
    dies = iter(crashes)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.save_ranges(0, split([ordered], size))
        while True:
            source.dies = target.dies = dies
            ranges, checkpoint = store.ranges(0), store.checkpoint(0)
            assert ranges is not None
            seen = len(target.writes)
            before = set(target.points)
            left = checkpoint.left(ranges)
            try:
                _load(source, target, left, Saver(store, 0, checkpoint), workers)
            except CrashedError:
                continue
            finally:
                # what the checkpoint says is in place is in place, and is not moved again
                done = [
                    each
                    for each in ordered
                    if not any(within(each, piece.start, piece.end) for piece in left)
                ]
                assert set(done) <= before
                again = {each for write in target.writes[seen:] for each in write}
                assert not again & set(done)
            break
        assert target.points == source.points
        assert store.checkpoint(0).left(ranges) == []


def _load(
    source: Memory, target: Memory, pieces: Any, saver: Saver, workers: int, **wait: Any
) -> None:
    patience = wait.pop("patience", None) or Patience(0)
    load(source, target, ("a", "b"), pieces, saver, patience=patience, workers=workers)  # type: ignore[arg-type]


class Forgetful(Saver):
    """A kill -9: what is saved at the end of a run never is."""

    chance: random.Random

    def advance(self, number: int, following: PointId | None, points: int) -> None:
        super().advance(number, following, points)
        if self.chance.random() < 0.3:
            super().save()

    def save(self) -> None:
        pass


@settings(max_examples=30, deadline=None)  # each syncs files
@given(SETS, st.integers(1, 7), st.lists(st.booleans(), max_size=80), st.randoms())
def test_a_checkpoint_that_lags_behind_skips_nothing(
    ids: set[PointId], size: int, crashes: list[bool], chance: random.Random
) -> None:
    ordered = sorted(ids, key=order)
    dies = iter(crashes)
    source, target = Memory(of(ordered), dies), Memory({}, dies)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        ranges = split([ordered], size)
        for _ in range(len(crashes) + 1):
            checkpoint = store.checkpoint(0)
            saver = Forgetful(store, 0, checkpoint)
            saver.chance = chance
            try:
                _load(source, target, checkpoint.left(ranges), saver, 1)
                break
            except CrashedError:
                continue
    assert target.points == source.points


@given(SETS, SETS, SETS, st.integers(1, 5), st.lists(st.booleans(), max_size=30))
def test_a_pass_that_is_begun_again_after_crashes_ends_the_same(
    kept: set[PointId], gone: set[PointId], fresh: set[PointId], size: int, crashes: list[bool]
) -> None:
    """It keeps no checkpoint: what was put right before is found to be right."""
    dies = iter(crashes)
    before = sorted(kept | gone, key=order)
    source = Memory({each: {"n": len(str(each))} for each in kept | fresh}, dies)
    target = Memory(of(before), dies)
    wrong = _wrong(source, target)
    for _ in range(len(crashes) + 1):
        try:
            one_pass(
                source,  # type: ignore[arg-type]
                target,  # type: ignore[arg-type]
                ("a", "b"),
                split([before], size),
                {},
                patience=Patience(0),
                workers=1,
            )
            break
        except CrashedError:
            assert _wrong(source, target) <= wrong, "no crash makes it worse"
            wrong = _wrong(source, target)
    assert target.points == source.points


def _wrong(one: Memory, other: Memory) -> set[PointId]:
    ids = one.points.keys() | other.points.keys()
    return {each for each in ids if one.points.get(each, ...) != other.points.get(each, ...)}


@given(SETS, SETS, SETS, st.integers(1, 5))
def test_a_pass_makes_the_target_what_the_source_is(
    kept: set[PointId], gone: set[PointId], fresh: set[PointId], size: int
) -> None:
    """Whatever was added, changed or deleted meanwhile."""
    before = sorted(kept | gone, key=order)
    target = Memory(of(before))
    source = Memory({each: {"n": len(str(each))} for each in kept | fresh})
    ranges = split([before], size)
    put = one_pass(source, target, ("a", "b"), ranges, {}, patience=Patience(0))  # type: ignore[arg-type]
    assert target.points == source.points
    assert put.compared == len(source.points)
    assert not one_pass(
        source,  # type: ignore[arg-type]
        target,  # type: ignore[arg-type]
        ("a", "b"),
        ranges,
        {},
        patience=Patience(0),
    ).differences


def test_a_cursor_outside_its_range_is_not_believed() -> None:
    ranges = split([[1, 2, 3, 4]], 2)
    with pytest.raises(ValueError, match="outside"):
        Checkpoint(cursors={0: 4}).left(ranges)


def test_a_cursor_never_goes_back() -> None:
    checkpoint = Checkpoint()
    checkpoint.advance(0, 9, 1)
    checkpoint.advance(0, 4, 1)
    assert checkpoint.cursors == {0: 9}
    checkpoint.advance(0, None, 1)
    checkpoint.advance(0, 4, 1)
    assert checkpoint.cursors == {} and checkpoint.done == {0}


@given(st.dictionaries(st.integers(0, 99), IDS), st.sets(st.integers(100, 199)), st.integers(0))
def test_a_checkpoint_comes_back_as_it_was_saved(
    cursors: dict[int, PointId], done: set[int], moved: int
) -> None:
    one = Checkpoint(cursors, done, moved)
    assert Checkpoint.from_json(json.loads(json.dumps(one.to_json()))) == one


PAYLOADS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    st.lists(IDS, unique=True, max_size=6),
    PAYLOADS,
    st.none() | IDS,
    st.none() | IDS,
)
def test_a_page_is_cut_at_its_end_whatever_its_payloads_look_like(
    ids: list[PointId], payload: Any, following: PointId | None, end: PointId | None
) -> None:
    """Payloads that try to look like the answer itself are no trap."""
    traps = {"points": [payload], "next_page_offset": 5, '"points":[': '],"next_page_offset":7'}
    ordered = sorted(ids, key=order)
    if following is not None:
        ordered = [each for each in ordered if order(each) < order(following)]
    points = [{"id": each, "payload": traps | {"own": [traps]}} for each in ordered]
    result = {"points": points, "next_page_offset": following}
    answer = json.dumps(
        {"result": result, "status": "ok", "time": 0.1}, separators=(",", ":")
    ).encode()
    page = cut(answer, len(points), end)
    inside = [each for each in points if within(each["id"], None, end)]
    assert [(each.id, each.payload) for each in page.records()] == [
        (each["id"], each["payload"]) for each in inside
    ]
    assert page.count == len(inside)
    goes_on = following is not None and (end is None or order(following) < order(end))
    assert page.following == (following if goes_on else None)


class Refusing(Memory):
    """Refuses writes with these errors, one after another."""

    def __init__(self, errors: list[Exception]) -> None:
        super().__init__({})
        self.errors = errors

    def upsert(self, _: str, points: bytes) -> None:
        if self.errors:
            raise self.errors.pop(0)
        super().upsert(_, points)


def _refused(tmp_path: Path, target: Memory, patience: Patience) -> tuple[Memory, Store]:
    source, store = Memory(of(range(20))), Store(tmp_path)
    ranges = split([list(range(20))], 5)
    _load(
        source,
        target,
        Checkpoint().left(ranges),
        Saver(store, 0, Checkpoint()),
        2,
        patience=patience,
    )
    return source, store


def test_too_many_requests_and_a_full_disk_are_waited_out(tmp_path: Path) -> None:
    heard: list[str] = []
    errors = [
        BusyError(429, "too many", "", 0.01),
        BusyError(507, "no room", "", 0),
        UnreachableError("it restarts"),
    ]
    target = Refusing(list(errors))
    source, _ = _refused(tmp_path, target, Patience(30, tell=heard.append))
    assert target.points == source.points
    assert sorted(heard) == ["it restarts", "no room", "too many"]


def test_a_refusal_that_stays_ends_the_run_and_is_remembered(tmp_path: Path) -> None:
    target, before = Refusing([BusyError(507, "no room", "", 0)] * 50), set(threading.enumerate())
    with pytest.raises(BusyError, match="no room"):
        _refused(tmp_path, target, Patience(0))
    assert target.points == {}
    assert set(threading.enumerate()) <= before


def test_a_line_that_breaks_after_long_work_is_tried_again() -> None:
    """Patience is for what fails: a large batch may take longer than that and go well."""
    times: list[float] = []

    def works_long_and_breaks_once() -> str:
        times.append(time.monotonic())
        if len(times) == 1:
            time.sleep(0.3)
            raise UnreachableError("the line broke")
        return "there"

    assert Patience(0.2).call(works_long_and_breaks_once) == "there"
    assert len(times) == 2


def test_a_batch_that_is_too_big_is_made_smaller(tmp_path: Path) -> None:
    class Small(Memory):
        def upsert(self, _: str, points: bytes) -> None:
            if Page(points, 0, None).records()[1:]:
                raise RefusedError(413, "Payload Too Large")
            super().upsert(_, points)

    target = Small({})
    source, _ = _refused(tmp_path, target, Patience(0))
    assert target.points == source.points


def test_a_point_that_no_request_can_hold_is_named(tmp_path: Path) -> None:
    class Tiny(Memory):
        def upsert(self, *_: Any) -> None:
            raise RefusedError(413, "Payload Too Large")

    with pytest.raises(MigrationError, match=r"point \d+ has .* more than the target takes"):
        _refused(tmp_path, Tiny({}), Patience(0))


def test_a_record_without_a_vector_or_payload_is_whole() -> None:
    assert Page(b'{"id":1,"payload":null}', 1, None).records() == [Record(1, {}, {})]


def test_ids_stand_in_the_order_that_qdrant_gives_them_out_in() -> None:
    ids: list[PointId] = [2**64 - 1, str(uuid.UUID(int=2)), 0, str(uuid.UUID(int=2**127)), 10]
    assert sorted(ids, key=order) == [
        0,
        10,
        2**64 - 1,
        str(uuid.UUID(int=2)),
        str(uuid.UUID(int=2**127)),
    ]
