"""Packs an environment's folder for its admins' keys, and opens it again. Never prints a secret."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyrage

from ops.errors import SettingsError
from ops.settings import Environment
from ops.settings.environment import FILES
from ops.settings.secrets import write_private

FILE_NAME = "recovery.age"
NOTE_NAME = "recovery.json"  # when and for whom; tells a changed secret without holding any
PACKED = ("hosts.py", *FILES, "known_hosts")
NEEDED = ("hosts.py", *FILES)
MINIMUM_KEYS = 2
MAXIMUM_BYTES = 16 * 1024 * 1024  # of a recovery file; a real one has some ten thousand


@dataclass(frozen=True)
class EscrowState:
    """The recovery file as it stands: `made` None without one; `stale` are the files that have
    changed since, `strangers` the recipients that were added or taken away since, and a file that
    is not as it was written is `damaged`."""

    path: Path
    made: datetime | None
    keys: int
    stale: tuple[str, ...]
    strangers: tuple[str, ...]
    damaged: bool = False

    @property
    def is_current(self) -> bool:
        return self.made is not None and not (self.stale or self.strangers or self.damaged)


def recipients(environment: Environment) -> list[str]:
    """The public keys it is for: escrow.recipients, else the SSH keys of every operator."""
    chosen = environment.settings.escrow.recipients
    if not chosen:
        operators = environment.settings.operators.values()
        chosen = [key for person in operators for key in person.keys]
    # age knows two of OpenSSH's kinds; ecdsa and hardware keys are none of them
    usable = [key for key in chosen if key.startswith(("age1", "ssh-ed25519 ", "ssh-rsa "))]
    return list({_bare(key): key for key in usable}.values())


def create(environment: Environment) -> EscrowState:
    """Write the recovery file beside the inventory, replacing the one before.

    Raises SettingsError for fewer than two keys, or one that age cannot encrypt for.
    """
    keys = recipients(environment)
    if len(keys) < MINIMUM_KEYS:
        raise SettingsError(
            f"the recovery file needs the keys of two people, and {len(keys)} is known",
            f"add escrow.recipients to {environment.folder}/settings.toml, age or SSH public keys",
        )
    folder = environment.folder
    sealed = pyrage.encrypt(_pack(folder), [_recipient(key) for key in keys])
    salt = secrets.token_hex(16)
    note = {
        "schema_version": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipients": [_name(key) for key in keys],
        "recipients_sha256": [_digest(salt, _bare(key).encode()) for key in keys],
        "salt": salt,
        "files": _digests(folder, salt),
        "sha256": hashlib.sha256(sealed).hexdigest(),
    }
    write_private(folder / FILE_NAME, sealed)
    write_private(folder / NOTE_NAME, (json.dumps(note, indent=2) + "\n").encode())
    return inspect(environment)


def inspect(environment: Environment) -> EscrowState:
    """Is there a recovery file, and is it of the inventory as it is now? Opens nothing."""
    folder = environment.folder
    path = folder / FILE_NAME
    note = _read_note(folder / NOTE_NAME)
    if not path.is_file() or note is None:
        return EscrowState(path, None, 0, (), ())
    salt = str(note["salt"])
    now = _digests(folder, salt)
    # host keys are packed for convenience; a new one is no reason to write the file again
    stale = [name for name in NEEDED if now.get(name) != note["files"].get(name)]
    wanted = {_digest(salt, _bare(key).encode()): _name(key) for key in recipients(environment)}
    had = dict(zip(note["recipients_sha256"], note["recipients"], strict=True))
    strangers = [name for key, name in (had | wanted).items() if (key in had) != (key in wanted)]
    made = datetime.fromisoformat(note["made"])
    damaged = hashlib.sha256(path.read_bytes()).hexdigest() != note["sha256"]
    return EscrowState(path, made, len(had), tuple(stale), tuple(strangers), damaged)


def open_file(file: Path, identity: Path, folder: Path) -> list[str]:
    """Decrypt with one private key (age or OpenSSH) into `folder`; the names of what was written.

    What is there already with the same content, such as the files of the team's own git, is left.
    Raises SettingsError for a wrong key, a damaged file, or where another content would be
    overwritten; nothing is written then.
    """
    contents = _unpack(_decrypt(file, identity), file)
    missing = {name: c for name, c in contents.items() if not (folder / name).exists()}
    for name in contents.keys() - missing.keys():
        if (folder / name).read_bytes() != contents[name]:
            raise SettingsError(
                f"{folder / name} exists with another content and is not overwritten",
                f"move it away, open again, and compare: mv {folder / name} {folder / name}.old",
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in missing.items():
        write_private(folder / name, content)
    return list(missing)


def _pack(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in PACKED:
            path = folder / name
            if not path.is_file():
                continue
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            entry.mode = 0o600
            entry.mtime = int(path.stat().st_mtime)
            tar.addfile(entry, io.BytesIO(path.read_bytes()))
    return packed.getvalue()


def _unpack(packed: bytes, file: Path) -> dict[str, bytes]:
    contents = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            for entry in tar:
                stream = tar.extractfile(entry) if entry.isreg() else None
                if entry.name in PACKED and stream:
                    contents[entry.name] = stream.read()
    except tarfile.TarError:
        raise SettingsError(f"{file} holds no recovery data of Stackroom") from None
    missing = [name for name in NEEDED if name not in contents]
    if missing:
        raise SettingsError(f"{file} lacks {missing[0]}: it was not made by Stackroom")
    return contents


def _decrypt(file: Path, identity: Path) -> bytes:
    try:
        if file.stat().st_size > MAXIMUM_BYTES:
            raise SettingsError(f"{file} is too large to be a recovery file")
        sealed, key = file.read_bytes(), identity.read_bytes()
    except OSError as error:
        raise SettingsError(f"{error.filename} cannot be read: {error.strerror}") from None
    try:
        return bytes(pyrage.decrypt(sealed, _identities(key, identity)))
    except pyrage.DecryptError as error:
        raise SettingsError(
            f"{file} does not open with {identity}: {error}", "try the key of another recipient"
        ) from None


def _identities(key: bytes, path: Path) -> list[Any]:
    protected = SettingsError(
        f"{path} is no private key of age or OpenSSH that can be read without a passphrase",
        f"age -d -i {path} {FILE_NAME} | tar -x -f -   (age asks for the passphrase)",
    )
    if b"PRIVATE KEY" in key:
        try:
            return [pyrage.ssh.Identity.from_buffer(key)]
        except pyrage.IdentityError:
            raise protected from None
    lines = [line.strip() for line in key.decode(errors="replace").splitlines()]
    try:
        found = [
            pyrage.x25519.Identity.from_str(line)
            for line in lines
            if line.startswith("AGE-SECRET-KEY-1")
        ]
    except pyrage.IdentityError:
        raise protected from None
    if not found:
        raise protected
    return found


def _recipient(key: str) -> Any:
    try:
        if key.startswith("age1"):
            return pyrage.x25519.Recipient.from_str(key)
        return pyrage.ssh.Recipient.from_str(key)
    except pyrage.RecipientError:
        raise SettingsError(f"age cannot encrypt for the key {_name(key)}") from None


def _bare(key: str) -> str:
    """The key without its comment."""
    return " ".join(key.split()[:2])


def _name(key: str) -> str:
    """The comment of an SSH key, else the key's first characters."""
    parts = key.split(maxsplit=2)
    return parts[2] if len(parts) == 3 else f"{parts[-1][:12]}..."


def _digests(folder: Path, salt: str) -> dict[str, str]:
    paths = {name: folder / name for name in NEEDED}
    return {n: _digest(salt, path.read_bytes()) for n, path in paths.items() if path.is_file()}


def _digest(salt: str, content: bytes) -> str:
    # the secrets in it are long and random: a salted hash gives none of them away
    return hashlib.sha256(salt.encode() + b"\0" + content).hexdigest()


def _read_note(path: Path) -> dict[str, Any] | None:
    try:
        note: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    fields = {"made", "recipients", "recipients_sha256", "salt", "files", "sha256"}
    return note if isinstance(note, dict) and fields <= note.keys() else None
