"""Our snapshot client: files streamed both ways, whole or not at all, and errors that say why."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contract_server import Server
from fault_proxy import Fault, FaultProxy, before
from pydantic import SecretStr

from ops.clients.snapshots import Snapshots
from ops.errors import BackupError, ServiceError, SettingsError, StackroomError, UnreachableError

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SILENCE = 0.5  # seconds, where a test waits for it


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with before(server.url) as opened:
        yield opened


@pytest.fixture
def snapshots(server: Server) -> Iterator[Snapshots]:
    with Snapshots(server.url, SecretStr(server.key)) as opened:
        yield opened


@pytest.fixture
def made(snapshots: Snapshots, collection: str) -> Iterator[str]:
    name = snapshots.create(collection, timeout=60).name
    yield name
    snapshots.delete(collection, name)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def points(server: Server, name: str) -> Any:
    body = {"limit": 100, "with_payload": True, "with_vector": True}
    return server.result("POST", f"/collections/{name}/points/scroll", body)["points"]


def test_there_and_back_again(
    server: Server,
    snapshots: Snapshots,
    collection: str,
    new_name: Callable[[], str],
    tmp_path: Path,
) -> None:
    made = snapshots.create(collection, timeout=60)
    assert snapshots.list(collection) == [made]
    assert made.created is not None and made.created.tzinfo is not None
    assert made.begun is not None and abs((made.begun - made.created).total_seconds()) < 60
    target, told = tmp_path / "a.snapshot", list[tuple[int, int]]()
    found = snapshots.download(
        collection,
        made.name,
        target,
        checksum=made.checksum,
        size=made.size,
        on_bytes=lambda done, total: told.append((done, total)),
    )
    assert found == made.checksum == hashlib.sha256(target.read_bytes()).hexdigest()
    assert target.stat().st_size == made.size
    assert told[-1] == (made.size, made.size)
    assert target.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["a.snapshot"]
    snapshots.delete(collection, made.name)
    snapshots.delete(collection, made.name)  # one that is gone is gone
    snapshots.delete("contract-absent", made.name)
    assert snapshots.list(collection) == []
    name, told = new_name(), []
    snapshots.upload(
        name,
        target,
        checksum=found,
        timeout=60,
        on_bytes=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (made.size, made.size)
    assert points(server, name) == points(server, collection)
    assert snapshots.list(name) == []  # nor is the uploaded file left


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("cut", BackupError, "the download broke off after"),
        ("reset", UnreachableError, "cannot be reached"),
        ("500", ServiceError, r"\(500\): oops"),
        ("silent", UnreachableError, "gave no answer in time"),
        ("hang", UnreachableError, "gave no answer in time"),
        ("longer", BackupError, "bytes was made, and"),
        ("shorter", BackupError, "bytes was made, and"),
        ("flip", BackupError, "the SHA-256 differs"),
    ],
)
def test_a_bad_download_leaves_what_was_there(
    server: Server,
    proxy: FaultProxy,
    collection: str,
    made: str,
    tmp_path: Path,
    fault: Fault,
    error: type[StackroomError],
    words: str,
) -> None:
    proxy.fault = fault
    target = tmp_path / "a.snapshot"
    target.write_text("of yesterday")
    with Snapshots(proxy.url, SecretStr(server.key), silence=SILENCE) as snapshots:
        (info,) = snapshots.list(collection)
        with pytest.raises(error, match=words):
            snapshots.download(collection, made, target, checksum=info.checksum, size=info.size)
    assert target.read_text() == "of yesterday"
    assert names(tmp_path) == ["a.snapshot"]


@pytest.mark.parametrize("fault", ["longer", "shorter", "cut"])
def test_a_wrong_length_is_found_without_a_checksum(
    server: Server, proxy: FaultProxy, collection: str, made: str, tmp_path: Path, fault: Fault
) -> None:
    """As with snapshots that are kept in S3."""
    proxy.fault = fault
    with Snapshots(proxy.url, SecretStr(server.key), silence=SILENCE) as snapshots:
        (info,) = snapshots.list(collection)
        with pytest.raises(BackupError):
            snapshots.download(collection, made, tmp_path / "a", size=info.size)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(
    snapshots: Snapshots, collection: str, made: str, tmp_path: Path
) -> None:
    with pytest.raises(BackupError, match="no-such-folder/a cannot be written: No such file"):
        snapshots.download(collection, made, tmp_path / "no-such-folder/a")


def test_a_full_disk_leaves_nothing(
    snapshots: Snapshots, collection: str, made: str, tmp_path: Path
) -> None:
    (tmp_path / "a.partial").symlink_to("/dev/full")
    with pytest.raises(BackupError, match="a cannot be written: No space left") as failed:
        snapshots.download(collection, made, tmp_path / "a")
    assert failed.value.hint == f"df -h {tmp_path}"
    assert names(tmp_path) == []


@pytest.mark.parametrize("where", ["POST", "DELETE", "GET"])
@pytest.mark.parametrize(("fault", "error"), [("500", ServiceError), ("silent", UnreachableError)])
def test_every_call_ends(
    server: Server,
    proxy: FaultProxy,
    tmp_path: Path,
    where: str,
    fault: Fault,
    error: type[StackroomError],
) -> None:
    proxy.where, proxy.fault = where, fault
    (tmp_path / "file").write_bytes(b"x" * 100)
    with Snapshots(proxy.url, SecretStr(server.key), silence=SILENCE) as snapshots:
        calls: dict[str, list[Callable[[], object]]] = {
            "POST": [
                lambda: snapshots.create("a", timeout=SILENCE),
                lambda: snapshots.upload("a", tmp_path / "file", checksum="", timeout=SILENCE),
            ],
            "DELETE": [lambda: snapshots.delete("a", "b")],
            "GET": [
                lambda: snapshots.list("a"),
                lambda: snapshots.download("a", "b", tmp_path / "b"),
            ],
        }
        for call in calls[where]:
            with pytest.raises(error):
                call()


def test_nobody_there_is_unreachable() -> None:
    with (
        Snapshots("http://127.0.0.1:1", SecretStr("k")) as snapshots,
        pytest.raises(UnreachableError, match=r"http://127.0.0.1:1 cannot be reached"),
    ):
        snapshots.list("a")
    with pytest.raises(SettingsError, match="is no URL of a Qdrant server"):
        Snapshots("127.0.0.1:1", None)


def test_refusals_carry_qdrants_words_and_no_key(
    server: Server, snapshots: Snapshots, collection: str, tmp_path: Path
) -> None:
    for call in (
        lambda: snapshots.create("contract-absent", timeout=10),
        lambda: snapshots.list("contract-absent"),
        lambda: snapshots.download("contract-absent", "a", tmp_path / "a"),
    ):
        with pytest.raises(ServiceError, match="Collection `contract-absent` doesn't exist!"):
            call()
    wrong = SecretStr("wrong-key-of-a-good-length-0123456789")
    big = tmp_path / "big"
    big.write_bytes(bytes(8 * MIB))
    with Snapshots(server.url, wrong) as stranger:
        for call in (
            lambda: stranger.list(collection),
            lambda: stranger.download(collection, "a", tmp_path / "a"),
            lambda: stranger.upload(collection, big, checksum="", timeout=10),
        ):
            with pytest.raises(ServiceError, match="refuses the key") as refused:
                call()
            text = refused.value.message + refused.value.hint
            assert wrong.get_secret_value() not in text
    reader = SecretStr(server.token(access="r"))
    with (
        Snapshots(server.url, reader) as other,
        pytest.raises(ServiceError, match="Global manage access is required"),
    ):
        other.upload(collection, big, checksum="", timeout=10)
    assert names(tmp_path) == ["big"]


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_file_is_not_restored(
    server: Server,
    snapshots: Snapshots,
    collection: str,
    made: str,
    new_name: Callable[[], str],
    tmp_path: Path,
    damage: str,
) -> None:
    file = tmp_path / "a"
    checksum = snapshots.download(collection, made, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    before, name = points(server, collection), new_name()
    for target in (collection, name):
        with pytest.raises(BackupError, match=r"is not what was backed up: .*Checksum mismatch"):
            snapshots.upload(target, file, checksum=checksum, timeout=60)
    assert points(server, collection) == before
    assert server.result("GET", f"/collections/{name}/exists") == {"exists": False}
    assert [each.name for each in snapshots.list(collection)] == [made]


def test_a_file_that_qdrant_cannot_read_is_not_kept_there(
    server: Server, snapshots: Snapshots, collection: str, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"no snapshot " * 1000)
    before = points(server, collection)
    with pytest.raises(ServiceError, match="Malformed tar archive"):
        snapshots.upload(collection, tmp_path / "a", checksum="", timeout=60)
    assert snapshots.list(collection) == []
    assert points(server, collection) == before


PEAK = """
import json, re, sys
from pathlib import Path
from pydantic import SecretStr
from ops.clients.snapshots import Snapshots
url, key, collection, new, name, target = json.load(sys.stdin)
with Snapshots(url, SecretStr(key)) as snapshots:
    found = snapshots.download(collection, name, Path(target))
    snapshots.upload(new, Path(target), checksum=found, timeout=120)
# not getrusage: that begins with what the parent had
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_memory_is_flat(
    server: Server, snapshots: Snapshots, new_name: Callable[[], str], tmp_path: Path
) -> None:
    """What a process needs for 100 MB it needs for some kilobytes as well."""
    peaks, sizes = [], []
    for megabytes in (0, 100):
        name = new_name()
        server.result("PUT", f"/collections/{name}", {"vectors": {"size": 2, "distance": "Dot"}})
        texts = [secrets.token_hex(MIB) for _ in range(megabytes // 2)]
        for number, text in enumerate(texts):
            body = {"points": [{"id": number, "vector": [1, 1], "payload": {"text": text}}]}
            server.result("PUT", f"/collections/{name}/points?wait=true", body)
        made = snapshots.create(name, timeout=120)
        given = [server.url, server.key, name, new_name(), made.name, str(tmp_path / name)]
        done = subprocess.run(
            [sys.executable, "-c", PEAK],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=True,
            timeout=240,
        )
        snapshots.delete(name, made.name)
        peaks.append(int(done.stdout))
        sizes.append(made.size)
    assert sizes[1] - sizes[0] > 40 * MIB
    assert peaks[1] < 1.25 * peaks[0], (peaks, sizes)
