"""What restic says when it fails, as the errors a person can act on. Never a secret in them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence

from ops.errors import BackupError, ServiceError, StackroomError, UnreachableError

# restic tries these again for many minutes, though no second attempt will change the answer
PATIENCE_SECONDS = 4.0
FAILED_SECONDS = 15.0  # between a save that has failed for good, and restic's own end
_FORGOTTEN_SECONDS = 120.0  # a refusal that old has nothing to do with one of now

BUCKET = r"specified bucket does not exist|NoSuchBucket"
FULL = r"no space left on device|disk quota exceeded|QuotaExceeded|not enough space"
READ_ONLY = r"read-only file system"
_KEYS = (
    r"signature we calculated|SignatureDoesNotMatch|InvalidAccessKeyId"
    r"|access key id you provided does not exist"
)
_REFUSED = r"access ?denied|\b403\b|forbidden"
_HOST_KEY = r"host key verification failed|no \w+ host key is known"
_SSH_KEY = r"permission denied \([a-z,-]*publickey"
_DENIED = r"permission denied|operation not permitted"
_UNREACHABLE = (
    r"connection refused|connection reset|connection timed out|connection closed|no route to host"
    r"|network is unreachable|no such host|could not resolve|name resolution|i/o timeout"
    r"|TLS handshake|server unexpectedly closed|broken pipe|certificate"
    r"|receiving version packet|unexpected EOF"
    r"|\b50[0234]\b|SlowDown|error talking HTTP to rclone"
)
_DAMAGED = (
    r"ciphertext verification failed|hash mismatch|invalid data returned|is damaged"
    r"|repository contains errors|is too short|unexpected file size"
    r"|data/[^ ]*: (no such file|file does not exist)|wrong data returned|not found in index"
)
_NO_REASON = r"^(There were \d+ errors|Warning: at least one source file)"
# (what restic says, the kind of error, what it means, the next command), first match wins
_MEANINGS: tuple[tuple[str, type[StackroomError], str, str], ...] = (
    (FULL, ServiceError, "there is no space left", "df -h; stackroom backup prune"),
    (READ_ONLY, ServiceError, "it is read-only", "findmnt; journalctl -k -p err"),
    (BUCKET, ServiceError, "the bucket is gone", "look at the provider's console"),
    (
        _KEYS,
        ServiceError,
        "the server refuses the keys of the credential offsite_env",
        "set them again in secrets.toml, then: stackroom -e <env> deploy",
    ),
    (
        _HOST_KEY,
        ServiceError,
        "the server's host key is not the configured one",
        "ssh-keyscan -t ed25519 <host>; compare it, then set backup.offsite.host_key",
    ),
    (
        _SSH_KEY,
        ServiceError,
        "the server refuses the credential offsite_ssh_key",
        "lay its public half on the server",
    ),
    (
        r"didn't find section in config file",
        ServiceError,
        "the credential rclone_config does not name this remote",
        "set it again in secrets.toml, then: stackroom -e <env> deploy",
    ),
    (
        _DAMAGED,
        BackupError,
        "it is damaged",
        "stackroom backup check --full; restore from the other repository",
    ),
    (
        _REFUSED,
        ServiceError,
        "the server refuses this (403)",
        "look at the rights of the keys in the credential offsite_env",
    ),
    (_UNREACHABLE, UnreachableError, "it cannot be reached", "stackroom doctor"),
    (_DENIED, ServiceError, "restic may not write there", "ls -ld the folder; run it as root"),
)
_FAILED = re.compile(r"Save\(.*\) failed: ")
_PERMANENT = re.compile("|".join((FULL, READ_ONLY, BUCKET, _KEYS, _REFUSED, _DENIED)), re.I)


class Patience:
    """Whether waiting on has a use: no, where a refusal was repeated for some seconds, and no,
    where restic has failed to save something and does not end (0.18.0 may wait for itself then).
    """

    def __init__(self) -> None:
        self._first = self._latest = -_FORGOTTEN_SECONDS
        self._failed: float | None = None

    def is_over(self, line: str) -> bool:
        """For each line of its standard error in turn, and for none ("") every now and then."""
        now = time.monotonic()
        if _FAILED.match(line) and self._failed is None:
            self._failed = now
        if self._failed is not None and now - self._failed >= FAILED_SECONDS:
            return True
        if "retrying after" not in line or not _PERMANENT.search(line):
            return False
        if now - self._latest >= _FORGOTTEN_SECONDS:
            self._first = now
        self._latest = now
        return now - self._first >= PATIENCE_SECONDS


def sayings(stderr: Sequence[str]) -> list[str]:
    """Standard error as sentences: out of JSON, and without restic's own ornaments."""
    found = []
    for line in stderr:
        text = line
        if line.startswith("{"):
            try:
                message = json.loads(line)
                text = message.get("message") or message["error"]["message"]
                if item := message.get("item"):
                    text = f"{item}: {text}"
            except (ValueError, KeyError, TypeError):
                text = line
        text = re.sub(r"^.*returned error, retrying after [^:]+: ", "", str(text))
        text = re.sub(r"^(Fatal: |subprocess ssh: |rclone: |\x1b\[2K)+", "", text.strip())
        # what it says because we ended it
        if text and not re.search(r"context canceled|signal \w+ received", text):
            found.append(text.splitlines()[0])
    return found


def meaning(stderr: Sequence[str], secrets: Sequence[str]) -> tuple[str, StackroomError | None]:
    """Restic's last words, and the error they mean: None where they are not known."""
    said = sayings(stderr)
    for pattern, kind, words, hint in _MEANINGS:
        for line in reversed(said):
            if re.search(pattern, line, re.I):
                return scrubbed(line, secrets), kind(words, hint)
    reasons = [line for line in said if not re.search(_NO_REASON, line)] or said
    return scrubbed(reasons[-1] if reasons else "it said nothing", secrets), None


def bucket_is_missing(stderr: Sequence[str]) -> bool:
    return any(re.search(BUCKET, line, re.I) for line in sayings(stderr))


def scrubbed(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
