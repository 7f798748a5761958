"""A deploy that cannot succeed leaves what runs as it is, and says which service failed and why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hands import EDGE, QDRANT, changed_environment, deploy, holds, inspect, on_host, plan, qdrant

from ops.settings import Environment

pytestmark = pytest.mark.sandbox

BROKEN = "v1.19.98"
LAST_WORDS = "the disk of this test is not there"


def identities() -> list[tuple[str, str]]:
    """Which containers run, since when: equal only if nobody touched them."""
    found = [inspect(container) for container in (QDRANT, EDGE)]
    return [(each["Id"], each["State"]["StartedAt"]) for each in found]


def with_version(version: str) -> dict[str, object]:
    return {
        "settings": lambda text: text.replace("[qdrant]\n", f'[qdrant]\nversion = "{version}"\n')
    }


@pytest.fixture
def broken_image(deployed: Environment) -> Iterator[str]:
    """A tag of Qdrant whose program says something and exits."""
    image = inspect(EDGE)["Config"]["Image"]
    recipe = (
        f"FROM {image}\\nWORKDIR /qdrant\\nRUN printf '#!/bin/sh\\\\necho {LAST_WORDS} >&2\\\\n"
        "exit 3\\\\n' >qdrant && chmod 755 qdrant\\n"
    )
    on_host(f'printf "{recipe}" | docker build -q -t qdrant/qdrant:{BROKEN} -')
    yield BROKEN
    on_host(f"docker rmi -f qdrant/qdrant:{BROKEN}")


def test_an_image_that_does_not_exist(deployed: Environment, unchanged: None) -> None:
    before = identities()

    with changed_environment(**with_version("v1.99.0")) as name:
        done = deploy(environment=name)

    assert done.returncode == 6, done.stdout + done.stderr
    assert "qdrant/qdrant:v1.99.0" in done.stderr
    assert identities() == before
    assert qdrant(deployed, "GET", "/collections")["status"] == "ok"


def test_a_service_that_does_not_start_is_named_with_its_last_words(
    deployed: Environment, unchanged: None, broken_image: str
) -> None:
    before = identities()

    with changed_environment(**with_version(broken_image)) as name:
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
    deployed: Environment, unchanged: None
) -> None:
    in_force = on_host("sha256sum /etc/stackroom/stack/compose.yaml")
    # the trial runs on throw-away volumes: it does not see what is wrong with the real one
    volume = on_host("docker volume inspect -f '{{.Mountpoint}}' stackroom_qdrant_storage")
    on_host(f"docker stop {QDRANT} && chmod 000 {volume} && chown 0:0 {volume}")
    try:
        with changed_environment(
            settings=lambda text: text.replace("open_files = 16384", "open_files = 16000")
        ) as name:
            done = deploy(environment=name)
        assert done.returncode == 6, done.stdout + done.stderr
        assert QDRANT in done.stderr
    finally:
        on_host(f"chmod 755 {volume} && chown 1000:1000 {volume}")
    assert on_host("sha256sum /etc/stackroom/stack/compose.yaml") == in_force
    assert holds("grep -q '^QDRANT_OPEN_FILES=16384' /etc/stackroom/stack/.env")
    assert deploy().returncode == 0
    assert qdrant(deployed, "GET", "/collections")["status"] == "ok"
