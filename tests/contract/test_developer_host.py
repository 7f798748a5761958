"""The whole look at a host: files and tools of a machine in a folder, Qdrant itself beside it.

Tools answer what real ones printed; the tokens, the audit log and its reader are real.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from jinja2.utils import htmlsafe_json_dumps
from stand_in_process import StandIn, make

from ops.developers.look_logins import key_of
from ops.developers.look_tokens import digest
from ops.developers.reality import Account, Connection, Reality, program, reality_of
from ops.developers.tokens import mint
from ops.settings import ACCESS_COLLECTION, Settings
from ops.settings.rights import values_in_force

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna"
HASH = "$y$j9T$canary-of-a-password-hash"
ALT_KEY = "canary-& <alt>'key\"-\\-of-32-characters"
ALT_JSON = htmlsafe_json_dumps(ALT_KEY)  # as `tojson` does
BOBS, CAROLS = str(uuid.uuid4()), str(uuid.uuid4())

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
stackroom:x:1000:1000::/srv/stackroom:/bin/bash
paul:x:1001:1001::/srv/paul:/bin/sh
dev-bob:x:1500:1500::/nonexistent:/usr/sbin/nologin
"""
GROUP = """\
root:x:0:
docker:x:990:paul
stackroom:x:1000:
paul:x:1001:
stackroom-developers:x:1500:
"""
SHADOW = f"""\
root:*:20000:0:99999:7:::
daemon:*:20000:0:99999:7:::
stackroom:!:20000:0:99999:7:::
paul:{HASH}:20000:0:99999:7:::
dev-bob:*:20000:0:99999:7::20503:
"""
TOOLS = {
    "iptables": "echo '-P INPUT DROP'; echo '-N ufw-user-input';"
    " echo '-A ufw-user-input -s 198.51.100.7/32 -p tcp -m tcp --dport 22 -j ACCEPT'",
    "ip6tables": "echo '-P INPUT DROP'",
    "ss": "echo '0      0   198.51.100.10:22   198.51.100.7:52092'",
    "conntrack": 'case "$*" in *ipv6*) ;; *) echo "tcp      6 431999 ESTABLISHED src=198.51.100.7'
    " dst=198.51.100.10 sport=5 dport=443 src=172.30.240.3 dst=198.51.100.7 sport=443 dport=5"
    ' [ASSURED] mark=0 use=1";; esac; echo "conntrack v1.4.8: 1 flow entries" >&2',
    # a Match block of the developers' group
    "sshd": 'case "$*" in *user=dev-*) f=/etc/ssh/stackroom-keys/%u;;'
    " *) f='.ssh/authorized_keys .ssh/authorized_keys2';; esac;"
    ' echo "authorizedkeysfile $f"; echo permitrootlogin without-password; echo loglevel INFO',
    "sudo": 'case "$*" in *stackroom*) echo "User stackroom may run the following commands on h:"'
    ';; *) echo "User $4 is not allowed to run sudo on h."; exit 1;; esac',
    "ip": 'case "$*" in *addr*) echo \'[{"ifname": "eth0", "addr_info": [{"local": "192.0.2.5",'
    ' "prefixlen": 24, "scope": "global"}]}]\';; *) echo "[]";; esac',
}


