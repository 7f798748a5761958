"""Developers' access points on their way past a restore: what is revoked stays revoked.

A token is in force while its point lies in one collection, which is in no backup. The points that
the host has at the moment of a switch go over to the data that take the place of the old ones; no
folder that is put aside keeps any. Where nobody can say what they are, there are none: every token
is refused until a deploy. Nothing here mints or revokes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from ops.clients import docker
from ops.clients.rest import QdrantRest, RefusedError
from ops.errors import BackupError, StackroomError, UnreachableError
from ops.restore import answers
from ops.settings.host import QDRANT_API_KEY, Credentials
from ops.settings.people import ACCESS_COLLECTION

READY_SECONDS = 900.0  # Qdrant opens its port only after it has loaded every collection
INDEXED = "token"
PAGE = 1000
WITHDRAWN = f"{ACCESS_COLLECTION}.withdrawn"
PATH = answers.path_of(ACCESS_COLLECTION)
REASON = (
    f"{ACCESS_COLLECTION} says which developers' tokens are in force, and is never backed up or"
    " restored: what was revoked since would be in force again"
)


class Points(BaseModel):
    """The collection as it was read: the shape of its vectors, and every point."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vectors: dict[str, Any]
    points: list[dict[str, Any]]


class Access(BaseModel):
    """What one server had. `known` with `points` None: it has no such collection, so no token.

    `emptied`: the data that a restore puts aside have no collection any more. `still` is when its
    container had last been started, written down once it was stopped; "" before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    container: str
    url: str
    known: bool = False
    points: Points | None = None
    emptied: bool = False
    still: str = ""

    def unknown(self) -> Access:
        """Nobody can say any more which tokens are in force: none is."""
        return self.model_copy(update={"known": False, "points": None, "still": ""})


def refuse(collection: str) -> None:
    """Raises BackupError for the collection that no restore may bring back."""
    if collection == ACCESS_COLLECTION:
        raise BackupError(REASON, "stackroom -e <env> deploy  makes it what developers.toml says")


def read(access: Access, credentials: Credentials) -> Access:
    """What the server has now. Of one that cannot be read nothing is known; never raises."""
    with contextlib.suppress(StackroomError), _asking(access, credentials) as rest:
        points, _ = _read(rest)
        return access.unknown().model_copy(update={"known": True, "points": points})
    return access.unknown()


def read_again(
    accesses: Sequence[Access], credentials: Credentials, *, ours: bool = False
) -> list[Access]:
    """What was read once, after an interruption.

    The collection on the server that runs is the truth, whoever made it. Where there is none,
    what was read is still right: nobody can revoke in a collection that is not there. Where the
    server cannot be asked, it is right if nobody can have started the server since it was stopped:
    nobody has, by Docker's word, or only this very process could (`ours`).
    """
    return [_again(access, credentials, ours=ours) for access in accesses]


def to_give_back(
    accesses: Sequence[Access], credentials: Credentials, retired: Collection[str], *, ours: bool
) -> list[Access]:
    """What the old data have to be given, out of the middle of a switch; `retired`: the sources
    whose old data have left their place."""
    found = []
    for access in accesses:
        if access.source in retired or access.emptied:
            found.append(_again(access, credentials, ours=ours))
        elif access.known:
            # where they are they know best; they lack it only if a kill followed the withdrawal
            found.append(access.model_copy(update={"emptied": True}))
    return found


def _again(access: Access, credentials: Credentials, *, ours: bool) -> Access:
    if not access.emptied and not ours:
        # what answers may be the old data themselves, with points of before the restore
        return access.unknown()
    try:
        with _asking(access, credentials) as rest:
            points, indexed = _read(rest)
    except StackroomError:
        stands = bool(access.still) and _started(access.container) == access.still
        return access if ours or stands else access.unknown()
    if points is None:
        return access
    if _is_half(points, indexed=indexed):
        return access.unknown()
    return access.model_copy(update={"known": True, "points": points, "still": ""})


def withdraw(access: Access, credentials: Credentials) -> Access:
    """Let the server give the collection up. Raises StackroomError where it does not.

    From here on developers are refused: a kill leaves them locked out, and never let in.
    """
    if access.points is not None:
        with _asking(access, credentials) as rest:
            rest.request("DELETE", PATH)
    return access.model_copy(update={"emptied": access.known})


def stopped(access: Access) -> Access:
    """Once its container was stopped: what was read stays right until somebody starts it."""
    return access.model_copy(update={"still": _started(access.container)})


def strip(storage: Path) -> None:
    """Take the collection out of the folder of a server that stands still. Raises OSError.

    For one that could not be asked to give it up: Qdrant calls a collection's folder by its name,
    and loads what it finds.
    """
    folder, away = storage / "collections" / ACCESS_COLLECTION, storage / WITHDRAWN
    if away.is_dir():  # of one that was killed
        shutil.rmtree(away)
    if folder.is_dir():
        # at once: Qdrant does not start on half a collection
        folder.rename(away)
        shutil.rmtree(away)


def give(access: Access, credentials: Credentials, *, back: bool) -> bool:
    """Put the points on a server that was just started; whether those that it has now are right.

    A collection that is there already was made since, and stays as it is. But for one on the old
    data (`back`) that could not be emptied: that is of before the restore. Raises BackupError,
    StackroomError.
    """
    stale = back and not access.emptied
    if access.points is None and not stale:
        return access.known
    with _asking(access, credentials) as rest:
        answers.wait_until_ready(rest, access.url, seconds=READY_SECONDS)
        there, indexed = _read(rest)
        if there is not None and stale:
            rest.request("DELETE", PATH)
            there = None
        if access.points is None:
            return access.known
        if there is None:
            rest.request("PUT", PATH, {"vectors": access.points.vectors})
            if access.points.points:
                body = {"points": access.points.points}
                rest.request("PUT", f"{PATH}/points?wait=true", body)
        if not indexed:
            # last: with it the collection says of itself that all of its points are there
            index = {"field_name": INDEXED, "field_schema": "keyword"}
            rest.request("PUT", f"{PATH}/index?wait=true", index)
    return there is None or not _is_half(there, indexed=indexed)


def _is_half(points: Points, *, indexed: bool) -> bool:
    """Killed before the points came in; or a deploy has revoked them all since. Nobody can tell."""
    return not points.points and not indexed


def lost(environment: str) -> str:
    """What a person has to know where the points could not be carried over."""
    return (
        "which developers' tokens are in force could not be read off or written to Qdrant, so all"
        f" of them are refused until `stackroom -e {environment} deploy`"
    )


def _asking(access: Access, credentials: Credentials) -> QdrantRest:
    return QdrantRest(access.url, credentials.get(QDRANT_API_KEY))


def _read(rest: QdrantRest) -> tuple[Points | None, bool]:
    """The points, and whether they are indexed, which makes the collection whole."""
    try:
        info = rest.request("GET", PATH)
    except RefusedError as error:
        if error.status == httpx.codes.NOT_FOUND:
            return None, False
        raise
    found: list[dict[str, Any]] = []
    offset = None
    while True:
        body = {"limit": PAGE, "with_payload": True, "with_vector": True}
        page = rest.request(
            "POST", f"{PATH}/points/scroll", body | ({"offset": offset} if offset else {})
        )
        for point in page["points"]:
            vector, payload = point.get("vector") or {}, point.get("payload") or {}
            found.append({"id": point["id"], "vector": vector, "payload": payload})
        offset = page.get("next_page_offset")
        if offset is None:
            break
    vectors = info["config"]["params"].get("vectors") or {}
    points = Points(vectors=vectors, points=found)
    return points, INDEXED in (info.get("payload_schema") or {})


def _started(container: str) -> str:
    """When Docker has last started it; "" where it does not say."""
    try:
        found = docker.inspect("container", container)
    except UnreachableError:
        return ""
    return str(found["State"].get("StartedAt", "")) if found else ""
