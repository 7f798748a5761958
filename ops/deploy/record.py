"""What was deployed, by whom, from which revision: a file on the machine for each deploy."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from typing import Any

from ops.clients.ssh import Remote
from ops.deploy.lock import who
from ops.deploy.pyinfra import Part
from ops.errors import ServiceError
from ops.render.files import ROOT, RenderedFile

FOLDER = "/var/lib/stackroom/deploys"
KEPT = 50


def revision() -> str:
    """The git revision of this checkout, `-dirty` where it was edited, `unknown` outside git."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def write_record(
    remote: Remote,
    files: list[RenderedFile],
    changes: list[str],
    *,
    part: Part = "all",
    doing: str = "",
) -> dict[str, Any]:
    """Write the record of a finished deploy; returns it. Raises ServiceError, UnreachableError.

    `files` are those of `part`, and `doing` is the command that somebody ran.
    """
    at = datetime.now(UTC)
    record: dict[str, Any] = {
        "schema_version": 1,
        "at": at.isoformat(timespec="seconds"),
        "who": who(),
        "revision": revision(),
        "part": part,
        "doing": doing,
        "changes": changes,
        # who gets in runs on no image, and waits for no question about one
        "images": _images(remote) if part == "all" else {},
        "files": {file.path: file.sha256 for file in files},
    }
    path = f"{FOLDER}/{at:%Y%m%dT%H%M%SZ}.json"
    done = remote.run(
        f"mkdir -p -m 700 {FOLDER} && cat >{path}.new && sync {path}.new && mv {path}.new {path}"
        f" && cd {FOLDER} && ls -1 *.json | head -n -{KEPT} | xargs -r rm --",
        stdin=json.dumps(record, indent=2) + "\n",
    )
    if done.returncode != 0:
        raise ServiceError(f"the record could not be written: {done.stderr.strip()}")
    return record


def history(remote: Remote) -> list[dict[str, Any]]:
    """Every record on the machine, newest first."""
    done = remote.run(f"cat {FOLDER}/*.json 2>/dev/null || true")
    decoder = json.JSONDecoder()
    records = []
    text = done.stdout.strip()
    while text:
        record, end = decoder.raw_decode(text)
        records.append(record)
        text = text[end:].lstrip()
    return sorted(records, key=lambda record: str(record["at"]), reverse=True)


def _images(remote: Remote) -> dict[str, dict[str, str]]:
    """Image reference, id and registry digest by service, as they run."""
    form = '{{index .Config.Labels "com.docker.compose.service"}}|{{.Config.Image}}|{{.Image}}'
    done = remote.run(
        "for c in $(docker ps -q --filter label=com.docker.compose.project=stackroom); do"
        f" l=$(docker inspect -f '{form}' $c);"
        ' d=$(docker image inspect -f \'{{join .RepoDigests ","}}\' ${l##*|}); echo "$l|$d"; done'
    )
    images = {}
    for line in done.stdout.splitlines():
        service, image, image_id, digests = line.split("|")
        images[service] = {"image": image, "id": image_id, "digests": digests}
    return images
