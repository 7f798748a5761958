"""The recovery file: what a new machine needs to open the backups, for two people or more.

An age file of a tar: `age -d -i <key> recovery.age | tar x` opens it without Stackroom too.
"""

from ops.escrow.recovery import (
    FILE_NAME,
    NOTE_NAME,
    EscrowState,
    create,
    inspect,
    open_file,
    recipients,
)

__all__ = ["FILE_NAME", "NOTE_NAME", "EscrowState", "create", "inspect", "open_file", "recipients"]
