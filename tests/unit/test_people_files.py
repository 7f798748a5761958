"""Who has an account and which keys; and the steps from any state of the host to that one."""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
import subprocess
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import OperationError, StringCommand
from settings_lab import SECRETS, settings_with

from ops.host.people import Account, HostPeople, KeyFile, People, steps, strangers
from ops.render.host import ssh_files
from ops.render.people import (
    GROUP,
    account_of,
    key_files,
    keys_path,
    last_day,
    takes_away,
    with_accounts,
)
from ops.settings import Developer, Settings


def key_of(who: str) -> str:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + who.encode().ljust(32, b".")
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {who}"


ANNA, BOB, EVE = key_of("anna"), key_of("bob"), key_of("eve")
LATER = date(2990, 2, 19)
BOB_LINE = (
    'restrict,port-forwarding,permitopen="127.0.0.1:6333",permitopen="127.0.0.1:6334",'
    'from="198.51.100.7/32,2001:db8:b0b::/48",expiry-time="299002200000Z" '
)


def settings_of(**developers: dict[str, Any]) -> Settings:
    anna = {"addresses": ["203.0.113.20"], "keys": [ANNA]}
    return settings_with(operators={"anna": anna}, developers=developers)


def bob(**changed: Any) -> dict[str, Any]:
    addresses = ["198.51.100.7", "2001:db8:b0b::/48"]
    return {"addresses": addresses, "keys": [BOB], "expires": LATER} | changed


def test_a_key_opens_the_loopback_ports_from_listed_addresses_until_the_last_day() -> None:
    (file,) = key_files(settings_of(bob=bob()))
    assert (file.path, file.mode, file.uid) == ("/etc/ssh/stackroom-keys/dev-bob", 0o644, 0)
    assert file.content.splitlines()[1:] == [f"{BOB_LINE}{BOB}"]


def test_each_key_carries_the_whole_of_the_options() -> None:
    (file,) = key_files(settings_of(bob=bob(keys=[BOB, EVE])))
    assert file.content.splitlines()[1:] == [f"{BOB_LINE}{BOB}", f"{BOB_LINE}{EVE}"]


def test_ssh_reads_the_options(tmp_path: Path) -> None:
    (file,) = key_files(settings_of(bob=bob()))
    path = tmp_path / "keys"
    path.write_text(file.content)
    assert shutil.which("ssh-keygen"), "apt-get install openssh-client"
    done = subprocess.run(["ssh-keygen", "-l", "-f", path], capture_output=True, text=True)
    assert done.stdout.split()[2:] == ["bob", "(ED25519)"], done.stderr


def test_an_sshd_that_does_not_read_utc_gets_no_end_in_the_key() -> None:
    (file,) = key_files(settings_of(bob=bob()), expiry_in_utc=False)
    assert "expiry-time" not in file.content
    assert file.content.splitlines()[1].endswith(f'2001:db8:b0b::/48" {BOB}')


def test_no_tunnel_goes_past_the_token_of_the_api() -> None:
    settings = settings_of(bob=bob())
    api = Settings.model_validate(
        settings.model_dump() | {"api": {"image": "a/b:1", "port": 8123}, "secrets": SECRETS}
    )
    assert key_files(api) == key_files(settings)
    assert "8123" not in key_files(api)[0].content
    (permitted,) = re.findall(r"PermitOpen (.*)", ssh_files(api)[0].content)
    assert permitted == "127.0.0.1:6333 127.0.0.1:6334"


@pytest.mark.parametrize(
    "who",
    [
        bob(keys=[]),
        bob(expires=date(2020, 1, 1)),
        # nobody may SSH from anywhere; who works from nowhere else has no account at all
        bob(addresses=["0.0.0.0/0", "::/0"], anywhere=True),
    ],
)
def test_who_has_no_account(who: dict[str, Any]) -> None:
    assert with_accounts(settings_of(bob=who)) == {}
    assert key_files(settings_of(bob=who)) == []


def test_the_whole_internet_is_no_source_of_a_key() -> None:
    addresses = ["198.51.100.7", "0.0.0.0/0", "::/0"]
    (file,) = key_files(settings_of(bob=bob(addresses=addresses, anywhere=True)))
    assert 'from="198.51.100.7/32"' in file.content


