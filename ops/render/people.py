"""The developers' side of the host: their accounts and the key files that let them tunnel.

A key opens the stack's loopback ports, from the developer's addresses, until the last day: sshd
judges all of it by itself, whatever became of the file that said so.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from ops.render.files import RenderedFile, render
from ops.settings import Developer, Settings
from ops.settings.addresses import is_wide
from ops.settings.people import ACCOUNT_PREFIX

GROUP = "stackroom-developers"
KEYS_FOLDER = "/etc/ssh/stackroom-keys"
# Qdrant's REST and gRPC, or R2R, on the host's loopback, where every request is asked for a token;
# never the team's api, whose token the edge asks for: a tunnel would go past it
_TUNNEL_PORTS = {"qdrant": (6333, 6334), "r2r": (7272,)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LINE = re.compile(r'^\S*?from="(?P<sources>[^"]*)"\S* (?P<kind>\S+) (?P<blob>\S+)', re.MULTILINE)


def tunnel_ports(settings: Settings) -> tuple[int, ...]:
    """The ports of the host's loopback that a developer's tunnel may lead to."""
    return _TUNNEL_PORTS[settings.stack]


def account_of(name: str) -> str:
    """The account of a developer on the host."""
    return f"{ACCOUNT_PREFIX}{name}"


def keys_path(account: str) -> str:
    """The file of an account's keys; root's, for sshd to read in the account's name."""
    return f"{KEYS_FOLDER}/{account}"


def with_accounts(settings: Settings) -> dict[str, Developer]:
    """The developers who may log in: with a key, and an address that SSH is open to."""
    return {
        name: developer
        for name, developer in settings.current_developers().items()
        if developer.keys and _sources(developer)
    }


def last_day(developer: Developer) -> int:
    """When the account ends, as /etc/shadow counts: days (UTC) since 1970; -1 for never."""
    end = developer.ends()
    return (end - _EPOCH).days if end else -1


def key_files(settings: Settings, *, expiry_in_utc: bool = True) -> list[RenderedFile]:
    """Each account's keys. Without `expiry_in_utc` no key says when it ends.

    OpenSSH before 9.1 (Ubuntu 22.04) refuses a key whose end is told in UTC; there the account's
    own end, which every version reads, is the only one.
    """
    return [
        RenderedFile(
            keys_path(account_of(name)),
            render(
                "host/developer_keys.j2",
                options=_options(developer, tunnel_ports(settings), expiry_in_utc=expiry_in_utc),
                keys=developer.keys,
            ),
        )
        for name, developer in with_accounts(settings).items()
    ]


def takes_away(before: str, after: str) -> bool:
    """Whether a key file of ours admits less than the one before it: a key or a source is gone.

    What somebody else has written there is taken for more than ours.
    """
    had, has = _admitted(before), _admitted(after)
    listed = [line for line in before.splitlines() if line.strip() and not line.startswith("#")]
    return not had <= has or len(listed) > len(_LINE.findall(before))


def _admitted(text: str) -> set[tuple[str, str]]:
    return {
        (source, f"{line['kind']} {line['blob']}")
        for line in _LINE.finditer(text)
        for source in line["sources"].split(",")
    }


def _options(developer: Developer, ports: tuple[int, ...], *, expiry_in_utc: bool) -> str:
    """The options of sshd(8): nothing but tunnels to our ports, from there, until then."""
    permitted = [f'permitopen="127.0.0.1:{port}"' for port in ports]
    sources = ",".join(_sources(developer))
    options = ["restrict", "port-forwarding", *permitted, f'from="{sources}"']
    end = developer.ends()
    if end and expiry_in_utc:
        options.append(f'expiry-time="{end:%Y%m%d%H%M}Z"')
    return ",".join(options)


def _sources(developer: Developer) -> list[str]:
    return [address for address in developer.addresses if not is_wide(address)]
