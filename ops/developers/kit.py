"""A developer's kit: one folder that works when pasted, and only ever for its owner.

It connects nowhere: what it must know of the host is handed in. The secret stands in one file, and
no line of the kit brings it onto a command line, where others on the same machine could read it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ops.clients.edge import fingerprint
from ops.developers.accounts import accounts_of
from ops.developers.hostkeys import known_hosts
from ops.developers.r2r.names import email_of
from ops.errors import SettingsError
from ops.render.files import render
from ops.render.firewall import Family, family_of
from ops.render.people import account_of, tunnel_ports, with_accounts
from ops.settings import Collection, Environment, Settings
from ops.settings.addresses import short
from ops.settings.model import Distance, EdgeMode
from ops.settings.people import Developer
from ops.settings.rights import reachable_names
from ops.settings.secrets import write_private

PAGE = "README.md"
IGNORE = ".gitignore"
# ends before 1.21: the client promises to get on with servers one minor version away
CLIENT = "qdrant-client>=1.20,<1.21"
MCP = "mcp-server-qdrant==0.8.1"
# what that server looks for in a collection: the vector of its default model, under its name
MCP_VECTOR, MCP_SIZE = "fast-all-minilm-l6-v2", 384
# asks R2R over HTTP, as any client may
HTTP_CLIENT = "httpx>=0.27,<1"


@dataclass(frozen=True)
class Kit:
    """Whose kit it is, and its files by name; the secret among them where it holds one."""

    environment: str
    name: str
    files: dict[str, str]

    @property
    def title(self) -> str:
        """The first line of the page, by which a folder is known as this kit's."""
        return self.files[PAGE].partition("\n")[0]


def make_kit(
    environment: Environment,
    name: str,
    *,
    ca_pem: str = "",
    host_keys: str = "",
    secret: SecretStr | None,
) -> Kit:
    """The kit of one developer.

    `ca_pem`: the edge's own CA, which mode `internal` needs. `host_keys`: lines of a known_hosts
    file, or the host's own .pub files; who has SSH keys needs one. Raises SettingsError for what
    is missing, and for somebody who is not there or no longer.
    """
    settings, developer = environment.settings, _current(environment, name)
    if settings.edge.mode is EdgeMode.INTERNAL and not ca_pem:
        raise SettingsError(
            "the kit needs the certificate of the edge's own CA, and the host has shown none",
            f"stackroom -e {environment.name} deploy",
        )
    if settings.edge.mode is EdgeMode.TUNNEL and name not in with_accounts(settings):
        raise SettingsError(
            f'{name} has no SSH login, and edge.mode = "tunnel" leaves no other way in',
            f"give developers.{name} a key and an address of their own in developers.toml",
        )
    values = _values(environment, name, developer, ca_pem, has_token=secret is not None)
    # first, so that no moment of the folder can be committed, whose checkout it may be in
    files = {IGNORE: "*\n"}
    files |= {
        each: render(f"kit/{_template(each, values)}.j2", **values) for each in _names(values)
    }
    if values["ca"]:
        files["ca.pem"] = ca_pem
    if values["account"]:
        machine = environment.machine
        files["known_hosts"] = known_hosts(host_keys, machine.address, machine.port)
    if secret is not None:
        files[accounts_of(settings).file] = f"{secret.get_secret_value()}\n"
    return Kit(environment.name, name, files)


def unserved(environment: Environment, name: str) -> str:
    """Why a line of the kit goes nowhere from where the person works, "" where none is known to.

    An address in it is of one IP version, and whoever comes by the other alone never gets there.
    """
    settings, developer = environment.settings, _current(environment, name)
    served = {family_of(address) for address in developer.addresses}
    lines = {"URL": environment.edge_name().strip("[]"), "SSH tunnel": environment.machine.address}
    if settings.edge.mode is EdgeMode.TUNNEL:
        del lines["URL"]
    if name not in with_accounts(settings):
        del lines["SSH tunnel"]
    lost = {what: to for what, to in lines.items() if not served & _families(to)}
    if not lost:
        return ""
    told = ", ".join(f"the {what} is for {to}" for what, to in lost.items())
    return f"no address of {name} is of that IP version: in the kit {told}"


def _families(host: str) -> set[Family]:
    """The IP versions by which it may be reached: both for a name, which is not looked up."""
    try:
        return {family_of(host)}
    except ValueError:
        return {"v4", "v6"}


