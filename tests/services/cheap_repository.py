"""A restic repository whose password is quick to check: for the many runs of a test.

restic makes a key that takes a third of a second of one core to open, in each of its commands;
this writes the same key anew with a small cost. Only what restic derives from the password
changes: https://restic.readthedocs.io/en/stable/100_references.html, "Keys, Encryption and MAC".
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

QUICK = 2  # scrypt's N


def lay_repository(restic: Path, folder: Path, password: str) -> None:
    """Lay an empty repository at `folder`, where nothing is yet; restic itself made it."""
    shutil.copytree(_template(restic, password), folder)


@cache
def _template(restic: Path, password: str) -> Path:
    made = Path(tempfile.mkdtemp(prefix="stackroom-repository-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    subprocess.run(
        [str(restic), "--quiet", "--no-cache", "--repo", str(made), "init"],
        env={"PATH": os.environ["PATH"], "RESTIC_PASSWORD": password},
        check=True,
        capture_output=True,
        timeout=120,
    )
    _cheapen(made / "keys", password)
    return made


def _cheapen(keys: Path, password: str) -> None:
    """Encrypt the master key under a derived key that costs little."""
    (file,) = keys.iterdir()
    key = json.loads(file.read_bytes())
    master = _open(_derived(key, password), base64.b64decode(key["data"]))
    key |= {"N": QUICK, "r": 1, "p": 1}
    key["data"] = base64.b64encode(_sealed(_derived(key, password), master)).decode()
    text = json.dumps(key).encode()
    file.unlink()
    (keys / hashlib.sha256(text).hexdigest()).write_bytes(text)


def _derived(key: dict[str, object], password: str) -> bytes:
    """64 bytes: for AES-256, and the two halves of the key of Poly1305-AES."""
    return hashlib.scrypt(
        password.encode(),
        salt=base64.b64decode(str(key["salt"])),
        n=int(str(key["N"])),
        r=int(str(key["r"])),
        p=int(str(key["p"])),
        maxmem=2**30,
        dklen=64,
    )


def _open(derived: bytes, sealed: bytes) -> bytes:
    nonce, text, mac = sealed[:16], sealed[16:-16], sealed[-16:]
    Poly1305.verify_tag(_one_time_key(derived, nonce), text, mac)
    return _counter_mode(derived, nonce, text)


def _sealed(derived: bytes, plain: bytes) -> bytes:
    nonce = os.urandom(16)
    text = _counter_mode(derived, nonce, plain)
    return nonce + text + Poly1305.generate_tag(_one_time_key(derived, nonce), text)


def _one_time_key(derived: bytes, nonce: bytes) -> bytes:
    block = Cipher(algorithms.AES(derived[32:48]), modes.ECB()).encryptor()  # noqa: S305 - one block
    return derived[48:64] + block.update(nonce)


def _counter_mode(derived: bytes, nonce: bytes, text: bytes) -> bytes:
    return Cipher(algorithms.AES(derived[:32]), modes.CTR(nonce)).encryptor().update(text)
