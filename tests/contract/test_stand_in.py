"""What only the stand-in can be put through here: stops, kills, keys in rotation, its audit log."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from contract_server import Server
from pydantic import SecretStr
from stand_in_process import PROGRAM, StandIn, make

from ops.clients.snapshots import Snapshots
from ops.errors import ServiceError

KEY = secrets.token_hex(24)


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    made = make(tmp_path, KEY)
    yield made
    if made.process and made.process.poll() is None:
        made.stop(signal.SIGKILL)


def spoken_to(stand_in: StandIn, key: str = KEY) -> Server:
    return Server(stand_in.url, f"127.0.0.1:{stand_in.grpc_port}", key)


def fill(server: Server) -> None:
    body = {"vectors": {"size": 2, "distance": "Cosine"}, "metadata": {"team": "library"}}
    server.result("PUT", "/collections/kept", body)
    server.result("PUT", "/collections/gone", body)
    server.result(
        "PUT", "/collections/kept/index?wait=true", {"field_name": "n", "field_schema": "integer"}
    )
    points = [{"id": n, "vector": [1, n], "payload": {"n": n}} for n in range(200)]
    server.result("PUT", "/collections/kept/points?wait=true", {"points": points})
    alias = {"create_alias": {"collection_name": "kept", "alias_name": "library"}}
    server.result("POST", "/collections/aliases", {"actions": [alias]})
    server.result("DELETE", "/collections/gone")


def state(server: Server) -> dict[str, Any]:
    body = {"limit": 300, "with_vector": True}
    return {
        "collections": server.result("GET", "/collections"),
        "aliases": server.result("GET", "/aliases"),
        "info": server.result("GET", "/collections/kept"),
        "points": server.result("POST", "/collections/library/points/scroll", body),
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_everything_is_there_after_a_restart(stand_in: StandIn, number: signal.Signals) -> None:
    stand_in.start()
    fill(spoken_to(stand_in))
    before = state(spoken_to(stand_in))
    assert len(before["points"]["points"]) == 200
    assert stand_in.stop(number) == (0 if number == signal.SIGTERM else -number)
    stand_in.start()
    assert state(spoken_to(stand_in)) == before


def test_a_stop_answers_what_it_was_asked(stand_in: StandIn) -> None:
    stand_in.start()
    fill(spoken_to(stand_in))
    body = json.dumps({"points": [{"id": 7, "vector": [1, 7]}]}).encode()
    head = f"PUT /collections/kept/points?wait=true HTTP/1.1\r\napi-key: {KEY}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", stand_in.http_port), timeout=10) as asking:
        asking.sendall(head.encode() + body[:10])
        assert stand_in.process
        stand_in.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        with contextlib.suppress(ConnectionRefusedError):
            while time.monotonic() < deadline:
                socket.create_connection(("127.0.0.1", stand_in.http_port), timeout=1).close()
                time.sleep(0.02)
        assert stand_in.process.poll() is None
        asking.sendall(body[10:])
        assert b" 200 " in asking.recv(100).splitlines()[0]
    assert stand_in.process.wait(10) == 0


def test_it_says_what_it_is(stand_in: StandIn) -> None:
    stand_in.start()
    assert stand_in.log.startswith("STAND-IN for qdrant 1.19.0, built on qdrant-edge-py")


def test_its_image_has_the_versions_it_is_tested_with() -> None:
    lines = (PROGRAM / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert "qdrant-edge-py" in pins
    assert pins == {name: version(name) for name in pins}


def test_what_it_lacks_it_refuses_by_name(stand_in: StandIn) -> None:
    stand_in.start()
    server = spoken_to(stand_in)
    server.result("PUT", "/collections/a", {"vectors": {"size": 2, "distance": "Dot"}})
    for path in ("/snapshots", "/collections/a/facet"):
        status, words = server.refused("POST", path, {})
        assert status == 501
        assert words.startswith("The stand-in for Qdrant has no ")


def test_keys_overlap_while_they_are_rotated(tmp_path: Path) -> None:
    following, reading = secrets.token_hex(24), secrets.token_hex(24)
    stand_in = make(tmp_path, KEY, {"alt_api_key": following, "read_only_api_key": reading})
    stand_in.start()
    try:
        server = spoken_to(stand_in)
        new = {"vectors": {"size": 2, "distance": "Dot"}}
        for secret in (KEY, following, server.token(access="m"), server.token(following)):
            assert server.send("PUT", "/collections/a", new, api_key=secret).status_code == 200
            assert server.send("DELETE", "/collections/a", api_key=secret).status_code == 200
        assert server.send("GET", "/collections", api_key=reading).status_code == 200
        assert server.send("PUT", "/collections/a", new, api_key=reading).status_code == 403
        signed = server.token(reading, access="r")  # the read-only key signs no tokens
        assert server.send("GET", "/collections", api_key=signed).status_code == 403
    finally:
        stand_in.stop()


def test_the_environment_outvotes_the_file_and_an_empty_key_is_none(stand_in: StandIn) -> None:
    stand_in.start(QDRANT__SERVICE__API_KEY="")
    assert spoken_to(stand_in).send("GET", "/collections", accept="*/*").status_code == 200
    assert "WARN no service.api_key" in stand_in.log
    assert stand_in.stop() == 0
    other = secrets.token_hex(24)
    stand_in.start(QDRANT__SERVICE__API_KEY=other, QDRANT__SERVICE__JWT_RBAC="false")
    server = spoken_to(stand_in)
    assert server.send("GET", "/collections").status_code == 401
    assert server.send("GET", "/collections", api_key=other).status_code == 200
    assert server.send("GET", "/collections", api_key=server.token(other)).status_code == 401


def test_tls_is_refused_and_not_left_out(stand_in: StandIn) -> None:
    with pytest.raises(AssertionError, match="the stand-in has no TLS"):
        stand_in.start(QDRANT__SERVICE__ENABLE_TLS="true")


def test_the_audit_log_names_who_did_what(stand_in: StandIn) -> None:
    stand_in.start(QDRANT__AUDIT__TRUST_FORWARDED_HEADERS="true")
    server = spoken_to(stand_in)
    server.result("PUT", "/collections/a", {"vectors": {"size": 2, "distance": "Dot"}})
    token = server.token(subject="bob", access=[{"collection": "a", "access": "r"}])
    server.send("GET", "/collections/a", api_key=token, x_forwarded_for="198.51.100.7")
    server.send("PUT", "/collections/a/points", {"points": []}, api_key=token)
    server.send("GET", "/collections", api_key="wrong")
    server.send("GET", "/metrics")
    (file,) = (stand_in.folder / "storage/audit").glob("audit.*.log")
    assert KEY not in file.read_text()
    assert token not in file.read_text()
    created, read, denied, refused = (json.loads(line) for line in file.read_text().splitlines())
    today = time.strftime("%Y-%m-%dT", time.gmtime())
    assert all(e.pop("timestamp").startswith(today) for e in (created, read, denied, refused))
    assert created == {
        "method": "create_collection",
        "api": "/collections/a",
        "auth_type": "ApiKey",
        "remote": "127.0.0.1",
        "result": "ok",
    }
    by_bob = {"auth_type": "Jwt", "subject": "bob", "collection": "a"}
    assert read == by_bob | {
        "method": "get_collection",
        "api": "/collections/a",
        "remote": "198.51.100.7",
        "result": "ok",
    }
    assert denied == by_bob | {
        "method": "upsert_points",
        "api": "/collections/a/points",
        "remote": "127.0.0.1",
        "result": "denied",
        "error": "Forbidden: Write access to collection a is required",
    }
    assert refused == {
        "api": "/collections",
        "auth_type": "None",
        "remote": "127.0.0.1",
        "result": "denied",
        "error": "Unauthorized: Invalid API key or JWT",
    }


def snapshot_of(server: Server, collection: str) -> tuple[str, bytes]:
    made = server.result("POST", f"/collections/{collection}/snapshots")
    path = f"/collections/{collection}/snapshots/{made['name']}"
    return made["name"], server.send("GET", path).content


def test_a_file_of_the_snapshot_folder_is_recovered(stand_in: StandIn) -> None:
    stand_in.start()
    server = spoken_to(stand_in)
    fill(server)
    name, content = snapshot_of(server, "kept")
    folder = stand_in.folder / "snapshots/kept"
    assert (folder / name).read_bytes() == content
    assert (folder / f"{name}.checksum").read_text() == hashlib.sha256(content).hexdigest()
    body = {"location": f"file://{folder / name}", "priority": "snapshot"}
    wrong = server.refused("PUT", "/collections/a/snapshots/recover", body | {"checksum": "3" * 64})
    assert wrong[0] == 400
    assert wrong[1].startswith("Wrong input: Snapshot checksum mismatch: expected 333")
    assert server.result("PUT", "/collections/a/snapshots/recover", body) is True
    count = server.result("POST", "/collections/a/points/count", {"exact": True})
    assert count == {"count": 200}
    (stand_in.folder / "snapshots/kept/link.snapshot").symlink_to("/etc/passwd")
    outside = {"location": f"file://{folder}/link.snapshot"}
    assert server.refused("PUT", "/collections/b/snapshots/recover", outside)[0] == 403


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_restored_is_there_after_a_restart(
    stand_in: StandIn, number: signal.Signals
) -> None:
    stand_in.start()
    server = spoken_to(stand_in)
    fill(server)
    name, _ = snapshot_of(server, "kept")
    before = state(server)
    server.result("POST", "/collections/kept/points/delete?wait=true", {"points": [1, 2]})
    body = {"location": f"file://{stand_in.folder}/snapshots/kept/{name}"}
    assert server.result("PUT", "/collections/kept/snapshots/recover", body) is True
    stand_in.stop(number)
    stand_in.start()
    assert state(server) == before
    assert len(server.result("GET", "/collections/kept/snapshots")) == 1


def test_any_flipped_bit_is_found_without_a_checksum(stand_in: StandIn) -> None:
    """The real server finds it by the checksum alone; here nothing may slip through."""
    stand_in.start()
    server = spoken_to(stand_in)
    fill(server)
    name, content = snapshot_of(server, "kept")
    file = stand_in.folder / "snapshots/kept" / name
    before = state(server)
    for position in (0, 600, len(content) // 3, len(content) - 200, len(content) - 1):
        damaged = bytearray(content)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        body = {"location": f"file://{file}"}
        for target in ("kept", "new"):
            path = f"/collections/{target}/snapshots/recover"
            assert server.refused("PUT", path, body)[0] == 500
    assert state(server) == before


def test_a_full_disk_leaves_no_part_of_a_snapshot(stand_in: StandIn) -> None:
    stand_in.start()
    server = spoken_to(stand_in)
    fill(server)
    assert stand_in.process is not None
    limit = 4096  # no file may become larger
    resource.prlimit(stand_in.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    status, words = server.refused("POST", "/collections/kept/snapshots")
    assert (status, words[:24]) == (500, "Service internal error: ")
    snapshots = stand_in.folder / "snapshots"
    assert [path for path in snapshots.rglob("*") if path.is_file()] == []


def test_files_pass_through_without_lying_in_memory(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.start()
    server = spoken_to(stand_in)
    fill(server)
    assert stand_in.process is not None

    def peak() -> int:
        """In kB."""
        status = Path(f"/proc/{stand_in.process and stand_in.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    snapshot_of(server, "kept")
    before, file = peak(), tmp_path / "big"
    with file.open("wb") as opened:
        opened.truncate(200 * 1024**2)
    with (
        Snapshots(server.url, SecretStr(KEY)) as snapshots,
        pytest.raises(ServiceError, match="Malformed"),
    ):
        snapshots.upload("kept", file, checksum="", timeout=60)
    big = stand_in.folder / "snapshots/kept/big.snapshot"
    file.rename(big)
    with Snapshots(server.url, SecretStr(KEY)) as snapshots:
        snapshots.download("kept", big.name, tmp_path / "again", size=200 * 1024**2)
    assert peak() < before + 40 * 1024
