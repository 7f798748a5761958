"""A folder is collected as one tar and built anew in a volume: every name, owner, mode and byte."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.backup import tree
from ops.backup.files import FilesCollector
from ops.backup.manifest import FilesFacts
from ops.backup.source import Collected, Event, silent
from ops.clients.docker import Scratch, mountpoint
from ops.errors import BackupError, ServiceError, StackroomError, UnprovenError, UnreachableError
from ops.render.files import ROOT
from ops.restore.files import FilesRehearsal, extract, first_difference
from ops.settings.host import FilesSource

pytestmark = pytest.mark.services


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    with Scratch("files", owner="tests") as made:
        yield made


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder with everything that a volume may hold."""
    root = tmp_path / "library"
    (root / "shelf" / "a b").mkdir(parents=True)
    (root / "empty folder").mkdir()
    (root / "shelf" / "book.txt").write_bytes(b"words\n" * 1000)
    (root / "shelf" / "a b" / "größer.txt").write_text("ä", encoding="utf-8")
    (root / "shelf" / "-rf").write_bytes(b"a name like an option")
    (root / "shelf" / "two\nlines").write_bytes(b"\0")
    Path(os.fsdecode(bytes(root) + b"/not-utf8-\xff\xfe")).write_bytes(b"raw")
    (root / "shelf" / ("long" * 60)).write_bytes(b"long")
    (root / "shelf" / "nothing").touch()
    with (root / "sparse").open("wb") as file:
        file.write(b"start")
        file.seek(40 * 1024 * 1024)
        file.write(b"end")
    os.link(root / "shelf" / "book.txt", root / "z second name")
    (root / "link").symlink_to("shelf/book.txt")
    (root / "dangling").symlink_to("/dev/stdout")
    (root / "program").write_bytes(b"#!/bin/sh\n")
    (root / "private").write_bytes(b"secret")
    os.chown(root / "program", 1000, 1001)
    (root / "program").chmod(0o4755)
    (root / "private").chmod(0o600)
    os.chown(root / "shelf", 70000, 70001)
    os.lchown(root / "link", 33, 33)
    (root / "empty folder").chmod(0o1777)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
    os.utime(root / "private", ns=(0, 1_234_567_890_123_456_789))
    os.utime(root / "shelf" / "nothing", ns=(0, -1_500_000_001))
    os.chown(root, 1000, 1000)
    root.chmod(0o750)
    os.utime(root, ns=(0, 1_700_000_000_000_000_001))
    return root


def collected(root: Path, staging: Path) -> Collected:
    return FilesCollector(FilesSource(name="library", path=str(root))).collect(staging, silent)


def rehearse(staging: Path, facts: FilesFacts, scratch: Scratch) -> tuple[dict[str, bool], Path]:
    volume = scratch.volume("library")
    found = FilesRehearsal(FilesSource(name="library")).rehearse(
        staging, facts, scratch, volume, silent
    )
    return {one.subject: one.ok for one in found}, mountpoint(volume)


