"""Real servers, one of each for the whole run, on loopback or in containers of our own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# no packages in tests: the stand-in's process is where the contract holds it to its word
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))

from killing import Killer, killer
from servers import (
    RcloneRemote,
    S3Server,
    SftpServer,
    rclone_remote,
    restic_program,
    s3_server,
    sftp_server,
)


@pytest.fixture(scope="session")
def restic() -> Iterator[Path]:
    """The restic of the tests; ops.clients.restic finds it by STACKROOM_RESTIC."""
    before = os.environ.get("STACKROOM_RESTIC")
    program = restic_program()
    os.environ["STACKROOM_RESTIC"] = str(program)
    yield program
    if before is None:
        del os.environ["STACKROOM_RESTIC"]
    else:
        os.environ["STACKROOM_RESTIC"] = before


@pytest.fixture(scope="session", name="killer")
def _killer() -> Iterator[Killer]:
    with killer() as found:
        yield found


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that stays up; a test that stops one starts its own with `s3_server`."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    with sftp_server(tmp_path_factory.mktemp("sftp")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> RcloneRemote:
    """rclone is on PATH from here on."""
    return rclone_remote(tmp_path_factory.mktemp("rclone"))
