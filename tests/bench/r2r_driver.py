"""Measurements of a running R2R stack, made on its host with nothing but Python: `python3 -c`.

The work comes as one JSON object on standard input, secrets and all; what it took goes as JSON to
standard output. R2R is asked directly, on loopback, and through the edge, from the same place.
"""

import contextlib
import http.client
import json
import random
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

Json = dict[str, Any]

CGROUPS = Path("/sys/fs/cgroup")
STACK = "/etc/stackroom/stack"
MEMBERS = ("--filter", "label=com.docker.compose.project=stackroom", "--format", "{{.Names}}")
HEALTH = "/v3/health"  # a fixed answer: R2R does nothing for it
PATIENCE = 300  # seconds for one answer, and for one document
WORDS = """
shelf reader volume index binding page ladder lamp folio margin ledger stamp return queue archive
letter window cabinet desk thread ink map atlas quire spine catalogue drawer key
"""
WORDS_IN_A_TEXT, WORDS_IN_A_QUESTION = 120, 8


def told(*command: str) -> str:
    """What a program prints. Raises CalledProcessError."""
    done = subprocess.run(command, cwd=STACK, capture_output=True, text=True, check=True)
    return done.stdout


def containers() -> list[str]:
    """Those of the stack that run."""
    return sorted(told("docker", "ps", *MEMBERS).split())


# --- memory


def memory(_: Json) -> Json:
    """Bytes by container: in use without its file cache (as `docker stats` counts), the most since
    its start, with file cache (as its limit counts), and that limit."""
    return {name: memory_of(name) for name in containers()}


def memory_of(container: str) -> Json:
    pid, limit = told(
        "docker", "inspect", "-f", "{{.State.Pid}} {{.HostConfig.Memory}}", container
    ).split()
    groups = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    old = [path for _, controllers, path in groups if "memory" in controllers.split(",")]
    if old:
        folder, cache = CGROUPS / "memory" / old[0].lstrip("/"), "total_inactive_file"
        now, most = "memory.usage_in_bytes", "memory.max_usage_in_bytes"
    else:
        folder, cache = CGROUPS / groups[0][2].lstrip("/"), "inactive_file"
        now, most = "memory.current", "memory.peak"
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return {
        "now": int((folder / now).read_text()) - int(stat[cache]),
        "most": int((folder / most).read_text()),
        "limit": int(limit),
    }


# --- starts


def starts(_: Json) -> Json:
    """Stop all and start all: seconds until all are well, and by container from the moment its
    process is started until Docker first finds it healthy."""
    names = containers()
    began = time.time()
    with healthy_events() as healthy:
        told("docker", "compose", "stop")
        stopped = time.time()
        told("docker", "compose", "up", "--detach", "--wait", "--wait-timeout", str(PATIENCE))
        ended = time.time()
    took = {}
    for name in names:
        at = started(name)
        assert at > began, f"{name} was not started anew"
        took[name] = min(when for which, when in healthy if which == name and when > at) - at
    return {"stop": stopped - began, "start": ended - stopped, "healthy": took}


@contextlib.contextmanager
def healthy_events() -> Iterator[list[tuple[str, float]]]:
    """Container and moment of each of Docker's words "healthy" while the `with` block runs.

    A container's own log of its tests holds the last five alone.
    """
    filters = ("--filter", "type=container", "--filter", "event=health_status")
    command = ("docker", "events", *filters, "--format", "{{json .}}")
    found: list[tuple[str, float]] = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read() -> None:
        for line in process.stdout or ():
            event = json.loads(line)
            if event["Action"] == "health_status: healthy":
                found.append((event["Actor"]["Attributes"]["name"], event["timeNano"] / 1e9))

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(1)  # until it listens
    try:
        yield found
    finally:
        time.sleep(1)  # the last one may be on its way
        process.terminate()
        reader.join()


def started(container: str) -> float:
    said = told("docker", "inspect", "-f", "{{.State.StartedAt}}", container).strip()
    whole, _, fraction = said.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


# --- load


