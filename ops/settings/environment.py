"""One folder below inventory/ becomes an Environment, or one message that says what is wrong."""

from __future__ import annotations

import ipaddress
import re
import runpy
import socket
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from ops.errors import SettingsError
from ops.settings.explain import DEVELOPERS_FILE, SECRETS_FILE, SETTINGS_FILE, explain, file_of
from ops.settings.model import Settings

FILES = (SETTINGS_FILE, DEVELOPERS_FILE, SECRETS_FILE)


@dataclass(frozen=True)
class Machine:
    """Where the stack runs and how to log in. `key` empty: the SSH agent or default keys."""

    address: str
    user: str = "root"
    port: int = 22
    key: str = ""

    def login(self) -> str:
        return f"{self.user}@{self.address}"


@dataclass(frozen=True)
class Environment:
    """A validated environment: what `-e <name>` names."""

    folder: Path
    settings: Settings
    machine: Machine

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def edge_name(self) -> str:
        """What clients put into the URL: the domain, or the address in URL form."""
        if self.settings.edge.domain:
            return self.settings.edge.domain
        return f"[{self.machine.address}]" if ":" in self.machine.address else self.machine.address


def machines(
    hosts_file: str, address: str, user: str = "root", port: int = 22, key: str = ""
) -> list[tuple[str, dict[str, Any]]]:
    """The pyinfra inventory of an environment: its one machine, pointing back at the folder.

    Called from `hosts.py` with `__file__`. Host keys are kept beside it in `known_hosts`: the
    first connection records the key, any other key later is refused.
    """
    folder = Path(hosts_file).resolve().parent
    key_path = str((folder / Path(key).expanduser()).resolve()) if key else ""
    data: dict[str, Any] = {
        "environment": str(folder),
        "ssh_user": user,
        "ssh_port": port,
        "ssh_known_hosts_file": str(folder / "known_hosts"),
        "ssh_strict_host_key_checking": "accept-new",
        "ssh_connect_retries": 2,
        "ssh_paramiko_connect_kwargs": {"transport_factory": _transport_without_delay},
    }
    if key_path:
        data |= {"ssh_key": key_path, "ssh_allow_agent": False, "ssh_look_for_keys": False}
    if user != "root":
        data["_sudo"] = True
    return [(address, data)]


def _transport_without_delay(connection: Any, **options: Any) -> Any:
    """paramiko's transport on a socket that sends at once: small commands go back and forth, and
    Nagle's algorithm holds each of them up for the acknowledgement of the one before."""
    import paramiko  # pyinfra's; not on the host, which imports this module too

    if isinstance(connection, socket.socket):  # not the pipe of a proxy command
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return paramiko.Transport(connection, **options)


def load_environment(folder: Path, developers: str | None = None) -> Environment:
    """Read and validate one environment.

    `developers` is read in place of developers.toml: what would be, before it is written.

    Raises SettingsError naming the file, the key, what was expected and the nearest right name.
    """
    folder = folder.resolve()
    if not (folder / "settings.toml").is_file():
        known = sorted(p.parent.name for p in folder.parent.glob("*/settings.toml"))
        listed = ", ".join(name for name in known if name != "example") or "none yet"
        raise SettingsError(
            f"there is no environment {folder.name!r} (found: {listed})",
            f"stackroom init {folder.name} --host <address>",
        )
    settings = _load_settings(folder, developers)
    machine = _load_machine(folder)
    if machine.port in {*settings.edge_ports(), *settings.world_ports()}:
        raise SettingsError(f"{folder}/settings.toml: port {machine.port} is SSH's (hosts.py)")
    if settings.ssh.root_login == "no" and machine.user == "root":
        raise SettingsError(
            f'{folder}/settings.toml: ssh.root_login = "no" would lock out the login of hosts.py',
            f'set user = "{settings.host.operator_account}" in {folder}/hosts.py first',
        )
    return Environment(folder, settings, machine)


def _load_settings(folder: Path, developers: str | None) -> Settings:
    found_in: dict[str, str] = {}
    documents = []
    for name in FILES:
        given = developers if name == DEVELOPERS_FILE else None
        documents.append(_read_toml(folder / name, given))
        for key in documents[-1]:
            if key in Settings.model_fields and file_of(key) != name:
                # secrets.toml alone is kept out of git and from other accounts
                raise SettingsError(f"{folder / name}: {key} belongs into {file_of(key)}")
            found_in[key] = name
    secrets = folder / SECRETS_FILE
    if stat.S_IMODE(secrets.stat().st_mode) & 0o077:
        raise SettingsError(f"{secrets} can be read by others", f"chmod 600 {secrets}")
    try:
        return _from_documents(documents)
    except ValidationError as error:
        raise SettingsError(explain(error, folder, found_in)) from None


def _read_toml(path: Path, text: str | None = None) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsError(f"{path} is missing", _add_what_is_missing(path.parent))
    try:
        return tomllib.loads(path.read_text(encoding="utf-8") if text is None else text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None


def _add_what_is_missing(folder: Path) -> str:
    return f"stackroom init {folder.name} --host <address> adds what is missing"


def _from_documents(documents: list[dict[str, Any]]) -> Settings:
    class FolderSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            # only the files: an environment variable must never outvote the inventory
            return tuple(InitSettingsSource(settings_cls, document) for document in documents)

    return FolderSettings()


def _load_machine(folder: Path) -> Machine:
    path = folder / "hosts.py"
    if not path.is_file():
        raise SettingsError(f"{path} is missing", _add_what_is_missing(folder))
    try:
        hosts = runpy.run_path(str(path)).get("hosts")
    except Exception as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    if not isinstance(hosts, list) or not all(isinstance(host, tuple) for host in hosts):
        raise SettingsError(f"{path} must say: hosts = machines(__file__, address=...)")
    if len(hosts) != 1:
        raise SettingsError(f"{path} lists {len(hosts)} machines; an environment has exactly one")
    address, data = hosts[0]
    check_host_address(address, str(path))
    user, port = data.get("ssh_user", "root"), data.get("ssh_port", 22)
    check_user(user, str(path))
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise SettingsError(f"{path}: port must be a whole number from 1 to 65535")
    return Machine(address, user, port, data.get("ssh_key", ""))


def check_user(user: str, where: str) -> None:
    """Refuse what no Linux account is called; ssh would take `-o...` as an option of its own."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", user):
        raise SettingsError(f"{where}: {user!r} is no name of an account")


def check_host_address(address: str, where: str) -> None:
    """Refuse what is neither an IP address nor a host name. Raises SettingsError."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        pass
    else:
        if "%" not in address:  # behind it, anything passes for the name of an interface
            return
    looks_numeric = re.fullmatch(r"[\d.:]+", address)
    host_name = r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"
    if looks_numeric or not re.fullmatch(host_name, address):
        raise SettingsError(f"{where}: {address!r} is no IP address and no host name")
