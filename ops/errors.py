"""What goes wrong, by kind. Every error carries the next command and an exit code of its own."""

from __future__ import annotations


class StackroomError(Exception):
    """Something the person can act on. `message` says what, `hint` the next command."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def amend(self, said: str, hint: str) -> None:
        """Say one thing more, and another next command: for whoever passes an error on."""
        self.message = f"{self.message}\n{said}"
        self.args = (self.message,)
        self.hint = hint


class SettingsError(StackroomError):
    """The inventory is wrong; nothing was touched."""

    exit_code = 3


class UnreachableError(StackroomError):
    """The host, or a service on it, does not answer."""

    exit_code = 4


class LockedError(StackroomError):
    """Somebody else is at it: another operator's deploy, or another backup run."""

    exit_code = 5


class DeployError(StackroomError):
    """The host was being changed and a step failed."""

    exit_code = 6


class MissingToolError(StackroomError):
    """A program or a right this machine lacks."""

    exit_code = 7


class ServiceError(StackroomError):
    """A service answered, but refused or failed the request."""

    exit_code = 8


class BackupError(StackroomError):
    """A backup, a check, a drill or a restore failed: what it was for does not hold (CRITICAL)."""

    exit_code = 2


class UnprovenError(StackroomError):
    """A proof could not be made: neither good nor bad is known of the backup (UNKNOWN)."""

    exit_code = 3
