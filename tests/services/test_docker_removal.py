"""A container that is going already is no error: the daemon finishes what a killed run began."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from live_stack import docker
from servers import TEST_LABEL

from ops.clients.docker import inspect, remove
from ops.errors import ServiceError
from ops.sandbox.build import base_image

pytestmark = pytest.mark.services
AT_ONCE = 8


def test_many_remove_one_container_at_once_and_each_finds_it_gone() -> None:
    for _ in range(3):
        name = f"stackroom-test-{uuid.uuid4().hex[:8]}"
        label = ("--label", TEST_LABEL)
        docker("run", "--detach", "--name", name, *label, base_image(print), "sleep", "infinity")

        def removed(_: int, name: str = name) -> bool:
            remove(name)
            return inspect("container", name) is None

        with ThreadPoolExecutor(AT_ONCE) as pool:
            assert all(pool.map(removed, range(AT_ONCE)))


def test_what_does_not_go_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"stackroom-test-{uuid.uuid4().hex[:8]}"
    docker("create", "--name", name, "--label", TEST_LABEL, base_image(print), "true")
    refused = ServiceError("docker rm: permission denied")

    def refuse(*arguments: str, **_: object) -> str:
        if arguments[0] == "rm":
            raise refused
        return docker(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("ops.clients.docker.docker", refuse)
        with pytest.raises(ServiceError, match="permission denied"):
            remove(name)
    remove(name)
    remove(name)  # gone already
