"""The promises of the restic client on a folder of this machine, with the real restic."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from restic_places import RUN, SECONDS, Place, tree
from servers import PASSWORD, remount, small_disk

from ops.errors import (
    BackupError,
    LockedError,
    MissingToolError,
    ServiceError,
    SettingsError,
    StackroomError,
    UnreachableError,
)

pytestmark = pytest.mark.services


@pytest.fixture
def place(tmp_path: Path, restic: Path) -> Place:
    return Place(tmp_path, str(tmp_path / "repository"), restic)


# Good ways --------------------------------------------------------------------------------------


def test_what_is_stored_comes_back_byte_for_byte(place: Place) -> None:
    told: list[tuple[int, int]] = []
    client = place.client()
    client.open()
    folder = place.data(2_000_000, 70_000, 0)
    stored = client.backup(
        folder, RUN.format(1), timeout=SECONDS, on_bytes=lambda *b: told.append(b)
    )
    assert stored.total_bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert stored.added_bytes > 2_000_000
    assert told[-1] == (stored.total_bytes, stored.total_bytes)
    assert place.restored(stored) == tree(folder)
    # restic's own view
    snapshot = json.loads(place.raw("snapshots").stdout)[0]
    assert (snapshot["id"], snapshot["tags"]) == (stored.snapshot, [f"run={RUN.format(1)}"])
    assert (snapshot["hostname"], snapshot["paths"]) == ("team", [str(folder)])
    # and ours
    (ours,) = client.snapshots()
    assert (ours.id, ours.run, ours.host) == (stored.snapshot, RUN.format(1), "team")
    assert ours.path == str(folder)
    assert ours.time.tzinfo == UTC
    assert abs(datetime.now(UTC) - ours.time) < timedelta(minutes=5)


def test_a_safety_backup_is_marked_in_the_repository_itself(place: Place) -> None:
    client = place.client()
    client.open()
    folder = place.data(5_000)
    client.backup(folder, RUN.format(1), timeout=SECONDS)
    client.backup(folder, RUN.format(2), timeout=SECONDS, safety=True)
    tags = [snapshot["tags"] for snapshot in json.loads(place.raw("snapshots").stdout)]
    assert tags == [[f"run={RUN.format(1)}"], [f"run={RUN.format(2)}", "safety"]]
    found = [(snapshot.run, snapshot.safety) for snapshot in client.snapshots()]
    assert found == [(RUN.format(1), False), (RUN.format(2), True)]


def test_the_same_again_adds_next_to_nothing(place: Place) -> None:
    place.back_up(3_000_000)
    shutil.rmtree(place.folder / "current")  # each run stages anew
    assert place.back_up(3_000_000).added_bytes < 10_000
    assert [snapshot.run for snapshot in place.client().snapshots()] == [
        RUN.format(1),
        RUN.format(2),
    ]


def test_some_of_it_comes_back_and_only_that(place: Place) -> None:
    """Also where a name looks like a pattern, or a file lower down has the same name."""
    folder = place.data(5_000, 6_000)
    (folder / "qdrant/manifest.json").write_text("not this one")
    client = place.client()
    client.open()
    stored = client.backup(folder, RUN.format(1), timeout=SECONDS)
    wanted = ["manifest.json", "qdrant/collection [1]*.snapshot"]
    client.restore(stored.snapshot, place.folder / "some", include=wanted, timeout=SECONDS)
    assert sorted(tree(place.folder / "some")) == wanted
    with pytest.raises(BackupError, match=r"does not hold nothing\.json"):
        client.restore(
            *(stored.snapshot, place.folder / "none"), include=["nothing.json"], timeout=SECONDS
        )
    # more of the same backup, beside what is there
    client.restore(stored.snapshot, place.folder / "some", timeout=SECONDS, more=True)
    assert tree(place.folder / "some") == tree(folder)


def test_a_restore_into_what_is_not_empty_is_refused(place: Place) -> None:
    stored = place.back_up()
    target = place.folder / "target"
    target.mkdir()
    (target / "mine").write_text("mine")
    with pytest.raises(ServiceError, match="is not empty"):
        place.client().restore(stored.snapshot, target, timeout=SECONDS)
    assert tree(target).keys() == {"mine"}


@pytest.mark.parametrize("name", ["latest", "--help", "", "ab", "0" * 64])
def test_a_restore_of_what_is_no_snapshot_is_refused(place: Place, name: str) -> None:
    place.back_up()
    with pytest.raises(ServiceError, match=r"is no id|there is no snapshot"):
        place.client().restore(name, place.folder / "target", timeout=SECONDS)
    assert not (place.folder / "target").exists()


def test_what_cannot_be_stored_is_no_backup(place: Place) -> None:
    client = place.client()
    client.open()
    folder = place.data()
    (place.folder / "link").symlink_to(folder)
    for wrong in (place.folder / "nowhere", folder / "manifest.json", place.folder / "link"):
        with pytest.raises(BackupError, match="is no folder"):
            client.backup(wrong, RUN.format(1), timeout=SECONDS)
    assert place.ids() == []


def test_files_that_cannot_be_read_make_a_failed_backup(place: Place) -> None:
    """restic stores the rest and ends with 3: that is no backup either."""
    client = place.client()
    client.open()
    folder = place.data()
    broken = folder / "broken"
    broken.touch()
    # root reads every file but one whose disk fails; so does this one, at its first byte
    subprocess.run(["mount", "--bind", f"/proc/{os.getpid()}/mem", str(broken)], check=True)
    try:
        with pytest.raises(ServiceError, match=r"could not read all files: .*broken"):
            client.backup(folder, RUN.format(1), timeout=SECONDS)
    finally:
        subprocess.run(["umount", str(broken)], check=True)


# Forgetting -------------------------------------------------------------------------------------


def test_only_the_named_are_forgotten(place: Place) -> None:
    first, second, third = (place.back_up(100_000, seed=seed).snapshot for seed in range(3))
    client = place.client()
    assert client.forget([], dry_run=False) == []
    assert client.forget([second, "f" * 64], dry_run=True) == [second]
    assert place.ids() == [first, second, third]
    assert client.forget([second, "f" * 64], dry_run=False) == [second]
    assert place.ids() == [first, third]
    before = size_of(Path(place.url))
    client.prune(timeout=SECONDS)
    assert before - size_of(Path(place.url)) > 90_000
    client.check((1, 1), timeout=SECONDS)
    assert client.forget([second], dry_run=False) == []


@pytest.mark.parametrize("dry_run", [True, False])
def test_all_of_them_are_never_forgotten(place: Place, dry_run: bool) -> None:
    ids = [place.back_up(seed=seed).snapshot for seed in range(2)]
    with pytest.raises(BackupError, match="every backup"):
        place.client().forget(ids, dry_run=dry_run)
    assert place.ids() == ids


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Passwords and programs -------------------------------------------------------------------------


def test_a_wrong_password_is_said_to_be_one(place: Place) -> None:
    place.back_up()
    place.secrets["password"] = "another-password-0123456789"
    for create in (True, False):
        with pytest.raises(ServiceError) as caught:
            place.client().open(create=create)
        assert "wrong password: the credential restic_password" in caught.value.message
        assert "another-password" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize("password", ["", "\n", "  \n"])
def test_an_empty_password_starts_nothing(place: Place, password: str) -> None:
    place.secrets["password"] = password
    with pytest.raises(SettingsError, match=r"restic_password.* is empty"):
        place.client().open()
    assert not Path(place.url).exists()


def test_without_a_password_nothing_starts(place: Place) -> None:
    client = place.client()
    (place.folder / "credentials" / "restic_password").unlink()
    with pytest.raises(SettingsError, match="restic_password is missing"):
        client.open()
    assert not Path(place.url).exists()


def test_without_restic(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKROOM_RESTIC", str(place.folder / "nowhere"))
    with pytest.raises(MissingToolError, match="not installed") as caught:
        place.client().open()
    assert "apt-get install restic" in caught.value.hint


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("echo restic 0.14.0 compiled with go1.19.8", r"restic is 0\.14\.0; 0\.17\.1 or newer"),
        ("echo restic 0.17.0 compiled with go1.23", r"restic is 0\.17\.0; 0\.17\.1 or newer"),
        ("echo something else", "is no restic that works"),
        ("exit 1", "is no restic that works"),
    ],
)
def test_a_restic_that_is_too_old_or_none(
    place: Place, monkeypatch: pytest.MonkeyPatch, says: str, words: str
) -> None:
    program = script(place.folder / "restic", says)
    monkeypatch.setenv("STACKROOM_RESTIC", program)
    with pytest.raises(MissingToolError, match=words):
        place.client().open()


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_restic_is_given_what_it_needs_and_nothing_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is in its file: not in the environment, and not among the arguments."""
    told = place.folder / "told"
    program = script(
        place.folder / "restic",
        f'[ "$1" = version ] && exec {place.restic} version\n'
        f'env >>{told}; echo "arguments: $*" >>{told}\nexec {place.restic} "$@"',
    )
    monkeypatch.setenv("STACKROOM_RESTIC", program)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-somebody-else")
    monkeypatch.setenv("RESTIC_REPOSITORY", "/of/somebody/else")
    place.secrets["offsite_env"] = "AWS_SECRET_ACCESS_KEY=not-for-the-local-one\n"
    place.back_up()
    text = told.read_text()
    assert PASSWORD not in text
    assert "else" not in text
    assert "not-for-the-local-one" not in text
    names = {line.partition("=")[0] for line in text.splitlines() if "arguments: " not in line}
    ours = {"PATH", "HOME", "RESTIC_PASSWORD_FILE", "RESTIC_PROGRESS_FPS"}
    assert ours <= names <= ours | {"TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}


# A repository that is not there -------------------------------------------------------------------


def test_it_is_made_once_and_only_where_it_may(place: Place) -> None:
    with pytest.raises(ServiceError, match="there is none"):
        place.client().open(create=False)
    assert not Path(place.url).exists()
    place.client().open()
    config = Path(place.url, "config").read_bytes()
    assert Path(place.url).stat().st_mode & 0o077 == 0
    place.client().open()
    assert Path(place.url, "config").read_bytes() == config


def test_one_that_lost_its_config_is_not_made_anew(place: Place) -> None:
    stored = place.back_up()
    config = Path(place.url, "config")
    kept = config.read_bytes()
    config.unlink()
    before = tree(Path(place.url))
    with pytest.raises(ServiceError, match="holds something else"):
        place.client().open(create=True)
    assert tree(Path(place.url)) == before
    config.write_bytes(kept)
    assert place.restored(stored) == tree(place.folder / "current")


def test_a_folder_of_other_things_is_not_made_a_repository(place: Place) -> None:
    Path(place.url).mkdir()
    Path(place.url, "photos").write_text("mine")
    with pytest.raises(ServiceError, match="holds something else: photos"):
        place.client().open()
    assert tree(Path(place.url)).keys() == {"photos"}


def test_one_that_was_killed_while_it_was_made_is_made_again(place: Place) -> None:
    place.client().open()
    Path(place.url, "config").unlink()  # the key is written first, the config last
    place.client().open()
    assert place.restored(place.back_up()) == tree(place.folder / "current")


# Disks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_full_disk_is_said_and_leaves_the_old_backup(
    tmp_path: Path, restic: Path, seed: int
) -> None:
    with small_disk(tmp_path / "disk", f"{14 + seed}m") as disk:
        place = Place(tmp_path, str(disk / "repository"), restic)
        old = place.back_up(3_000_000 + 333_333 * seed, seed=seed)
        whole = tree(place.folder / "current")
        with pytest.raises(ServiceError, match="there is no space left"):
            place.back_up(30_000_000, seed=seed + 100)
        assert place.ids() == [old.snapshot]
        assert not list(disk.rglob("*-tmp-*"))
        assert place.restored(old) == whole
        # a smaller one fits again, once what was left behind is gone
        shutil.rmtree(place.folder / "current")
        place.client().unlock()
        place.client().prune(timeout=SECONDS)
        small = place.back_up(500_000, seed=seed + 200)
        place.client().check((1, 1), timeout=SECONDS)
        assert place.restored(small, "again") == tree(place.folder / "current")


