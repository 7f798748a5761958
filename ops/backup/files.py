"""Collects a folder of the host, or a Docker volume, as one tar. Changes nothing there.

What a program writes meanwhile is taken as it is found, file by file: this is for data at rest or
in whole files, never for a database's folder.
"""

from __future__ import annotations

from pathlib import Path

from ops.backup.manifest import FilesFacts
from ops.backup.sink import Sink
from ops.backup.source import Collected, Event, Tell
from ops.backup.tree import walk, write_tar
from ops.clients.docker import mountpoint
from ops.errors import UnreachableError
from ops.settings.host import FilesSource

_HEADER = 1536  # bytes of tar around a file: two headers and what fills its last block
_TELL_BYTES = 8 * 1024 * 1024


class FilesCollector:
    """One uncompressed tar: names sorted, numeric owners, modes, links and times kept.

    Sockets, fifos and devices are left out, and so is a file that vanishes meanwhile. What is
    there and cannot be read is an error: half a folder is no backup.
    """

    def __init__(self, config: FilesSource) -> None:
        self._config = config
        self.name = config.name

    def _root(self) -> Path:
        """Raises UnreachableError or ServiceError where the folder or the volume is not there."""
        if self._config.volume:
            root, hint = mountpoint(self._config.volume), "docker volume ls"
        else:
            root, hint = Path(self._config.path), f"ls -ld {self._config.path}"
        if not root.is_dir() or root.is_symlink():
            raise UnreachableError(f"{self.name}: there is no folder {root}", hint)
        return root

    def expected_bytes(self) -> int:
        """About the size of the tar."""
        return sum(
            _HEADER + (entry.stat.st_size if entry.kind == "file" else 0)
            for entry in walk(self._root())
        )

    def collect(self, staging: Path, tell: Tell) -> Collected:
        """Write `<name>/<name>.tar`. Raises BackupError for what cannot be read or written."""
        total = self.expected_bytes()
        path = f"{self.name}/{self.name}.tar"
        told = 0

        def on_bytes(done: int) -> None:
            nonlocal told
            if done >= told + _TELL_BYTES:
                told = done
                tell(Event("collect", path, done, max(total, done)))

        tell(Event("collect", path))
        with Sink(staging, path) as sink:
            totals = write_tar(self._root(), sink, on_bytes)
        return Collected(
            items=[sink.item()],
            facts=FilesFacts(
                item=path,
                files=totals.files,
                bytes=totals.bytes,
                volume=self._config.volume,
                path=self._config.path,
                shrunk=list(totals.shrunk),
            ),
        )