def settings_of(key: str) -> Settings:
    def developer(number: int, token: str) -> dict[str, Any]:
        return {
            "addresses": [f"198.51.100.{number}"],
            "collections": ["books"],
            "expires": date(2990, 1, 1),
            "token": token,
        }

    return Settings.model_validate(
        {
            "operators": {"anna": {"addresses": ["203.0.113.20"], "keys": [KEY]}},
            "collections": {"books": {"vector": {"size": 4}}},
            "developers": {"bob": developer(7, BOBS), "carol": developer(8, CAROLS)},
            "secrets": {"qdrant_api_key": key, "api_token": "k" * 32, "restic_password": "k" * 32},
        }
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A server with an audit log of its own, the list of tokens, and bob having asked once."""
    started = make(tmp_path_factory.mktemp("qdrant"), secrets.token_hex(24))
    started.start()
    send = httpx.Client(base_url=started.url, headers={"api-key": started.key})
    points = [
        {"id": token, "vector": {}, "payload": {"token": value, "developer": name}}
        for token, (value, name) in values_in_force(settings_of(started.key)).items()
    ]
    send.put(f"/collections/{ACCESS_COLLECTION}", json={"vectors": {}}).raise_for_status()
    send.put(
        f"/collections/{ACCESS_COLLECTION}/points?wait=true", json={"points": points}
    ).raise_for_status()
    send.put("/collections/books", json={"vectors": {"size": 4, "distance": "Cosine"}})
    token = mint(settings_of(started.key), "bob").get_secret_value()
    answer = httpx.get(f"{started.url}/collections/books", headers={"api-key": token})
    assert answer.status_code == 200
    yield started
    started.stop()


@pytest.fixture
def machine(tmp_path: Path, server: StandIn) -> Path:
    """Its tools in bin/, its files in root/."""
    root, tools = tmp_path / "root", tmp_path / "bin"
    files = {
        "etc/passwd": PASSWD,
        "etc/group": GROUP,
        "etc/shadow": SHADOW,
        "root/.ssh/authorized_keys": f"# provider\n{KEY}\n",
        "root/.ssh/authorized_keys2": f'from="192.0.2.0/24" {KEY}\n',
        "srv/paul/.ssh/authorized_keys": f"{KEY}\n",
        "etc/ssh/stackroom-keys/dev-bob": f"restrict,port-forwarding {KEY}\n",
        "etc/ssh/stackroom-keys/dev-gone": f"{KEY}\n",
        "etc/ufw/user.rules": "-A ufw-user-input -p tcp --dport 22 -s 198.51.100.7 -j ACCEPT\n",
        "etc/ufw/user6.rules": "",
        "etc/ufw/after.rules": "",
        "etc/ufw/after6.rules": "",
        "etc/stackroom/stack/qdrant/local.yaml": (
            f'service:\n  api_key: "{server.key}"\n  alt_api_key: {ALT_JSON}\n'
        ),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    tools.mkdir()
    volume = server.folder / "storage"
    for name, script in {**TOOLS, "docker": f"echo '{volume}'"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    return tmp_path


def look_at(machine: Path, server: StandIn, **question: Any) -> tuple[Reality, str]:
    asked = {"root": str(machine / "root"), "qdrant": server.url, "edge_ports": [443], **question}
    done = subprocess.run(
        [sys.executable, "-I", "-", json.dumps(asked)],
        input=program(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PATH": f"{machine / 'bin'}:/usr/bin:/bin"},
    )
    return reality_of(json.loads(done.stdout)), done.stdout + done.stderr


def test_everything_in_one_look_and_no_secret_in_it(machine: Path, server: StandIn) -> None:
    found, printed = look_at(machine, server, subjects=["bob", "carol"])
    assert found.unknown == {}
    assert server.key not in printed
    assert "canary" not in printed
    assert found.tables and found.stored
    assert found.tables["v4"].policies == {"INPUT": "DROP"}
    assert "198.51.100.7" in found.tables["v4"].rules["ufw-user-input"][0]
    assert found.stored["v4"]["ufw-user-input"]
    assert found.connections == (
        Connection("198.51.100.7", 22, 1),
        Connection("198.51.100.7", 443, 1),
    )
    assert found.networks == ("192.0.2.0/24",)
    assert found.qdrant_keys == {
        "api_key": digest(server.key),
        "alt_api_key": digest(ALT_KEY),
        "read_only_api_key": "",
    }
    assert ALT_KEY not in printed


def test_accounts_with_their_powers(machine: Path, server: StandIn) -> None:
    accounts = {each.name: each for each in look_at(machine, server)[0].accounts or ()}
    assert set(accounts) == {"root", "stackroom", "paul", "dev-bob"}
    assert accounts["stackroom"].sudo and not accounts["stackroom"].password
    assert accounts["paul"].root_equal == ("docker",) and accounts["paul"].password
    bob = accounts["dev-bob"]
    assert bob == Account("dev-bob", 1500, False, False, True, ends=date(2026, 2, 19))


def test_every_key_that_sshd_would_take(machine: Path, server: StandIn) -> None:
    found, _ = look_at(machine, server)
    shown = key_of(KEY)
    assert shown and found.keys is not None and found.sshd is not None
    assert {key.fingerprint for key in found.keys} == {shown["fingerprint"]}
    places = {(key.account, key.path): key.options for key in found.keys}
    assert places == {
        ("root", "/root/.ssh/authorized_keys"): (),
        ("root", "/root/.ssh/authorized_keys2"): ('from="192.0.2.0/24"',),
        ("paul", "/srv/paul/.ssh/authorized_keys"): (),
        ("dev-bob", "/etc/ssh/stackroom-keys/dev-bob"): ("restrict", "port-forwarding"),
        ("", "/etc/ssh/stackroom-keys/dev-gone"): (),
    }
    assert found.sshd["dev-bob"]["authorizedkeysfile"] == "/etc/ssh/stackroom-keys/%u"
    assert "loglevel" not in found.sshd["dev-bob"]


def test_tokens_and_last_seen_as_qdrant_has_them(machine: Path, server: StandIn) -> None:
    found, _ = look_at(machine, server, subjects=[])
    assert found.tokens and found.seen
    expected = set(values_in_force(settings_of(server.key)).values())
    assert {(token.id, token.developer) for token in found.tokens} == expected
    # whoever has a token is looked for, also without being asked about
    assert set(found.seen.subjects) == {"bob"}
    assert found.seen.whole
    bob = found.seen.subjects["bob"]
    assert abs((datetime.now(UTC) - bob.at).total_seconds()) < 600
    assert bob.remote == "127.0.0.1"


def test_more_tokens_than_one_answer_holds(
    machine: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = program()
    assert whole.count("PAGE = 256") == 1
    monkeypatch.setitem(globals(), "program", lambda: whole.replace("PAGE = 256", "PAGE = 1"))
    assert len(look_at(machine, server)[0].tokens or ()) == 2


def test_without_the_list_no_token_is_in_force(machine: Path, server: StandIn) -> None:
    found, _ = look_at(machine, server, collection="there-is-none")
    assert found.tokens == ()
    assert "tokens" not in found.unknown


@pytest.mark.parametrize(
    ("broken", "part", "reason"),
    [
        ("bin/iptables", "firewall", "iptables is not installed"),
        ("bin/conntrack", "connections", "conntrack is not installed"),
        ("bin/sshd", "keys", "sshd is not installed"),
        ("bin/docker", "seen", "docker is not installed"),
        ("root/etc/shadow", "accounts", "No such file"),
        ("root/etc/stackroom/stack/qdrant/local.yaml", "tokens", "No such file"),
    ],
)
def test_one_part_that_cannot_be_read_costs_only_itself(
    broken: str, part: str, reason: str, machine: Path, server: StandIn
) -> None:
    (machine / broken).unlink()
    if broken.startswith("bin/"):  # this machine may have one of its own
        program_path = machine / "bin" / Path(broken).name
        program_path.write_text(f"#!/bin/sh\necho '{reason}' >&2; exit 1\n")
        program_path.chmod(0o755)
    found, _ = look_at(machine, server, subjects=["bob"])
    assert part in found.unknown
    assert reason in found.unknown[part]
    assert set(found.unknown) <= {part, *(["qdrant_keys"] if part == "tokens" else [])}


def test_a_server_that_does_not_answer_is_unknown(machine: Path, server: StandIn) -> None:
    found, _ = look_at(machine, server, qdrant="http://127.0.0.1:9")
    assert found.tokens is None
    assert found.unknown["tokens"] == "Qdrant does not answer on loopback"
    (machine / "root/etc/stackroom/stack/qdrant/local.yaml").write_text("api_key: wrong\n")
    found, printed = look_at(machine, server)
    assert found.unknown["tokens"] == "Qdrant answers 401 to its own key"
    assert "wrong" not in printed
