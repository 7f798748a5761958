"""`init`: writes an environment that loads, overwrites nothing, and nothing slips in by a name."""

from __future__ import annotations

import ast
import os
import shutil
import socket
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops import inventory
from ops.errors import SettingsError
from ops.inventory import create
from ops.render.files import ROOT
from ops.settings import ensure_secrets, load_environment, machines

GOOD: dict[str, Any] = {
    "name": "production",
    "address": "198.51.100.10",
    "user": "root",
    "key": "",
    "operator": "carla",
    "source": "198.51.100.20",
}
Init = Callable[..., inventory.Created]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An inventory/ of its own, with the example in it."""
    folder = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventory" / "example", folder / "example")
    monkeypatch.setattr(inventory, "INVENTORY", folder)
    return folder


@pytest.fixture
def init(home: Path, public_key: str) -> Init:
    return lambda **other: create(**{**GOOD, "public_key": public_key, **other})


def written(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


EXAMPLE = ["example/developers.toml", "example/hosts.py", "example/settings.toml"]


def test_a_new_environment_loads(home: Path, init: Init, public_key: str) -> None:
    created = init(address="2001:db8::10", user="debian", source="2001:db8::20")
    assert created.written == ["hosts.py", "settings.toml", "developers.toml"]
    assert created.generated == ["qdrant_api_key", "api_token", "restic_password"]
    assert created.kept == []
    environment = load_environment(home / "production")
    assert (environment.machine.address, environment.machine.user) == ("2001:db8::10", "debian")
    assert list(environment.settings.operators) == ["carla"]
    assert environment.settings.operators["carla"].keys == [public_key]
    assert environment.settings.addresses() == ["2001:db8::20/128"]
    text = (home / "production" / "settings.toml").read_text()
    assert text == (home / "example" / "settings.toml").read_text()


def test_init_again_changes_nothing(home: Path, init: Init) -> None:
    init()
    folder = home / "production"
    for name in ("hosts.py", "settings.toml", "developers.toml"):
        path = folder / name
        path.write_text(path.read_text() + "# edited by hand\n")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    created = init(address="198.51.100.99", operator="mallory")
    assert (created.written, created.generated) == ([], [])
    assert created.kept == ["hosts.py", "settings.toml", "developers.toml"]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_missing_secret_is_added_and_the_others_stay(home: Path, init: Init) -> None:
    init()
    path = home / "production" / "secrets.toml"
    first = tomllib.loads(path.read_text())["secrets"]
    path.write_text(
        f'# kept\n[secrets]\nqdrant_api_key = "{first["qdrant_api_key"]}"\n'
        'mistral_api_key = "from-the-provider"\n'
    )
    assert ensure_secrets(path.parent) == ["api_token", "restic_password"]
    second = tomllib.loads(path.read_text())["secrets"]
    assert second["qdrant_api_key"] == first["qdrant_api_key"]
    assert second["mistral_api_key"] == "from-the-provider"
    assert len(second["api_token"]) >= 32
    assert second["api_token"] != first["api_token"]
    assert path.read_text().startswith("# kept\n")


def test_secrets_differ_between_environments(home: Path, init: Init) -> None:
    values = set()
    for name in ("one", "two"):
        init(name=name)
        values |= set(tomllib.loads((home / name / "secrets.toml").read_text())["secrets"].values())
    assert len(values) == 6


def test_secrets_are_private_from_the_first_moment(
    home: Path, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    written_by = os.fdopen

    def fdopen(descriptor: int, *args: Any, **options: Any) -> Any:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return written_by(descriptor, *args, **options)

    monkeypatch.setattr(os, "fdopen", fdopen)
    # what an interrupted run of somebody with another umask may have left
    stale = home / "production" / ".secrets.toml.new"
    stale.parent.mkdir()
    stale.write_text("half of a file")
    stale.chmod(0o644)
    before = os.umask(0)
    try:
        init()
    finally:
        os.umask(before)
    assert seen == [0o600]
    path = home / "production" / "secrets.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not stale.exists()


def test_broken_secrets_are_left_alone(home: Path, init: Init) -> None:
    init()
    path = home / "production" / "secrets.toml"
    path.write_text('[secrets]\nqdrant_api_key = "half')
    with pytest.raises(SettingsError) as caught:
        ensure_secrets(path.parent)
    assert caught.value.message.startswith(f"{path} is not valid TOML: ")
    assert path.read_text() == '[secrets]\nqdrant_api_key = "half'


INJECTION = '"); __import__("os").system("id"); ("'
REFUSED = [
    *(
        ({"name": name}, f"{name!r} cannot name an environment")
        for name in ("example", "", "Prod", "a b", "../x", "a/b", "1st", "a\n", "x" * 32, "-e")
    ),
    *(
        ({"address": address}, f"--host: {address!r} is no IP address and no host name")
        for address in ("256.1.1.1", "", "a b", "-oProxyCommand=id", "198.51.100.0/24", INJECTION,
                        f"fe80::1%{INJECTION}", "a\nb")
    ),
    *(
        ({"user": user}, f"--user: {user!r} is no name of an account")
        for user in ("", "-oProxyCommand=id", "a b", INJECTION, "root\n")
    ),
    *(
        ({"operator": operator}, f"--operator: {operator!r} must be a name of a-z")
        for operator in ("", "Anna", "anna.smith", 'a"]\nx = 1\n["', "a\n", "1st")
    ),
    *(
        ({"source": source}, f"--from: {source!r} is not an IP address or CIDR range")
        for source in ("", "home", '198.51.100.7"]', "256.1.1.1")
    ),
    ({"source": "0.0.0.0/0"}, "--from: '0.0.0.0/0' lists too much of the internet"),
    ({"source": "198.51.100.7/24"}, "--from: '198.51.100.7/24' has host bits set"),
    *(
        ({"public_key": key}, "--public-key must be one line of an OpenSSH .pub file")
        for key in ("", "ssh-ed25519", "ecdsa AAAA", "c2VjcmV0")
    ),
    ({"public_key": "ssh-ed25519 AAAA\nssh-rsa c2VjcmV0"}, "--public-key is several lines"),
    ({"public_key": 'x" ssh-rsa c2VjcmV0'}, "--public-key has something in front of the key"),
    ({"public_key": "ssh-ed25519 c2VjcmV0"}, "--public-key is cut off or damaged"),
    ({"public_key": "-----BEGIN OPENSSH PRIVATE " "KEY-----\nc2VjcmV0"},
     "--public-key is a private key; paste the line of the .pub file"),
]  # fmt: skip


@pytest.mark.parametrize(("other", "message"), REFUSED)
def test_bad_input_is_refused_before_anything_is_written(
    home: Path, init: Init, other: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        init(**other)
    assert caught.value.message.startswith(message)
    assert "c2VjcmV0" not in caught.value.message
    assert written(home) == EXAMPLE


@pytest.mark.parametrize(
    "name",
    [
        "id_ed25519",
        'a"b',
        "a'b",
        "a\\b",
        'x"); __import__("os").abort(); ("',
        "a\nb",
        "käß 日本 🔑",
    ],
)
def test_a_key_path_is_one_literal_in_hosts_py(
    home: Path, init: Init, tmp_path: Path, name: str
) -> None:
    init(key=str(tmp_path / name))
    text = (home / "production" / "hosts.py").read_text(encoding="utf-8")
    (call,) = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    said = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert said == {
        "address": "198.51.100.10",
        "user": "root",
        "port": 22,
        "key": str(tmp_path / name),
    }
    assert load_environment(home / "production").machine.key == str(tmp_path / name)


def test_the_comment_of_a_public_key_stays_in_its_string(
    home: Path, init: Init, public_key: str
) -> None:
    key = public_key + ' a"]\\ [secrets] \'\'\' """'
    init(public_key=f"  {key}\n")
    settings = load_environment(home / "production").settings
    assert settings.operators["carla"].keys == [key]
    assert list(settings.operators) == ["carla"]
    assert settings.developers == {}


def test_commands_over_ssh_are_sent_at_once(tmp_path: Path) -> None:
    """A plan is many small commands: without this each waits for an acknowledgement."""
    ((_, data),) = machines(str(tmp_path / "hosts.py"), "203.0.113.10")
    make = data["ssh_paramiko_connect_kwargs"]["transport_factory"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = socket.create_connection(server.getsockname())
        transport = make(connection)
        try:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        finally:
            transport.close()
            connection.close()
