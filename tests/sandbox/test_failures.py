"""A deploy that cannot succeed leaves what runs as it is, and says which service failed and why."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator

import pytest
from hands import EDGE, QDRANT, changed_environment, deploy, healthy, inspect, on_host, plan, qdrant

from ops.settings import Environment

pytestmark = pytest.mark.sandbox

LAST_WORDS = "the disk of this test is not there"


def identities() -> list[tuple[str, str]]:
    """Which containers run, since when: equal only if nobody touched them."""
    found = [inspect(container) for container in (QDRANT, EDGE)]
    return [(each["Id"], each["State"]["StartedAt"]) for each in found]


def with_version(version: str) -> dict[str, object]:
    return {
        "settings": lambda text: text.replace("[qdrant]\n", f'[qdrant]\nversion = "{version}"\n')
    }


def build(tag: str, program: str, script: str) -> None:
    """An image like the edge's, with a program of our own at a path."""
    text = base64.b64encode(f"#!/bin/sh\n{script}\n".encode()).decode()
    base = inspect(EDGE)["Config"]["Image"]
    recipe = f"FROM {base}\nRUN mkdir -p /qdrant && cp /usr/bin/caddy /usr/bin/real && echo {text}"
    recipe += f" | base64 -d >{program} && chmod 755 {program}\nWORKDIR /qdrant\n"
    on_host(f"printf %s {shlex.quote(recipe)} | docker build -q -t {tag} - 2>&1")


@pytest.fixture
def broken_qdrant(deployed: Environment) -> Iterator[str]:
    """A version of Qdrant whose program says something and exits."""
    build("qdrant/qdrant:v1.19.98", "/qdrant/qdrant", f"echo {LAST_WORDS} >&2; exit 3")
    yield "v1.19.98"
    on_host("docker rmi -f qdrant/qdrant:v1.19.98")


@pytest.fixture
def edge_that_fears_our_data(deployed: Environment) -> Iterator[str]:
    """A version of the edge that runs on fresh volumes, and not on those that are here."""
    script = f'[ ! -e /data/caddy/pki ] || {{ echo {LAST_WORDS} >&2; exit 3; }}; exec real "$@"'
    build("caddy:2.98.0", "/usr/bin/caddy", script)
    yield "2.98.0"
    on_host("docker rmi -f caddy:2.98.0")


def test_an_image_that_does_not_exist(deployed: Environment, unchanged: None) -> None:
    before = identities()

    with changed_environment(**with_version("v1.99.0")) as name:
        done = deploy(environment=name)

    assert done.returncode == 6, done.stdout + done.stderr
    assert "qdrant/qdrant:v1.99.0" in done.stderr
    assert identities() == before
    assert qdrant(deployed, "GET", "/collections")["status"] == "ok"


def test_a_service_that_does_not_start_is_named_with_its_last_words(
    deployed: Environment, unchanged: None, broken_qdrant: str
) -> None:
    before = identities()

    with changed_environment(**with_version(broken_qdrant)) as name:
        done = deploy(environment=name)

    assert done.returncode == 6, done.stdout + done.stderr
    assert "qdrant" in done.stderr
    assert LAST_WORDS in done.stderr
    # the new stack with its secrets was sent and tried
    key = deployed.settings.secrets.qdrant_api_key.get_secret_value()
    assert key not in done.stdout + done.stderr
    assert identities() == before
    assert qdrant(deployed, "GET", "/collections")["status"] == "ok"
    assert plan() == set()


def test_a_service_that_fails_on_the_real_data_is_swapped_back(
    deployed: Environment, unchanged: None, edge_that_fears_our_data: str
) -> None:
    qdrant_before, edge_before = identities()
    image_before = inspect(EDGE)["Image"]
    version = f'[edge]\nversion = "{edge_that_fears_our_data}"\n'

    with changed_environment(settings=lambda text: text.replace("[edge]\n", version)) as name:
        done = deploy(environment=name)

    assert done.returncode == 6, done.stdout + done.stderr
    assert EDGE in done.stderr
    assert LAST_WORDS in done.stderr
    assert "the stack from before is running again" in done.stderr
    qdrant_after, edge_after = identities()
    assert qdrant_after == qdrant_before
    assert edge_after != edge_before  # it was replaced, or this proves nothing
    assert inspect(EDGE)["Image"] == image_before
    assert healthy(EDGE)
