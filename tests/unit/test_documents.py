"""Markdown into sections, and sections into points: the same in every run, and searchable."""

from __future__ import annotations

import math
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.demo.documents import DIMENSIONS, Section, cut, point, sections, vector
from ops.render.files import ROOT

# dimension -> value: `lock` hashes to a negative sign, `open` to a positive one
PINNED = {361: 0.508542, 558: -0.861037}
AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def cut_of(markdown: str) -> list[tuple[str, str]]:
    return [(section.title, section.text) for section in cut("a.md", markdown)]


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("", []),
        ("\n \n", []),
        ("before any heading", [("", "before any heading")]),
        ("# One\ntext\n\n# Two\nmore\n", [("One", "text"), ("Two", "more")]),
        # nested headings: a section ends at the next heading of any depth
        ("# A\na\n## B\nb\n### C\nc\n# D\nd", [("A", "a"), ("B", "b"), ("C", "c"), ("D", "d")]),
        # sections without text are left out
        ("# Empty\n## Also\n\n## Full\ntext", [("Full", "text")]),
        ("# Only a heading", []),
        # how headings may be written, and what is none
        ("  ## Closed ##\nx", [("Closed", "x")]),
        ("# C#\nx", [("C#", "x")]),
        ("#hashtag\n####### seven\n    # code", [("", "#hashtag\n####### seven\n    # code")]),
        # code fences
        ("# A\n```sh\n# comment\n```\nb", [("A", "```sh\n# comment\n```\nb")]),
        ("# A\n~~~\n# comment\n```\n# still\n~~~\n# B\nb", [
            ("A", "~~~\n# comment\n```\n# still\n~~~"), ("B", "b")]),
        ("# A\n````\n```\n# inside\n```\n````\n# B\nb", [
            ("A", "````\n```\n# inside\n```\n````"), ("B", "b")]),
        ("# A\n```\n```sh\n# inside\n```\n# B\nb", [("A", "```\n```sh\n# inside\n```"),
                                                     ("B", "b")]),
        ("# A\n```\n# never closed", [("A", "```\n# never closed")]),
        ("# A\r\ntext\r\n# B\r\nmore", [("A", "text"), ("B", "more")]),
    ],
)  # fmt: skip
def test_cut(markdown: str, expected: list[tuple[str, str]]) -> None:
    assert cut_of(markdown) == expected


@given(st.text(alphabet="# \nab`~", max_size=60))
def test_cutting_loses_no_text(markdown: str) -> None:
    words = "".join(title + text for title, text in cut_of(markdown))
    for line in markdown.splitlines():
        if not line.lstrip(" ").startswith("#"):
            assert line.strip() in words


def test_ids_are_stable_between_runs_and_edits() -> None:
    (first,) = cut("docs/host.md", "## The firewall\nold text")
    (edited,) = cut("docs/host.md", "## The firewall\nnew text")
    assert first.point_id == edited.point_id == "11dda075-8abf-51d6-a5c8-d9af82b44293"
    assert uuid.UUID(first.point_id).version == 5


def test_ids_differ_where_sections_differ() -> None:
    markdown = "# A\na\n# Options\nof a\n# B\nb\n# Options\nof b"
    found = [*cut("a.md", markdown), *cut("b.md", markdown)]
    assert len({section.point_id for section in found}) == len(found) == 8
    # a heading without text takes no number from those with text
    with_an_empty_one = [*cut("a.md", "# Options\n" + markdown)]
    assert [s.point_id for s in with_an_empty_one] == [s.point_id for s in found[:4]]


def test_this_projects_documents_are_found_once_each() -> None:
    found = sections(ROOT)
    assert len({section.point_id for section in found}) == len(found) > 10
    assert found[0].file == "README.md"
    assert all(section.text for section in found)


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@given(st.text(max_size=200))
def test_a_vector_has_unit_length_or_no_words(text: str) -> None:
    values = vector(text)
    length = math.sqrt(sum(value * value for value in values))
    assert len(values) == DIMENSIONS == 1024
    assert length == pytest.approx(1.0) or not any(values)


def test_a_vector_is_pinned() -> None:
    """A word that comes twice weighs 1 + log(2). Other values would orphan stored points."""
    values = {index: round(value, 6) for index, value in enumerate(vector("The lock, lock: open"))}
    assert {index: value for index, value in values.items() if value} == PINNED
    heavy, light = sorted(map(abs, PINNED.values()), reverse=True)
    assert heavy / light == pytest.approx(1 + math.log(2), rel=1e-5)


def test_a_vector_does_not_hang_on_the_hash_seed_of_the_run() -> None:
    text = "the same words in another process"
    code = f"from ops.demo.documents import vector; print(vector({text!r}))"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(vector(text))


def test_similar_texts_are_closer_than_unrelated_ones() -> None:
    question = vector("which ports does the firewall open for a developer")
    related = vector("The firewall opens two ports to each developer, and no other ports.")
    unrelated = vector("Backups are proved by restoring them into a throw-away service.")
    assert likeness(question, related) > 0.4
    assert abs(likeness(question, unrelated)) < 0.1
    assert likeness(question, question) == pytest.approx(1.0)
    assert vector("Order of WORDS") == pytest.approx(vector("words: order"))


def test_a_point_has_every_indexed_field_of_the_example_in_its_type() -> None:
    example = tomllib.loads((ROOT / "inventory/example/settings.toml").read_text("utf-8"))
    collection = example["collections"]["knowledge_library"]
    made = point(Section("docs/host.md", "The firewall", "text"), AT)
    assert len(made["vector"]) == collection["vector"]["size"]
    indexes = collection["payload_indexes"]
    assert len(indexes) == 9
    for path, kind in indexes.items():
        value = made["payload"]
        for part in path.split("."):
            value = value[part]
        if kind == "keyword":
            assert isinstance(value, str) and value, path
        elif kind == "float":
            assert isinstance(value, float), path
        else:
            assert kind == "datetime"
            assert datetime.fromisoformat(value) == AT


def test_a_points_payload() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=5)))
    made = point(Section("docs/host.md", "The firewall", "text"), elsewhere)
    assert made["payload"]["created_at"] == "2030-01-02T03:04:05+00:00"
    assert made["payload"]["taxonomy"] == {
        "full_path": "docs/The firewall",
        "level1": "docs",
        "level2": "The firewall",
    }
    assert made["payload"]["text"] == "text"
    assert point(Section("README.md", "A", "b"), AT)["payload"]["taxonomy"]["level1"] == "project"