def test_the_account_ends_with_the_midnight_after_the_last_day() -> None:
    there = Developer.model_validate(bob(expires=date(2026, 12, 31)))
    assert last_day(there) == (datetime(2027, 1, 1, tzinfo=UTC).timestamp()) / 86400
    assert last_day(Developer.model_validate(bob(expires=None))) == -1


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [
        (bob(), bob(), False),
        (bob(), bob(keys=[BOB, EVE]), False),
        (bob(keys=[BOB, EVE]), bob(), True),
        (bob(), bob(keys=[EVE]), True),
        (bob(), bob(keys=[f"{BOB} of the laptop"]), False),
        (bob(), bob(addresses=["198.51.100.7", "2001:db8:b0b::/48", "192.0.2.1"]), False),
        (bob(), bob(addresses=["198.51.100.7", "192.0.2.1"]), True),
        (bob(), bob(expires=date(2991, 1, 1)), False),
    ],
)
def test_what_takes_something_away(
    before: dict[str, Any], after: dict[str, Any], taken: bool
) -> None:
    old, new = (key_files(settings_of(bob=who))[0].content for who in (before, after))
    assert takes_away(old, new) == taken


def test_a_key_that_somebody_put_there_by_hand_is_taken_away() -> None:
    ours = key_files(settings_of(bob=bob()))[0].content
    assert takes_away(f"{ours}{EVE}\n", ours)
    assert takes_away(f'{ours}command="id" {EVE}\n', ours)
    assert not takes_away("# only words\n", ours)


# from the host's state to the inventory's


def on_host(settings: Settings, **changed: Any) -> HostPeople:
    """The state of a host on which the settings have been applied."""
    accounts = {
        account_of(name): Account(
            GROUP, (GROUP,), "/nonexistent", "/usr/sbin/nologin", "none", last_day(who)
        )
        for name, who in with_accounts(settings).items()
    }
    files = {
        file.path: KeyFile("regular file", file.mode, file.uid, file.sha256, file.content)
        for file in key_files(settings)
    }
    return dataclasses.replace(HostPeople(True, accounts, (0o755, 0), files, (10, 0)), **changed)


def said(live: HostPeople, settings: Settings) -> list[str]:
    return [
        command if isinstance(command, str) else f"upload {command.get_masked_value()}"
        for command in steps(live, settings)
    ]


TWO = settings_of(bob=bob(), eve=bob(keys=[EVE], addresses=["192.0.2.9"], expires=None))
ONE = settings_of(bob=bob())
NOBODY = settings_of()


@pytest.mark.parametrize("settings", [TWO, ONE, NOBODY])
def test_what_stands_is_left_alone(settings: Settings) -> None:
    assert steps(on_host(settings), settings) == []


def test_a_bare_host_gets_nothing_where_there_is_nobody() -> None:
    assert steps(HostPeople(), NOBODY) == []


def test_an_account_is_there_before_its_keys() -> None:
    commands = said(HostPeople(openssh=(10, 0)), ONE)
    assert commands[:2] == [
        "groupadd --system stackroom-developers",
        "install -d -o root -g root -m 755 /etc/ssh/stackroom-keys",
    ]
    assert commands[2] == (
        "useradd --system --no-create-home --home-dir /nonexistent --gid stackroom-developers"
        " --shell /usr/sbin/nologin --password '*' dev-bob"
        f" && chage --expiredate {last_day(ONE.developers['bob'])} dev-bob"
    )
    assert keys_path("dev-bob") in commands[3]
    assert len(commands) == 4


def test_removing_touches_nobody_else_and_comes_before_adding() -> None:
    *commands, leftover = said(on_host(TWO), ONE)
    assert leftover == "rm -rf -- /etc/ssh/stackroom-keys/dev-eve"
    command = "\n".join(commands)
    assert "dev-bob" not in command
    order = [
        command.index(word)
        for word in ("rm -rf /etc", "usermod --lock", "pkill -KILL -u dev-eve", "userdel dev-eve")
    ]
    assert order == sorted(order)
    swapped = settings_of(carl=bob())
    commands = said(on_host(TWO), swapped)
    removed = [at for at, command in enumerate(commands) if "userdel" in command]
    added = [at for at, command in enumerate(commands) if "useradd" in command]
    assert max(removed) < min(added)


def test_a_process_that_does_not_end_leaves_nobody_else_their_keys() -> None:
    """The first command that fails ends the run: every account is shut before any is waited for."""
    commands = said(on_host(TWO), NOBODY)
    shut = [at for at, command in enumerate(commands) if "usermod --lock" in command]
    waits = [at for at, command in enumerate(commands) if "pkill" in command]
    assert (len(shut), len(waits)) == (2, 2)
    assert max(shut) < min(waits)