def snapshot(root: Path) -> dict[bytes, tuple[object, ...]]:
    """An independent look at a folder: `find` and sha256, not the code under test."""
    listed = subprocess.run(
        [
            *("find", ".", "-not", "-type", "s", "-not", "-type", "p"),
            *("-printf", r"%p\t%y\t%m\t%U\t%G\t%T@\t%l\0"),
        ],
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout
    found = {}
    for line in filter(None, listed.split(b"\0")):
        name, kind, *rest = line.split(b"\t")
        content = (root / os.fsdecode(name)).read_bytes() if kind == b"f" else b""
        found[name] = (kind, *rest, hashlib.sha256(content).hexdigest())
    return found


def test_what_is_built_anew_is_what_was_there(
    library: Path, tmp_path: Path, scratch: Scratch
) -> None:
    result = collected(library, tmp_path / "staging")
    assert isinstance(result.facts, FilesFacts)
    answers, volume = rehearse(tmp_path / "staging", result.facts, scratch)
    assert set(answers.values()) == {True}
    assert snapshot(volume) == snapshot(library)
    assert (volume / "z second name").samefile(volume / "shelf" / "book.txt")
    assert not (volume / "fifo").exists() and not (volume / "socket").exists()
    # 40 MiB of nothing take no space, neither in the tar nor behind
    assert (volume / "sparse").stat().st_blocks * 512 < 4 * 1024**2
    assert (tmp_path / "staging" / result.items[0].path).stat().st_blocks * 512 < 8 * 1024**2


def test_the_item_is_the_file_and_any_tar_reads_it(library: Path, tmp_path: Path) -> None:
    result = collected(library, tmp_path / "staging")
    (item,) = result.items
    tar = tmp_path / "staging" / item.path
    assert item.path == "library/library.tar"
    assert hashlib.sha256(tar.read_bytes()).hexdigest() == item.sha256
    assert tar.stat().st_size == item.size
    assert stat.S_IMODE(tar.stat().st_mode) == 0o600
    (tmp_path / "by hand").mkdir()
    extracting = ["tar", "--extract", "--same-owner", "--preserve-permissions", "--file", str(tar)]
    subprocess.run(extracting, cwd=tmp_path / "by hand", check=True)
    assert snapshot(tmp_path / "by hand") == snapshot(library)
    files = [path for path in library.rglob("*") if path.is_file() and not path.is_symlink()]
    assert isinstance(result.facts, FilesFacts)
    assert result.facts.files == len(files) - 1  # a second name is no second file
    assert collected(library, tmp_path / "again").items[0].sha256 == item.sha256


def test_a_volume_is_collected_by_its_name(tmp_path: Path, scratch: Scratch) -> None:
    volume = scratch.volume("data")
    (mountpoint(volume) / "file").write_bytes(b"x" * 5000)
    collector = FilesCollector(FilesSource(name="data", volume=volume))
    assert 5000 <= collector.expected_bytes() <= 20000
    facts = collector.collect(tmp_path, silent).facts
    assert isinstance(facts, FilesFacts)
    assert (facts.files, facts.bytes, facts.volume) == (1, 5000, volume)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (FilesSource(name="x", path="/nowhere/at/all"), UnreachableError),
        (FilesSource(name="x", volume="stackroom-no-such-volume"), ServiceError),
    ],
)
def test_without_its_folder_nothing_is_written(
    source: FilesSource, kind: type[StackroomError], tmp_path: Path
) -> None:
    with pytest.raises(kind, match="there is no"):
        FilesCollector(source).expected_bytes()
    with pytest.raises(kind, match="there is no"):
        FilesCollector(source).collect(tmp_path / "staging", silent)
    assert not (tmp_path / "staging").exists()


# while somebody writes ------------------------------------------------------------------------


@pytest.fixture
def meddling(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], None]], None]:
    """`meddling(name, do)`: `do` happens between the listing of that name and its opening."""

    def arrange(name: str, do: Callable[[], None]) -> None:
        opened = tree.Entry.open

        def meddled(entry: tree.Entry) -> int | None:
            if entry.name == name:
                do()
            return opened(entry)

        monkeypatch.setattr(tree.Entry, "open", meddled)

    return arrange


def test_a_file_that_vanishes_is_left_out_and_its_other_name_is_not(
    library: Path,
    tmp_path: Path,
    scratch: Scratch,
    meddling: Callable[[str, Callable[[], None]], None],
) -> None:
    os.link(library / "shelf" / "book.txt", library / "z third name")
    meddling("shelf/book.txt", (library / "shelf" / "book.txt").unlink)
    result = collected(library, tmp_path / "staging")
    assert isinstance(result.facts, FilesFacts)
    answers, volume = rehearse(tmp_path / "staging", result.facts, scratch)
    assert set(answers.values()) == {True}
    assert not (volume / "shelf" / "book.txt").exists()
    assert (volume / "z second name").read_bytes() == b"words\n" * 1000


@pytest.mark.parametrize(("factor", "found"), [(3, b"words\n" * 1000), (0, bytes(6000))])
def test_a_file_that_changes_its_size_keeps_the_tar_whole(
    factor: int, found: bytes, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, done = library / "shelf" / "book.txt", os.read, []

    def reading(descriptor: int, count: int) -> bytes:
        if not done and Path(f"/proc/self/fd/{descriptor}").readlink() == path:
            done.append(path.write_bytes(b"words\n" * 1000 * factor))
        return real(descriptor, count)

    monkeypatch.setattr(tree.os, "read", reading)
    result = collected(library, tmp_path / "staging")
    assert done
    assert isinstance(result.facts, FilesFacts)
    assert result.facts.shrunk == ([] if factor else ["shelf/book.txt"])
    assert ("shrunk" in result.facts.model_dump_json()) is (factor == 0)
    (tmp_path / "out").mkdir()
    extract(tmp_path / "staging" / result.items[0].path, tmp_path / "out")
    assert (tmp_path / "out" / "shelf" / "book.txt").read_bytes() == found
    assert (tmp_path / "out" / "z second name").exists()


def test_no_more_than_some_of_those_that_shrink_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a name is no text."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(tree.SHRUNK_NAMED + 5):
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff%02d" % number)).write_bytes(b"words")
    monkeypatch.setattr(tree.os, "read", lambda *_: b"")
    facts = collected(folder, tmp_path / "staging").facts
    assert isinstance(facts, FilesFacts)
    assert facts.files == tree.SHRUNK_NAMED + 5
    assert facts.shrunk == [rf"\xff{number:02}" for number in range(tree.SHRUNK_NAMED)]
    assert FilesFacts.model_validate_json(facts.model_dump_json()) == facts


def test_a_link_in_a_files_place_is_not_followed(
    library: Path, tmp_path: Path, meddling: Callable[[str, Callable[[], None]], None]
) -> None:
    (tmp_path / "outside").write_bytes(b"not yours")

    def swap() -> None:
        (library / "private").unlink()
        (library / "private").symlink_to(tmp_path / "outside")

    meddling("private", swap)
    result = collected(library, tmp_path / "staging")
    assert b"not yours" not in (tmp_path / "staging" / result.items[0].path).read_bytes()


def test_a_folder_on_a_broken_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """A file system whose lower half is cut away: reading there fails with EIO."""
    disk, mounted = tmp_path / "disk", tmp_path / "mounted"
    mounted.mkdir()
    with disk.open("wb") as file:
        file.truncate(64 * 1024**2)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(mounted)], check=True)
    try:
        (mounted / "good").write_bytes(b"good")
        (mounted / "large").write_bytes(os.urandom(40 * 1024**2))
        subprocess.run(["umount", str(mounted)], check=True)
        subprocess.run(["mount", "-o", "ro,loop", str(disk), str(mounted)], check=True)
        os.truncate(disk, 20 * 1024**2)
        with pytest.raises(BackupError, match=r"large cannot be read: Input/output error"):
            collected(mounted, tmp_path / "staging")
    finally:
        subprocess.run(["umount", str(mounted)], check=False)
    assert [path for path in (tmp_path / "staging").rglob("*") if path.is_file()] == []


