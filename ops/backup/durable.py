"""Files that survive a power cut: written beside, synced, renamed, and the folder synced too."""

from __future__ import annotations

import os
from pathlib import Path

from ops.settings.secrets import write_private


def fsync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Replace a file as a whole. Raises OSError; the old content then stays."""
    write_private(path, text.encode())
    fsync_folder(path.parent)
