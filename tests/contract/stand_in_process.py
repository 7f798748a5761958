"""The stand-in for Qdrant as a process of its own on loopback, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

PROGRAM = Path(__file__).resolve().parents[2] / "ops/sandbox/images/qdrant"


@dataclass
class StandIn:
    """One folder of data and configuration; start and stop it as often as needed."""

    folder: Path
    key: str
    http_port: int
    grpc_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self, **environment: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "standin"],
                cwd=self.folder,
                env=os.environ
                | {"PYTHONPATH": str(PROGRAM), "PYTHONDONTWRITEBYTECODE": "1"}
                | environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{self.url}/readyz").raise_for_status()
                return
            time.sleep(0.05)
        raise AssertionError(f"the stand-in did not start:\n{self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)


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
