"""Snapshots as the server gives and takes them: files, checksums, refusals, who may do what."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from contract_server import Server

NewName = Callable[[], str]


@pytest.fixture
def tidy(server: Server, collection: str) -> Iterator[None]:
    yield
    for entry in server.result("GET", f"/collections/{collection}/snapshots"):
        server.result("DELETE", f"/collections/{collection}/snapshots/{entry['name']}")


@pytest.fixture
def snapshot(server: Server, collection: str, tidy: None) -> dict[str, Any]:
    made: dict[str, Any] = server.result("POST", f"/collections/{collection}/snapshots?wait=true")
    return made


@pytest.fixture
def content(server: Server, collection: str, snapshot: dict[str, Any]) -> bytes:
    return server.send("GET", f"/collections/{collection}/snapshots/{snapshot['name']}").content


def upload(
    server: Server, name: str, file: bytes, query: str = "wait=true", **headers: str
) -> httpx.Response:
    return httpx.post(
        f"{server.url}/collections/{name}/snapshots/upload?{query}",
        files={"snapshot": (f"{name}-given.snapshot", file)},
        headers=headers or {"api-key": server.key},
        timeout=60,
    )


def points(server: Server, name: str) -> list[dict[str, Any]]:
    body = {"limit": 1000, "with_payload": True, "with_vector": True}
    found = server.result("POST", f"/collections/{name}/points/scroll", body)["points"]
    return sorted(found, key=lambda point: str(point["id"]))


def refused(server: Server, method: str, path: str) -> tuple[int, str]:
    """Where a file would come the words are plain text, else JSON."""
    if method != "GET" or path.endswith("/snapshots"):
        return server.refused(method, path)
    answer = server.send(method, path)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return answer.status_code, answer.text


def exists(server: Server, name: str) -> bool:
    return bool(server.result("GET", f"/collections/{name}/exists")["exists"])


def forget_uploaded(server: Server, name: str) -> None:
    server.send("DELETE", f"/collections/{name}/snapshots/{name}-given.snapshot")


def test_a_snapshot_says_its_name_its_size_and_its_checksum(
    server: Server, collection: str, snapshot: dict[str, Any]
) -> None:
    found = re.fullmatch(rf"{collection}-\d+-(\d{{4}}(-\d\d){{5}})\.snapshot", snapshot["name"])
    assert found is not None
    begun = datetime.strptime(found[1], "%Y-%m-%d-%H-%M-%S").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - begun).total_seconds()) < 60
    assert server.result("GET", f"/collections/{collection}/snapshots") == [snapshot]
    path = f"/collections/{collection}/snapshots/{snapshot['name']}"
    # the real server compresses for whoever does not refuse it, and then there is no length
    whole = {"api_key": server.key, "accept_encoding": "identity"}
    answer = server.send("GET", path, **whole)
    assert answer.headers["content-length"] == str(snapshot["size"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert len(answer.content) == snapshot["size"]
    assert hashlib.sha256(answer.content).hexdigest() == snapshot["checksum"]


def test_a_deleted_snapshot_is_gone(
    server: Server, collection: str, snapshot: dict[str, Any]
) -> None:
    path = f"/collections/{collection}/snapshots/{snapshot['name']}"
    assert server.result("DELETE", f"{path}?wait=true") is True
    assert server.result("GET", f"/collections/{collection}/snapshots") == []
    for method in ("GET", "DELETE"):
        words = f"Not found: Snapshot {snapshot['name']} not found"
        assert refused(server, method, path) == (404, words)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ""), ("GET", ""), ("GET", "/a.snapshot"), ("DELETE", "/a.snapshot")],
)
def test_a_collection_that_is_not_there_has_no_snapshots(
    server: Server, method: str, path: str
) -> None:
    path = f"/collections/contract-absent/snapshots{path}"
    words = "Not found: Collection `contract-absent` doesn't exist!"
    assert refused(server, method, path) == (404, words)


@pytest.mark.parametrize("name", ["..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "a.snapshot"])
def test_a_name_leads_to_no_other_folder(
    server: Server, collection: str, snapshot: dict[str, Any], name: str
) -> None:
    for method in ("GET", "DELETE"):
        path = f"/collections/{collection}/snapshots/{name}"
        status, words = refused(server, method, path)
        assert (status, words[:20]) == (404, "Not found: Snapshot ")


def test_without_waiting_it_is_made_all_the_same(
    server: Server, collection: str, tidy: None
) -> None:
    path = f"/collections/{collection}/snapshots"
    answer = server.send("POST", f"{path}?wait=false")
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    deadline = time.monotonic() + 30
    while not server.result("GET", path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_new_name_gets_the_points_the_indexes_and_the_configuration(
    server: Server, collection: str, new_name: NewName
) -> None:
    index = {"field_name": "kind", "field_schema": "keyword"}
    server.result("PUT", f"/collections/{collection}/index?wait=true", index)
    made = server.result("POST", f"/collections/{collection}/snapshots")
    path = f"/collections/{collection}/snapshots/{made['name']}"
    file = server.send("GET", path).content
    server.result("DELETE", path)
    name = new_name()
    answer = upload(server, name, file, f"wait=true&priority=snapshot&checksum={made['checksum']}")
    assert (answer.status_code, answer.json()["result"]) == (200, True)
    assert points(server, name) == points(server, collection)
    restored, original = (
        server.result("GET", f"/collections/{each}") for each in (name, collection)
    )
    assert restored["config"] == original["config"]
    assert restored["payload_schema"] == original["payload_schema"] != {}
    forget_uploaded(server, name)


def test_points_that_are_there_are_replaced(
    server: Server, collection: str, content: bytes
) -> None:
    before = points(server, collection)
    body = {"points": [{"id": 1, "vector": [9, 9, 9, 9]}, {"id": 77, "vector": [1, 0, 0, 0]}]}
    server.result("PUT", f"/collections/{collection}/points?wait=true", body)
    assert points(server, collection) != before
    assert upload(server, collection, content).status_code == 200
    assert points(server, collection) == before
    # and it is a collection as any other
    server.result("PUT", f"/collections/{collection}/points?wait=true", body)
    assert len(points(server, collection)) == 4


def test_the_uploaded_file_stays_beside_the_snapshots(
    server: Server, collection: str, snapshot: dict[str, Any], content: bytes
) -> None:
    assert upload(server, collection, content).status_code == 200
    listed = {s["name"]: s for s in server.result("GET", f"/collections/{collection}/snapshots")}
    given = listed.pop(f"{collection}-given.snapshot")
    assert given["size"] == snapshot["size"]
    assert "checksum" not in given
    assert list(listed.values()) == [snapshot]


def test_other_vectors_are_refused(server: Server, content: bytes, new_name: NewName) -> None:
    name = new_name()
    server.result("PUT", f"/collections/{name}", {"vectors": {"size": 3, "distance": "Cosine"}})
    body = {"points": [{"id": 5, "vector": [1, 2, 3]}]}
    server.result("PUT", f"/collections/{name}/points?wait=true", body)
    before = points(server, name)
    answer = upload(server, name, content)
    assert answer.status_code == 400
    reason = "Wrong input: Snapshot is not compatible with existing collection: Collection vectors"
    assert answer.json()["status"]["error"].startswith(reason)
    assert points(server, name) == before
    forget_uploaded(server, name)


def test_another_checksum_is_refused_before_anything_is_touched(
    server: Server, collection: str, content: bytes, new_name: NewName
) -> None:
    before, name = points(server, collection), new_name()
    for target in (name, collection):
        answer = upload(server, target, content, f"wait=true&checksum={'3' * 64}")
        assert answer.status_code == 400
        assert answer.json()["status"]["error"].startswith("Checksum mismatch: expected ")
    assert not exists(server, name)
    assert points(server, collection) == before
    assert len(server.result("GET", f"/collections/{collection}/snapshots")) == 1


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [flipped, lambda content: content[: len(content) // 2]])
def test_a_damaged_file_is_refused_by_its_checksum(
    server: Server,
    snapshot: dict[str, Any],
    content: bytes,
    new_name: NewName,
    damage: Callable[[bytes], bytes],
) -> None:
    name = new_name()
    query = f"wait=true&checksum={snapshot['checksum']}"
    assert upload(server, name, damage(content), query).status_code == 400
    assert not exists(server, name)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda _: b"no snapshot " * 100],
    ids=["truncated", "something else"],
)
def test_a_malformed_file_leaves_what_was_there(
    server: Server,
    collection: str,
    content: bytes,
    new_name: NewName,
    damage: Callable[[bytes], bytes],
) -> None:
    before, name = points(server, collection), new_name()
    for target in (name, collection):
        answer = upload(server, target, damage(content))
        assert answer.status_code == 500, answer.text
        assert answer.json()["status"]["error"].startswith("Service internal error: File")
    assert not exists(server, name)
    assert points(server, collection) == before


def test_a_form_without_a_snapshot_is_refused(server: Server, new_name: NewName) -> None:
    name = new_name()
    answer = httpx.post(
        f"{server.url}/collections/{name}/snapshots/upload",
        files={"other": b"x"},
        headers={"api-key": server.key},
    )
    assert (answer.status_code, answer.text) == (400, "Required field is missing: snapshot")
    answer = server.send("POST", f"/collections/{name}/snapshots/upload", {})
    words = "Parsed Content-Type did not have 'multipart' top-level media type"
    assert (answer.status_code, answer.text) == (415, words)
    assert not exists(server, name)


@pytest.mark.parametrize(
    ("location", "status", "words"),
    [
        (
            "file:///etc/passwd",
            403,
            "Forbidden: Snapshot file path must be inside the snapshots directory",
        ),
        ("file:///no.snapshot", 400, 'Bad request: Snapshot file "/no.snapshot" does not exist'),
        (
            "file://elsewhere/no.snapshot",
            400,
            "Bad request: Invalid snapshot URI, file path must be absolute or on localhost",
        ),
        ("ftp://a/b", 400, "Bad request: URL ftp://a/b with scheme ftp is not supported"),
    ],
)
def test_only_files_of_the_snapshot_folder_are_recovered(
    server: Server, new_name: NewName, location: str, status: int, words: str
) -> None:
    name = new_name()
    path = f"/collections/{name}/snapshots/recover?wait=true"
    found, reason = server.refused("PUT", path, {"location": location})
    assert (found, reason[: len(words)]) == (status, words)
    assert not exists(server, name)


# a letter for each level in turn: m, global r, and for the one collection rw, r, prw
LEVELS = ("m", "r", "rw:", "r:", "prw:")


def allowed(server: Server, collection: str, send: Callable[[str], httpx.Response]) -> str:
    found = ""
    for level in LEVELS:
        rule = [{"collection": collection, "access": level[:-1]}]
        token = server.token(access=rule if level.endswith(":") else level)
        answer = send(f"Bearer {token}")
        assert answer.status_code in (200, 403), answer.text
        found += "y" if answer.status_code == 200 else "n"
    return found


def test_who_may_make_fetch_and_delete(
    server: Server, collection: str, snapshot: dict[str, Any]
) -> None:
    path = f"/collections/{collection}/snapshots"

    def created_and_deleted(bearer: str) -> httpx.Response:
        made = server.send("POST", path, authorization=bearer)
        if made.status_code != 200:
            gone = server.send("DELETE", f"{path}/{snapshot['name']}", authorization=bearer)
            assert gone.status_code == 403, gone.text
            return made
        return server.send(
            "DELETE", f"{path}/{made.json()['result']['name']}", authorization=bearer
        )

    def fetched(bearer: str) -> httpx.Response:
        return server.send("GET", f"{path}/{snapshot['name']}", authorization=bearer)

    assert allowed(server, collection, fetched) == "yyyyn"
    time.sleep(1.1)  # a snapshot of the same second would have the same name
    assert allowed(server, collection, created_and_deleted) == "ynynn"


def test_only_the_full_key_restores(server: Server, collection: str, content: bytes) -> None:
    def restored(bearer: str) -> httpx.Response:
        return upload(server, collection, content, authorization=bearer)

    assert allowed(server, collection, restored) == "ynnnn"
    location = {"location": "file:///etc/passwd"}
    path = f"/collections/{collection}/snapshots/recover"
    reader = f"Bearer {server.token(access='r')}"
    refused = server.send("PUT", path, location, authorization=reader)
    words = "Forbidden: Global manage access is required"
    assert (refused.status_code, refused.json()["status"]["error"]) == (403, words)
