"""Verification finds whatever differs between two collections, and nothing where nothing does.

Qdrant is the one that STACKROOM_QDRANT_URL and STACKROOM_QDRANT_API_KEY name, else the stand-in,
which has plain dense vectors only: the other kinds need the real one.
"""

from __future__ import annotations

import os
import secrets
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from migrate_data import (
    EDGE_IDS,
    INDEXES,
    KINDS,
    Dataset,
    Json,
    Rest,
    fill_folder,
    running_stand_in,
)
from pydantic import SecretStr

from ops.backup.source import Event
from ops.errors import ServiceError, UnreachableError
from ops.migrate.folder import Folder
from ops.migrate.report import Report, at_most
from ops.migrate.server import Server
from ops.migrate.side import MigrationError, Page
from ops.migrate.verify import Wish, verify

pytestmark = pytest.mark.services

REAL = os.environ.get("STACKROOM_QDRANT_URL", "")
PLAIN = ("unnamed", "dot", "named", "bare")  # what the stand-in has
HERE = list(KINDS) if REAL else list(PLAIN)
POINTS = 2500  # more than a range has
HASTY = 0.0  # patience of a test in which a side stays away


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    if REAL:
        yield Rest(REAL, os.environ["STACKROOM_QDRANT_API_KEY"])
        return
    with running_stand_in(tmp_path_factory.mktemp("verify")) as stand_in:
        yield Rest(stand_in.url, stand_in.key)


@pytest.fixture
def side(rest: Rest) -> Iterator[Server]:
    opened = Server(rest.url, rest.url, SecretStr(rest.key))
    yield opened
    opened.close()


@pytest.fixture
def new_name(rest: Rest) -> Iterator[Callable[[], str]]:
    """Names for collections; what bears one is gone after the test."""
    given: list[str] = []

    def name() -> str:
        given.append(f"verify-{secrets.token_hex(6)}")
        return given[-1]

    yield name
    for made in given:
        rest.drop(made)


@pytest.fixture(scope="module")
def original(rest: Rest) -> Iterator[str]:
    """A collection that no test changes."""
    name = f"verify-{secrets.token_hex(6)}"
    rest.fill(name, Dataset("unnamed", POINTS), indexes=True)
    yield name
    rest.drop(name)


Pair = tuple[str, str]


@pytest.fixture
def pair(rest: Rest, original: str, new_name: Callable[[], str]) -> Pair:
    """The same twice, for a test to change the second."""
    name = new_name()
    made = Dataset("unnamed", POINTS)
    rest.fill(name, Dataset("unnamed", 0), indexes=True)
    for points in rest.scroll(original):
        rest.put(name, *points)
    assert rest.count(name) == made.points
    return original, name


def checked(one: Any, other: Any, pair: Pair, **wish: Any) -> Report:
    return verify(one, other, {pair[0]: pair[1]}, Wish(**wish))


def flipped(vector: list[float], place: int, bit: int = 0) -> list[float]:
    bits = struct.unpack("<I", struct.pack("<f", vector[place]))[0] ^ 1 << bit
    changed = list(vector)
    changed[place] = struct.unpack("<f", struct.pack("<I", bits))[0]
    return changed


@pytest.mark.parametrize("kind", HERE)
def test_every_kind_is_the_same_as_its_copy(
    kind: str, rest: Rest, side: Server, new_name: Callable[[], str]
) -> None:
    data = Dataset(kind, 600, large=2)
    name, other = new_name(), new_name()
    rest.fill(name, data, indexes=True)
    rest.fill(other, Dataset(kind, 0), indexes=True)
    for points in rest.scroll(name):
        rest.put(other, *points)
    report = checked(side, side, (name, other))
    assert (report.outcome, report.exit_code, report.differences) == ("same", 0, 0), report
    (found,) = report.collections
    assert found.compared == found.source_points == found.target_points == 600
    assert (found.rounded, found.points, found.kinds) == (0, [], {})
    assert sum(each.source for each in found.ranges) == 600