def test_no_byte_free_and_still_it_restores(tmp_path: Path, restic: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        place = Place(tmp_path, str(disk / "repository"), restic)
        stored = place.back_up(1_000_000)
        fill(disk / "filler")
        assert place.restored(stored) == tree(place.folder / "current")
        with pytest.raises(ServiceError, match="no space left"):
            place.back_up(1_000_000, seed=7)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_a_read_only_repository_is_said_to_be_one_and_restores(
    tmp_path: Path, restic: Path
) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        place = Place(tmp_path, str(disk / "repository"), restic)
        stored = place.back_up()
        whole = tree(place.folder / "current")
        remount(disk, ["ro"])
        place.client().open()
        assert [found.id for found in place.client().snapshots()] == [stored.snapshot]
        with pytest.raises(ServiceError, match="it is read-only"):
            place.back_up(seed=2)
        with pytest.raises(ServiceError, match="it is read-only"):
            place.client().check((1, 1), timeout=SECONDS)
        assert place.restored(stored) == whole
        remount(disk, ["rw"])
        place.back_up(seed=2)


# Damage -------------------------------------------------------------------------------------------


def flipped(path: Path) -> None:
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size // 2)


def packs(place: Place) -> list[Path]:
    """Largest first: data, then trees."""
    found = [path for path in Path(place.url, "data").rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_size, reverse=True)


@pytest.mark.parametrize("damage", [flipped, cut, Path.unlink])
@pytest.mark.parametrize("which", [0, -1], ids=["data", "trees"])
def test_a_damaged_pack_is_found_and_never_restored(
    place: Place, damage: object, which: int
) -> None:
    stored = place.back_up(3_000_000)
    client = place.client()
    client.check((1, 1), timeout=SECONDS)
    shutil.rmtree(place.folder / "cache")  # trees are kept there too
    damage(packs(place)[which])  # type: ignore[operator]
    with pytest.raises(BackupError, match="it is damaged"):
        client.check((1, 1), timeout=SECONDS)
    target = place.folder / "target"
    with pytest.raises(StackroomError) as caught:
        client.restore(stored.snapshot, target, timeout=SECONDS)
    assert isinstance(caught.value, BackupError), caught.value
    assert list(target.iterdir()) == []


def test_parts_together_read_everything(place: Place) -> None:
    """One flipped byte: the structure looks well, and exactly one part finds it."""
    place.back_up(3_000_000)
    flipped(packs(place)[0])
    client = place.client()
    client.check(None, timeout=SECONDS)
    found = 0
    for part in range(1, 5):
        try:
            client.check((part, 4), timeout=SECONDS)
        except BackupError:
            found += 1
    assert found == 1


@pytest.mark.parametrize("kind", ["config", "index", "snapshots", "keys"])
def test_whatever_else_is_damaged_is_found(place: Place, kind: str) -> None:
    place.back_up()
    shutil.rmtree(place.folder / "cache")
    path = Path(place.url, kind)
    cut(path if path.is_file() else next(path.iterdir()))
    with pytest.raises(StackroomError, match=r"damaged|wrong password"):
        place.client().check((1, 1), timeout=SECONDS)


# Locks --------------------------------------------------------------------------------------------


def lock_of(place: Place) -> list[Path]:
    # while one is written its name is longer; restic passes over what a killed one has left of that
    return [path for path in Path(place.url, "locks").iterdir() if len(path.name) == 64]


def killed_in_a_lock(place: Place, *arguments: str) -> None:
    """restic, ended by SIGKILL while it holds a lock."""
    process = subprocess.Popen(
        [str(place.restic), "--repo", place.url, "--no-cache", *arguments],
        env={"PATH": os.environ["PATH"], "RESTIC_PASSWORD": PASSWORD},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            if lock_of(place):
                break
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        assert process.poll() is None, "it was too quick to be killed"
    finally:
        process.kill()
        process.wait()
    assert lock_of(place)


@pytest.mark.parametrize("work", ["check", "prune", "forget", "backup"])
def test_the_lock_of_a_killed_one_heals_itself(place: Place, work: str) -> None:
    """No person, no `unlock`: the next night just goes on."""
    first = place.back_up(200_000, seed=1).snapshot
    second = place.back_up(200_000, seed=2).snapshot
    # standard input stays open: it waits with its lock held
    killed_in_a_lock(place, "backup", "--stdin")
    assert place.raw("check").returncode == 0  # without a lock
    client = place.client()
    if work == "check":
        client.check((1, 1), timeout=SECONDS)
    elif work == "prune":
        client.prune(timeout=SECONDS)
    elif work == "forget":
        assert client.forget([first], dry_run=False) == [first]
    else:
        place.back_up(seed=3)
    client.unlock()
    assert second in place.ids()
    assert lock_of(place) == []


def test_the_lock_of_a_living_one_is_respected(place: Place) -> None:
    stored = place.back_up()
    place.back_up(seed=2)
    process = subprocess.Popen(
        [str(place.restic), "--repo", place.url, "--no-cache", "backup", "--stdin"],
        env={"PATH": os.environ["PATH"], "RESTIC_PASSWORD": PASSWORD},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            if lock_of(place):
                break
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        for work in (
            lambda: place.client().forget([stored.snapshot], dry_run=False),
            lambda: place.client().check(None, timeout=SECONDS),
        ):
            with pytest.raises(LockedError, match="somebody else is at work") as caught:
                work()
            assert str(process.pid) in caught.value.message
        assert stored.snapshot in place.ids()
    finally:
        process.kill()
        process.wait()


# Time ---------------------------------------------------------------------------------------------


def test_what_hangs_is_ended_and_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.back_up()
    program = script(
        place.folder / "restic",
        f'[ "$1" = version ] && exec {place.restic} version\n'
        'echo "Stat(<config/>) returned error, retrying after 3s: dial tcp: i/o timeout" >&2\n'
        f"tail -f {place.folder}/current/manifest.json",
    )
    monkeypatch.setenv("STACKROOM_RESTIC", program)
    with pytest.raises(UnreachableError, match=r"restic cat did not end in 1 s: dial tcp"):
        place.client(timeout=1).open()
    assert running_with(f"{place.folder}/current/manifest.json") == []


def test_a_restic_that_waits_for_itself_on_a_full_disk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen with 0.18.0, about one time in four on a busy machine: all its uploaders have ended."""
    place.back_up()
    program = script(
        place.folder / "restic",
        f'for word; do [ "$word" = backup ] || continue; echo "Save(<data/1>) failed: write'
        f' data/1: no space left on device" >&2; exec tail -f {place.folder}/current/*.json; done\n'
        f'exec {place.restic} "$@"',
    )
    monkeypatch.setenv("STACKROOM_RESTIC", program)
    monkeypatch.setattr("ops.clients.restic_words.FAILED_SECONDS", 1)
    begun = time.monotonic()
    with pytest.raises(ServiceError, match="there is no space left"):
        place.back_up(seed=2)
    assert time.monotonic() - begun < SECONDS
    assert running_with(f"{place.folder}/current/manifest.json") == []


def running_with(words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in line and path.parent.name != str(os.getpid()):
            found.append(line)
    return found
