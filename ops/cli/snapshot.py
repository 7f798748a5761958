"""`snapshot create|list|download|delete|prune`: Qdrant's own snapshots of collections, by hand.

They lie on the host's disk beside the data: a help for moving a collection, not a backup.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from ops.backup import words
from ops.backup.source import Event
from ops.cli.common import Json, Yes, err, new_app, out, print_json, sure
from ops.cli.place import Here, environment_of
from ops.cli.progress import telling
from ops.clients.rest import QdrantRest
from ops.clients.snapshots import SnapshotInfo, Snapshots
from ops.clients.ssh import Remote
from ops.errors import ServiceError, SettingsError
from ops.restore.access import refuse
from ops.settings.host import QDRANT_API_KEY, QdrantSource
from ops.settings.stacks import need_qdrant

app = new_app("Qdrant's own snapshots of collections, by hand. Backups do without them.")
QDRANT_PORT = 6333
CREATE_SECONDS = 3600.0

Collection = Annotated[str, typer.Argument(help="A collection's name.")]
Name = Annotated[str, typer.Argument(help="A snapshot's name, as `snapshot list` shows it.")]


@dataclass(frozen=True)
class _Qdrant:
    snapshots: Snapshots
    rest: QdrantRest

    def collections(self) -> list[str]:
        answer = self.rest.request("GET", "/collections")
        return sorted(each["name"] for each in answer["collections"])


@contextlib.contextmanager
def _connected(context: typer.Context) -> Iterator[_Qdrant]:
    """The host's Qdrant: on its loopback, or from elsewhere through an SSH tunnel to that."""
    with contextlib.ExitStack() as stack:
        if isinstance(context.obj, Here):
            config = context.obj.config
            need_qdrant("snapshot", config.environment, config.stack)
            source = next((s for s in config.sources if isinstance(s, QdrantSource)), None)
            if source is None:
                raise SettingsError("this stack has no Qdrant")
            url, key = source.url, context.obj.credentials.get(QDRANT_API_KEY)
        else:
            environment = environment_of(context)
            need_qdrant("snapshot", environment.name, environment.settings.stack)
            port = stack.enter_context(Remote(environment).forward(QDRANT_PORT))
            url = f"http://127.0.0.1:{port}"
            key = environment.settings.secrets.qdrant_api_key
        yield _Qdrant(
            stack.enter_context(Snapshots(url, key)), stack.enter_context(QdrantRest(url, key))
        )


@app.command()
def create(context: typer.Context, collection: Collection, json_output: Json = False) -> None:
    """Make a snapshot of a collection on the host's disk."""
    refuse(collection)
    with _connected(context) as qdrant, telling(quiet=json_output) as tell:
        tell(Event("snapshot", collection))
        made = qdrant.snapshots.create(collection, timeout=CREATE_SECONDS)
    if json_output:
        return print_json(_document(collection, made))
    return out.print(f"{made.name}  {words.size(made.size)}", markup=False)


@app.command("list")
def list_(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(help="Only this collection.")] = "",
    json_output: Json = False,
) -> None:
    """The snapshots that lie on the host, newest first."""
    with _connected(context) as qdrant:
        found = _listed(qdrant, collection)
    if json_output:
        listed = [_document(name, each) for name, each in found]
        return print_json({"schema_version": 1, "snapshots": listed})
    if not found:
        return out.print("there is none")
    longest = max(len(each.name) for _, each in found)
    table = Table(
        "collection", Column("snapshot", min_width=longest), "size", "made (UTC)", box=None
    )
    for name, each in found:
        made = words.utc(each.created) if each.created else "?"
        table.add_row(name, each.name, words.size(each.size), made)
    # a name that is cut cannot be pasted
    return out.print(table, soft_wrap=False, crop=False)


@app.command()
def download(
    context: typer.Context,
    collection: Collection,
    name: Name,
    target: Annotated[
        Path, typer.Option("--to", help="A file, or a folder to put it in.")
    ] = Path(),
    json_output: Json = False,
) -> None:
    """Fetch a snapshot to this machine; its checksum is compared."""
    refuse(collection)
    file = target / name if target.is_dir() else target
    if file.exists():
        raise SettingsError(f"{file} exists and is not overwritten", "choose another: --to <file>")
    with _connected(context) as qdrant, telling(quiet=json_output) as tell:
        info = _find(qdrant, collection, name)
        sha256 = qdrant.snapshots.download(
            collection,
            name,
            file,
            checksum=info.checksum,
            on_bytes=lambda done, total: tell(Event("download", name, done, total)),
        )
    if json_output:
        return print_json({"schema_version": 1, "file": str(file), "sha256": sha256})
    return out.print(f"wrote {file}, SHA-256 {sha256}", markup=False)


@app.command()
def delete(
    context: typer.Context,
    collection: Collection,
    name: Name,
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Delete a snapshot on the host. There is no undo; backups are not touched."""
    with _connected(context) as qdrant:
        info = _find(qdrant, collection, name)
        err.print(f"  {name} of {collection}, {words.size(info.size)}", markup=False)
        sure("Delete it?", yes=yes)
        qdrant.snapshots.delete(collection, name)
    if json_output:
        return print_json({"schema_version": 1, "deleted": [_document(collection, info)]})
    return out.print("deleted")


@app.command()
def prune(
    context: typer.Context,
    keep: Annotated[int, typer.Option(min=0, help="So many of each collection stay.")] = 1,
    collection: Annotated[str, typer.Option(help="Only this collection.")] = "",
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Delete all but the newest snapshots of each collection. Backups are not touched."""
    with _connected(context) as qdrant:
        names = [collection] if collection else qdrant.collections()
        old = [(n, each) for n in names for each in qdrant.snapshots.list(n)[keep:]]
        for name, each in old:
            err.print(f"  {each.name} of {name}, {words.size(each.size)}", markup=False)
        if old:
            sure(f"Delete these {len(old)}?", yes=yes)
        for name, each in old:
            qdrant.snapshots.delete(name, each.name)
    if json_output:
        deleted = [_document(name, each) for name, each in old]
        return print_json({"schema_version": 1, "deleted": deleted})
    return out.print(f"deleted {len(old)}" if old else "there is nothing to delete")


def _listed(qdrant: _Qdrant, collection: str) -> list[tuple[str, SnapshotInfo]]:
    names = [collection] if collection else qdrant.collections()
    return [(name, each) for name in names for each in qdrant.snapshots.list(name)]


def _find(qdrant: _Qdrant, collection: str, name: str) -> SnapshotInfo:
    for each in qdrant.snapshots.list(collection):
        if each.name == name:
            return each
    raise ServiceError(
        f"{collection} has no snapshot {name}", f"stackroom -e <env> snapshot list {collection}"
    )


def _document(collection: str, info: SnapshotInfo) -> dict[str, Any]:
    return {
        "collection": collection,
        "name": info.name,
        "bytes": info.size,
        "sha256": info.checksum,
        "created": info.created.isoformat() if info.created else None,
    }
