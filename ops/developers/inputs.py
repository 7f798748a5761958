"""What a person typed about a developer, as checked values or as a message with the reason.

It reads a .pub file and nothing else. What was typed for a key is never repeated: it may be a
private one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ops.errors import SettingsError
from ops.settings.addresses import check_address, check_width, overlap, short
from ops.settings.explain import words
from ops.settings.keys import check_public_key
from ops.settings.people import DeveloperName

LONGEST_KEY_FILE = 64 * 1024  # bytes; a line of 16384-bit RSA is 3 KiB

# Ranges that mean something else in every network, so that nobody comes from them over the
# internet. Ranges for documentation count as public: a throw-away network may use them.
_PRIVATE = {
    "10.0.0.0/8": "a private address (RFC 1918)",
    "172.16.0.0/12": "a private address (RFC 1918)",
    "192.168.0.0/16": "a private address (RFC 1918)",
    "100.64.0.0/10": "an address between a provider and its customers (RFC 6598)",
    "169.254.0.0/16": "a link-local address",
    "fe80::/10": "a link-local address",
    "fc00::/7": "a private address (ULA, RFC 4193)",
}
_NOWHERE = {
    "127.0.0.0/8": "a loopback address",
    "::1/128": "a loopback address",
    "0.0.0.0/8": "no address of a machine",
    "240.0.0.0/4": "a reserved address",
}


def read_name(text: str) -> str:
    """The name, where an account can be called so. Raises SettingsError."""
    try:
        name: str = TypeAdapter(DeveloperName).validate_python(text)
    except ValidationError as error:
        raise SettingsError(f"{text!r} {words(error.errors(include_input=False)[0])}") from None
    return name


def read_key(text_or_path: str) -> str:
    """One line of a .pub file: given as it is, or in the file that is named.

    Raises SettingsError with the reason, and without what was given.
    """
    where, text = "--key", text_or_path
    path = _file(text_or_path)
    if path is not None:
        # a file that exists may be named: its name is no key
        where = f"--key {path}:"
        text = _content(path)
    elif re.fullmatch(r"[\w./~@ -]{1,200}\.pub", text_or_path):
        raise SettingsError(f"--key: there is no file {text_or_path}")
    try:
        return check_public_key(text)
    except ValueError as error:
        beside = path.with_name(f"{path.name}.pub") if path is not None else None
        hint = f"--key {beside}" if beside is not None and beside.is_file() else ""
        raise SettingsError(f"{where} {error}", hint) from None


def expiry(text: str, today: date) -> date:
    """The last day: `90d`, `12w` (from today on) or a date. `today` is that of UTC.

    Raises SettingsError for what is neither, for a day that has passed, and for one too far away.
    """
    text = text.strip()
    try:
        if found := re.fullmatch(r"([1-9][0-9]*)([dw])", text, re.ASCII):
            day = today + timedelta(days=int(found[1]) * (7 if found[2] == "w" else 1))
        elif re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text, re.ASCII):
            day = date.fromisoformat(text)
        else:
            raise ValueError
    except OverflowError:
        raise SettingsError(f"--expires {text} is too far away") from None
    except ValueError:
        raise SettingsError(
            f"--expires {text!r} is neither a time from today on, such as 90d or 12w, nor a date"
            " such as 2027-02-19"
        ) from None
    if day < today:
        raise SettingsError(f"--expires {text} has passed: today is {today} (UTC)")
    if day > today + timedelta(days=3660):
        raise SettingsError(f"--expires {text} is too far away: ten years at most")
    return day


def addresses(texts: Iterable[str], *, anywhere: bool = False) -> list[str]:
    """The ranges in canonical form, each once, in the order given.

    Raises SettingsError with a line for each that is none, or too wide without `anywhere`.
    """
    checked: list[str] = []
    wrong: list[str] = []
    for text in texts:
        try:
            address = check_address(text.strip())
        except ValueError as error:
            wrong.append(f"--ip: {error}")
            continue
        try:
            checked.append(address if anywhere else check_width(address))
        except ValueError as error:
            wrong.append(f"--ip: {error}, or add --anywhere (opens the edge only, never SSH)")
    if wrong:
        raise SettingsError("\n".join(wrong))
    if not checked:
        raise SettingsError("--ip is missing: where does this person come from?")
    return list(dict.fromkeys(checked))


def unreachable(addresses: Iterable[str], host_networks: Sequence[str]) -> list[str]:
    """A reason for each address that no packet to the host can come from.

    `host_networks` are those that the host itself is in; a private address in one of them is a
    neighbour's. Both are CIDR ranges.
    """
    own = [str(ipaddress.ip_network(network, strict=False)) for network in host_networks]
    reasons = []
    for address in addresses:
        ask = "give the public address that the host sees (often that of the router)"
        if kind := _kind(address, _NOWHERE):
            reasons.append(f"{short(address)} is {kind}: nobody else comes from it; {ask}")
        elif (kind := _kind(address, _PRIVATE)) and not any(overlap(address, net) for net in own):
            where = "and the host is in no such network"
            reasons.append(f"{short(address)} is {kind}, {where}: {ask}")
    return reasons


def _kind(address: str, kinds: dict[str, str]) -> str:
    """What a range is that lies in one of the kinds as a whole; empty for any other."""
    network = ipaddress.ip_network(address)
    for text, kind in kinds.items():
        wider = overlap(address, text) and network.prefixlen >= ipaddress.ip_network(text).prefixlen
        if wider:
            return kind
    return ""


def _file(text: str) -> Path | None:
    if not text.strip() or len(text) > 1000 or not text.isprintable():
        return None
    path = Path(text)
    try:
        path = path.expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # too long a name, or a home folder of nobody
        return None


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_KEY_FILE + 1)
    except OSError as error:
        raise SettingsError(f"--key {path} cannot be read: {error.strerror}") from None
    if len(content) > LONGEST_KEY_FILE:
        raise SettingsError(f"--key {path} is too large for a .pub file")
    return content.decode("utf-8", errors="replace")
