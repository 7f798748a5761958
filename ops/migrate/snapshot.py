"""A collection carried over as the server's own snapshot: its index comes along, ready made.

The file rests in the migration's folder on the operator's machine until it is in place. What was
made on the source is deleted again, also after a crash.
"""

from __future__ import annotations

import contextlib

from ops.backup.source import Event, Tell
from ops.clients.rest import RefusedError
from ops.clients.snapshots import Snapshots
from ops.errors import StackroomError
from ops.migrate.server import Server, path_of
from ops.migrate.side import MigrationError, Side
from ops.migrate.state import Migration, Move, Store

CREATE_SECONDS = 3600.0
RESTORE_SECONDS = 3600.0


def carry(
    source: Side, target: Side, store: Store, migration: Migration, move: Move, *, tell: Tell
) -> None:
    """Make `move.target` out of a fresh snapshot of `move.name`. May be done twice.

    Raises MigrationError where a collection of that name is there that this did not make.
    """
    if not isinstance(source, Server) or not isinstance(target, Server):
        raise MigrationError("a local folder has no snapshots", "--mode stream")
    kept = store.folder / f"{migration.moves.index(move)}.snapshot"
    with _snapshots(source) as from_, _snapshots(target) as to:
        if move.uploading and move.target in target.collections():
            if move.target in target.aliases().values():
                raise MigrationError(
                    f"an alias leads to {move.target} on {target.name}: it is in use",
                    "make another migration",
                )
            target.request("DELETE", path_of(move.target))  # half restored, before a crash
        if move.snapshot:
            from_.delete(move.name, move.snapshot)
        tell(Event("snapshot", move.name))
        made = from_.create(move.name, timeout=CREATE_SECONDS)
        move.snapshot = made.name
        store.save(migration)
        try:
            checksum = from_.download(
                move.name,
                made.name,
                kept,
                checksum=made.checksum,
                size=made.size,
                on_bytes=lambda done, total: tell(Event("download", move.name, done, total)),
            )
        finally:
            with contextlib.suppress(StackroomError):
                from_.delete(move.name, made.name)
        if move.target in target.collections():
            raise MigrationError(
                f"{target.name} has a collection {move.target} that this migration did not make",
                "stackroom migrate run ... --as <another name>",
            )
        move.uploading = True
        store.save(migration)
        try:
            to.upload(
                move.target,
                kept,
                checksum=checksum,
                timeout=RESTORE_SECONDS,
                on_bytes=lambda done, total: tell(Event("upload", move.target, done, total)),
            )
        except RefusedError as error:
            # where nothing was made, what bears this name later is somebody else's
            move.uploading = move.target in target.collections()
            store.save(migration)
            raise MigrationError(
                f"{target.name} cannot read the snapshot: {error.message}", "--mode stream"
            ) from None
    kept.unlink(missing_ok=True)


def _snapshots(side: Server) -> Snapshots:
    return Snapshots(side.url, side.api_key, ca_file=side.ca_file)