def test_a_full_disk_is_an_error_and_leaves_nothing(library: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    (library / "large").write_bytes(os.urandom(3 * 1024**2))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(BackupError, match="cannot be written: No space left"):
            collected(library, small)
        assert [path for path in small.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


# what is restored -----------------------------------------------------------------------------


def test_what_differs_is_told(library: Path, tmp_path: Path, scratch: Scratch) -> None:
    facts = collected(library, tmp_path / "staging").facts
    assert isinstance(facts, FilesFacts)
    altered = facts.model_copy(update={"files": facts.files + 1, "bytes": facts.bytes - 1})
    answers, _ = rehearse(tmp_path / "staging", altered, scratch)
    assert list(answers.values()) == [False, False, True]


@pytest.mark.parametrize("what", ["byte", "owner", "mode", "time", "extra", "missing", "link"])
def test_a_tree_that_is_not_the_tar_is_noticed(what: str, library: Path, tmp_path: Path) -> None:
    tar = tmp_path / "staging" / collected(library, tmp_path / "staging").items[0].path
    assert first_difference(tar, library) == ""
    book, before = library / "shelf" / "book.txt", (library / "shelf").stat()
    if what == "byte":
        found = book.stat()
        with book.open("r+b") as file:
            file.seek(4000)
            file.write(b"!")
        os.utime(book, ns=(found.st_atime_ns, found.st_mtime_ns))
    elif what == "owner":
        os.chown(book, 5, 5)
    elif what == "mode":
        book.chmod(0o666)
    elif what == "time":
        os.utime(book, ns=(0, book.stat().st_mtime_ns + 1))
    elif what == "extra":
        (library / "shelf" / "zzz").touch()
        os.utime(library / "shelf", ns=(0, before.st_mtime_ns))
    elif what == "missing":
        (library / "shelf" / "nothing").unlink()
        os.utime(library / "shelf", ns=(0, before.st_mtime_ns))
    else:
        top = library.stat()
        (library / "link").unlink()
        (library / "link").symlink_to("private")
        os.utime(library, ns=(0, top.st_mtime_ns))
    assert first_difference(tar, library) != ""


def made(path: Path, *members: tuple[str, bytes, str], content: bytes = b"evil") -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(content))
    return path


FILE, LINK, SAME, FOLDER = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("/tmp/evil", FILE, "")],
        [("../evil", FILE, "")],
        [("a/../../evil", FILE, "")],
        [("out", LINK, ".."), ("out/evil", FILE, "")],
        [("out", LINK, "/tmp"), ("out/evil", FILE, "")],
        [("evil", LINK, "../evil"), ("evil", FILE, "")],
        [("evil", SAME, "../outside")],
        [("evil", SAME, "/etc/passwd")],
        [("d", LINK, ".."), ("evil", SAME, "d/outside")],
        [("twice", FILE, ""), ("twice", FILE, "")],
        [("missing/evil", FILE, "")],
        [("null", tarfile.CHRTYPE, "")],
        [("pipe", tarfile.FIFOTYPE, "")],
        [("a\0b", FILE, "")],
    ],
)
def test_a_tar_that_leads_out_is_refused(
    members: list[tuple[str, bytes, str]], tmp_path: Path
) -> None:
    (tmp_path / "outside").write_bytes(b"untouched")
    (tmp_path / "root").mkdir()
    tar = made(tmp_path / "evil.tar", *members)
    if "\0" in members[0][0]:
        assert extract(tar, tmp_path / "root").files == 1  # the format cuts it off: a plain name
    else:
        with pytest.raises(BackupError):
            extract(tar, tmp_path / "root")
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "root", "evil.tar"}
    assert (tmp_path / "outside").read_bytes() == b"untouched"
    assert not Path("/tmp/evil").exists()