def test_what_is_left_to_a_real_server_is_what_the_stand_in_refuses(
    rest: Rest, new_name: Callable[[], str]
) -> None:
    for kind in sorted(set(KINDS) - set(HERE)):
        with pytest.raises(AssertionError, match="run the real server"):
            rest.fill(new_name(), Dataset(kind, 1))


@pytest.mark.parametrize("kind", HERE)
def test_a_local_folder_is_the_same_as_a_server_with_its_points(
    kind: str, rest: Rest, side: Server, new_name: Callable[[], str], tmp_path: Path
) -> None:
    """The client normalizes by itself and knows no data types: Qdrant rounds where it has to."""
    data = Dataset(kind, 150, large=1)
    name = new_name()
    fill_folder(tmp_path / "local", name, data)
    rest.fill(name, data, indexes=True)
    folder = Folder(tmp_path / "local")
    try:
        report = checked(folder, side, (name, name))
    finally:
        folder.close()
    assert (report.outcome, report.differences) == ("same", 0), report
    assert report.collections[0].compared == 150


def test_empty_collections_are_the_same(
    rest: Rest, side: Server, new_name: Callable[[], str]
) -> None:
    name, other = new_name(), new_name()
    for each in (name, other):
        rest.fill(each, Dataset("unnamed", 0))
    report = checked(side, side, (name, other))
    assert (report.outcome, report.collections[0].source_points) == ("same", 0)
    rest.put(other, {"id": 2**64 - 1, "vector": [1.0] * 16})
    assert checked(side, side, (name, other)).collections[0].kinds == {"extra": 1}
    assert checked(side, side, (other, name)).collections[0].kinds == {"missing": 1}


def flip_a_bit(rest: Rest, name: str) -> Json:
    point = rest.point(name, 1015)
    rest.put(name, point | {"vector": flipped(point["vector"], 5)})
    return {"id": 1015, "kinds": ["vector"], "vectors": [""]}


def lose_a_point(rest: Rest, name: str) -> Json:
    rest.delete(name, EDGE_IDS[-1])
    return {"id": EDGE_IDS[-1], "kinds": ["missing"]}


def lose_the_first_point(rest: Rest, name: str) -> Json:
    rest.delete(name, 0)
    return {"id": 0, "kinds": ["missing"]}


def add_a_point(rest: Rest, name: str) -> Json:
    rest.put(name, rest.point(name, 1015) | {"id": 2**63 + 5})
    return {"id": 2**63 + 5, "kinds": ["extra"]}


def change_a_payload(rest: Rest, name: str) -> Json:
    point = rest.point(name, 2**64 - 1)
    rest.put(name, point | {"payload": point["payload"] | {"one": 1.0, "number": 1.0}})
    return {"id": 2**64 - 1, "kinds": ["payload"]}


def lose_a_payload(rest: Rest, name: str) -> Json:
    point = rest.point(name, EDGE_IDS[9])
    assert point["payload"]
    rest.put(name, {"id": EDGE_IDS[9], "vector": point["vector"]})
    return {"id": EDGE_IDS[9], "kinds": ["payload"]}


def swap_two_vectors(rest: Rest, name: str) -> Json:
    one, other = rest.point(name, 1015), rest.point(name, 1018)
    rest.put(name, one | {"vector": other["vector"]}, other)
    return {"id": 1015, "kinds": ["vector"], "vectors": [""]}


