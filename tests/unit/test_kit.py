"""A kit for every kind of environment; that of a tunnel is run as printed, against a server."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from ops.clients.edge import fingerprint
from ops.developers.hostkeys import known_hosts
from ops.developers.kit import Kit, make_kit, unserved, write_kit
from ops.developers.tokens import mint
from ops.errors import SettingsError
from ops.render.files import ROOT
from ops.settings import Environment, load_environment
from ops.settings.people import ACCESS_COLLECTION
from ops.settings.rights import values_in_force

sys.path.insert(0, str(ROOT / "tests" / "contract"))
from stand_in_process import StandIn, make

KEY = secrets.token_urlsafe(32)
TOKEN_ID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"
LAST_DAY = datetime.now(UTC).date() + timedelta(days=90)
API_TOKEN = "api-token-0123456789-0123456789-0123456789"
SECRETS = f"""\
[secrets]
qdrant_api_key = "{KEY}"
api_token = "{API_TOKEN}"
restic_password = "{"r" * 32}"
"""
COLLECTIONS = """
[collections.library]
vector = { size = 4 }
aliases = ["books"]

[collections.team_memory]
aliases = ["memory"]

[collections.team_memory.vectors]
fast-all-minilm-l6-v2 = { size = 384, distance = "cosine" }

