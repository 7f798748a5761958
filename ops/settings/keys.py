"""SSH public keys: the one line of a .pub file, read down to its bytes.

It decodes the wire format by itself, since the host has no library for it, and never repeats what
was pasted: that may be a private key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

SHORTEST_RSA = 3072  # bits; about as strong as 128 bits, as NIST SP 800-57 asks from 2031 on
LONGEST_RSA = 16384  # what sshd still reads
_CURVES = {"nistp256": 32, "nistp384": 48, "nistp521": 66}  # bytes of a coordinate
_ED25519, _SK_ED25519 = "ssh-ed25519", "sk-ssh-ed25519@openssh.com"
_RSA, _SK_ECDSA = "ssh-rsa", "sk-ecdsa-sha2-nistp256@openssh.com"
KINDS = (_ED25519, *(f"ecdsa-sha2-{curve}" for curve in _CURVES), _RSA, _SK_ED25519, _SK_ECDSA)

_EXPECTED = "must be one line of an OpenSSH .pub file"
_OTHER_FORMS = {
    "PuTTY-User-Key-File": "is a private key of PuTTY; paste what PuTTYgen shows for pasting into"
    " authorized_keys",
    "Private-Lines:": "is a private key of PuTTY; paste what PuTTYgen shows for pasting into"
    " authorized_keys",
    "PRIVATE KEY": "is a private key; paste the line of the .pub file",
    # how the body of an OpenSSH private key begins, without its first line
    "b3BlbnNzaC1rZXkt": "is a private key; paste the line of the .pub file",
    "AGE-SECRET-KEY-": "is a private key; paste the line of the .pub file",
    "BEGIN SSH2 PUBLIC KEY": "is in the format of RFC 4716; ssh-keygen -i -f <file> prints it as a"
    " line",
    "BEGIN PUBLIC KEY": "is in the format of PEM; ssh-keygen -i -m PKCS8 -f <file> prints it as a"
    " line",
    "BEGIN RSA PUBLIC KEY": "is in the format of PEM; ssh-keygen -i -m PEM -f <file> prints it as"
    " a line",
    "BEGIN CERTIFICATE": "is a certificate of TLS, not a key of SSH",
}


def check_public_key(text: str) -> str:
    """The line without spaces around it. Raises ValueError with the reason, without the text."""
    line = text.strip()
    for mark, reason in _OTHER_FORMS.items():
        if mark in line:
            raise ValueError(reason)
    if len(line.splitlines()) > 1:
        raise ValueError("is several lines; one line of an OpenSSH .pub file is one key")
    kind, *rest = line.split(" ")
    _check_kind(kind, line)
    if not rest or not line.isprintable():
        raise ValueError(_EXPECTED)
    _check_blob(kind, _decoded(rest[0]))
    return line


def blob_of(key: str) -> bytes:
    """The key's bytes, which two lines of one key have in common. Takes a checked line."""
    return base64.b64decode(key.split(" ")[1])


def fingerprint(key: str) -> str:
    """As `ssh-keygen -l` prints it: SHA256:... Takes a checked line."""
    digest = hashlib.sha256(blob_of(key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _check_kind(kind: str, line: str) -> None:
    if kind in KINDS:
        return
    if re.search(r"-cert-v0\d@openssh\.com$", kind):
        raise ValueError("is a certificate; paste the .pub file of the key it was made for")
    if kind == "ssh-dss":
        raise ValueError(
            "is a DSA key, which sshd no longer takes; make one with ssh-keygen -t ed25519"
        )
    if any(known in re.split(r"\s+", line) for known in KINDS):
        raise ValueError(
            "has something in front of the key (options, or the name of a host);"
            " begin with its kind, such as ssh-ed25519"
        )
    raise ValueError(_EXPECTED)


def _decoded(text: str) -> bytes:
    try:
        blob = base64.b64decode(text, validate=True)
    except binascii.Error:
        blob = b""
    if not blob or base64.b64encode(blob).decode() != text:
        raise ValueError("is cut off or damaged: it is no base64; paste the whole line")
    return blob


def _check_blob(kind: str, blob: bytes) -> None:
    name, *parts = _fields(blob)
    if name != kind.encode():
        raise ValueError(f"says {kind} in front, but holds a key of another kind")
    if kind == _RSA:
        _check_rsa(parts)
        return
    curve = kind.partition("nistp")[2]
    if curve:
        curve = f"nistp{curve[:3]}"
        point = parts[1] if len(parts) > 1 else b""
        fits = parts[:1] == [curve.encode()] and point[:1] == b"\4"
        fits = fits and len(point) == 1 + 2 * _CURVES[curve]
        rest = parts[2:]
    else:
        fits, rest = bool(parts) and len(parts[0]) == 32, parts[1:]
    # a security key's line ends with the application it was made for, such as ssh:
    applications = 1 if kind.startswith("sk-") else 0
    if not fits or len(rest) != applications or b"" in rest:
        raise ValueError(_damaged(kind))


def _check_rsa(parts: list[bytes]) -> None:
    if len(parts) != 2 or any(not part or part[0] & 0x80 for part in parts):
        raise ValueError(_damaged(_RSA))
    exponent, modulus = (int.from_bytes(part, "big") for part in parts)
    bits = modulus.bit_length()
    if exponent < 3 or not exponent % 2 or not modulus % 2 or bits > LONGEST_RSA:
        raise ValueError(_damaged(_RSA))
    if bits < SHORTEST_RSA:
        raise ValueError(
            f"is an RSA key of {bits} bits, too short for years to come ({SHORTEST_RSA} at least);"
            " make one with ssh-keygen -t ed25519"
        )


def _fields(blob: bytes) -> list[bytes]:
    """The length-prefixed strings of RFC 4251 that the blob consists of."""
    fields = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + size:
            raise ValueError("is cut off or damaged: its end is missing; paste the whole line")
        fields.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return fields


def _damaged(kind: str) -> str:
    return f"is damaged: it does not hold what a key of {kind} does; paste the whole line"