DAMAGES = (
    *(flip_a_bit, lose_a_point, lose_the_first_point, add_a_point),
    *(change_a_payload, lose_a_payload, swap_two_vectors),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_one_wrong_point_is_found_and_named(
    damage: Callable[[Rest, str], Json], rest: Rest, side: Server, pair: Pair
) -> None:
    expected = damage(rest, pair[1])
    report = checked(side, side, pair)
    assert (report.outcome, report.exit_code, report.differences) == ("different", 2, 1)
    (found,) = report.collections
    assert len(found.points) == found.different == 1
    assert found.points[0].model_dump(exclude_defaults=True, exclude={"largest"}) == expected
    assert found.kinds == {expected["kinds"][0]: 1}
    assert [each.different for each in found.ranges].count(1) == 1
    assert str(expected["id"]) in "\n".join(report.lines())


def changed(vector: Any) -> Any:
    """The same with its last component another one, however deep it lies."""
    if isinstance(vector, dict):
        return vector | {"values": changed(vector["values"])}
    return [*vector[:-1], changed(vector[-1]) if isinstance(vector[-1], list) else 7.0]


@pytest.mark.parametrize("kind", [kind for kind in HERE if kind != "bare"])
def test_one_component_of_one_vector_is_found_whatever_its_kind(
    kind: str, rest: Rest, side: Server, new_name: Callable[[], str]
) -> None:
    name, other = new_name(), new_name()
    for each in (name, other):
        rest.fill(each, Dataset(kind, 60))
    point = next(each for page in rest.scroll(other) for each in page if each["vector"])
    by_name = KINDS[kind].get("sparse_vectors") or "size" not in KINDS[kind]["vectors"]
    where = sorted(point["vector"])[-1] if by_name else ""
    vector = point["vector"][where] if by_name else point["vector"]
    wrong = {where: changed(vector)} if by_name else changed(vector)
    rest.put(other, point | {"vector": point["vector"] | wrong if by_name else wrong})
    (found,) = checked(side, side, (name, other)).collections
    assert [(each.id, each.kinds, each.vectors) for each in found.points] == [
        (point["id"], ["vector"], [where])
    ]
    if by_name:  # and one that is not there at all
        left = {each: kept for each, kept in point["vector"].items() if each != where}
        rest.put(other, point | {"vector": left})
        (found,) = checked(side, side, (name, other)).collections
        assert [(each.id, each.vectors) for each in found.points] == [(point["id"], [where])]


def test_many_differences_are_all_counted_and_the_first_listed(
    rest: Rest, side: Server, pair: Pair
) -> None:
    data = Dataset("unnamed", POINTS)
    gone = data.ids()[100:1900]
    for first in range(0, len(gone), 600):
        rest.delete(pair[1], *gone[first : first + 600])
    report = checked(side, side, pair, listed=7)
    (found,) = report.collections
    assert found.kinds == {"missing": 1800}
    assert [each.id for each in found.points] == gone[:7]
    assert (found.source_points, found.target_points) == (POINTS, POINTS - 1800)
    for each in found.ranges:  # exact counts, by range
        assert each.source - each.target == each.different


def test_a_missing_index_and_another_one_are_found(rest: Rest, side: Server, pair: Pair) -> None:
    path = f"/collections/{pair[1]}/index"
    rest.send("DELETE", f"{path}/page?wait=true")
    rest.send("PUT", f"{path}?wait=true", {"field_name": "number", "field_schema": "integer"})
    report = checked(side, side, pair)
    assert report.exit_code == 2
    assert {each.what.split(".")[0] for each in report.collections[0].indexes} == {"page", "number"}
    assert len(INDEXES) > 2  # and the others are the same


def test_a_changed_setting_is_found(rest: Rest, side: Server, new_name: Callable[[], str]) -> None:
    name, other = new_name(), new_name()
    data = Dataset("dot", 50)
    rest.fill(name, data)
    rest.fill(other, data, create={"hnsw_config": {"m": 8}})
    report = checked(side, side, (name, other))
    (setting,) = report.collections[0].settings
    assert (setting.what, setting.source, setting.target) == ("hnsw_config.m", 16, 8)
    assert report.exit_code == 2 and report.collections[0].different == 0


def test_another_distance_is_found_though_no_point_differs(
    rest: Rest, side: Server, new_name: Callable[[], str]
) -> None:
    name, other = new_name(), new_name()
    data = Dataset("dot", 50)
    rest.fill(name, data)
    rest.fill(other, data, create={"vectors": {"size": 16, "distance": "Euclid"}})
    report = checked(side, side, (name, other))
    assert [each.what for each in report.collections[0].settings] == ["vectors.distance"]
    assert report.exit_code == 2 and report.collections[0].different == 0


def test_a_missing_alias_and_one_that_leads_astray_are_found(
    rest: Rest, side: Server, pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> None:
    alias = f"verify-alias-{secrets.token_hex(4)}"
    with running_stand_in(tmp_path_factory.mktemp("other")) as stand_in:
        there = Rest(stand_in.url, stand_in.key)
        there.fill(pair[0], Dataset("unnamed", 0), indexes=True)
        there.fill("elsewhere", Dataset("unnamed", 0))
        rest.alias(alias, pair[0])
        target = Server("there", there.url, SecretStr(there.key))
        try:
            reports = [checked(side, target, (pair[0], pair[0]))]
            there.alias(alias, "elsewhere")
            reports.append(checked(side, target, (pair[0], pair[0])))
            there.drop_alias(alias)
            there.alias(alias, pair[0])
            reports.append(checked(side, target, (pair[0], pair[0])))
        finally:
            target.close()
            rest.drop_alias(alias)
    led_to = [[(each.source, each.target) for each in one.aliases or []] for one in reports]
    assert led_to == [[(pair[0], None)], [(pair[0], "elsewhere")], []]
    assert reports[0].differences == reports[2].differences + 1


def test_a_collection_that_is_not_there_is_a_difference(side: Server, original: str) -> None:
    report = checked(side, side, (original, "verify-nowhere"))
    assert (report.exit_code, report.differences) == (2, 1)
    assert report.collections[0].absent
    with pytest.raises(MigrationError, match="verify-nowhere"):
        checked(side, side, ("verify-nowhere", original))


def test_a_sample_compares_every_id_and_says_how_sure_it_is(
    rest: Rest, side: Server, pair: Pair
) -> None:
    report = checked(side, side, pair, sample=300, seed=4)
    (found,) = report.collections
    assert (report.outcome, found.way, found.compared) == ("same", "sample", 300)
    assert found.sample is not None
    assert (found.sample.points, found.sample.seed) == (300, 4)
    sure = {each.confidence: each.points for each in found.sample.bounds}
    assert sure == {each: at_most(POINTS, 300, each) for each in (0.95, 0.99)}
    assert 20 < sure[0.95] < 26 < sure[0.99] < 40  # about 3/n and 4.6/n of all
    lose_a_point(rest, pair[1])
    again = checked(side, side, pair, sample=1)
    assert again.collections[0].kinds == {"missing": 1}


def test_a_sample_of_all_finds_what_a_whole_comparison_finds(
    rest: Rest, side: Server, pair: Pair
) -> None:
    flip_a_bit(rest, pair[1])
    change_a_payload(rest, pair[1])
    whole = checked(side, side, pair).collections[0]
    sampled = checked(side, side, pair, sample=POINTS * 2).collections[0]
    assert sampled.points == whole.points and len(whole.points) == 2
    assert sampled.sample is not None and sampled.sample.bounds == []


def test_the_same_seed_chooses_the_same_points(rest: Rest, side: Server, pair: Pair) -> None:
    """All content differs, so that what is listed is what was chosen."""
    for points in rest.scroll(pair[0]):
        rest.put(pair[1], *(each | {"payload": {"other": 1}} for each in points))

    def chosen(**wish: Any) -> set[Any]:
        found = checked(side, side, pair, sample=40, **wish).collections[0]
        assert found.kinds == {"payload": 40}
        return {each.id for each in found.points}

    assert chosen(seed=7) == chosen(seed=7, workers=1) != chosen(seed=8)


class Failing:
    """A side whose `page` fails from the given call on."""

    def __init__(self, side: Server, calls: int, error: Exception) -> None:
        self._side, self._calls, self._error = side, calls, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._side, name)

    def page(self, *args: Any, **options: Any) -> Page:
        self._calls -= 1
        if self._calls < 0:
            raise self._error
        return self._side.page(*args, **options)


@pytest.mark.parametrize("error", [UnreachableError("gone"), ServiceError("refused")])
@pytest.mark.parametrize("which", [0, 1])
def test_what_could_not_be_compared_is_unknown_and_never_good(
    error: Exception, which: int, side: Server, pair: Pair
) -> None:
    sides: list[Any] = [side, side]
    sides[which] = Failing(side, 2, error)
    report = checked(*sides, pair, patience=HASTY, workers=1)
    assert (report.outcome, report.exit_code) == ("unknown", 3)
    (found,) = report.collections
    assert 0 < found.compared < POINTS and found.unknown == str(error)
    assert str(error) in "\n".join(report.lines())


def test_a_difference_that_was_seen_is_one_though_a_side_went_away(
    rest: Rest, side: Server, pair: Pair
) -> None:
    lose_the_first_point(rest, pair[1])
    gone = Failing(side, 2, UnreachableError("gone"))
    report = checked(side, gone, pair, patience=HASTY, workers=1)
    assert (report.outcome, report.exit_code, report.unknown) == ("different", 2, "gone")


def test_a_server_that_is_killed_leaves_a_report_and_one_that_returns_a_whole_one(
    rest: Rest, side: Server, pair: Pair, tmp_path: Path
) -> None:
    with running_stand_in(tmp_path) as stand_in:
        there = Rest(stand_in.url, stand_in.key)
        there.fill("copy", Dataset("unnamed", 0), indexes=True)
        for points in rest.scroll(pair[0]):
            there.put("copy", *points)
        target = Server("there", there.url, SecretStr(there.key))
        killed = []

        def kill(event: Event) -> None:
            if event.done and not killed:
                killed.append(stand_in.stop(signal.SIGKILL))

        def revive(event: Event) -> None:
            if event.step == "wait" and len(killed) == 1:
                killed.append(0)
                stand_in.start()

        names = {pair[0]: "copy"}
        wish = Wish(patience=HASTY, workers=2, aliases=False)
        report = verify(side, target, names, wish, tell=kill)
        assert killed and report.exit_code == 3
        assert "cannot be reached" in report.unknown
        stand_in.start()
        killed.clear()

        def both(event: Event) -> None:
            kill(event)
            revive(event)

        report = verify(side, target, names, Wish(aliases=False), tell=both)
        assert len(killed) == 2
        assert report.collections[0].compared == POINTS and report.collections[0].different == 0
        target.close()


def test_a_side_that_changes_meanwhile_is_not_called_the_same(
    rest: Rest, side: Server, pair: Pair
) -> None:
    """A point comes to it behind the cursor: nothing that is read differs, and not all is read."""

    def write(event: Event) -> None:
        if event.done and rest.count(pair[1]) == POINTS:
            rest.put(pair[1], rest.point(pair[1], 0) | {"id": 2})

    report = verify(side, side, {pair[0]: pair[1]}, Wish(workers=1), tell=write)
    assert (report.outcome, report.differences) == ("unknown", 0)
    assert "it is changing" in report.unknown


def test_a_report_is_read_back_and_tells_no_content(rest: Rest, side: Server, pair: Pair) -> None:
    change_a_payload(rest, pair[1])
    flip_a_bit(rest, pair[1])
    report = checked(side, side, pair)
    text = report.model_dump_json()
    assert Report.model_validate_json(text) == report and '"schema_version":1' in text
    shown = text + "\n".join(report.lines())
    vector = rest.point(pair[0], 1015)["vector"]
    assert "close the door" not in shown and str(vector[5]) not in shown
    assert rest.key not in shown
    assert len(report.first_line()) < 80
