"""The host's SSH keys as lines that a developer's ssh can check the host by. Pure text."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from ops.errors import SettingsError

SSH_PORT = 22
_KEY = re.compile(r"((?:ssh|ecdsa|sk)-[\w.@-]+) ([A-Za-z0-9+/]+=*)(?:\s.*)?")


def known_hosts(text: str, address: str, port: int = SSH_PORT) -> str:
    """A known_hosts file for this host alone.

    `text`: lines of another known_hosts file, hashed or not, of which those for the host are
    taken; or lines of its .pub files. Raises SettingsError where no key of the host is among them.
    """
    # ssh looks for the name in lower case, and with the port where it is not its own
    label = address.lower() if port == SSH_PORT else f"[{address.lower()}]:{port}"
    keys = {key for line in text.splitlines() if (key := _key_of(line.strip(), label))}
    if not keys:
        raise SettingsError(
            f"no SSH host key of {label} is known, so nobody could tell the host from another",
            "run stackroom doctor once: the first login records the key in known_hosts",
        )
    return "".join(f"{label} {key}\n" for key in sorted(keys))


def _key_of(line: str, label: str) -> str:
    """Kind and key of a line that is about the host, else ""."""
    whole = _KEY.fullmatch(line)
    if not whole:
        names, _, rest = line.partition(" ")
        whole = _KEY.fullmatch(rest.strip())
        # marked lines (@revoked, @cert-authority) never vouch for a host
        if not whole or not any(_names(name, label) for name in names.split(",")):
            return ""
    return f"{whole[1]} {whole[2]}"


def _names(name: str, label: str) -> bool:
    """Whether a name of a known_hosts line stands for the host; it may be hashed (sshd(8))."""
    if not name.startswith("|1|"):
        return name.lower() == label
    try:
        salt, digest = (base64.b64decode(part) for part in name[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(digest, hmac.digest(salt, label.encode(), hashlib.sha1))