def test_a_volume_with_something_in_it_is_refused(
    library: Path, tmp_path: Path, scratch: Scratch
) -> None:
    facts = collected(library, tmp_path / "staging").facts
    volume = scratch.volume("library")
    (mountpoint(volume) / "there before").touch()
    with pytest.raises(BackupError, match="is not empty"):
        FilesRehearsal(FilesSource(name="library")).rehearse(
            tmp_path / "staging", facts, scratch, volume, silent
        )


def test_a_full_disk_says_nothing_about_the_backup(library: Path, tmp_path: Path) -> None:
    (library / "large").write_bytes(os.urandom(3 * 1024**2))
    tar = tmp_path / "staging" / collected(library, tmp_path / "staging").items[0].path
    (tmp_path / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path / "small")]
    subprocess.run(mount, check=True)
    try:
        with pytest.raises(UnprovenError, match="No space left"):
            extract(tar, tmp_path / "small")
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)


def test_a_tar_cut_short_is_refused_wherever_it_is_cut(library: Path, tmp_path: Path) -> None:
    (library / "sparse").unlink()
    tar = tmp_path / "staging" / collected(library, tmp_path / "staging").items[0].path
    whole = tar.read_bytes()
    for length in [0, 1, 511, *range(512, len(whole) - 10240, 512), len(whole) - 11000]:
        tar.write_bytes(whole[:length])
        root = tmp_path / "root"
        root.mkdir()
        with pytest.raises(BackupError):
            extract(tar, root)
        shutil.rmtree(root)


def test_a_flipped_bit_is_refused_or_told_and_never_crashes(library: Path, tmp_path: Path) -> None:
    """What the checksum of an item would find anyway must not break what comes behind it."""
    (library / "sparse").unlink()
    result = collected(library, tmp_path / "staging")
    tar = tmp_path / "staging" / result.items[0].path
    whole = tar.read_bytes()
    dice = random.Random(3)  # noqa: S311
    outside = {path.name for path in tmp_path.iterdir()} | {"root"}
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        tar.write_bytes(damaged)
        root = tmp_path / "root"
        root.mkdir()
        try:
            extract(tar, root)
            first_difference(tar, root)
        except StackroomError:
            pass
        shutil.rmtree(root)
        assert {path.name for path in tmp_path.iterdir()} <= outside


# how much it takes ----------------------------------------------------------------------------

MEASURED = """
import sys
from pathlib import Path
from ops.backup.files import FilesCollector
from ops.backup.source import silent
from ops.restore.files import extract, first_difference
from ops.settings.host import FilesSource
root, staging, out = map(Path, sys.argv[1:])
collector = FilesCollector(FilesSource(name="x", path=str(root)))
tar = staging / collector.collect(staging, silent).items[0].path
extract(tar, out)
assert first_difference(tar, out) == ""
# ru_maxrss would count what the parent had when it forked
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1])
"""


def peak_mib(root: Path, work: Path) -> int:
    work.mkdir()
    (work / "out").mkdir()
    command = [sys.executable, "-c", MEASURED, str(root), str(work / "staging"), str(work / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shutil.rmtree(work)
    return int(done.stdout) // 1024


def test_memory_stays_flat(tmp_path: Path) -> None:
    """100 MB in one file, 3 MB, and 16,000 names: the peak is the same within a few MiB."""
    small, large, many = (tmp_path / name for name in ("small", "large", "many"))
    for folder, size in ((small, 3), (large, 100)):
        folder.mkdir()
        with (folder / "file").open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(1024**2))
    for number in range(16_000):
        folder = many / f"{number % 100}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(b"x")
    base = peak_mib(small, tmp_path / "1")
    assert peak_mib(large, tmp_path / "2") < base + 4
    assert peak_mib(many, tmp_path / "3") < base + 4
    assert base < 120  # MiB


def test_progress_is_told_and_never_goes_back(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(5):
        (root / str(number)).write_bytes(os.urandom(9 * 1024**2))
    events: list[Event] = []
    FilesCollector(FilesSource(name="x", path=str(root))).collect(tmp_path / "s", events.append)
    assert events[0].total == 0
    done = [event.done for event in events[1:]]
    assert done == sorted(done) and len(done) == 5
    assert all(0 < event.done <= event.total for event in events[1:])
