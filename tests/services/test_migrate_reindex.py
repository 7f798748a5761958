"""A knowledge base made anew elsewhere: files over a real SSH, volumes and containers of a real
engine, and an index job that writes to a real server. Read back from the volumes themselves.

One engine has both ends, so the projects have names of their own.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from data_services import LABELLED, answers, container, run_in
from live_stack import docker, qdrant_image
from migrate_data import Rest, running_stand_in
from pydantic import SecretStr

from ops.backup.source import Event, Tell, silent
from ops.migrate import reindex
from ops.migrate.places import Place, place
from ops.migrate.plan import Wish
from ops.migrate.reindex import FilesPlan, Reindex
from ops.migrate.server import Server
from ops.migrate.shelf import INCOMING, KINDS, FolderShelf, HostShelf, Shelf, Write
from ops.migrate.side import MigrationError
from ops.migrate.state import Library, Store

pytestmark = pytest.mark.services

UID = 1000
JOBS = "/tmp/index-jobs"
# makes one collection anew of what lies in the library: what a team's own job does
JOB = """
import hashlib, json, os, pathlib, sys, time, urllib.request
assert sys.argv[1:] == ["--all of it"]
url, key = os.environ["QDRANT_URL"], os.environ["QDRANT_API_KEY"]
def send(method, path, body):
    headers = {"api-key": key, "content-type": "application/json"}
    data = json.dumps(body).encode()
    urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method)).read()
with open("/data/sessions/runs", "a") as file:
    file.write("run\\n")
files = sorted(p for p in pathlib.Path("/data/library").rglob("*") if p.is_file())
print(f"\\x1b[31mindexing {len(files)} files", flush=True)
while pathlib.Path("/data/sessions/hold").exists():
    time.sleep(0.05)
if pathlib.Path("/data/sessions/fail").exists():
    sys.exit("no model answers")
