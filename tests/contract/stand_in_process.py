"""The stand-in for Qdrant as a process of its own on loopback, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import warm_stand_in
import yaml
from warm_stand_in import PROGRAM as PROGRAM

START_SECONDS = 120  # on a machine that has much else to do


@dataclass
class StandIn:
    """One folder of data and configuration; start and stop it as often as needed."""

    folder: Path
    key: str
    http_port: int
    grpc_port: int
    process: warm_stand_in.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self, **environment: str) -> None:
        self.process = warm_stand_in.start(
            self.folder, os.environ | environment, self.folder / "log"
        )
        wait_until_ready(self)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(START_SECONDS)


def wait_until_ready(stand_in: StandIn) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(verify=False) as asking:  # noqa: S501 - plain HTTP on loopback
        while time.monotonic() < deadline and stand_in.process and stand_in.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                asking.get(f"{stand_in.url}/readyz").raise_for_status()
                return
            time.sleep(0.02)
    raise AssertionError(f"the stand-in did not start:\n{stand_in.log}")


def make(folder: Path, key: str, settings: Mapping[str, Any] | None = None) -> StandIn:
    """Lay the configuration; `settings` are further keys of its `service` block."""
    http_port, grpc_port = _free_ports()
    service = {
        "host": "127.0.0.1",
        "http_port": http_port,
        "grpc_port": grpc_port,
        "api_key": key,
        "jwt_rbac": True,
    }
    config = {"service": service | dict(settings or {}), "audit": {"enabled": True}}
    (folder / "config").mkdir()
    (folder / "config/local.yaml").write_text(yaml.safe_dump(config))
    return StandIn(folder, key, http_port, grpc_port)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
