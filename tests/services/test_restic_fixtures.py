"""The servers of the tests are there, and speak with restic itself: nothing of ours between."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from servers import PASSWORD, RcloneRemote, S3Server, SftpServer

pytestmark = pytest.mark.services


def init(restic: Path, repository: str, *options: str, **environment: str) -> int:
    environment |= {"RESTIC_PASSWORD": PASSWORD, "PATH": os.environ["PATH"]}
    command = [str(restic), "--repo", repository, "--no-cache", *options, "init"]
    return subprocess.run(command, env=environment, timeout=60, check=False).returncode


def test_the_s3_server_takes_a_repository(restic: Path, s3: S3Server) -> None:
    account = dict(line.split("=", 1) for line in s3.offsite_env.splitlines())
    assert init(restic, s3.repository(), **account) == 0


def test_the_sftp_server_takes_one_and_knows_one_key_only(
    restic: Path, sftp: SftpServer, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(sftp.private_key)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "known").write_text(f"[{sftp.host}]:{sftp.port} {sftp.host_key}\n")
    ssh = f"ssh -F none -p {sftp.port} -o BatchMode=yes -o UserKnownHostsFile={tmp_path}/known"
    far = f"store@{sftp.host} -s sftp"
    with_key = f"sftp.command={ssh} -i {tmp_path}/key {far}"
    without = f"sftp.command={ssh} -o IdentitiesOnly=yes -o IdentityFile=none {far}"
    assert init(restic, sftp.repository(), "-o", with_key) == 0
    assert init(restic, sftp.repository(), "-o", without) != 0


def test_the_rclone_remote_takes_one(restic: Path, rclone: RcloneRemote, tmp_path: Path) -> None:
    (tmp_path / "rclone.conf").write_text(rclone.config)
    config = {"RCLONE_CONFIG": str(tmp_path / "rclone.conf")}
    assert init(restic, rclone.repository("fixture"), **config) == 0
    assert (rclone.folder / "fixture" / "config").is_file()
