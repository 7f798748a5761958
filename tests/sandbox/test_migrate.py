"""A laptop's folder is moved to the machine through its SSH, verified, led to, and led back."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hands import (
    ENVIRONMENT,
    qdrant,
    stackroom,
)
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from ops.settings import Environment

pytestmark = pytest.mark.sandbox

POINTS = 300


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """How a developer starts: qdrant-client's own folder, with one collection."""
    folder, chance = tmp_path / "qdrant data", random.Random(3)  # noqa: S311
    client = QdrantClient(path=str(folder))
    client.create_collection("moved_notes", VectorParams(size=8, distance=Distance.DOT))
    client.upsert(
        "moved_notes",
        [
            PointStruct(id=n, vector=[chance.random() for _ in range(8)], payload={"number": n})
            for n in range(POINTS)
        ],
    )
    client.close()
    return folder


@pytest.fixture
def tidy(deployed: Environment, unchanged: None) -> Iterator[None]:
    yield
    gone = {"delete_alias": {"alias_name": "moved_alias"}}
    qdrant(deployed, "POST", "/collections/aliases", {"actions": [gone]})
    qdrant(deployed, "DELETE", "/collections/moved_notes_2")


def led_to(environment: Environment) -> dict[str, str]:
    aliases = qdrant(environment, "GET", "/aliases")["result"]["aliases"]
    return {each["alias_name"]: each["collection_name"] for each in aliases}


def test_a_folder_comes_to_the_machine(
    deployed: Environment, laptop: Path, tmp_path: Path, tidy: None
) -> None:
    state = ("--state", str(tmp_path / "state"))
    ends = ("--from", str(laptop), "--to", ENVIRONMENT)
    named = ("--collection", "moved_notes", "--as", "moved_notes_2", "--alias", "moved_alias")

    planned = stackroom("migrate", "plan", *ends, *named, "--json")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert json.loads(planned.stdout)["free"] > 0  # asked of the machine itself
    run = stackroom("migrate", "run", *ends, *named, "--still", "--yes", *state)
    assert run.returncode == 0, run.stdout + run.stderr
    key = deployed.settings.secrets.qdrant_api_key.get_secret_value()
    assert key not in run.stdout + run.stderr

    body = {"limit": POINTS + 1, "with_payload": True}
    found = qdrant(deployed, "POST", "/collections/moved_notes_2/points/scroll", body)
    numbers = [point["payload"]["number"] for point in found["result"]["points"]]
    assert numbers == list(range(POINTS))
    assert "moved_alias" not in led_to(deployed)

    verified = stackroom("migrate", "verify", *state, "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    cut = stackroom("migrate", "cutover", "--yes", *state)
    assert cut.returncode == 0, cut.stdout + cut.stderr
    assert led_to(deployed)["moved_alias"] == "moved_notes_2"

    point = {"id": 7, "vector": [0.5] * 8, "payload": {"number": 7}}
    qdrant(deployed, "PUT", "/collections/moved_notes_2/points?wait=true", {"points": [point]})
    changed = stackroom("migrate", "verify", *state, "--json")
    assert changed.returncode == 2, changed.stdout

    undone = stackroom("migrate", "cutover", "--undo", "--yes", *state)
    assert undone.returncode == 0, undone.stdout + undone.stderr
    assert "moved_alias" not in led_to(deployed)
