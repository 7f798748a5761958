"""Which tokens Qdrant honours, and when each developer was last seen in its audit log.

Runs on the machine, see ops/developers/look.py: standard library only, Python 3.10 or newer. The
API key is read here and sent to the host's own loopback; it is never printed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ops.developers.look_common import COMMAND_SECONDS, QUESTION, at, run

BLOCK = 1024 * 1024  # bytes of the log at once
PAGE = 256  # points of the access collection at once


def tokens() -> list[dict[str, str]]:
    """The ids that Qdrant honours now, with the names beside them; none without the collection.

    Raises RuntimeError.
    """
    found: list[dict[str, str]] = []
    offset = None
    while True:
        body = {"limit": PAGE, "with_payload": True, "with_vector": False, "offset": offset}
        page = ask(f"/collections/{QUESTION['collection']}/points/scroll", body)
        if page is None:  # then there is no token that Qdrant lets in
            return found
        for point in page["points"]:
            payload = point.get("payload") or {}
            # what a token is judged by is the payload, whatever the point is called
            found.append(
                {
                    "id": str(payload.get("token", "")),
                    "point": str(point["id"]),
                    "developer": str(payload.get("developer", "")),
                }
            )
        offset = page.get("next_page_offset")
        if offset is None:
            return found


def keys_of_qdrant() -> dict[str, str]:
    """A digest of each key that the server has been given, "" of one that it has not."""
    names = ("api_key", "alt_api_key", "read_only_api_key")
    return {name: digest(key) if (key := setting(name)) else "" for name in names}


def digest(key: str) -> str:
    """What tells one key from another; they are too long for it to be turned back."""
    return hashlib.sha256(key.encode()).hexdigest()


def setting(name: str) -> str:
    text = at("/etc/stackroom/stack/qdrant/local.yaml").read_text(encoding="utf-8")
    found = re.search(rf"^\s*\"?{name}\"?:\s*(.+?),?\s*$", text, re.MULTILINE)
    written = found.group(1) if found else ""
    if written.startswith('"'):
        with contextlib.suppress(ValueError):  # JSON as we write it, with its escapes
            return str(json.loads(written))
    return written.strip("\"'")


def ask(path: str, body: Any) -> Any:
    """The result of a POST to Qdrant; None where it answers 404. Raises RuntimeError."""
    headers = {"Content-Type": "application/json", "api-key": setting("api_key")}
    request = urllib.request.Request(  # noqa: S310 - the host's own loopback
        QUESTION["qdrant"] + path, json.dumps(body).encode(), headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=COMMAND_SECONDS) as answer:  # noqa: S310
            return json.load(answer)["result"]
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise RuntimeError(f"Qdrant answers {error.code} to its own key") from None
    except (OSError, ValueError, KeyError):
        raise RuntimeError("Qdrant does not answer on loopback") from None


def seen() -> dict[str, Any]:
    """The newest line of Qdrant's audit log of each subject. `whole`: no line was left unread."""
    wanted = set(QUESTION["subjects"])
    with contextlib.suppress(Exception):  # then the named ones alone: `tokens` tells why
        wanted |= {each["developer"] for each in tokens()} - {""}
    place = ("docker", "volume", "inspect", "-f", "{{.Mountpoint}}", "stackroom_qdrant_storage")
    folder = Path(run(*place).strip()) / "audit"
    files = sorted(folder.glob("audit*.log*"), key=lambda f: (f.stat().st_mtime, f.name))[::-1]
    return last_lines(files, wanted, QUESTION["log_bytes"], QUESTION["log_seconds"])


def last_lines(files: list[Path], wanted: set[str], cap: int, seconds: float) -> dict[str, Any]:
    end = time.monotonic() + seconds
    found: dict[str, Any] = {}
    left = cap
    for path in files:
        for block in backwards(path):
            for name in wanted - found.keys():
                line = newest(block, name)
                if line:
                    found[name] = {key: str(line.get(key, "")) for key in ("timestamp", "remote")}
            left -= len(block)
            if found.keys() >= wanted:
                return {"subjects": found, "whole": True, "files": len(files)}
            if left <= 0 or time.monotonic() > end:
                return {"subjects": found, "whole": False, "files": len(files)}
    return {"subjects": found, "whole": True, "files": len(files)}


def backwards(path: Path) -> Iterator[bytes]:
    """The whole lines of a file in blocks, the last block first."""
    with path.open("rb") as file:
        position, begun = file.seek(0, os.SEEK_END), b""
        while position > 0:
            size = min(BLOCK, position)
            position = file.seek(position - size)
            block = file.read(size) + begun
            cut = block.find(b"\n") + 1 if position else 0
            # a block without a line's end is the middle of a very long line
            begun, whole = (block[:cut], block[cut:]) if cut or not position else (block, b"")
            yield whole


def newest(block: bytes, name: str) -> dict[str, Any] | None:
    """The last line in which `name` is the subject."""
    needle, stop = json.dumps(name).encode(), len(block)
    while (place := block.rfind(needle, 0, stop)) >= 0:
        begin = block.rfind(b"\n", 0, place) + 1
        end = block.find(b"\n", place)
        with contextlib.suppress(ValueError):  # a line that is still being written
            line = json.loads(block[begin : end if end >= 0 else len(block)])
            if isinstance(line, dict) and line.get("subject") == name:
                return line
        stop = begin
    return None