@pytest.mark.parametrize(
    "wrong",
    [
        {"groups": (GROUP, "docker")},
        {"shell": "/bin/bash"},
        {"home": "/srv/bob"},
        {"password": "set"},
        {"password": "locked"},
        {"ends": -1},
    ],
)
def test_what_somebody_changed_by_hand_is_mended(wrong: dict[str, Any]) -> None:
    live = on_host(ONE)
    account = dataclasses.replace(live.accounts["dev-bob"], **wrong)
    (command,) = said(dataclasses.replace(live, accounts={"dev-bob": account}), ONE)
    assert command.startswith("usermod --groups '' --home /nonexistent --gid")
    assert "--shell /usr/sbin/nologin --password '*' dev-bob && chage --expiredate" in command


def test_a_key_file_that_differs_is_written_and_ends_what_it_no_longer_admits() -> None:
    more = settings_of(bob=bob(keys=[BOB, EVE]))
    assert len(said(on_host(ONE), more)) == 1
    written, ended = said(on_host(more), ONE)
    assert keys_path("dev-bob") in written
    assert "pkill -KILL -u dev-bob" in ended
    assert "userdel" not in ended


@pytest.mark.parametrize(
    "wrong", [{"mode": 0o666}, {"uid": 1000}, {"kind": "symbolic link"}, {"sha256": "-"}]
)
def test_a_key_file_that_others_could_write_is_replaced(wrong: dict[str, Any]) -> None:
    live = on_host(ONE)
    path = keys_path("dev-bob")
    file = dataclasses.replace(live.files[path], **wrong)
    (written,) = steps(dataclasses.replace(live, files={path: file}), ONE)
    assert isinstance(written, StringCommand)


def test_files_of_nobody_go_and_so_does_a_folder_that_others_write() -> None:
    live = on_host(ONE)
    stray = KeyFile("regular file", 0o644, 0, "-", EVE)
    path = "/etc/ssh/stackroom-keys/it's mine"
    more = dataclasses.replace(live, files={**live.files, path: stray}, folder=(0o777, 0))
    assert said(more, ONE) == [
        """rm -rf -- '/etc/ssh/stackroom-keys/it'"'"'s mine'""",
        "install -d -o root -g root -m 755 /etc/ssh/stackroom-keys",
    ]


def test_accounts_of_somebody_else_are_never_removed() -> None:
    live = on_host(NOBODY)
    own = Account("users", ("users",), "/srv/x", "/bin/bash", "set", -1)
    accounts = {
        "dev-ops": own,
        "keeper": dataclasses.replace(own, group=GROUP, groups=(GROUP,)),
        "anna": dataclasses.replace(own, groups=("users", GROUP)),
    }
    live = dataclasses.replace(live, accounts=accounts)
    # an operator whom somebody added to the group would be held to tunnels
    assert said(live, NOBODY) == ["gpasswd -d anna stackroom-developers >/dev/null"]
    assert strangers(live) == ["keeper"]
    with pytest.raises(OperationError, match="an account dev-ops that Stackroom did not make"):
        steps(live, settings_of(ops=bob()))


# what the host says


HEARD = """\
group=
account=dev-bob|stackroom-developers|stackroom-developers|/nonexistent|/usr/sbin/nologin|none|372300
account=dev-eve|users|users docker|/srv/eve|/bin/bash|set|
folder=755 0
file=644|0|regular file|abc|/etc/ssh/stackroom-keys/dev-bob
text=# Written by Stackroom from developers.toml.
text=restrict a=b
file=777|0|symbolic link|-|/etc/ssh/stackroom-keys/a|b
openssh=9 2
""".splitlines()


def test_the_hosts_words() -> None:
    live = People().process(HEARD)
    assert live.group
    assert live.accounts == {
        "dev-bob": Account(GROUP, (GROUP,), "/nonexistent", "/usr/sbin/nologin", "none", 372300),
        "dev-eve": Account("users", ("users", "docker"), "/srv/eve", "/bin/bash", "set", -1),
    }
    text = "# Written by Stackroom from developers.toml.\nrestrict a=b\n"
    assert live.files == {
        "/etc/ssh/stackroom-keys/dev-bob": KeyFile("regular file", 0o644, 0, "abc", text),
        "/etc/ssh/stackroom-keys/a|b": KeyFile("symbolic link", 0o777, 0, "-", ""),
    }
    assert (live.folder, live.openssh) == ((0o755, 0), (9, 2))
    assert People().process([]) == HostPeople()


def test_the_question_is_posix_shell_and_harmless() -> None:
    """Asked of this machine, which has no such group: it only reads."""
    done = subprocess.run(
        ["sh", "-c", People().command()], capture_output=True, text=True, timeout=30
    )
    assert done.stderr == ""
    live = People().process(done.stdout.splitlines())
    assert not live.group
    assert live.files == {}
