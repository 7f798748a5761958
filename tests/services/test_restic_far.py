"""The promises of the restic client on repositories away from the machine: S3, SFTP, rclone."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from restic_places import RUN, SECONDS, Place, tree
from servers import (
    PASSWORD,
    RcloneRemote,
    S3Server,
    SftpServer,
    new_bucket,
    s3_server,
)

from ops.errors import (
    MissingToolError,
    ServiceError,
    SettingsError,
    StackroomError,
    UnreachableError,
)

pytestmark = pytest.mark.services

ANSWER_SECONDS = 60.0  # what the run gives a repository to answer


@pytest.fixture
def on_s3(tmp_path: Path, restic: Path, s3: S3Server) -> Place:
    return s3_place(tmp_path, restic, s3)


def s3_place(folder: Path, restic: Path, server: S3Server, bucket: str = "") -> Place:
    return Place(
        folder,
        server.repository(bucket),
        restic,
        secrets={"offsite_env": server.offsite_env},
        environment=dict(line.split("=", 1) for line in server.offsite_env.splitlines()),
    )


@pytest.fixture
def on_sftp(tmp_path: Path, restic: Path, sftp: SftpServer) -> Place:
    return Place(tmp_path, sftp.repository(), restic, secrets={"offsite_ssh_key": sftp.private_key})


@pytest.fixture
def on_rclone(tmp_path: Path, restic: Path, rclone: RcloneRemote) -> Place:
    (tmp_path / "rclone.conf").write_text(rclone.config)
    return Place(
        tmp_path,
        rclone.repository(),
        restic,
        secrets={"rclone_config": rclone.config},
        environment={"RCLONE_CONFIG": str(tmp_path / "rclone.conf")},
    )


# S3 ---------------------------------------------------------------------------------------------


def test_s3_from_nothing_to_a_restored_backup(on_s3: Place) -> None:
    """Also the bucket is new: restic makes it."""
    old = on_s3.back_up(400_000, seed=1)
    whole = tree(on_s3.folder / "current")
    new = on_s3.back_up(400_000, seed=2)
    client = on_s3.client()
    client.open(create=False)
    client.check((1, 1), timeout=SECONDS)
    assert on_s3.restored(old) == whole
    assert client.forget([old.snapshot], dry_run=False) == [old.snapshot]
    client.prune(timeout=SECONDS)
    assert on_s3.ids() == [new.snapshot]
    assert on_s3.restored(new, "new") == tree(on_s3.folder / "current")


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_a_wrong_s3_key_fails_within_a_minute_and_is_not_shown(on_s3: Place, wrong: str) -> None:
    """restic alone would try it again for a quarter of an hour."""
    on_s3.back_up()
    false = "wrong-0123456789-wrong"
    lines = [
        f"{name}={false if name == wrong else value}" for name, value in on_s3.environment.items()
    ]
    on_s3.secrets["offsite_env"] = "\n".join(lines)
    begun = time.monotonic()
    with pytest.raises(ServiceError, match="refuses the keys of the credential offsite_env") as e:
        on_s3.client(timeout=ANSWER_SECONDS).open(create=False)
    assert time.monotonic() - begun < ANSWER_SECONDS
    assert_no_secret(e.value, on_s3, false)


def assert_no_secret(error: StackroomError, place: Place, *more: str) -> None:
    said = f"{error!r} {error.message} {error.hint}"
    for secret in (PASSWORD, *place.environment.values(), *more):
        assert secret not in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "offsite_env is missing"),
        ("", "offsite_env is empty"),
        ("AWS_ACCESS_KEY_ID=abcdefgh\n", "offsite_env lacks AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID=\n", "has a line that is no NAME=value"),
        ("very-secret-without-a-name\n", "has a line that is no NAME=value"),
    ],
)
def test_s3_credentials_that_are_none(on_s3: Place, content: str | None, words: str) -> None:
    del on_s3.secrets["offsite_env"]
    if content is not None:
        on_s3.secrets["offsite_env"] = content
    with pytest.raises(SettingsError, match=words) as caught:
        on_s3.client().open()
    assert "very-secret" not in caught.value.message


def test_a_bucket_that_is_gone_is_said_to_be(on_s3: Place, s3: S3Server) -> None:
    on_s3.back_up()
    bucket = on_s3.url.split("/")[3]
    s3.remove_bucket(bucket)
    with pytest.raises(ServiceError, match="the bucket is gone"):
        on_s3.client().open(create=False)
    with pytest.raises(ServiceError, match="the bucket is gone"):
        on_s3.client().backup(on_s3.data(), RUN.format(9), timeout=SECONDS)
    assert bucket not in s3.rclone("lsd", ":s3:").stdout


def test_an_s3_server_that_is_away(tmp_path: Path, restic: Path, s3: S3Server) -> None:
    place = s3_place(tmp_path, restic, s3)
    place.url = "s3:http://127.0.0.1:9/bucket/restic"
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="connection refused") as caught:
        place.client(timeout=6).open()
    assert time.monotonic() - begun < 30
    assert_no_secret(caught.value, place)


@pytest.fixture
def own_s3(tmp_path: Path) -> Iterator[S3Server]:
    """A server that the test may kill."""
    with s3_server(tmp_path / "s3") as server:
        yield server


def test_an_s3_server_killed_in_mid_upload(tmp_path: Path, restic: Path, own_s3: S3Server) -> None:
    """The old backup stays, the next run goes on where this one ended, all of it can be read."""
    place = s3_place(tmp_path, restic, own_s3, new_bucket())
    old = place.back_up(500_000, seed=1)
    whole = tree(place.folder / "current")
    size = 60_000_000
    folder = place.data(size, seed=2)
    killed = threading.Event()

    def on_bytes(done: int, total: int) -> None:
        if done > size / 4 and not killed.is_set():
            killed.set()
            own_s3.stop(signal.SIGKILL)

    with pytest.raises(UnreachableError, match="offsite"):
        place.client().backup(folder, RUN.format(8), timeout=15, on_bytes=on_bytes)
    assert killed.is_set()
    own_s3.start()
    assert place.ids() == [old.snapshot]
    again = place.client()
    again.open(create=False)
    again.unlock()
    new = again.backup(folder, RUN.format(9), timeout=SECONDS)
    again.check((1, 1), timeout=SECONDS)
    assert place.ids() == [old.snapshot, new.snapshot]
    assert place.restored(old) == whole
    assert place.restored(new, "new") == tree(folder)


# SFTP -------------------------------------------------------------------------------------------


def test_sftp_from_nothing_to_a_restored_backup(on_sftp: Place, sftp: SftpServer) -> None:
    far = {"port": sftp.port, "host_key": sftp.host_key}
    client = on_sftp.client(**far)
    client.open()
    folder = on_sftp.data(400_000)
    stored = client.backup(folder, RUN.format(1), timeout=SECONDS)
    client.check((1, 1), timeout=SECONDS)
    client.restore(stored.snapshot, on_sftp.folder / "restored", timeout=SECONDS)
    assert tree(on_sftp.folder / "restored") == tree(folder)
    assert [found.run for found in client.snapshots()] == [RUN.format(1)]
    # the key was used from where it is
    assert not (on_sftp.folder / "cache" / ".offsite_ssh_key").exists()


@pytest.mark.parametrize("state", ["open to a group", "without an end of line"])
def test_an_ssh_key_that_ssh_would_not_take(on_sftp: Place, sftp: SftpServer, state: str) -> None:
    """As systemd or an editor may leave it: a copy is used, and is gone afterwards."""
    client = on_sftp.client(port=sftp.port, host_key=sftp.host_key)
    key = on_sftp.folder / "credentials" / "offsite_ssh_key"
    if state == "open to a group":
        key.chmod(0o440)
    else:
        key.write_text(sftp.private_key.rstrip("\n"))
    client.open()
    client.unlock()
    assert not (on_sftp.folder / "cache" / ".offsite_ssh_key").exists()


def test_another_server_in_its_place_is_refused(on_sftp: Place, sftp: SftpServer) -> None:
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    with pytest.raises(ServiceError, match="host key is not the configured one"):
        on_sftp.client(port=sftp.port, host_key=other).open()


def test_an_ssh_key_that_the_server_does_not_know(on_sftp: Place, sftp: SftpServer) -> None:
    from servers import _key_pair

    on_sftp.secrets["offsite_ssh_key"] = _key_pair()[0]
    with pytest.raises(ServiceError, match="refuses the credential offsite_ssh_key"):
        on_sftp.client(port=sftp.port, host_key=sftp.host_key).open()


def test_sftp_without_its_key(on_sftp: Place, sftp: SftpServer) -> None:
    del on_sftp.secrets["offsite_ssh_key"]
    with pytest.raises(SettingsError, match="offsite_ssh_key is missing"):
        on_sftp.client(port=sftp.port, host_key=sftp.host_key).open()


def test_an_ssh_server_that_is_away(on_sftp: Place, sftp: SftpServer) -> None:
    with pytest.raises(UnreachableError, match="cannot be reached"):
        on_sftp.client(port=9, host_key=sftp.host_key).open()


# rclone -----------------------------------------------------------------------------------------


def test_rclone_from_nothing_to_a_restored_backup(on_rclone: Place) -> None:
    stored = on_rclone.back_up(400_000)
    on_rclone.client().check((1, 1), timeout=SECONDS)
    assert on_rclone.restored(stored) == tree(on_rclone.folder / "current")


@pytest.mark.parametrize(
    ("patience", "words"), [(4, "refuses this .403."), (1000, "backups were not removed")]
)
def test_an_append_only_remote_keeps_its_history(
    on_rclone: Place, monkeypatch: pytest.MonkeyPatch, patience: int, words: str
) -> None:
    """A machine in wrong hands can only add.

    restic itself tries the removal again and again, and in the end reports success.
    """
    monkeypatch.setattr("ops.clients.restic_words.PATIENCE_SECONDS", patience)
    ids = [on_rclone.back_up(50_000, seed=n, append_only=True).snapshot for n in range(3)]
    client = on_rclone.client(append_only=True)
    with pytest.raises(ServiceError, match=words):
        client.forget(ids[:2], dry_run=False)
    assert on_rclone.ids() == ids
    client.prune(timeout=SECONDS)  # nothing is unused
    client.check((1, 1), timeout=SECONDS)
    assert on_rclone.ids() == ids
    # the same removal is possible where the far side allows it
    assert on_rclone.client().forget(ids[:2], dry_run=False) == ids[:2]
    assert on_rclone.ids() == ids[2:]


def test_a_remote_that_is_not_in_the_configuration(on_rclone: Place) -> None:
    on_rclone.url = "rclone:elsewhere:backups"
    with pytest.raises(StackroomError, match="didn't find section in config file"):
        on_rclone.client().open()


def test_without_rclone(on_rclone: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = on_rclone.folder / "bin"
    folder.mkdir()
    for program in ("setpriv", "sh"):
        (folder / program).symlink_to(str(shutil.which(program)))
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(MissingToolError, match="rclone is not installed"):
        on_rclone.client().open()
