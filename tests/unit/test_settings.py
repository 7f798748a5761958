"""Every mistake in an environment has a message with the file, the key and what was expected."""

from __future__ import annotations

import re
import shutil
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ops.errors import SettingsError
from ops.render.files import ROOT
from ops.settings import Developer, ensure_secrets, load_environment
from ops.settings.explain import model_in
from ops.settings.model import Settings

WriteEnvironment = Callable[..., Path]
EXAMPLE = ROOT / "inventory" / "example"

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna"
ANNA = f'[operators.anna]\naddresses = ["198.51.100.20"]\nkeys = ["{KEY}"]\n'
API_KEY = 'qdrant_api_key = "canary-0123456789-0123456789-0123456789"\n'
API_TOKEN = 'api_token = "canary-0123456789-0123456789-0123456789"\n'
RESTIC = 'restic_password = "canary-0123456789-0123456789-0123456789"\n'
ALL_SECRETS = f"[secrets]\n{API_KEY}{API_TOKEN}{RESTIC}"
OFFSITE = "[backup.offsite]\nrepository = "


def refusal(folder: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load_environment(folder)
    return caught.value.message


# what is written into settings.toml -> the message behind "<folder>/settings.toml: "
SETTINGS_MISTAKES = [
    # unknown keys, at each level, with the nearest right name
    ('stak = "qdrant"', "stak is not a key of Stackroom; did you mean stack?"),
    ("[dockr]", "dockr is not a key of Stackroom; did you mean docker?"),
    ("[qdrant]\ndashbord = true", "qdrant.dashbord is not a key of Stackroom; did you mean "
     "qdrant.dashboard?"),
    ("[ssh]\nport = 22", "ssh.port is not a key of Stackroom; known here: open_to_world, "
     "root_login"),
    ("[collections.a.vector]\nsize = 4\ndistanse = 'dot'", "collections.a.vector.distanse is not "
     "a key of Stackroom; did you mean collections.a.vector.distance?"),
    ("[collections.a.vectors.b]\nsiz = 4\nsize = 4", "collections.a.vectors.b.siz is not a key of "
     "Stackroom; did you mean collections.a.vectors.b.size?"),
    ("[api]\ngit = {repository = 'https://git.example.com/a', reff = 'v1', ref = 'v1'}",
     "api.git.reff is not a key of Stackroom; did you mean api.git.ref?"),
    # wrong types
    ("[edge]\nport = '443'", "edge.port must be a whole number, without quotes"),
    ("[edge]\nport = 443.5", "edge.port must be a whole number, without quotes"),
    ("[edge]\nport = true", "edge.port must be a whole number, without quotes"),
    ("[qdrant]\ndashboard = 'yes'", "qdrant.dashboard must be true or false"),
    ("[qdrant]\ndashboard = 1", "qdrant.dashboard must be true or false"),
    ("[qdrant]\nversion = 1.19", "qdrant.version must be a text in quotes"),
    ("docker = 'distro'", "docker must be a table"),
    ("collections = 'a'", "collections must be a table"),
    ("[collections.a]\nvector = {size = 4}\naliases = 'b'", "collections.a.aliases must be a list "
     'such as ["..."]'),
    # values that are not among the possible ones
    ("stack = 'qdrnt'", 'stack must be "qdrant" or "r2r"'),
    ("[edge]\nmode = 'tls'", 'edge.mode must be "tunnel", "internal", "acme" or "external"'),
    ("[ssh]\nroot_login = 'yes'", 'ssh.root_login must be "keys" or "no"'),
    ("[docker]\nsource = 'snap'", 'docker.source must be "docker" or "distro"'),
    ("[collections.a.vector]\nsize = 4\ndistance = 'l2'", 'collections.a.vector.distance must be '
     '"cosine", "dot", "euclid" or "manhattan"'),
    ("[collections.a]\nvector = {size = 4}\npayload_indexes = {b = 'string'}",
     'collections.a.payload_indexes.b must be "keyword", "integer", "float", "geo", "text", '
     '"bool", "datetime" or "uuid"'),
    # sizes and numbers out of bounds
    ("[edge]\nport = 0", "edge.port must be 1 or more"),
    ("[edge]\nport = 65536", "edge.port must be 65535 or less"),
    ("[docker]\nlog_max_files = 0", "docker.log_max_files must be 1 or more"),
    ("[docker]\nlog_max_size = '10MB'", 'docker.log_max_size must be a size such as "10m"'),
    ("[firewall]\nrollback_seconds = 181", "firewall.rollback_seconds must be 180 or less"),
    ("[host]\njournal_max = '1GB'", 'host.journal_max must be a size such as "512M" or "2G"'),
    ("[host]\nreboot_at = '24:00'", 'host.reboot_at must be a time such as "04:30"'),
    ("[host]\noperator_account = 'Anna'", "host.operator_account must be a name of a-z, 0-9, - "
     "and _, 31 characters at most"),
    ("[qdrant]\nmemory = 'all'", 'qdrant.memory must be "auto" or a size such as "512M" or "2G"'),
    ("[collections.a]\nvector = {size = 0}", "collections.a.vector.size must be 1 or more"),
    ("[collections.a]\nvector = {}", "collections.a.vector.size is missing"),
    ("[collections.'-a']\nvector = {size = 4}", "collections.-a must be a name of letters, digits, "
     "_, . and -"),
    # the edge's modes
    ("[edge]\ndomain = 'knowledge.example.com'", 'edge has a domain but no mode: add mode = "acme" '
     '(Let\'s Encrypt), "external" (your certificate files) or "internal" (own CA)'),
    ("[edge]\nmode = 'acme'\ndomain = 'knowledge.example.com'", 'edge mode "acme" needs domain '
     "and email"),
    ("[edge]\nmode = 'external'\ndomain = 'knowledge.example.com'\ncertificate = '/etc/a.pem'",
     'edge mode "external" needs domain, certificate and private_key'),
    ("[edge]\nmode = 'internal'\ncertificate = '/etc/a.pem'\nprivate_key = '/etc/a.key'",
     'edge certificate and private_key are for mode "external" only'),
    ("[edge]\nprivate_key = 'a.key'", "edge.private_key must be an absolute path of a file on the "
     "host"),
    ("[edge]\nport = 8443\n[api]\nimage = 'a:1'", "edge.api_port = 8443 is taken by edge.port"),
    ("[edge]\nport = 6333", "edge.port = 6333 is taken by Qdrant's REST"),
    ("[api]\nimage = 'a:1'\nport = 443", "api.port = 443 is taken by edge.port"),
    ("[host]\noperator_account = 'root'", "host.operator_account must be an account of its own, "
     "not root"),
    ("[api]\ngit = {repository = 'https://token@example.com/a', ref = 'v1'}", "api.git.repository "
     "must be an address that starts with https://, ssh:// or git@, without a password in it"),
    ("[edge]\ndomain = 'https://knowledge.example.com'\nmode = 'acme'", "edge.domain must be a "
     "domain name such as knowledge.example.com"),
    ("[edge]\nemail = 'ops'", "edge.email must be an address such as ops@example.com"),
    ("[edge]\nmax_body = '64m'", 'edge.max_body must be a size such as "64MB"'),
    # versions
    ("[qdrant]\nversion = 'v1.18.1'", "qdrant.version must be v1.18.2 or newer (security fixes)"),
    ("[qdrant]\nversion = 'v1.9.0'", "qdrant.version must be v1.18.2 or newer (security fixes)"),
    ("[qdrant]\nversion = '1.19.0'", 'qdrant.version must be a version such as "v1.19.0"'),
    (
        "[edge]\nversion = '2.11.1'",
        "edge.version must be 2.11.2 or newer (it holds requests while a service restarts)",
    ),
    ("[edge]\nversion = 'latest'", 'edge.version must be a version such as "2.11.2"'),
    # collections
    ("[collections.a]\nvector = {size = 4}\nvectors.b = {size = 4}", "collections.a needs either "
     "vector (unnamed) or vectors (by name)"),
    ("[collections.a]", "collections.a needs either vector (unnamed) or vectors (by name)"),
    ("[collections.a]\nvector = {size = 4}\naliases = ['c']\n[collections.b]\nvector = {size = 4}\n"
     "aliases = ['c']", "collections.b: the alias c is taken"),
    ("[collections.a]\nvector = {size = 4}\naliases = ['a']", "collections.a: the alias a is "
     "taken"),
    # the api
    ("[api]\nimage = 'a:1'\ngit = {repository = 'https://git.example.com/a', ref = 'v1'}",
     "api needs either image or git, not both and not none"),
    ("[api]", "api needs either image or git, not both and not none"),
    *(
        (f"[api]\nimage = '{image}'", "api.image must be an image pinned by a tag other than "
         "latest, or by its digest")
        for image in ("a", "a:latest", "a:", "registry.example.com:5000/a", "-a:1", "a:1 -v")
    ),
    ("[api]\ngit = {repository = 'https://git.example.com/a', ref = '--upload-pack=x'}",
     "api.git.ref must be a tag, a branch or a commit of git"),
    ("[api]\ngit = {repository = '/tmp/a', ref = 'v1'}", "api.git.repository must be an address "
     "that starts with https://, ssh:// or git@, without a password in it"),
    ("[api]\nimage = 'a:1'\nindex = 'index --all'", 'api.index must be a list such as ["..."]'),
    ('[api]\nimage = "a:1"\nindex = ["sh", "-c", "a\\nb"]', "api.index.2 must be one word of a "
     "command, without a line break in it"),
    # backups and escrow
    ("[backup]\ndaily_at = '24:00'", 'backup.daily_at must be a time such as "02:30"'),
    ("[backup]\nweekly_on = 'Sunday'", 'backup.weekly_on must be "Mon", "Tue", "Wed", "Thu", '
     '"Fri", "Sat" or "Sun"'),
    *(
        (f"[backup]\nlocal = '{path}'", "backup.local must be an absolute path on the host, below "
         "the root folder")
        for path in ("", "/", "backups", "/srv/../etc", "/srv/.", "/srv/a b", "/srv/")
    ),
    ("[backup.keep]\nlast = 0", "backup.keep.last must be 1 or more"),
    *(
        (f"{OFFSITE}'{repository}'", 'backup.offsite.repository must be a restic repository: '
         '"s3:https://<server>/<bucket>/<path>", "sftp:<user>@<host>:<path>" or '
         '"rclone:<remote>:<path>"')
        for repository in ("/srv", "ftp:a", "sftp:host:path", "sftp:-oProxyCommand=a@host:path",
                           "rclone:-v:path", "s3:host/bucket")
    ),
    (f"{OFFSITE}'s3:https://key:word@s3.example.com/a'", "backup.offsite.repository must not hold "
     "a password; keys belong into secrets.toml"),
    (f"{OFFSITE}'sftp:u1@box.example.com:a'", "backup.offsite needs host_key: ssh-keyscan -t "
     "ed25519 <host> prints it; compare it first"),
    (f"{OFFSITE}'sftp:u1@box.example.com:a'\nhost_key = 'box ssh-ed25519 AAAA'",
     'backup.offsite.host_key must be a kind and a key, such as "ssh-ed25519 AAAA..."'),
    (f"{OFFSITE}'rclone:a:b'\n[backup]\nlocal_only = true", "backup has offsite and local_only; "
     "choose one"),
    ("[escrow]\nrecipients = ['" + KEY + "']", "escrow recipients needs two keys or more: one lost "
     "laptop must not matter"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), SETTINGS_MISTAKES)
def test_a_mistake_in_settings_toml(
    write_environment: WriteEnvironment, text: str, message: str
) -> None:
    folder = write_environment(settings=text)
    assert refusal(folder) == f"{folder}/settings.toml: {message}"


ADDRESS_MISTAKES = [
    ("knowledge.example.com", "'knowledge.example.com' is not an IP address or CIDR range"),
    ("256.1.1.1", "'256.1.1.1' is not an IP address or CIDR range"),
    ("198.51.100.7/33", "'198.51.100.7/33' is not an IP address or CIDR range"),
    ("", "'' is not an IP address or CIDR range"),
    ("198.51.100.7/24", "'198.51.100.7/24' has host bits set: write 198.51.100.0/24 for all of it, "
     "or 198.51.100.7 for one"),
    ("2001:db8::7/64", "'2001:db8::7/64' has host bits set: write 2001:db8::/64 for all of it, or "
     "2001:db8::7 for one"),
    ("0.0.0.0/0", "'0.0.0.0/0' lists too much of the internet (/8 at most); "
     "list the addresses people work from"),
    ("128.0.0.0/1", "'128.0.0.0/1' lists too much of the internet (/8 at most); "
     "list the addresses people work from"),
    ("::/0", "'::/0' lists too much of the internet (/16 at most); "
     "list the addresses people work from"),
    ("2000::/3", "'2000::/3' lists too much of the internet (/16 at most); "
     "list the addresses people work from"),
    ("ff02::1", "'ff02::1' is no address that somebody can come from"),
    ("fe80::1%eth0", "'fe80::1%eth0' is no address that somebody can come from"),
    ("::ffff:198.51.100.7", "'::ffff:198.51.100.7' stands for an IPv4 address; write that"),
]  # fmt: skip


@pytest.mark.parametrize(("address", "message"), ADDRESS_MISTAKES)
@pytest.mark.parametrize("kind", ["operators", "developers"])
def test_an_address_that_is_none(
    write_environment: WriteEnvironment, kind: str, address: str, message: str
) -> None:
    person = f'[{kind}.carl]\naddresses = ["198.51.100.9", "{address}"]\nkeys = ["{KEY}"]\n'
    folder = write_environment(developers=ANNA + person)
    where = f"{kind}.carl.addresses.1 {message}"
    if kind == "developers" and "too much of the internet" in message:
        where = (
            f"developers.carl lists {address}, which is too much of the internet: list the"
            " addresses they work from, or say anywhere = true (opens the edge only, never SSH)"
        )
        folder = write_environment(developers=ANNA + person.replace(f'keys = ["{KEY}"]', ""))
    assert refusal(folder) == f"{folder}/developers.toml: {where}"


PEOPLE_MISTAKES = [
    ("", "operators is missing"),
    ("[operators]", "operators must have at least 1 entry"),
    (ANNA.replace(KEY, ""), "operators.anna.keys.0 must be one line of an OpenSSH .pub file"),
    ("[operators.anna]\naddresses = ['198.51.100.20']", "operators.anna has no key; an operator "
     "logs in over SSH"),
    ("[operators.anna]\naddresses = ['198.51.100.20']\nkeys = ['''-----BEGIN OPENSSH PRIVATE "
     "KEY-----\nbm9uZQ==''']", "operators.anna.keys.0 is a private key; paste the line of the .pub "
     "file"),
    (ANNA + "[developers.bob]", "developers.bob.addresses is missing"),
    (ANNA + "[developers.bob]\naddresses = []", "developers.bob.addresses must have at least 1 "
     "entry"),
    (ANNA + "[developers.bob]\naddresses = '198.51.100.7'", "developers.bob.addresses must be a "
     'list such as ["..."]'),
    (ANNA + "[developers.bob]\naddress = '198.51.100.7'\naddresses = ['198.51.100.7']",
     "developers.bob.address is not a key of Stackroom; did you mean developers.bob.addresses?"),
    (ANNA + "[developers.'Bob Smith']\naddresses = ['198.51.100.7']", "developers.Bob Smith must "
     "be a name of a-z, 0-9, - and _, 28 characters at most"),
    (ANNA + "[developer.bob]\naddresses = ['198.51.100.7']", "developer is not a key of Stackroom; "
     "did you mean developers?"),
    (ANNA + "[qdrant]\ndashboard = true", "qdrant belongs into settings.toml"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), PEOPLE_MISTAKES)
def test_a_mistake_in_developers_toml(
    write_environment: WriteEnvironment, text: str, message: str
) -> None:
    folder = write_environment(developers=text)
    assert refusal(folder) == f"{folder}/developers.toml: {message}"


SECRETS_MISTAKES = [
    (f"[secrets]\n{API_KEY}{RESTIC}", "secrets.api_token is missing; stackroom init generates it"),
    ("", "secrets is missing; stackroom init generates it"),
    (
        f"[secrets]\n{API_TOKEN}{RESTIC}qdrant_api_key = 'canary'",
        "secrets.qdrant_api_key must have at least 32 characters",
    ),
    (
        f"[secrets]\n{API_KEY}{API_TOKEN}restic_password = 'canary'",
        "secrets.restic_password must have at least 32 characters",
    ),
    (
        f"{ALL_SECRETS}qdrant_alt_api_key = 'canary'",
        "secrets.qdrant_alt_api_key must have at least 32 characters",
    ),
    (
        f"[secrets]\n{API_TOKEN}{RESTIC}qdrant_api_key = ['canary']",
        "secrets.qdrant_api_key must be a text in quotes",
    ),
    (
        f"{ALL_SECRETS}openai_api_key = 'canary'",
        "secrets.openai_api_key is not a key of Stackroom; did you mean secrets.qdrant_api_key?",
    ),
    (
        f"{ALL_SECRETS}notice_urls = 'canary'",
        'secrets.notice_urls must be a list such as ["..."]',
    ),
    (
        f"{ALL_SECRETS}ping_urls = {{ restore = 'canary' }}",
        'secrets.ping_urls.restore must be "backup", "check", "prune" or "drill"',
    ),
    (
        f"{ALL_SECRETS}offsite_env = {{ aws-key = 'canary' }}",
        "secrets.offsite_env.aws-key must be the name of an environment variable",
    ),
]


@pytest.mark.parametrize(("text", "message"), SECRETS_MISTAKES)
def test_a_mistake_in_secrets_toml_never_repeats_a_value(
    write_environment: WriteEnvironment, text: str, message: str
) -> None:
    folder = write_environment(secrets=text)
    with pytest.raises(SettingsError) as caught:
        load_environment(folder)
    assert caught.value.message == f"{folder}/secrets.toml: {message}"
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_every_mistake_is_told_at_once(write_environment: WriteEnvironment) -> None:
    folder = write_environment(settings="[edge]\nport = 0\n[qdrant]\nmemory = 1\n")
    assert refusal(folder).splitlines() == [
        f"{folder}/settings.toml: edge.port must be 1 or more",
        f"{folder}/settings.toml: qdrant.memory must be a text in quotes",
    ]


def test_a_secret_outside_secrets_toml_is_refused(write_environment: WriteEnvironment) -> None:
    folder = write_environment(settings=f"[secrets]\n{API_KEY}")
    assert refusal(folder) == f"{folder}/settings.toml: secrets belongs into secrets.toml"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_secrets_that_others_can_read(write_environment: WriteEnvironment, mode: int) -> None:
    folder = write_environment()
    (folder / "secrets.toml").chmod(mode)
    with pytest.raises(SettingsError) as caught:
        load_environment(folder)
    assert caught.value.message == f"{folder}/secrets.toml can be read by others"
    assert caught.value.hint == f"chmod 600 {folder}/secrets.toml"


@pytest.mark.parametrize("name", ["developers.toml", "secrets.toml", "hosts.py"])
def test_a_missing_file(write_environment: WriteEnvironment, name: str) -> None:
    folder = write_environment()
    (folder / name).unlink()
    with pytest.raises(SettingsError) as caught:
        load_environment(folder)
    assert caught.value.message == f"{folder}/{name} is missing"
    assert caught.value.hint.startswith("stackroom init team --host ")


@pytest.mark.parametrize("name", ["settings.toml", "developers.toml", "secrets.toml"])
@pytest.mark.parametrize("content", [b'a = "b\n', b"a = '\xff'\n"])
def test_broken_toml(write_environment: WriteEnvironment, name: str, content: bytes) -> None:
    folder = write_environment()
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith(f"{folder}/{name} is not valid TOML: ")


HOSTS = "from ops.settings import machines\nhosts = "
HOSTS_MISTAKES = [
    ("hosts = [", " cannot be read: '[' was never closed"),
    ("import nothing_of_this_name", " cannot be read: No module named 'nothing_of_this_name'"),
    ("", " must say: hosts = machines(__file__, address=...)"),
    ("hosts = ['198.51.100.10']", " must say: hosts = machines(__file__, address=...)"),
    ("hosts = '198.51.100.10'", " must say: hosts = machines(__file__, address=...)"),
    ("hosts = []", " lists 0 machines; an environment has exactly one"),
    ("hosts = [('198.51.100.10', {}), ('198.51.100.11', {})]", " lists 2 machines; an environment "
     "has exactly one"),
    *(
        (f"{HOSTS}machines(__file__, address={address!r})",
         f": {address!r} is no IP address and no host name")
        for address in ("256.1.1.1", "1.2.3", "", "a b", "-oProxyCommand=id", "fe80::1%a'b", "a_b")
    ),
    *(
        (f"{HOSTS}machines(__file__, address='198.51.100.10', user={user!r})",
         f": {user!r} is no name of an account")
        for user in ("", "-oProxyCommand=id", "a b")
    ),
    *(
        (f"{HOSTS}machines(__file__, address='198.51.100.10', port={port})",
         ": port must be a whole number from 1 to 65535")
        for port in ("0", "65536", "'22'")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), HOSTS_MISTAKES)
def test_a_mistake_in_hosts_py(
    write_environment: WriteEnvironment, text: str, message: str
) -> None:
    folder = write_environment(hosts=text)
    assert refusal(folder).startswith(f"{folder}/hosts.py{message}")


@pytest.mark.parametrize("address", ["198.51.100.10", "2001:db8::10", "host-1.example.com"])
def test_an_address_or_a_name_leads_to_the_machine(
    write_environment: WriteEnvironment, address: str
) -> None:
    key = "keys/id_ed25519"
    folder = write_environment(
        hosts=f"{HOSTS}machines(__file__, address='{address}', user='ops', port=2222, key='{key}')"
    )
    environment = load_environment(folder)
    assert environment.machine.login() == f"ops@{address}"
    assert environment.machine.port == 2222
    assert environment.machine.key == str(folder / key)
    assert environment.edge_name() == (f"[{address}]" if ":" in address else address)


def test_no_root_login_while_hosts_py_is_root_would_lock_out(
    write_environment: WriteEnvironment,
) -> None:
    settings = '[ssh]\nroot_login = "no"\n'
    folder = write_environment(settings=settings)
    with pytest.raises(SettingsError, match=r'ssh\.root_login = "no" would lock out') as caught:
        load_environment(folder)
    assert caught.value.hint == f'set user = "stackroom" in {folder}/hosts.py first'
    hosts = f"{HOSTS}machines(__file__, address='198.51.100.10', user='stackroom')"
    assert load_environment(write_environment(settings, hosts=hosts)).machine.user == "stackroom"


def test_an_unknown_environment_lists_the_known_ones(write_environment: WriteEnvironment) -> None:
    inventory = write_environment().parent
    for other in ("example", "production"):
        shutil.copytree(inventory / "team", inventory / other)
    with pytest.raises(SettingsError) as caught:
        load_environment(inventory / "prod")
    assert caught.value.message == "there is no environment 'prod' (found: production, team)"
    assert caught.value.hint == "stackroom init prod --host <address>"
    with pytest.raises(SettingsError, match=r"found: none yet"):
        load_environment(inventory / "team" / "prod")


def test_an_environment_variable_never_outvotes_the_files(
    write_environment: WriteEnvironment, canaries: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_environment()
    before = load_environment(folder).settings.model_dump()
    for name, value in {
        "STACK": "other",
        "QDRANT": '{"dashboard": true}',
        "EDGE": '{"port": 1}',
        "API": '{"image": "a:1"}',
        "SECRETS__QDRANT_API_KEY": "from-the-environment-0123456789-0123",
        "SECRETS": '{"qdrant_api_key": "from-the-environment-0123456789-0123"}',
        "OPERATORS": "{}",
    }.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value)
    after = load_environment(folder).settings
    assert after.model_dump() == before
    assert after.secrets.qdrant_api_key.get_secret_value() == canaries["qdrant_api_key"]


def test_no_secret_shows_in_what_is_printed(
    write_environment: WriteEnvironment, canaries: dict[str, str]
) -> None:
    environment = load_environment(write_environment())
    printed = f"{environment!r} {environment.settings} {environment.settings.model_dump_json()}"
    assert not [name for name, value in canaries.items() if value in printed]


def test_what_the_settings_open(write_environment: WriteEnvironment) -> None:
    ports = {}
    for mode in ("tunnel", "internal", "acme", "external"):
        more = {
            "acme": "domain = 'a.example.com'\nemail = 'a@example.com'\n",
            "external": "domain = 'a.example.com'\ncertificate = '/a'\nprivate_key = '/b'\n",
        }.get(mode, "")
        for api in ("", "[api]\nimage = 'a:1'\n"):
            folder = write_environment(settings=f"[edge]\nmode = '{mode}'\n{more}{api}")
            settings = load_environment(folder).settings
            ports[mode, bool(api)] = (settings.edge_ports(), settings.world_ports())
    assert ports == {
        ("tunnel", False): ([], []),
        ("tunnel", True): ([], []),
        ("internal", False): ([443], []),
        ("internal", True): ([443, 8443], []),
        ("acme", False): ([443], [80]),
        ("acme", True): ([443, 8443], [80]),
        ("external", False): ([443], []),
        ("external", True): ([443, 8443], []),
    }


def test_addresses_come_once_each_in_canonical_form(write_environment: WriteEnvironment) -> None:
    bob = "[developers.bob]\naddresses = ['2001:0DB8:0::7', '198.51.100.20', '198.51.100.20/32']\n"
    bob += "shares_address = true\n"
    settings = load_environment(write_environment(developers=ANNA + bob)).settings
    assert settings.addresses() == ["198.51.100.20/32", "2001:db8::7/128"]


# the example: the manual is the schema


def test_the_example_loads_with_generated_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(EXAMPLE, folder)
    assert ensure_secrets(folder) == ["qdrant_api_key", "api_token", "restic_password"]
    (collection,) = load_environment(folder).settings.collections.values()
    assert collection.payload_indexes == {
        "content_type": "keyword",
        "taxonomy.full_path": "keyword",
        "taxonomy.level1": "keyword",
        "taxonomy.level2": "keyword",
        "file_path": "keyword",
        "content_hash": "keyword",
        "classification.confidence": "float",
        "created_at": "datetime",
        "updated_at": "datetime",
    }


def test_the_examples_developer_loads_where_somebody_takes_the_marks_away(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(EXAMPLE, folder)
    ensure_secrets(folder)
    path = folder / "developers.toml"
    manual, block = path.read_text(encoding="utf-8").split("# [developers.bob]\n")
    assert not [line for line in block.splitlines() if not line.startswith("# ")]
    text = "".join(line.removeprefix("# ") for line in block.splitlines(keepends=True))
    text = text.replace("ssh-ed25519 AAAA...", KEY.removesuffix(" anna"))
    path.write_text(f"{manual}[developers.bob]\n{text}", encoding="utf-8")
    bob = load_environment(folder).settings.developers["bob"]
    assert bob.model_fields_set == set(Developer.model_fields)
    commented = {"access": "read", "anywhere": False, "shares_address": False}
    assert bob.model_dump(include=set(commented)) == commented


def test_what_would_be_is_read_in_place_of_the_file(write_environment: WriteEnvironment) -> None:
    folder = write_environment(developers=ANNA)
    bob = "[developers.bob]\naddresses = ['198.51.100.7']\n"
    would_be = load_environment(folder, developers=ANNA + bob).settings
    assert list(would_be.developers) == ["bob"]
    assert load_environment(folder).settings.developers == {}
    with pytest.raises(SettingsError) as caught:
        load_environment(folder, developers=ANNA + bob + "anywere = true\n")
    assert caught.value.message == (
        f"{folder}/developers.toml: developers.bob.anywere is not a key of Stackroom;"
        " did you mean developers.bob.anywhere?"
    )
    with pytest.raises(SettingsError, match="is not valid TOML"):
        load_environment(folder, developers="[developers")


def written_keys(file: str) -> dict[tuple[str, ...], Any]:
    """Key -> value of each line `key = value`, commented out or not; inline tables as well."""
    keys: dict[tuple[str, ...], Any] = {}
    table: tuple[str, ...] = ()
    for line in (EXAMPLE / file).read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"(?:# )?\[([\w.]+)\]", line):
            table = tuple(heading[1].split("."))
        elif assignment := re.match(r'(?:# )?([\w.]+|"[\w.]+") = (\S.*)$', line):
            ((key, value),) = tomllib.loads(f"{assignment[1]} = {assignment[2]}").items()
            keys[(*table, key)] = value
            if isinstance(value, dict):
                keys |= {(*table, key, name): inner for name, inner in value.items()}
    return keys


def model_keys(
    model: type[BaseModel], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key of the model with its default; `*` stands for a name that a person gives."""
    for name, field in model.model_fields.items():
        nested = model_in(field.annotation)
        names = ("*",) if typing.get_origin(field.annotation) is dict else ()
        if nested is None:
            yield (*above, name), field.default
        else:
            yield from model_keys(nested, (*above, name, *names))


def test_every_key_of_the_model_stands_in_the_example() -> None:
    written = {**written_keys("settings.toml"), **written_keys("developers.toml")}
    # `vector = { ... }` stands there; what else it may be is told in its comment
    comment = (EXAMPLE / "settings.toml").read_text(encoding="utf-8")
    assert "# or vectors.<name> = { ... }; on_disk = true" in comment
    told = {("collections", "*", "vector", "on_disk")}
    told |= {("collections", "*", "vectors", "*", key) for key in ("size", "distance", "on_disk")}
    wanted = {key for key, _ in model_keys(Settings) if key[0] != "secrets"} - told
    assert len(wanted) > 30
    absent = [
        ".".join(key)
        for key in wanted
        if not any(
            len(line) >= len(key)
            and all(part in ("*", there) for part, there in zip(key, line, strict=False))
            for line in written
        )
    ]
    assert absent == []


def test_the_examples_commented_values_are_the_defaults() -> None:
    defaults = {key: value for key, value in model_keys(Settings) if "*" not in key}
    # what has no default: the optional service's source, a second repository, people's keys
    no_default = {("api", "image"), ("api", "git"), ("escrow", "recipients")}
    compared = {
        key: value
        for key, value in written_keys("settings.toml").items()
        if key in defaults
        and key[:2] not in no_default
        and key[-1] != "repository"
        and defaults[key] is not PydanticUndefined
    }
    assert len(compared) > 25
    assert compared == {key: defaults[key] for key in compared}