class Way:
    """One kept connection to R2R as one user; with a CA it is TLS, and that CA's alone."""

    def __init__(self, side: Json, token: str = "") -> None:
        self._connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(
                side["host"],
                side["port"],
                timeout=PATIENCE,
                context=ssl.create_default_context(cadata=side["ca"]),
            )
            if side["ca"]
            else http.client.HTTPConnection(side["host"], side["port"], timeout=PATIENCE)
        )
        self.token = token

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> Any:
        """R2R's `results`. Raises AssertionError for any refusal."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= {"Content-Type": kind} if kind else {}
        self._connection.request(method, path, body or None, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        assert answer.status < 300, f"{method} {path}: {answer.status} {text[:300]}"
        return json.loads(text)["results"]

    def login(self, user: Json) -> None:
        form = urllib.parse.urlencode({"username": user["email"], "password": user["password"]})
        kind = "application/x-www-form-urlencoded"
        made = self.ask("POST", "/v3/users/login", form.encode(), kind)
        self.token = made["access_token"]["token"]

    def search(self, question: str) -> int:
        """The number of passages found."""
        body = {"query": question, "search_settings": {"limit": 10}}
        path = "/v3/retrieval/search"
        found = self.ask("POST", path, json.dumps(body).encode(), "application/json")
        return len(found["chunk_search_results"])

    def bring(self, text: str) -> None:
        """A document, until it can be found; without a queue that is when R2R answers."""
        fields = {"raw_text": text, "ingestion_mode": "fast"}
        edge = uuid.uuid4().hex
        parts = (
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        form = "".join((*parts, f"--{edge}--\r\n"))
        kind = f"multipart/form-data; boundary={edge}"
        made = self.ask("POST", "/v3/documents", form.encode(), kind)
        ends = time.monotonic() + PATIENCE
        while made["task_id"]:
            status = self.ask("GET", f"/v3/documents/{made['document_id']}")["ingestion_status"]
            assert status != "failed" and time.monotonic() < ends, f"a document: {status}"
            if status == "success":
                return
            time.sleep(0.05)


class Load:
    """The sides take turns, a request each; who begins alternates."""

    def __init__(self, given: Json) -> None:
        self._given = given
        self._sides: dict[str, Json] = given["sides"]
        one = Way(next(iter(self._sides.values())))
        one.login(given["user"])
        one.close()
        self._token = one.token
        # the same texts never twice: R2R would answer that it has them
        self._random = random.Random(given["seed"])  # noqa: S311 - texts, not secrets
        self.number = 0

    def words(self, count: int) -> str:
        return " ".join(self._random.choices(WORDS.split(), k=count))

    def text(self) -> str:
        self.number += 1
        return f"{self._given['seed']} {self.number}: {self.words(WORDS_IN_A_TEXT)}"

    def way(self, side: str) -> Way:
        return Way(self._sides[side], self._token)

    def order(self, number: int) -> list[str]:
        return list(self._sides) if number % 2 else list(reversed(self._sides))

    def one_by_one(self, count: int, request: Callable[[Way], object]) -> dict[str, list[float]]:
        """Seconds of each request by side, over one connection of each side, kept."""
        with contextlib.ExitStack() as opened:
            ways = {name: self.way(name) for name in self._sides}
            took: dict[str, list[float]] = {name: [] for name in ways}
            for way in ways.values():
                opened.callback(way.close)
                way.ask("GET", HEALTH)  # connects
                request(way)  # does not count
            for number in range(count):
                for name in self.order(number):
                    began = time.perf_counter()
                    request(ways[name])
                    took[name].append(time.perf_counter() - began)
        return took

    def at_once(self, side: str) -> float:
        """Seconds for all documents of a turn, over several connections of one side."""
        count, workers = self._given["documents"], self._given["at_once"]
        ways = [self.way(side) for _ in range(workers)]
        texts = [self.text() for _ in range(count)]
        for way in ways:
            way.ask("GET", HEALTH)

        def work(number: int) -> None:
            for text in texts[number::workers]:
                ways[number].bring(text)

        began = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
        took = time.perf_counter() - began
        for way in ways:
            way.close()
        return took

    def turn(self, number: int) -> Json:
        """Seconds: of each document brought alone, of all brought at once, of each search, and of
        each request that does nothing."""
        brought = self.one_by_one(self._given["documents"], lambda way: way.bring(self.text()))
        together = {name: self.at_once(name) for name in self.order(number)}

        def search(way: Way) -> None:
            assert way.search(self.words(WORDS_IN_A_QUESTION)), "a search found nothing"

        searched = self.one_by_one(self._given["searches"], search)
        idle = self.one_by_one(self._given["searches"], lambda way: way.ask("GET", HEALTH))
        return {
            name: {
                "brought": brought[name],
                "together": together[name],
                "searched": searched[name],
                "idle": idle[name],
            }
            for name in self._sides
        }


def load(given: Json) -> Json:
    """All turns, and how many documents they have brought in."""
    work = Load(given)
    turns = [work.turn(number) for number in range(given["turns"])]
    return {"turns": turns, "documents": work.number}


if __name__ == "__main__":
    works = {"memory": memory, "starts": starts, "load": load}
    given = json.load(sys.stdin)
    print(json.dumps(works[given["work"]](given)))