[collections.nearly]
vectors = { fast-all-minilm-l6-v2 = { size = 384, distance = "dot" } }
"""
DOMAIN = 'domain = "kb.example.com"'
EDGES = {
    "tunnel": "",
    "internal": "",
    "acme": f'{DOMAIN}\nemail = "ops@example.com"',
    "external": f'{DOMAIN}\ncertificate = "/etc/ssl/kb.pem"\nprivate_key = "/etc/ssl/kb.key"',
}
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGhvc3QtaG9zdC1ob3N0LWhvc3QtaG9zdC1ob3N0LWhv"
API = '\n[api]\nimage = "ghcr.io/example/api:1.4.0"\nport = 8123\n'

MakeEnvironment = Callable[..., Environment]


@pytest.fixture(scope="session")
def bobs_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("key") / "id"
    made = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bob", "-f", str(path))
    subprocess.run(made, check=True)
    return path.with_suffix(".pub").read_text().strip()


@pytest.fixture(scope="session")
def ca_pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("ca")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    files = ("-subj", "/CN=own CA", "-keyout", "key.pem", "-out", "ca.pem")
    made = ("openssl", "req", "-x509", *curve, *files)
    subprocess.run(made, cwd=folder, check=True, capture_output=True)
    return (folder / "ca.pem").read_text()


@pytest.fixture
def make_environment(
    write_environment: Callable[..., Path], public_key: str, bobs_key: str
) -> MakeEnvironment:
    """`make_environment(mode, edge=, more=, address=, port=, keys=, **fields of bob)`."""

    def environment(
        mode: str = "internal",
        *,
        edge: str = "",
        more: str = "",
        address: str = "198.51.100.10",
        port: int = 22,
        keys: bool = True,
        collections: tuple[str, ...] = ("library", "team_memory"),
        access: str = "read",
        addresses: tuple[str, ...] = ("198.51.100.7", "2001:db8:b0b::/48"),
        anywhere: bool = False,
    ) -> Environment:
        bob: dict[str, Any] = {"addresses": addresses, "access": access}
        bob |= {"keys": [bobs_key]} if keys else {}
        lines = [f"{name} = {json.dumps(value)}" for name, value in bob.items()]
        if collections:
            lines += [f"collections = {json.dumps(collections)}", f'token = "{TOKEN_ID}"']
        folder = write_environment(
            settings=f'[edge]\nmode = "{mode}"\n{EDGES[mode]}\n{edge}\n{more}{COLLECTIONS}',
            developers=f'[operators.anna]\naddresses = ["192.0.2.1"]\nkeys = ["{public_key}"]\n'
            "[developers.bob]\n"
            + "\n".join([*lines, f"expires = {LAST_DAY}", f"anywhere = {str(anywhere).lower()}"]),
            secrets=SECRETS,
            hosts="from ops.settings import machines\n\n"
            f"hosts = machines(__file__, address={address!r}, port={port})\n",
        )
        return load_environment(folder)

    return environment


def kit_of(environment: Environment, ca_pem: str = "", token: SecretStr | None = None) -> Kit:
    if token is None and environment.settings.developers["bob"].collections:
        token = mint(environment.settings, "bob")
    return make_kit(environment, "bob", ca_pem=ca_pem, host_keys=HOST_KEY, secret=token)


def run(
    *command: str, cwd: Path, path: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """A program with a bare environment, `path` before the system's own programs."""
    programs = f"{path}:" if path else ""
    return subprocess.run(
        command,
        cwd=cwd,
        env={"PATH": f"{programs}/usr/local/bin:/usr/bin:/bin", "HOME": str(cwd), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# every kind of environment


@pytest.mark.parametrize("more", ["", API], ids=["alone", "api"])
@pytest.mark.parametrize("mode", EDGES)
def test_a_kit_is_whole_in_every_mode(
    make_environment: MakeEnvironment, ca_pem: str, tmp_path: Path, mode: str, more: str
) -> None:
    environment = make_environment(mode, more=more, access="write")
    kit = kit_of(environment, ca_pem)

    write_kit(kit, tmp_path / "kit")

    own_ca = {"ca.pem"} if mode == "internal" else set()
    scripts = {"env.sh", "check.sh", "tunnel.sh", "mcp.sh"}
    rest = {".gitignore", "README.md", "example.py", "token", "known_hosts"}
    assert set(kit.files) == scripts | own_ca | rest
    for name in scripts:
        checked = run("sh", "-n", name, cwd=tmp_path / "kit")
        assert (checked.returncode, checked.stderr) == (0, ""), name
    compile(kit.files["example.py"], "example.py", "exec")
    page = kit.files["README.md"]
    url = {"tunnel": "http://127.0.0.1:6333", "internal": "https://198.51.100.10:443"}
    for name in ("README.md", "env.sh", "check.sh", "example.py"):
        assert url.get(mode, "https://kb.example.com:443") in kit.files[name], name
    assert "{{" not in page and "{%" not in page
    assert f"until the end of {LAST_DAY}" in page
    # the page tells of no file that is not there
    assert ("ca.pem" in page) == (mode == "internal")
    assert (fingerprint(ca_pem) in page) == (mode == "internal")
    # no tunnel goes past the token of the API, which the edge asks for
    assert ("the team's API" in page) == (bool(more) and mode != "tunnel")
    assert "8123" not in "".join(kit.files.values())
    if more and mode != "tunnel":
        api = {"internal": "https://198.51.100.10:8443"}
        assert api.get(mode, "https://kb.example.com:8443") in page


@pytest.mark.parametrize("mode", EDGES)
def test_secrets_stand_in_the_file_of_the_token_alone(
    make_environment: MakeEnvironment, ca_pem: str, mode: str
) -> None:
    """The server's own keys and the API's are in none."""
    environment = make_environment(mode, more=API)
    token = mint(environment.settings, "bob").get_secret_value()

    files = dict(kit_of(environment, ca_pem).files)

    assert files.pop("token") == f"{token}\n"
    everything = "\n".join(files.values())
    for secret in (token, KEY, API_TOKEN):
        assert secret not in everything


@pytest.mark.parametrize(
    ("address", "url", "host"),
    [
        ("2001:DB8::10", "https://[2001:db8::10]:9443", "dev-bob@2001:db8::10"),
        ("VM1.example.com", "https://vm1.example.com:9443", "dev-bob@vm1.example.com"),
    ],
)
def test_other_addresses_and_ports_are_written_as_they_are_used(
    make_environment: MakeEnvironment, ca_pem: str, address: str, url: str, host: str
) -> None:
    environment = make_environment(edge="port = 9443", address=address, port=2222)

    kit = kit_of(environment, ca_pem)

    assert f'url="{url}"' in kit.files["example.py"]
    assert f"QDRANT_URL='{url}'" in kit.files["env.sh"]
    assert (
        f"-p 2222 -L 127.0.0.1:6333:127.0.0.1:6333 -L 127.0.0.1:6334:127.0.0.1:6334 {host}"
        in (kit.files["README.md"])
    )
    assert kit.files["known_hosts"] == f"[{address.lower()}]:2222 {HOST_KEY}\n"


def test_every_collection_and_alias_is_named(
    make_environment: MakeEnvironment, ca_pem: str
) -> None:
    page = kit_of(make_environment(collections=("library", "memory")), ca_pem).files["README.md"]

    assert (
        "`library`, `books` (an alias of `library`), `memory` (an alias of `team_memory`)" in page
    )
    assert "memory` (an alias of `team_memory`): read |" in page


@pytest.mark.parametrize(
    ("collections", "chosen"),
    [
        (("library", "team_memory"), "team_memory"),
        (("memory",), "memory"),
        (("memory", "team_memory"), "team_memory"),  # its own name before an alias
        (("nearly", "library"), ""),  # another distance: it would be refused
    ],
)
def test_claude_is_pointed_at_a_collection_that_it_can_use(
    make_environment: MakeEnvironment, ca_pem: str, collections: tuple[str, ...], chosen: str
) -> None:
    kit = kit_of(make_environment(collections=collections), ca_pem)
    page = kit.files["README.md"]

    assert ("mcp.sh" in kit.files) == ("claude mcp add" in page) == bool(chosen)
    if chosen:
        assert f"export COLLECTION_NAME='{chosen}'\n" in kit.files["mcp.sh"]
    else:
        # a setting that helps, as it would be pasted into settings.toml
        wanted = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
        assert wanted
        helped = make_environment(
            more=wanted[1].replace("team_memory", "helped"), collections=("helped",)
        )
        assert "mcp.sh" in kit_of(helped, ca_pem).files


def test_a_name_that_claude_would_refuse_is_made_one_it_takes(
    make_environment: MakeEnvironment, ca_pem: str, tmp_path: Path
) -> None:
    folder = make_environment().folder
    environment = load_environment(folder.rename(folder.with_name("team 2.eu")))

    page = kit_of(environment, ca_pem).files["README.md"]

    assert 'claude mcp add --scope user stackroom-team-2-eu -- sh "$PWD/mcp.sh"' in page


def test_without_collections_there_is_a_tunnel_and_no_token(
    make_environment: MakeEnvironment, ca_pem: str
) -> None:
    kit = kit_of(make_environment(collections=()), ca_pem)

    assert set(kit.files) == {".gitignore", "README.md", "ca.pem", "known_hosts", "tunnel.sh"}
    assert "no collection is named for you yet" in kit.files["README.md"]
    assert "check.sh" not in kit.files["README.md"]


@pytest.mark.parametrize(
    "lacking",
    [{"keys": False}, {"addresses": ("0.0.0.0/0", "::/0"), "anywhere": True}],
    ids=["no key", "SSH is shut to the whole internet"],
)
def test_who_cannot_log_in_is_shown_no_tunnel(
    make_environment: MakeEnvironment, ca_pem: str, lacking: dict[str, Any]
) -> None:
    kit = kit_of(make_environment(**lacking), ca_pem)

    assert not {"tunnel.sh", "known_hosts"} & set(kit.files)
    assert "ssh" not in kit.files["README.md"].lower()
    with pytest.raises(SettingsError, match="no SSH login"):
        kit_of(make_environment("tunnel", **lacking))


def test_what_is_missing_is_said(make_environment: MakeEnvironment, ca_pem: str) -> None:
    environment = make_environment()
    token = mint(environment.settings, "bob")

    with pytest.raises(SettingsError, match="certificate of the edge's own CA"):
        make_kit(environment, "bob", host_keys=HOST_KEY, secret=token)
    with pytest.raises(SettingsError, match="no SSH host key of 198"):
        make_kit(environment, "bob", ca_pem=ca_pem, secret=token)
    with pytest.raises(SettingsError, match="no developer eve"):
        make_kit(environment, "eve", ca_pem=ca_pem, host_keys=HOST_KEY, secret=token)


# the host's key


@pytest.mark.parametrize(
    ("mode", "keys", "address", "addresses", "lost"),
    [
        ("internal", True, "198.51.100.10", ("2001:db8::7",), ("URL", "SSH tunnel")),
        ("internal", False, "198.51.100.10", ("2001:db8::7",), ("URL",)),
        ("tunnel", True, "198.51.100.10", ("2001:db8::7",), ("SSH tunnel",)),
        ("acme", True, "198.51.100.10", ("2001:db8::7",), ("SSH tunnel",)),
        ("internal", True, "2001:db8::10", ("198.51.100.7",), ("URL", "SSH tunnel")),
        ("internal", True, "198.51.100.10", ("198.51.100.7", "2001:db8::7"), ()),
        ("internal", True, "2001:db8::10", ("2001:db8::7",), ()),
        ("acme", True, "host.example.com", ("2001:db8::7",), ()),
    ],
)
def test_whoever_comes_by_the_other_ip_version_alone_is_told(
    make_environment: MakeEnvironment,
    mode: str,
    keys: bool,
    address: str,
    addresses: tuple[str, ...],
    lost: tuple[str, ...],
) -> None:
    made = make_environment(mode, keys=keys, address=address, addresses=addresses)
    said = unserved(made, "bob")
    assert [what for what in ("URL", "SSH tunnel") if f"the {what} is for " in said] == list(lost)
    assert bool(said) is bool(lost)


def test_a_known_hosts_file_gives_the_keys_of_the_host_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(
        "198.51.100.10 ssh-ed25519 AAAAhost\n"
        "198.51.100.10,vm1 ecdsa-sha2-nistp256 AAAAsecond comment\n"
        "198.51.100.11 ssh-ed25519 AAAAneighbour\n"
        "[198.51.100.10]:2222 ssh-ed25519 AAAAother-port\n"
        "@revoked 198.51.100.10 ssh-ed25519 AAAArevoked\n"
        "# a comment\n\n"
    )

    assert known_hosts(path.read_text(), "198.51.100.10") == (
        "198.51.100.10 ecdsa-sha2-nistp256 AAAAsecond\n198.51.100.10 ssh-ed25519 AAAAhost\n"
    )


@pytest.mark.parametrize(
    ("address", "port", "label"),
    [
        ("198.51.100.10", 22, "198.51.100.10"),
        ("2001:DB8::10", 2222, "[2001:db8::10]:2222"),
    ],
)
def test_hashed_names_are_understood(
    tmp_path: Path, bobs_key: str, address: str, port: int, label: str
) -> None:
    """Debian's ssh hashes them; here ssh-keygen does."""
    key = bobs_key.rpartition(" ")[0]
    path = tmp_path / "known_hosts"
    path.write_text(f"{label} {key}\n192.0.2.9 {HOST_KEY}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    assert label not in path.read_text()

    assert known_hosts(path.read_text(), address, port) == f"{label} {key}\n"


# on the disk


def test_it_is_written_for_its_reader_alone(
    make_environment: MakeEnvironment, ca_pem: str, tmp_path: Path
) -> None:
    folder = tmp_path / "kits" / "of bob"
    before = os.umask(0)
    try:
        write_kit(kit_of(make_environment(), ca_pem), folder)
    finally:
        os.umask(before)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_git_takes_nothing_of_a_kit(
    make_environment: MakeEnvironment, ca_pem: str, tmp_path: Path
) -> None:
    """A kit below a checkout would be one `git add .` away from everybody."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    write_kit(kit_of(make_environment(), ca_pem), tmp_path / "kits" / "bob")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    status = ("git", "status", "--porcelain", "--untracked-files=all", "kits")
    said = subprocess.run(status, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert said.stdout == ""


def test_a_kit_is_renewed_and_loses_what_no_longer_holds(
    make_environment: MakeEnvironment, ca_pem: str, tmp_path: Path
) -> None:
    folder = tmp_path / "kit"
    write_kit(kit_of(make_environment(), ca_pem), folder)
    (folder / "notes of bob").write_text("mine")

    kit = kit_of(make_environment("acme", collections=("library",)))
    write_kit(kit, folder)

    assert {path.name for path in folder.iterdir()} == {*kit.files, "notes of bob"}
    assert {name: (folder / name).read_text() for name in kit.files} == kit.files


def test_no_foreign_folder_is_written_into(
    make_environment: MakeEnvironment, ca_pem: str, tmp_path: Path
) -> None:
    kit = kit_of(make_environment(), ca_pem)
    home, other, link, file = (tmp_path / name for name in ("home", "other", "link", "file"))
    for folder in (home, other):
        folder.mkdir(mode=0o755)
    (home / "thesis.txt").write_text("mine")
    (other / "README.md").write_text(kit.title.replace("bob", "bobby") + "\n")
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    file.write_text("mine")

    for folder in (home, other, link, file):
        with pytest.raises(SettingsError):
            write_kit(kit, folder)

    assert [path.name for path in home.iterdir()] == ["thesis.txt"]
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    assert not (other / "token").exists()


# as printed


class Served:
    """bob's kit for a tunnel, in a folder with a space, and the server at its end."""

    def __init__(self, server: StandIn, folder: Path, token: str) -> None:
        self.server, self.folder, self.token = server, folder, token
        self.argv = folder.parent / "argv"
        self.programs = folder.parent / "programs"
        self.programs.mkdir()
        for name in ("curl", "printf", "cat", "sed"):
            # whatever is started by name leaves its command line behind, as `ps` shows it
            found = subprocess.check_output(["which", name], text=True).strip()
            self.program(name, f'exec {found} "$@"')

    def program(self, name: str, body: str) -> None:
        log = shlex.quote(str(self.argv))
        path = self.programs / name
        path.write_text(f'#!/bin/sh\necho "$0 $*" >> {log}\n{body}\n')
        path.chmod(0o755)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run(*command, cwd=self.folder, path=self.programs, **environment)


def send(server: StandIn, method: str, path: str, body: Any = None) -> None:
    answer = httpx.request(method, server.url + path, json=body, headers={"api-key": KEY})
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    stand_in = make(tmp_path_factory.mktemp("qdrant"), KEY)
    stand_in.start()
    made: dict[str, Any] = {"library": {"size": 4}, ACCESS_COLLECTION: {"size": 1}}
    made["team_memory"] = {"fast-all-minilm-l6-v2": {"size": 384, "distance": "Cosine"}}
    for name, vectors in made.items():
        body = {"vectors": {"distance": "Cosine"} | vectors if "size" in vectors else vectors}
        send(stand_in, "PUT", f"/collections/{name}", body)
    aliases = {"books": "library", "memory": "team_memory"}
    actions = [
        {"create_alias": {"collection_name": real, "alias_name": alias}}
        for alias, real in aliases.items()
    ]
    send(stand_in, "POST", "/collections/aliases", {"actions": actions})
    points = [{"id": number, "vector": [1, 0, 0, 0]} for number in (1, 2, 3)]
    send(stand_in, "PUT", "/collections/library/points?wait=true", {"points": points})
    yield stand_in
    assert stand_in.stop() == 0, stand_in.log


@pytest.fixture
def served(server: StandIn, make_environment: MakeEnvironment, tmp_path: Path) -> Served:
    environment = make_environment("tunnel")
    kit = kit_of(environment)
    # the other end of the tunnel is not on its own port here
    files = {n: t.replace("127.0.0.1:6333", server.url[7:]) for n, t in kit.files.items()}
    folder = tmp_path / "the kit"
    write_kit(Kit(kit.environment, kit.name, files), folder)
    value, name = values_in_force(environment.settings)[TOKEN_ID]
    point = {"id": TOKEN_ID, "vector": [1], "payload": {"token": value, "developer": name}}
    path = f"/collections/{ACCESS_COLLECTION}/points?wait=true"
    send(server, "PUT", path, {"points": [point]})
    return Served(server, folder, mint(environment.settings, "bob").get_secret_value())


def test_the_check_tells_what_the_token_opens(served: Served) -> None:
    done = served.run("sh", "check.sh")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "ok      library: about 3 points",
        "ok      books: about 3 points",
        "ok      team_memory: about 0 points",
        "ok      memory: about 0 points",
    ]


def test_the_check_works_from_anywhere(served: Served, tmp_path: Path) -> None:
    done = run("sh", f"{served.folder}/check.sh", cwd=tmp_path, CDPATH="/tmp:/")

    assert done.returncode == 0, done.stderr


def test_the_line_with_curl_works_as_printed(served: Served) -> None:
    line = re.search(r"^printf .*curl.*$", served.folder.joinpath("README.md").read_text(), re.M)
    assert line

    done = served.run("sh", "-c", line[0])

    names = {entry["name"] for entry in json.loads(done.stdout)["result"]["collections"]}
    assert names == {"library", "team_memory"}


def test_the_snippet_works_as_it_is(served: Served) -> None:
    done = served.run(sys.executable, "-W", "error", "example.py")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["library: about 3 points", "books: about 3 points"]


def test_the_environment_is_there_for_other_programs(served: Served) -> None:
    shown = 'printf "%s\\n" "$QDRANT_URL" "$QDRANT_API_KEY" "${kit-none}" "${SSL_CERT_FILE-none}"'
    done = served.run("sh", "-c", f". ./env.sh && {shown}")

    assert done.stdout.splitlines() == [served.server.url, served.token, "none", "none"]


@pytest.mark.parametrize("command", ["check.sh", "mcp.sh"])
def test_the_token_is_on_no_command_line(served: Served, command: str) -> None:
    served.program("uvx", 'test -n "$QDRANT_API_KEY" && echo started')

    done = served.run("sh", command)

    assert done.returncode == 0, done.stderr
    seen = served.argv.read_text()
    assert ("curl" if command == "check.sh" else "uvx mcp-server-qdrant==0.8.1\n") in seen
    assert served.token not in seen


def test_claudes_server_is_given_what_it_reads(served: Served) -> None:
    """Read-only for a reader: without it, the server offers a tool that can only fail."""
    served.program("uvx", "env")

    done = served.run("sh", "mcp.sh")

    given = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert given["QDRANT_URL"] == served.server.url
    assert given["QDRANT_API_KEY"] == served.token
    assert given["COLLECTION_NAME"] == "team_memory"
    assert given["QDRANT_READ_ONLY"] == "true"


def test_claudes_server_may_store_for_a_writer(make_environment: MakeEnvironment) -> None:
    kit = kit_of(make_environment("tunnel", access="write"))

    assert "QDRANT_READ_ONLY" not in kit.files["mcp.sh"]


def test_a_machine_without_uvx_is_told(served: Served) -> None:
    done = run("sh", "mcp.sh", cwd=served.folder, path=Path("/nowhere"))

    assert done.returncode == 127
    assert "uvx is not installed" in done.stderr


def test_a_revoked_token_is_told_and_opens_nothing(served: Served) -> None:
    path = f"/collections/{ACCESS_COLLECTION}/points/delete?wait=true"
    send(served.server, "POST", path, {"points": [TOKEN_ID]})

    done = served.run("sh", "check.sh")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("FAILED") == 4
    assert f"it has ended ({LAST_DAY}) or was replaced; ask for a new kit" in done.stderr
    assert served.run(sys.executable, "example.py").returncode != 0


def test_a_tunnel_that_is_not_open_is_told(
    make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    kit = kit_of(make_environment("tunnel"))
    files = {n: t.replace("127.0.0.1:6333", "127.0.0.1:9") for n, t in kit.files.items()}
    write_kit(Kit(kit.environment, kit.name, files), tmp_path / "kit")

    done = run("sh", "check.sh", cwd=tmp_path / "kit")

    assert done.returncode == 1
    assert "is the tunnel open? In another shell: sh tunnel.sh" in done.stderr
