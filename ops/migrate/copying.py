"""Files of one shelf brought to another: what differs, in batches, until nothing does.

Nothing of the target is written over or removed that this migration did not put there; what it
puts there is noted before, so that it is known after any crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ops.backup.source import Event, Tell
from ops.migrate.load import Patience
from ops.migrate.shelf import HostShelf, Listing, Shelf, Write
from ops.migrate.side import MigrationError

BATCH_BYTES = 128 * 1024 * 1024  # what a lost connection costs at most, but for one larger file
BATCH_FILES = 2000
MOST_PASSES = 5

Ours = dict[str, list[str]]  # by path, the marks of what was put there
Save = Callable[[Ours], None]


@dataclass
class Differences:
    """What a pass has to do, in order of paths. `taken`: paths that hold something else on the
    target; `extra`: what only the target has."""

    copy: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # sockets and the like


def compare(source: Listing, target: Listing, ours: Mapping[str, Sequence[str]]) -> Differences:
    """Pure. What is gone from the source is removed only where it is still as it was put."""
    found = Differences()
    for path, entry in sorted(source.items()):
        there = target.get(path)
        if entry.kind == "other":
            found.left_out.append(path)
        elif there is None:
            found.copy.append(path)
        elif there.mark != entry.mark:
            if there.mark not in ours.get(path, ()):
                found.taken.append(path)
                continue
            found.copy.append(path)
            if there.kind != entry.kind:  # a folder is not copied over a file
                found.gone.append(path)
    for path, entry in sorted(target.items()):
        if path not in source:
            mine = entry.mark in ours.get(path, ())
            (found.gone if mine else found.extra).append(path)
    return found


def batches(paths: Sequence[str], source: Listing) -> Iterator[list[str]]:
    """In order, by bytes and number."""
    batch: list[str] = []
    size = 0
    for path in paths:
        if batch and (size + source[path].size > BATCH_BYTES or len(batch) >= BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += source[path].size
    if batch:
        yield batch


def copy(
    source: Shelf, target: HostShelf, ours: Ours, save: Save, *, patience: Patience, tell: Tell
) -> int:
    """Make every file of the source one of the target's; how many were put right.

    Raises MigrationError where the target holds another file of that name, or where the source
    changes as fast as it is copied; UnreachableError, ServiceError.
    """
    done = 0
    for _ in range(MOST_PASSES):
        tell(Event("compare", f"files of {source.name} and {target.name}"))
        there, here = patience.call(source.entries), patience.call(target.entries)
        found = compare(there, here, ours)
        if found.taken:
            raise refused(target.name, found.taken)
        if not found.copy and not found.gone:
            return done
        save(ours)
        for folders in (False, True):
            gone = [path for path in found.gone if (here[path].kind == "folder") == folders]
            patience.call(target.remove, gone, folders=folders)
        total = sum(there[path].size for path in found.copy)
        so_far = 0
        for batch in batches(found.copy, there):
            progress = _Progress(tell, source.name, so_far, total)
            patience.call(_batch, source, target, batch, there, ours, save, progress)
            so_far += sum(there[path].size for path in batch)
        done += len(found.copy) + len(found.gone)
    raise MigrationError(
        f"the files of {source.name} change as fast as they are copied", "pause what writes to them"
    )


def refused(name: str, taken: Sequence[str]) -> MigrationError:
    more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
    return MigrationError(
        f"{name} has another {printable(taken[0])}{more}, and it is never written over",
        "move it away there, or give the target's file to the source too",
    )


def printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()


@dataclass
class _Progress:
    tell: Tell
    name: str
    before: int
    total: int

    def __call__(self, done: int) -> None:
        self.tell(Event("copy", self.name, min(self.before + done, self.total), self.total))


def _batch(
    source: Shelf,
    target: HostShelf,
    batch: list[str],
    there: Listing,
    ours: Ours,
    save: Save,
    progress: Callable[[int], None],
) -> None:
    """Some files, received, compared by their sha256 and put into their places."""
    wanted = sorted({*batch, *(parent for path in batch for parent in parents(path))})
    poured = 0

    def pour(write: Write) -> None:
        def counted(piece: bytes) -> None:
            nonlocal poured
            write(piece)
            poured += len(piece)
            progress(poured)

        source.pour(wanted, counted)

    laid = target.receive(pour)
    other = [path for path, entry in laid.items() if there[path].mark != entry.mark]
    if other:  # changed meanwhile: the next pass sees it
        target.discard(other)
    for path in set(batch) & set(laid) - set(other):
        if laid[path].mark not in ours.setdefault(path, []):
            ours[path].append(laid[path].mark)
    save(ours)
    target.put()


def parents(path: str) -> list[str]:
    """The folders above it, without library, sessions or configs itself."""
    return [str(each) for each in PurePosixPath(path).parents][:-2]
