"""What a restore does to developers' tokens: the revoked stay dead, the living live on.

A real server process (the stand-in on Qdrant's own engine) on real folders, switched by renames;
in the place of Docker stand the starting and stopping of that process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from killing import Killer, Step, Work
from stand_in_process import StandIn, make

from ops.backup.manifest import QdrantFacts, new_run
from ops.backup.qdrant import QdrantCollector
from ops.backup.source import Event, Tell, silent
from ops.errors import BackupError, StackroomError
from ops.restore import access, switch
from ops.restore.access import Access
from ops.restore.collection import restore_collection
from ops.restore.journal import Journal, pending, place
from ops.restore.live import LiveQdrant
from ops.settings.host import Credentials, HostConfig, QdrantSource
from ops.settings.people import ACCESS_COLLECTION

pytestmark = pytest.mark.services
KEY = "the-key-of-this-qdrant-0123456789"
PATH = f"/collections/{ACCESS_COLLECTION}"
TINY = {"size": 1, "distance": "Dot"}
ALIVE, REFUSED = 200, (401, 403)
# one for all requests, and none of them on a connection to a server that has been stopped since
HTTP = httpx.Client(
    verify=False,  # noqa: S501 - plain HTTP on loopback
    timeout=60,
    limits=httpx.Limits(max_keepalive_connections=0),
)


@dataclass
class Machine:
    """A Qdrant whose data lie in `storage`, and which anybody can start and stop by its pid."""

    folder: Path
    server: StandIn
    tokens: dict[str, str] = field(default_factory=dict)  # name -> id

    @property
    def storage(self) -> Path:
        return self.server.folder / "storage"

    @property
    def rebuilt(self) -> Path:
        return self.server.folder / "rebuilt"

    def start(self) -> None:
        if self.pid():
            return
        # of nobody here: a killed restore does not take it along
        self.server.start()
        assert self.server.process
        self._pid_file.write_text(str(self.server.process.pid))
        with (self.folder / "starts").open("a") as starts:
            starts.write("x")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if pid := self.pid():
            os.kill(pid, number)
            while self.pid():
                time.sleep(0.02)

    def started(self) -> str:
        """When, as Docker's StartedAt: another word after each start."""
        path = self.folder / "starts"
        return path.read_text() if path.exists() else ""

    @property
    def _pid_file(self) -> Path:
        return self.folder / "pid"

    def pid(self) -> int:
        """0 where it does not run."""
        if not self._pid_file.exists():
            return 0
        pid = int(self._pid_file.read_text())
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return 0
        return 0 if state == "Z" else pid

    def send(self, method: str, path: str, body: Any = None) -> Any:
        answer = HTTP.request(method, self.server.url + path, json=body, headers={"api-key": KEY})
        assert answer.status_code == 200, f"{method} {path}: {answer.text}"
        return answer.json()["result"]

    def deploy(self, *names: str) -> None:
        """What a deploy does to the access points: exactly these developers' tokens."""
        listed = self.send("GET", "/collections")["collections"]
        if {"name": ACCESS_COLLECTION} not in listed:
            self.send("PUT", PATH, {"vectors": {}})
            index = {"field_name": "token", "field_schema": "keyword"}
            self.send("PUT", f"{PATH}/index?wait=true", index)
        there = self.points()
        gone = [point for point, who in there.items() if who not in names]
        if gone:
            self.send("POST", f"{PATH}/points/delete?wait=true", {"points": gone})
        for name in names:
            token = self.tokens.setdefault(name, str(uuid.uuid4()))
            point = {"id": token, "vector": {}, "payload": {"token": token, "developer": name}}
            self.send("PUT", f"{PATH}/points?wait=true", {"points": [point]})

    def points(self) -> dict[str, str]:
        found = self.send("POST", f"{PATH}/points/scroll", {"limit": 100})["points"]
        return {point["id"]: point["payload"]["developer"] for point in found}

    def status(self, name: str) -> int:
        """What a developer's own request is answered; 0 by nobody."""
        claims = {
            "subject": name,
            "exp": int(time.time()) + 3600,
            "access": [{"collection": "books", "access": "r"}],
            "value_exists": {
                "collection": ACCESS_COLLECTION,
                "matches": [{"key": "token", "value": self.tokens[name]}],
            },
        }
        token = jwt.encode(claims, KEY, "HS256")
        try:
            return HTTP.post(
                f"{self.server.url}/collections/books/points/count",
                json={},
                headers={"api-key": token},
            ).status_code
        except httpx.TransportError:
            return 0

    def let_in(self, *names: str) -> None:
        """These and nobody else of those who ever had a token."""
        self.start()
        found = {name: self.status(name) for name in self.tokens}
        assert {name for name, status in found.items() if status == ALIVE} == set(names), found
        assert all(status in (ALIVE, *REFUSED) for status in found.values()), found

    def books(self) -> int:
        return int(self.send("POST", "/collections/books/points/count", {"exact": True})["count"])

    def fill(self, books: int) -> None:
        self.send("PUT", "/collections/books", {"vectors": TINY})
        points = [{"id": n, "vector": [1.0]} for n in range(1, books + 1)]
        self.send("PUT", "/collections/books/points?wait=true", {"points": points})

    def rebuild(self) -> None:
        """New data as a rehearsal leaves them: a backup's collections, no access points."""
        shutil.copytree(self.folder / "template", self.rebuilt)

    def lay_template(self, *, books: int = 2) -> None:
        """Of the rebuilt data; only on a machine without data."""
        self.start()
        self.fill(books)
        self.stop()
        self.storage.rename(self.folder / "template")

    def journal(self) -> Journal:
        run = new_run()
        return Journal(
            run=run,
            backup=run,
            state="switching",
            places=[place("qdrant", self.storage, self.rebuilt, run)],
            containers=["qdrant"],
            ran=["qdrant"],
            qdrants=[LiveQdrant(url=self.server.url, counts={"books": (2, 2)})],
            access=[Access(source="qdrant", container="qdrant", url=self.server.url)],
        )