def check_folder(kit: Kit, folder: Path) -> None:
    """Whether the kit may be written there: a new folder, an empty one, or this person's kit.

    Raises SettingsError for any other; nothing is changed.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise SettingsError(f"{folder} is no folder", "name another one")
    try:
        foreign = folder.is_dir() and any(folder.iterdir()) and _title_in(folder) != kit.title
    except OSError as error:
        raise SettingsError(f"{folder} cannot be read: {error.strerror or error}") from None
    if foreign:
        raise SettingsError(
            f"{folder} has something else in it", "name an empty folder, or a new one"
        )


def write_kit(kit: Kit, folder: Path) -> None:
    """Write the kit for its reader alone: the folder 0700, every file 0600.

    Raises SettingsError as `check_folder` does, and for what cannot be written.
    """
    check_folder(kit, folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for name in _ALL_FILES - kit.files.keys():
            (folder / name).unlink(missing_ok=True)
        for name, text in kit.files.items():
            write_private(folder / name, text.encode())
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error.strerror or error}") from None


# what a kit of before may hold that this one does not; a token that its owner put there stays
_ALL_FILES = {
    *(PAGE, "env.sh", "check.sh", "example.py", "tunnel.sh", "mcp.sh"),
    *("ca.pem", "ca-bundle.pem", "known_hosts"),
}


def _title_in(folder: Path) -> str:
    page = folder / PAGE
    if not page.is_file():
        return ""
    return page.read_text(encoding="utf-8", errors="replace").partition("\n")[0]


def _current(environment: Environment, name: str) -> Developer:
    developer = environment.settings.developers.get(name)
    if developer is None:
        raise SettingsError(
            f"there is no developer {name} in {environment.folder / 'developers.toml'}",
            f"stackroom -e {environment.name} developer list",
        )
    if developer.is_expired():
        raise SettingsError(
            f"the last day of {name} was {developer.expires}",
            "set a later one in developers.toml",
        )
    return developer


def _template(file_name: str, values: dict[str, Any]) -> str:
    """Where a file's template is: the tunnel is the same one to every stack."""
    ours = values["stack"] == "r2r" and file_name != "tunnel.sh"
    return f"r2r/{file_name}" if ours else file_name


def _names(values: dict[str, Any]) -> Iterator[str]:
    """The files that are rendered for these values."""
    yield PAGE
    if values["account"]:
        yield "tunnel.sh"
    if values["names"]:
        yield from ("env.sh", "check.sh", "example.py")
    if values["mcp_collection"]:
        yield "mcp.sh"


def _values(
    environment: Environment, name: str, developer: Developer, ca_pem: str, *, has_token: bool
) -> dict[str, Any]:
    """What the templates are rendered with."""
    settings, machine = environment.settings, environment.machine
    mode = settings.edge.mode
    base = f"https://{environment.edge_name().lower()}"
    loopback = f"http://127.0.0.1:{tunnel_ports(settings)[0]}"
    names = reachable_names(settings, developer.collections)
    return {
        "environment": environment.name,
        "stack": settings.stack,
        "name": name,
        "title": f"# Stackroom: the kit of {name} for {environment.name}",
        "mode": mode.value,
        "url": loopback if mode is EdgeMode.TUNNEL else f"{base}:{settings.edge.port}",
        # the edge asks for its token, so without an edge there is no way to it
        "api_url": (
            f"{base}:{settings.edge.api_port}"
            if settings.api and mode is not EdgeMode.TUNNEL
            else ""
        ),
        "loopback_url": loopback,
        "addresses": [short(address) for address in developer.addresses],
        "ca": mode is EdgeMode.INTERNAL,
        "fingerprint": fingerprint(ca_pem) if mode is EdgeMode.INTERNAL else "",
        "names": names,
        "behind": {name: _collection_of(settings, name) for name in names},
        "access": developer.access,
        "expires": developer.expires,
        "has_token": has_token,
        "account": account_of(name) if name in with_accounts(settings) else "",
        "host": machine.address.lower(),
        "ssh_port": machine.port,
        "tunnel": _tunnel(environment),
        # the address to log in with, of an R2R
        "login": email_of(name, developer.token) if developer.token else "",
        "client": HTTP_CLIENT if settings.stack == "r2r" else CLIENT,
        "mcp": MCP,
        # Claude Code takes letters, digits, _ and - for the name of a server
        "mcp_name": f"stackroom-{re.sub('[^A-Za-z0-9_-]', '-', environment.name)}",
        "mcp_collection": _mcp_collection(settings, names),
        "mcp_vector": MCP_VECTOR,
        "mcp_size": MCP_SIZE,
    }


def _tunnel(environment: Environment) -> str:
    """ssh with its options, to be run in the kit's folder; only who and where are missing."""
    options = [
        *("ExitOnForwardFailure=yes", "ServerAliveInterval=15"),
        # the kit's own line for the host, and no other, in place of a question
        *("StrictHostKeyChecking=yes", "UserKnownHostsFile=known_hosts"),
    ]
    forwards = [f"127.0.0.1:{p}:127.0.0.1:{p}" for p in tunnel_ports(environment.settings)]
    words = ["ssh", "-N", *(f"-o {option}" for option in options)]
    return " ".join([*words, f"-p {environment.machine.port}", *(f"-L {f}" for f in forwards)])


def _collection_of(settings: Settings, name: str) -> str:
    """The collection behind a name: the name itself, or what it is declared an alias of."""
    aliases = {alias: real for real, one in settings.collections.items() for alias in one.aliases}
    return aliases.get(name, name)


def _mcp_collection(settings: Settings, names: list[str]) -> str:
    """The first of these names whose collection mcp-server-qdrant can use, "" without one.

    Collections come before aliases: the server makes what it does not find, and a token may not.
    """
    by_their_own_name = sorted(names, key=lambda name: name not in settings.collections)
    for name in by_their_own_name:
        declared = settings.collections.get(_collection_of(settings, name))
        if declared is not None and _suits_mcp(declared):
            return name
    return ""


def _suits_mcp(collection: Collection) -> bool:
    vector = collection.vectors.get(MCP_VECTOR)
    return vector is not None and (vector.size, vector.distance) == (MCP_SIZE, Distance.COSINE)
