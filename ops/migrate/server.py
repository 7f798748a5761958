"""A Qdrant server as one end: plain REST, pages handed on as the bytes in which they came.

Measured beside gRPC and the official client on one machine: passing the JSON on is as fast as the
first and ten times as fast as the second, and it needs no second port. Memory stays bounded: an
answer that grows past MOST_BYTES is dropped and asked for again in smaller pieces.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from ops.clients.rest import (
    RefusedError,
    checked_url,
    key_headers,
    refusal,
    unreachable,
    verification,
)
from ops.errors import ServiceError, UnreachableError
from ops.migrate.side import (
    NEVER_MOVED,
    PAGE,
    CollectionInfo,
    Json,
    MigrationError,
    Page,
    PointId,
    Record,
    described,
    order,
    within,
    without_never_moved,
)

CONNECT_SECONDS = 10.0
SECONDS = 300.0  # a server under load may think about one batch for long
CONNECTIONS = 16
IDS = 8192  # ids of one answer
MOST_BYTES = 16 * 1024 * 1024  # of one answer with points; Qdrant takes 32 MiB at once
AGAIN = 3  # sendings of a request whose connection broke: each of them may be sent twice
HEAD, TAIL = b'"points":[', b'],"next_page_offset":'

# timeout, too many requests, starting or overloaded, no room (a quota)
WAIT_FOR = frozenset({408, 429, 502, 503, 504, 507})

NO_ROOM = re.compile("no space left|not enough space|disk space", re.IGNORECASE)

Pause = Callable[[float], None]


class BusyError(RefusedError):
    """A refusal that may pass: too many requests, too little room. `after`: the seconds that the
    server asks to wait, 0 where it says none."""

    def __init__(self, status: int, message: str, hint: str, after: float) -> None:
        super().__init__(status, message, hint)
        self.after = after


class Server:
    """See Side. `close` ends what it holds: connections, and a tunnel that was made for it."""

    is_server = True

    def __init__(
        self,
        name: str,
        url: str,
        api_key: SecretStr | None,
        *,
        ca_file: Path | None = None,
        key_hint: str = "",
        held: contextlib.ExitStack | None = None,
        most_bytes: int = MOST_BYTES,
        pause: Pause = time.sleep,
    ) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self.api_key, self.ca_file = api_key, ca_file
        self._key_hint = key_hint or "is this the server's own key, with the right to do this?"
        self._held = held or contextlib.ExitStack()
        self._most_bytes = most_bytes
        self._pause = pause
        self._caps: dict[str, int] = {}  # of a page, by strict mode
        self._http = httpx.Client(
            base_url=checked_url(url),
            verify=verification(ca_file),
            # compressing costs more than it saves, and a length lets a short answer be seen
            headers=key_headers(api_key) | {"accept-encoding": "identity"},
            timeout=httpx.Timeout(SECONDS, connect=CONNECT_SECONDS),
            trust_env=held is None,  # no proxy stands between us and our own tunnel
            limits=httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=4),
        )

    def version(self) -> str:
        answer = self._send("GET", "/")
        try:
            return str(json.loads(answer)["version"])
        except (ValueError, KeyError, TypeError):
            raise ServiceError(f"what answers at {self.name} is no Qdrant server") from None

    def collections(self) -> list[str]:
        listed = self.request("GET", "/collections")["collections"]
        return sorted({entry["name"] for entry in listed} - NEVER_MOVED)

    def aliases(self) -> dict[str, str]:
        listed = self.request("GET", "/aliases")["aliases"]
        return without_never_moved(
            {entry["alias_name"]: entry["collection_name"] for entry in listed}
        )

    def info(self, name: str) -> CollectionInfo:
        try:
            answer = self.request("GET", path_of(name))
        except RefusedError as error:
            if error.status == httpx.codes.NOT_FOUND:
                raise MigrationError(f"{self.name} has no collection {name}") from None
            raise
        led = [alias for alias, leads in self.aliases().items() if leads == name]
        custom = answer["config"]["params"].get("sharding_method") == "custom"
        keys = self._shard_keys(name) if custom else []
        return described(name, answer, self.count(name), led, keys)

    def _shard_keys(self, name: str) -> list[PointId]:
        found = self.request("GET", f"{path_of(name)}/cluster")
        shards = [*found["local_shards"], *found["remote_shards"]]
        return list({shard["shard_key"] for shard in shards if "shard_key" in shard})

    def count(self, name: str) -> int:
        found = self.request("POST", f"{path_of(name)}/points/count", {"exact": True})
        return int(found["count"])

    def ids(
        self, name: str, start: PointId | None = None, end: PointId | None = None
    ) -> Iterator[list[PointId]]:
        following = start
        while True:
            page = self.page(name, following, end, limit=IDS, vectors=False, payload=False)
            if page.count:
                yield [point["id"] for point in json.loads(b"[%b]" % page.points)]
            following = page.following
            if following is None:
                return

    def page(
        self,
        name: str,
        start: PointId | None = None,
        end: PointId | None = None,
        *,
        limit: int = PAGE,
        vectors: bool = True,
        payload: bool = True,
    ) -> Page:
        limit = min(limit, self._cap(name))
        while True:
            body = {"limit": limit, "with_vector": vectors, "with_payload": payload}
            asked = body | ({} if start is None else {"offset": start})
            answer = self._read(f"{path_of(name)}/points/scroll", asked, limit)
            if answer is not None:
                return cut(answer, limit, end)
            limit = max(1, limit // 4)

    def fetch(self, name: str, ids: Sequence[PointId]) -> list[Record]:
        body = {"ids": list(ids), "with_vector": True, "with_payload": True}
        found = self.request("POST", f"{path_of(name)}/points", body)
        return sorted(
            (
                Record(each["id"], each.get("vector", {}), each.get("payload") or {})
                for each in found
            ),
            key=lambda record: order(record.id),
        )

    def upsert(self, name: str, points: bytes) -> None:
        if points:
            path = f"{path_of(name)}/points?wait=true"
            self._send("PUT", path, b'{"points":[%b]}' % points)

    def delete(self, name: str, ids: Sequence[PointId]) -> None:
        if ids:
            self.request("POST", f"{path_of(name)}/points/delete?wait=true", {"points": list(ids)})

    def request(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        answer = self._send(method, path, content)
        try:
            return json.loads(answer)["result"]
        except (ValueError, KeyError, TypeError):
            raise ServiceError(f"{self.name} answered {method} {path} with no result") from None

    def close(self) -> None:
        self._http.close()
        self._held.close()

    def _cap(self, name: str) -> int:
        """How many points one page may have: strict mode refuses more."""
        if name not in self._caps:
            config = self.request("GET", path_of(name))["config"]
            strict = config.get("strict_mode_config") or {}
            limit = strict.get("max_query_limit") if strict.get("enabled") else None
            self._caps[name] = max(1, int(limit)) if limit else IDS
        return self._caps[name]

    def _send(self, method: str, path: str, content: bytes | None = None) -> bytes:
        """Raises UnreachableError, RefusedError. Whatever is sent here may arrive twice."""
        kind = {} if content is None else {"content-type": "application/json"}
        for attempt in range(1, AGAIN + 1):
            try:
                answer = self._http.request(method, path, content=content, headers=kind)
            except httpx.TransportError as error:
                self._broken(error, attempt)
                continue
            if not answer.is_success:
                raise self._refused(answer, f"{method} {path}")
            return answer.content
        raise AssertionError("the last attempt raises")

    def _read(self, path: str, body: Json, limit: int) -> bytes | None:
        """An answer with points; None where it is too big and could be smaller."""
        content = json.dumps(body).encode()
        kind = {"content-type": "application/json"}
        for attempt in range(1, AGAIN + 1):
            try:
                with self._http.stream("POST", path, content=content, headers=kind) as answer:
                    if not answer.is_success:
                        answer.read()
                        raise self._refused(answer, f"POST {path}")
                    if (
                        limit > 1
                        and int(answer.headers.get("content-length", 0)) > self._most_bytes
                    ):
                        return None
                    return self._taken(answer, limit)
            except httpx.TransportError as error:
                self._broken(error, attempt)
        raise AssertionError("the last attempt raises")

    def _taken(self, answer: httpx.Response, limit: int) -> bytes | None:
        taken: list[bytes] = []
        size = 0
        for piece in answer.iter_raw():
            taken.append(piece)
            size += len(piece)
            if size > self._most_bytes and limit > 1:
                return None
        return b"".join(taken)

    def _broken(self, error: httpx.TransportError, attempt: int) -> None:
        again = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
        if attempt == AGAIN or not again:
            raise self._silent(error) from None
        self._pause(0.1 * attempt)

    def _silent(self, error: httpx.TransportError) -> UnreachableError:
        return unreachable(self.name, error)

    def _refused(self, answer: httpx.Response, what: str) -> RefusedError:
        error = refusal(answer, self.name, what)
        if error.status in WAIT_FOR or NO_ROOM.search(error.message):
            return BusyError(error.status, error.message, error.hint, retry_after(answer))
        if error.status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return RefusedError(error.status, error.message, self._key_hint)
        return error


def path_of(name: str) -> str:
    """The URL path of a collection, whatever letters its name has."""
    return f"/collections/{quote(name, safe='')}"


def retry_after(answer: httpx.Response) -> float:
    """The seconds that a refusal asks to wait, 0 where it says none."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def cut(answer: bytes, limit: int, end: PointId | None) -> Page:
    """A page out of the JSON of a scroll, read as little as possible.

    Only what a payload cannot counterfeit is looked for: within a string every quote is escaped,
    the first HEAD is Qdrant's own, and so is the last TAIL.
    """
    begin, behind = answer.find(HEAD) + len(HEAD), answer.rfind(TAIL)
    try:
        if begin < len(HEAD) or behind < begin:
            raise ValueError
        rest = json.loads(b'{"result":{%b' % answer[behind + 2 :])
        following: PointId | None = rest["result"]["next_page_offset"]
    except (ValueError, KeyError, TypeError):
        raise ServiceError("Qdrant answered a scroll in an unknown form") from None
    points = answer[begin:behind]
    if following is not None and (end is None or order(following) <= order(end)):
        last = end is not None and order(following) == order(end)
        return Page(points, limit, None if last else following)
    found = json.loads(b"[%b]" % points)
    if end is None:
        return Page(points, len(found), None)
    inside = [point for point in found if within(point["id"], None, end)]
    if len(inside) < len(found):
        points = encoded(inside)
    return Page(points, len(inside), None)


def encoded(points: Sequence[Json]) -> bytes:
    """Points as `Page.points`. Raises ValueError for a number that JSON does not know."""
    return ",".join(
        json.dumps(point, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        for point in points
    ).encode()