def stand_for_docker(
    machine: Machine, change: Callable[[object, str, object], None] = setattr
) -> None:
    def start(_: Sequence[str], tell: Tell = silent) -> None:
        tell(Event("switch:start", "qdrant"))
        machine.start()

    def stop(_: Sequence[str], tell: Tell = silent) -> None:
        tell(Event("switch:stop", "qdrant"))
        machine.stop()

    change(switch, "start", start)
    change(switch, "stop", stop)
    change(access, "_started", lambda _: machine.started())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Three books, and tokens of anna and bob; the rebuilt data have two books."""
    (tmp_path / "server").mkdir()
    found = Machine(tmp_path, make(tmp_path / "server", KEY))

    stand_for_docker(found, monkeypatch.setattr)
    found.lay_template()
    found.rebuild()
    found.start()
    found.fill(3)
    found.deploy("anna", "bob")
    try:
        yield found
    finally:
        found.stop(signal.SIGKILL)


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    base = tmp_path / "state" / "backup"
    base.mkdir(parents=True)
    return HostConfig(
        environment="team", stack="qdrant", stackroom="1", base=base, repositories=[], sources=[]
    )


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "qdrant_api_key").write_text(KEY)
    return Credentials(folder)


@contextlib.contextmanager
def never_let_in(machine: Machine, *names: str) -> Iterator[None]:
    """Ask again and again, from beginning to end."""
    seen: list[tuple[str, int]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            seen.extend((name, machine.status(name)) for name in names)
            time.sleep(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        done.set()
        asking.join()
    assert seen and [entry for entry in seen if entry[1] == ALIVE] == []


def restoring(machine: Machine, config: HostConfig, credentials: Credentials) -> Work:
    arguments = (config, credentials, machine.journal())
    return Work(switch.switch, arguments, before=partial(stand_for_docker, machine))


def test_a_restore_and_its_undo_end_with_those_who_may_come_in_at_that_moment(
    machine: Machine, config: HostConfig, credentials: Credentials
) -> None:
    machine.deploy("anna")  # bob is removed
    with never_let_in(machine, "bob"):
        assert switch.switch(config, credentials, machine.journal()) == ""
        machine.let_in("anna")
        assert machine.books() == 2
        machine.deploy("anna", "carol")
        machine.deploy("carol")  # anna was let in when the old data were put aside
    with never_let_in(machine, "bob", "anna"):
        told = switch.undo(config, credentials)
        assert "refused" not in told
        machine.let_in("carol")
        assert machine.books() == 3
    switch.confirm(config)
    # a deploy has nothing left to do
    assert list(machine.points().values()) == ["carol"]
    assert "token" in machine.send("GET", PATH)["payload_schema"]


def test_the_old_data_that_are_put_aside_know_of_no_token(
    machine: Machine, config: HostConfig, credentials: Credentials
) -> None:
    journal = machine.journal()
    switch.switch(config, credentials, journal)
    machine.stop()
    machine.storage.rename(machine.storage.with_name("new"))
    journal.places[0].old.rename(machine.storage)
    machine.let_in()
    assert machine.books() == 3


def test_killed_at_any_step_of_a_restore_nobody_is_lost_and_nobody_comes_back(
    machine: Machine, config: HostConfig, credentials: Credentials, killer: Killer
) -> None:
    machine.deploy("anna")
    outcomes = []
    for number in range(1, 100):
        with never_let_in(machine, "bob"):
            if not killer.kill_at(Step(number=number), restoring(machine, config, credentials)):
                break
            told = switch.settle(config, credentials)
            assert "refused" not in told, (number, told)
            machine.let_in("anna")
        outcomes.append(machine.books())
        if machine.books() == 2:
            switch.undo(config, credentials)
            switch.confirm(config)
            machine.let_in("anna")
        assert machine.books() == 3 and pending(config) is None
        if not machine.rebuilt.exists():
            machine.rebuild()
    machine.let_in("anna")
    # journal, withdraw, stop, two renames; start, access, check, done
    assert outcomes == [3] * 5 + [2] * 4


def test_killed_at_any_step_of_an_undo_nobody_is_lost_and_nobody_comes_back(
    machine: Machine, config: HostConfig, credentials: Credentials, killer: Killer
) -> None:
    undoing = Work(switch.undo, (config, credentials), before=partial(stand_for_docker, machine))
    for number in range(1, 100):
        machine.deploy("anna", "bob")
        switch.switch(config, credentials, machine.journal())
        machine.deploy("bob")
        with never_let_in(machine, "anna"):
            if not killer.kill_at(Step(number=number), undoing):
                break
            assert "undone" in switch.settle(config, credentials)
            machine.let_in("bob")
        assert machine.books() == 3
        switch.confirm(config)
        machine.rebuild()
    machine.let_in("bob")
    assert number == 6  # stop, two renames, start, access: and one that is not killed


def test_who_was_removed_between_a_kill_and_the_next_run_stays_out(
    machine: Machine, config: HostConfig, credentials: Credentials, killer: Killer
) -> None:
    """At every step; where a server runs, the deploy that removes bob reaches it."""
    for number in range(1, 100):
        machine.deploy("anna", "bob")
        if not killer.kill_at(Step(number=number), restoring(machine, config, credentials)):
            break
        if machine.storage.exists():
            machine.start()
            machine.deploy("anna")
            crashed = number % 2 == 0
            if crashed:  # so that nobody can ask it any more
                machine.stop(signal.SIGKILL)
            with never_let_in(machine, "bob"):
                told = switch.settle(config, credentials)
            assert crashed or "refused" not in told
            machine.start()
            assert machine.status("bob") in REFUSED, number
            assert crashed or machine.status("anna") == ALIVE, number
            assert machine.status("anna") == ALIVE or "refused" in told, (number, told)
        else:
            switch.settle(config, credentials)
            machine.let_in("anna", "bob")
        if machine.books() == 2:
            switch.undo(config, credentials)
            switch.confirm(config)
        if not machine.rebuilt.exists():
            machine.rebuild()
    assert number == 10


def test_a_qdrant_that_cannot_be_asked_leaves_nobody_in_and_it_is_said(
    machine: Machine, config: HostConfig, credentials: Credentials
) -> None:
    machine.stop()
    told = switch.switch(config, credentials, machine.journal())
    assert "stackroom -e team deploy" in told and "refused" in told
    machine.let_in()
    assert machine.books() == 2
    # a deploy lets in who may come in now; an undo to the old data, which let in both, keeps to it
    machine.deploy("anna")
    assert "refused" not in switch.undo(config, credentials)
    machine.let_in("anna")
    assert machine.books() == 3


def test_restored_data_that_cannot_be_asked_leave_nobody_in_after_an_undo(
    machine: Machine, config: HostConfig, credentials: Credentials
) -> None:
    switch.switch(config, credentials, machine.journal())
    machine.deploy("anna")
    machine.stop(signal.SIGKILL)
    assert "stackroom -e team deploy" in switch.undo(config, credentials)
    machine.let_in()
    machine.deploy("anna")
    machine.let_in("anna")


def test_restored_data_that_do_not_serve_give_the_old_ones_their_points_back(
    machine: Machine, config: HostConfig, credentials: Credentials
) -> None:
    journal = machine.journal()
    too_many = LiveQdrant(url=machine.server.url, counts={"books": (9, 9)})
    with pytest.raises(BackupError, match=r"are back and served$"):
        switch.switch(config, credentials, journal.model_copy(update={"qdrants": [too_many]}))
    machine.let_in("anna", "bob")
    assert machine.books() == 3


def test_a_collection_of_which_nobody_can_say_whether_it_was_filled_lets_nobody_in(
    machine: Machine, config: HostConfig, credentials: Credentials, killer: Killer
) -> None:
    """Killed before the points came in looks like a deploy that has removed everybody since."""
    # started, and given nothing yet
    assert killer.kill_at(Step(number=7), restoring(machine, config, credentials))
    machine.send("PUT", PATH, {"vectors": {}})
    told = switch.settle(config, credentials)
    assert "finished" in told and "stackroom -e team deploy" in told
    machine.let_in()


def test_a_stack_without_tokens_stays_without_and_says_nothing(
    machine: Machine, config: HostConfig, credentials: Credentials
) -> None:
    machine.send("DELETE", PATH)
    assert switch.switch(config, credentials, machine.journal()) == ""
    assert "refused" not in switch.undo(config, credentials)
    listed = machine.send("GET", "/collections")["collections"]
    assert [each["name"] for each in listed] == ["books"]


def test_nobody_removes_a_developer_while_the_data_are_switched(
    machine: Machine, config: HostConfig, credentials: Credentials
) -> None:
    """The lock of deploys, taken with flock(1) as a deploy takes it."""
    lock = config.base.parent / "deploy.lock"
    held: list[int] = []

    def tell(event: Event) -> None:
        if event.step.startswith("switch:"):
            held.append(subprocess.run(["flock", "-n", lock, "true"], check=False).returncode)

    switch.switch(config, credentials, machine.journal(), tell)
    switch.undo(config, credentials, tell)
    assert set(held) == {1} and len(held) == 14
    assert subprocess.run(["flock", "-n", lock, "true"], check=False).returncode == 0


def test_a_backup_takes_every_collection_but_the_access_points(
    machine: Machine, credentials: Credentials, tmp_path: Path
) -> None:
    source = QdrantSource(url=machine.server.url, container="", image="qdrant/qdrant:v1.19.0")
    staging = tmp_path / "staging"
    staging.mkdir()
    collected = QdrantCollector(source, credentials).collect(staging, silent)
    assert isinstance(collected.facts, QdrantFacts)
    assert [each.name for each in collected.facts.collections] == ["books"]
    assert [item.path for item in collected.items] == ["qdrant/books.snapshot"]
    assert machine.send("GET", f"{PATH}/snapshots") == []


def test_a_restore_never_brings_back_or_makes_the_collection_itself(
    config: HostConfig, credentials: Credentials
) -> None:
    for choice in (
        {"name": ACCESS_COLLECTION},
        {"name": "books", "new_name": ACCESS_COLLECTION},
        {"name": "books", "alias": ACCESS_COLLECTION},
    ):
        with pytest.raises(StackroomError, match="never backed up or restored") as error:
            restore_collection(config, credentials, **choice)
        assert error.value.hint