try: send("PUT", "/collections/books", {"vectors": {"size": 2, "distance": "Dot"}})
except urllib.error.HTTPError: pass
sums = [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]
points = [{"id": n, "vector": [n, 1], "payload": {"sha": sha}} for n, sha in enumerate(sums)]
send("PUT", "/collections/books/points?wait=true", {"points": points})
print("done", flush=True)
"""
FILES = {
    "library/guides/one.txt": b"the first book\n",
    "library/guides/deep/er/two.bin": bytes(range(256)) * 20_000,  # more than a piece
    "library/größe 日本.txt": b"u",
    "library/-rf": b"a dash",
    "library/two\nlines": b"n",
    "library/empty": b"",
    "sessions/.hidden": b"h",
    "configs/api.toml": b"[a]\n",
}


@dataclass
class End:
    """One project's volumes, seen by this machine itself."""

    shelf: HostShelf
    project: str
    roots: dict[str, Path] = field(default_factory=dict)

    def root(self, kind: str) -> Path:
        if kind not in self.roots:
            where = ("volume", "inspect", "-f", "{{.Mountpoint}}", self.volume(kind))
            self.roots[kind] = Path(docker(*where))
        return self.roots[kind]

    def volume(self, kind: str) -> str:
        return f"{self.project}_api_{kind}"

    def path(self, name: str) -> Path:
        kind, _, rest = name.partition("/")
        return self.root(kind) / rest

    def write(self, name: str, content: bytes) -> Path:
        path, root = self.path(name), self.root(name.partition("/")[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        for each in [path, *path.parents]:
            if each == root:
                break
            os.chown(each, UID, UID)
        return path

    def files(self) -> dict[str, bytes]:
        return {
            f"{kind}/{path.relative_to(self.root(kind))}": path.read_bytes()
            for kind in KINDS
            for path in self.root(kind).rglob("*")
            if path.is_file() and not path.is_symlink()
        }

    def empty(self) -> None:
        for kind in KINDS:
            for path in self.root(kind).iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@dataclass
class Lab:
    source: End
    target: End
    machine: str
    rest: Rest
    folder: Path
    places: tuple[Place, Place]
    heard: list[Event] = field(default_factory=list)

    def plan(self, wish: Wish | None = None, source: Shelf | None = None) -> FilesPlan:
        shelves = source or self.source.shelf, self.target.shelf
        with self.side() as side:
            return reindex.make_plan(shelves, side, self.places, wish or Wish(mode="reindex"))

    def side(self) -> Any:
        return closing(Server("target", self.rest.url, SecretStr(self.rest.key)))

    def prepared(self, source: Shelf | None = None) -> Store:
        migration = self.plan(source=source).migration()
        store = Store(self.folder / "state" / secrets.token_hex(4))
        store.create(migration)
        return store

    def run(self, store: Store, tell: Tell = silent, source: Shelf | None = None) -> Reindex:
        def heard(event: Event) -> None:
            self.heard.append(event)
            tell(event)

        side = Server("target", self.rest.url, SecretStr(self.rest.key))
        shelf = source or self.source.shelf
        return Reindex(shelf, self.target.shelf, side, store, store.load(), heard, 60.0, JOBS)

    def go_on(self, store: Store, tell: Tell = silent, source: Shelf | None = None) -> None:
        run = self.run(store, tell, source)
        try:
            reindex.carry_out(run)
        finally:
            run.side.close()

    def runs(self) -> int:
        path = self.target.path("sessions/runs")
        return len(path.read_text().splitlines()) if path.exists() else 0

    def indexed(self) -> set[str]:
        """The files that the job has seen, by their sha256, as the server has them."""
        return {each["payload"]["sha"] for page in self.rest.scroll("books") for each in page}

    def cut_off(self) -> bool:
        """Every SSH connection of the machine breaks; whether there was one."""
        return answers(self.machine, "pkill", "-KILL", "-f", "sshd-session: root")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("reindex")
    quiet = ("-q", "-t", "ed25519", "-N", "", "-C", "test")
    subprocess.run(["ssh-keygen", *quiet, "-f", folder / "key"], check=True)
    (folder / "stand-in").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(running_stand_in(folder / "stand-in"))
        options = (
            *("--network", "bridge", "--init", "--volume", f"{shutil.which('docker')}:"
              "/usr/bin/docker:ro"),
            *("--volume", "/var/run/docker.sock:/var/run/docker.sock"),
        )  # fmt: skip
        name = stack.enter_context(container("people", lambda n: answers(n, "true"), *options))
        public = (folder / "key.pub").read_text()
        start = "umask 077; mkdir -p /root/.ssh; cat >/root/.ssh/authorized_keys; ssh-keygen -A"
        run_in(name, "sh", "-c", f"{start}; /usr/sbin/sshd", stdin=public)
        address = docker("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", name)
        ends, places = [], []
        for end in ("from", "to"):
            project = f"reindex-{end}-{secrets.token_hex(4)}"
            stack.callback(_gone, project)
            where = place(end, end, _environment(folder, end, address))  # type: ignore[arg-type]
            assert where.environment
            ends.append(End(HostShelf(where.environment, project=project), project))
            places.append(where)
            _stack(project, ends[-1], server.url, server.key)
        yield Lab(*ends, name, Rest(server.url, server.key), folder, (places[0], places[1]))


def _environment(folder: Path, name: str, address: str) -> Path:
    inventory = folder / "inventory"
    here = inventory / name
    here.mkdir(parents=True)
    hosts = f'address="{address}", key="{folder}/key"'
    (here / "hosts.py").write_text(
        f"from ops.settings import machines\nhosts = machines(__file__, {hosts})\n"
    )
    index = 'index = ["python3", "/opt/job.py", "--all of it"]'
    (here / "settings.toml").write_text(f'[api]\nimage = "a:1"\n{index}\n')
    key = (folder / "key.pub").read_text().strip()
    (here / "developers.toml").write_text(
        f'[operators.anna]\naddresses = ["198.51.100.20"]\nkeys = ["{key}"]\n'
    )
    names = ("qdrant_api_key", "api_token", "restic_password")
    lines = [f'{each} = "{secrets.token_hex(20)}"' for each in names]
    (here / "secrets.toml").write_text("\n".join(["[secrets]", *lines]) + "\n")
    (here / "secrets.toml").chmod(0o600)
    return inventory


def _stack(project: str, end: End, url: str, key: str) -> None:
    """What a deploy leaves: three volumes of the api's user, Qdrant's container and the api's."""
    label = ("--label", LABELLED)
    mounts = []
    for kind in KINDS:
        docker("volume", "create", *label, end.volume(kind))
        os.chown(end.root(kind), UID, UID)
        mounts += ["--mount", f"type=volume,src={end.volume(kind)},dst=/data/{kind},volume-nocopy"]
    docker("create", "--name", f"{project}-qdrant-1", *label, qdrant_image())
    docker(
        *("run", "--detach", "--name", f"{project}-api-1", *label, "--network", "host"),
        *("--user", f"{UID}:{UID}", "--stop-signal", "SIGKILL", *mounts),
        *("--env", f"QDRANT_URL={url}", "--env", f"QDRANT_API_KEY={key}"),
        *("--entrypoint", "sleep", qdrant_image(), "infinity"),
    )
    job = end.shelf.environment.folder / "job.py"
    job.write_text(JOB)
    docker("cp", str(job), f"{project}-api-1:/opt/job.py")


def _gone(project: str) -> None:
    for each in ("qdrant", "api"):
        docker("rm", "--force", f"{project}-{each}-1", check=False)
    for kind in KINDS:
        docker("volume", "rm", "--force", f"{project}_api_{kind}", check=False)


@pytest.fixture
def lab(built: Lab) -> Iterator[Lab]:
    """With the files on one end, and nothing on the other."""
    for name, content in FILES.items():
        built.source.write(name, content)
    built.heard.clear()
    yield built
    names = docker("ps", "--all", "--format", "{{.Image}} {{.Command}}").splitlines()
    assert not [each for each in names if "sha256sum" in each or "tar --" in each]
    for end in (built.source, built.target):
        end.empty()
    built.rest.drop("books")


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_files_come_and_the_job_makes_the_collections(lab: Lab) -> None:
    """With every kind of name, a link, an empty folder, and what is no file."""
    (lab.source.root("library") / "link").symlink_to("guides/one.txt")
    lab.source.write("library/private/x", b"x").parent.chmod(0o700)
    (lab.source.root("configs") / "bare").mkdir()
    os.chown(lab.source.root("configs") / "bare", UID, UID)
    os.mkfifo(lab.source.root("sessions") / "pipe")
    odd = os.fsencode(lab.source.root("library")) + b"/no utf-8 \xff"
    Path(os.fsdecode(odd)).write_bytes(b"odd")
    lab.target.write("sessions/own", b"of the target alone")
    lab.target.write("configs/api.toml", FILES["configs/api.toml"])
    before = lab.source.files()

    made = lab.plan()
    assert made.refusals == []
    assert (made.copy, made.there) == (len(before) - 1, 1)
    assert made.files == {"library": 8, "sessions": 1, "configs": 1}
    assert made.free and made.free > made.needed > 5_000_000
    assert any("sessions/pipe is no file" in note for note in made.notes)
    assert any("1 path of to alone stay" in note for note in made.notes)
    assert "as long as it takes: python3" in "\n".join(made.lines())
    assert lab.target.files().keys() == {"sessions/own", "configs/api.toml"}, "it only reads"

    store = lab.prepared()
    lab.go_on(store)
    assert lab.source.files() == before
    there = lab.target.files()
    assert there.pop("sessions/own") == b"of the target alone"
    assert there.pop("sessions/runs") == b"run\n"
    assert there == before
    assert (lab.target.root("library") / "link").readlink() == Path("guides/one.txt")
    assert (lab.target.root("configs") / "bare").is_dir()
    private = (lab.target.root("library") / "private").stat()
    assert (private.st_mode & 0o777, private.st_uid) == (0o700, UID)
    assert lab.target.root("library").stat().st_uid == UID
    assert not list(lab.target.root("library").rglob(INCOMING))
    assert lab.indexed() == {sha(c) for n, c in before.items() if n.startswith("library/")}
    shown = [event.item for event in lab.heard if event.step == "index"]
    assert shown == ["indexing 9 files", "done"], "and nothing that steers a terminal"
    assert any(event.step == "copy" and event.done == event.total for event in lab.heard)
    assert store.load().library.model_dump(include={"step", "code", "tries", "after"}) == {  # type: ignore[union-attr]
        "step": "ready", "code": 0, "tries": 1, "after": {"books": 9}
    }  # fmt: skip

    # it is verified later, and a flipped byte is found
    report = reindex.verify(lab.run(store))
    assert (report.outcome, report.files, report.exit_code) == ("same", 10, 0), report.lines()
    lab.target.write("library/guides/one.txt", b"the First book\n")
    lab.target.path("library/empty").unlink()
    report = reindex.verify(lab.run(store))
    assert (report.missing, report.different) == (["library/empty"], ["library/guides/one.txt"])
    assert (report.differences, report.exit_code) == (2, 2)

    # a cutover brings what has changed since, and what was harmed here
    lab.target.write("library/guides/one.txt", FILES["library/guides/one.txt"])
    lab.source.write("library/new", b"new")
    lab.source.path("library/two\nlines").unlink()
    shutil.rmtree(lab.source.path("library/guides/deep"))
    lab.source.write("library/guides/deep", b"a file where a folder was")
    run = lab.run(store)
    reindex.cut_over(run)
    there = lab.target.files()
    assert there.pop("sessions/own") and there.pop("sessions/runs") == b"run\nrun\n"
    assert there == lab.source.files()
    assert lab.indexed() >= {sha(b"new"), sha(b"a file where a folder was")}
    assert store.load().phase == "cut over"
    with pytest.raises(MigrationError, match="would undo"):
        lab.go_on(store)


def test_what_stands_against_it_is_said_before_anything_is_touched(lab: Lab) -> None:
    lab.target.write("library/guides/one.txt", b"of the target")
    made = lab.plan(Wish(names=("books",), mode="reindex"))
    assert "takes no --collection" in made.refusals[0]
    assert "to has another library/guides/one.txt" in made.refusals[1]
    docker("kill", f"{lab.target.project}-api-1")
    try:
        assert "the api of to is not deployed, or does not run" in lab.plan().refusals[0]
    finally:
        docker("start", f"{lab.target.project}-api-1")
    gone = HostShelf(lab.source.shelf.environment, project="nobody")
    assert "the api of from is not deployed" in lab.plan(source=gone).refusals[0]
    assert lab.target.files() == {"library/guides/one.txt": b"of the target"}


class Flipping(FolderShelf):
    """What is read right and comes wrong: one letter of it."""

    def pour(self, paths: Sequence[str], write: Write) -> None:
        tar = bytearray()
        super().pour(paths, tar.extend)
        write(bytes(tar).replace(b"first", b"First"))


def test_a_file_that_comes_wrong_never_gets_its_place(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.migrate.copying.MOST_PASSES", 1)
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "one").write_bytes(b"the first book")
    (tmp_path / "library" / "two").write_bytes(b"the second book")
    laptop = Flipping(str(tmp_path))
    store = lab.prepared(laptop)
    with pytest.raises(MigrationError, match="change as fast"):
        lab.go_on(store, source=laptop)
    assert lab.target.files() == {"library/two": b"the second book"}
    assert not lab.runs()


def test_a_connection_that_breaks_and_a_run_that_dies_cost_one_batch(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.migrate.copying.BATCH_FILES", 7)
    store = lab.prepared()
    cut = []

    def breaks(event: Event) -> None:
        far = event.step == "copy" and event.done > 1_000_000
        # pieces that had arrived before are still counted after it, and nothing is left to cut
        if far and len(cut) < 2 and lab.cut_off():
            cut.append(event.done)

    def dies(event: Event) -> None:
        if cut and event.step == "copy" and event.done == event.total:
            raise KeyboardInterrupt
        breaks(event)

    with pytest.raises(KeyboardInterrupt):
        lab.go_on(store, dies)
    assert len(cut) == 2, "it was asked again"
    assert store.files() and not lab.runs()
    taken = lab.target.write("configs/api.toml", b"meanwhile")
    with pytest.raises(MigrationError, match=r"another configs/api\.toml, and it is never written"):
        lab.go_on(store)
    assert taken.read_bytes() == b"meanwhile"
    taken.unlink()
    moved = {name: lab.target.path(name).stat().st_ino for name in lab.target.files()
             if INCOMING not in name}  # fmt: skip
    assert moved
    lab.go_on(store)
    assert {name: lab.target.path(name).stat().st_ino for name in moved} == moved
    there = lab.target.files()
    assert there.pop("sessions/runs")
    assert there == lab.source.files()


def test_a_job_that_fails_is_tried_again_and_one_that_goes_on_without_us_is_followed(
    lab: Lab, tmp_path: Path
) -> None:
    """From a laptop's folder, which is a source too."""
    for name, content in FILES.items():
        path = tmp_path / "kb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    os.link(tmp_path / "kb/library/-rf", tmp_path / "kb/library/second name")
    (tmp_path / "kb/library/link").symlink_to("nowhere")
    laptop = reindex.shelf_of(Place("from", str(tmp_path / "kb"), "folder"))
    assert isinstance(laptop, FolderShelf)
    fail = lab.target.write("sessions/fail", b"")
    store = lab.prepared(laptop)

    def library() -> Library:
        found = store.load().library
        assert found
        return found

    with pytest.raises(MigrationError, match=r"ended with 1: .*no model answers") as caught:
        lab.go_on(store, source=laptop)
    assert "stackroom migrate resume" in caught.value.hint and JOBS in caught.value.hint
    assert (store.load().phase, library().code) == ("running", 1)
    fail.unlink()
    there = lab.target.files()
    assert there.pop("sessions/runs")
    assert there == FILES | {"library/second name": b"a dash"}
    assert (lab.target.root("library") / "link").readlink() == Path("nowhere")

    def falls(event: Event) -> None:
        """The machine goes down under the job: nobody writes an exit code any more."""
        if event.step == "index" and lab.runs() == 2:
            run_in(lab.machine, "pkill", "-KILL", "-f", "docker exec")

    hold = lab.target.write("sessions/hold", b"")
    with pytest.raises(MigrationError, match="was cut off: indexing 7 files"):
        lab.go_on(store, falls, laptop)

    def leaves(event: Event) -> None:
        if event.step == "index":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.go_on(store, leaves, laptop)
    assert (library().step, library().tries) == ("indexing", 3)
    seen: list[str] = []

    def breaks(event: Event) -> None:
        if event.step == "index" and not seen:
            assert lab.cut_off()
            hold.unlink()
        if event.step == "index":
            seen.append(event.item)

    lab.go_on(store, breaks, laptop)
    assert seen == ["indexing 7 files", "done"], "read on from where it was"
    assert (lab.runs(), library().tries, library().code) == (3, 3, 0), "not started again"
    assert reindex.verify(lab.run(store, source=laptop)).outcome == "same"
