"""Developers' accounts and keys on the host: exactly those of the inventory, one step for all.

An account is a name for sshd to hang tunnels on: no home, no shell, no password, no other group.
Nothing here touches an account that is not called dev-<name>.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyinfra import host, logger
from pyinfra.api import FactBase, OperationError, StringCommand, deploy, operation

from ops.host.operations import Commands, show_diff, upload
from ops.render.files import RenderedFile
from ops.render.people import (
    GROUP,
    KEYS_FOLDER,
    account_of,
    key_files,
    keys_path,
    last_day,
    takes_away,
    with_accounts,
)
from ops.settings import Settings
from ops.settings.people import ACCOUNT_PREFIX

HOME, SHELL = "/nonexistent", "/usr/sbin/nologin"
NONE = "*"  # as a password; unlike "!", which sshd takes for a lock where PAM is off
_UTC_SINCE = (9, 1)  # the OpenSSH that reads the end of a key in UTC
_TRIES = 100  # of a tenth of a second, for killed processes to be gone


@dataclass(frozen=True)
class Account:
    """An account as the host knows it. `password`: none, locked or set; `ends`: as last_day."""

    group: str
    groups: tuple[str, ...]
    home: str
    shell: str
    password: str
    ends: int


@dataclass(frozen=True)
class KeyFile:
    """A file of keys: its text, octal mode and numeric owner; `kind` as stat(1) names it."""

    kind: str
    mode: int
    uid: int
    sha256: str
    text: str = ""


@dataclass(frozen=True)
class HostPeople:
    """What stands on the host: accounts of the group or called dev-*, and files of keys."""

    group: bool = False
    accounts: dict[str, Account] = field(default_factory=dict)
    folder: tuple[int, int] = (0, 0)
    files: dict[str, KeyFile] = field(default_factory=dict)
    openssh: tuple[int, int] = (0, 0)


class People(FactBase[HostPeople]):
    """All of it in one round trip. A password is told as none, locked or set, never itself."""

    default = HostPeople

    def command(self) -> str:
        script = f"""
            gid=$(getent group {GROUP} | cut -d: -f3)
            [ -z "$gid" ] || echo "group="
            {{ getent passwd |
                   awk -F: -v g="${{gid:-none}}" '$4 == g || /^{ACCOUNT_PREFIX}/ {{print $1}}'
               getent group {GROUP} | cut -d: -f4 | tr , '\\n'; }} | sort -u | grep . |
            while read -r a; do
                case "$(getent shadow "$a" | cut -d: -f2)" in
                    '*') p=none ;; '!'*) p=locked ;; *) p=set ;; esac
                echo "account=$a|$(id -gn "$a")|$(id -Gn "$a")|$(getent passwd "$a" |
                    cut -d: -f6)|$(getent passwd "$a" | cut -d: -f7)|$p|$(getent shadow "$a" |
                    cut -d: -f8)"
            done
            stat -c 'folder=%a %u' {KEYS_FOLDER} 2>/dev/null
            for f in {KEYS_FOLDER}/* {KEYS_FOLDER}/.[!.]*; do
                [ -e "$f" ] || [ -L "$f" ] || continue
                s=-; [ ! -f "$f" ] || s=$(sha256sum <"$f" | cut -c1-64)
                echo "file=$(stat -c '%a|%u|%F' "$f")|$s|$f"
                [ ! -f "$f" ] || sed 's/^/text=/' "$f"
            done
            sshd -V 2>&1 | sed -n 's/^OpenSSH_\\([0-9]*\\)\\.\\([0-9]*\\).*/openssh=\\1 \\2/p'
            """
        return f"sh -c {shlex.quote(script)}"

    def process(self, output: list[str]) -> HostPeople:
        lines: dict[str, list[str]] = defaultdict(list)
        accounts: dict[str, Account] = {}
        files: dict[str, KeyFile] = {}
        texts: dict[str, str] = defaultdict(str)
        path = ""
        for line in output:
            key, _, value = line.partition("=")
            if key == "account":
                name, group, groups, home, shell, password, ends = value.split("|")
                accounts[name] = Account(
                    group, tuple(groups.split()), home, shell, password, int(ends or -1)
                )
            elif key == "file":
                mode, uid, kind, sha256, path = value.split("|", 4)
                files[path] = KeyFile(kind, int(mode, 8), int(uid), sha256)
            elif key == "text":
                texts[path] += value + "\n"
            else:
                lines[key].append(value)
        folder = lines["folder"][0].split() if lines["folder"] else ("0", "0")
        openssh = lines["openssh"][0].split() if lines["openssh"] else ("0", "0")
        return HostPeople(
            group=bool(lines["group"]),
            accounts=accounts,
            folder=(int(folder[0], 8), int(folder[1])),
            files={
                path: KeyFile(file.kind, file.mode, file.uid, file.sha256, texts[path])
                for path, file in files.items()
            },
            openssh=(int(openssh[0]), int(openssh[1])),
        )


@deploy("People")
def people(settings: Settings) -> None:
    """An account and a file of keys for each developer who may tunnel; nobody else has one."""
    accounts(name="accounts and keys", settings=settings)


@operation()
def accounts(settings: Settings) -> Commands:
    """Add, mend and remove exactly the difference; removing comes first.

    Raises OperationError where somebody else's account has the name of a developer's.
    """
    live: HostPeople = host.get_fact(People)
    for name in strangers(live):
        logger.warning(
            f"[{host.name}] the account {name} is in {GROUP}, which is the developers' group alone:"
            f" it cannot log in; usermod -g gives it another"
        )
    commands = steps(live, settings)
    if not commands:
        host.noop(f"{len(with_accounts(settings))} accounts are as the inventory says")
        return
    show_diff(_unlike(live, settings))
    yield from commands


def strangers(live: HostPeople) -> list[str]:
    """Accounts of the developers' group that are not called as theirs are."""
    return [
        name
        for name, account in live.accounts.items()
        if account.group == GROUP and not name.startswith(ACCOUNT_PREFIX)
    ]


def steps(live: HostPeople, settings: Settings) -> list[str | StringCommand]:
    """The commands from what stands on the host to what the settings say; none where it is so.

    Raises OperationError where somebody else's account has the name of a developer's.
    """
    ends = {account_of(name): last_day(who) for name, who in with_accounts(settings).items()}
    for name in ends:
        if name in live.accounts and live.accounts[name].group != GROUP:
            raise OperationError(
                f"the machine has an account {name} that Stackroom did not make (its group is"
                f" {live.accounts[name].group}): rename it, or the developer"
            )
    commands: list[str | StringCommand] = [
        *_removals(live, ends),
        *_foundation(live, needed=bool(ends)),
        *_mended_accounts(live, ends),
    ]
    for file in _unlike(live, settings):
        commands.append(upload(file))
        before = live.files.get(file.path)
        if before and takes_away(before.text, file.content):
            # sshd asks for a key once, at the login
            commands.append(f"sh -c {shlex.quote(_end_processes(_account(file.path)))}")
    return commands


def _unlike(live: HostPeople, settings: Settings) -> list[RenderedFile]:
    files = key_files(settings, expiry_in_utc=live.openssh >= _UTC_SINCE)
    return [file for file in files if not _is_as_wanted(live, file)]


def _account(path: str) -> str:
    return path.removeprefix(f"{KEYS_FOLDER}/")


def _removals(live: HostPeople, wanted: dict[str, int]) -> Iterator[str]:
    """Nobody of them logs in any more before the first process is waited for."""
    going = [
        name
        for name, account in live.accounts.items()
        if account.group == GROUP and name.startswith(ACCOUNT_PREFIX) and name not in wanted
    ]
    for removal in (_lock, _removal):
        yield from (f"sh -c {shlex.quote(removal(name))}" for name in going)
    for name, account in live.accounts.items():
        if account.group != GROUP and GROUP in account.groups:
            # somebody has added it: an operator's would be held to tunnels
            yield f"gpasswd -d {shlex.quote(name)} {GROUP} >/dev/null"
    # of an account that is no more, by whatever hand
    surplus = live.files.keys() - {keys_path(name) for name in wanted}
    if surplus:
        yield f"rm -rf -- {' '.join(shlex.quote(path) for path in sorted(surplus))}"


def _lock(name: str) -> str:
    keys = shlex.quote(keys_path(name))
    return f"set -e; rm -rf {keys}; usermod --lock --expiredate 1 {shlex.quote(name)}"


def _removal(name: str) -> str:
    """None of its processes is left when the name goes."""
    return f"set -e; {_end_processes(name)}; userdel {shlex.quote(name)}"


def _end_processes(name: str) -> str:
    """Kill until nothing is left: SSH connections are processes of the account, too."""
    account = shlex.quote(name)
    return (
        f"n=0; while pkill -KILL -u {account}; do n=$((n+1));"
        f" [ $n -lt {_TRIES} ] || {{ echo {account} has processes that do not end >&2; exit 1; }};"
        " sleep 0.1; done"
    )


def _foundation(live: HostPeople, *, needed: bool) -> Iterator[str]:
    if needed and not live.group:
        yield f"groupadd --system {GROUP}"
    if needed and live.folder != (0o755, 0):
        # an account reads its keys as itself, and writes none
        yield f"install -d -o root -g root -m 755 {KEYS_FOLDER}"


def _mended_accounts(live: HostPeople, wanted: dict[str, int]) -> Iterator[str]:
    for name, ends in wanted.items():
        shape = f"--gid {GROUP} --shell {SHELL} --password {shlex.quote(NONE)}"
        end = f"chage --expiredate {ends} {name}"
        account = live.accounts.get(name)
        if account is None:
            yield (f"useradd --system --no-create-home --home-dir {HOME} {shape} {name} && {end}")
        elif account != Account(GROUP, (GROUP,), HOME, SHELL, "none", ends):
            yield f"usermod --groups '' --home {HOME} {shape} {name} && {end}"


def _is_as_wanted(live: HostPeople, file: RenderedFile) -> bool:
    found = live.files.get(file.path)
    return found is not None and (found.kind, found.mode, found.uid, found.sha256) == (
        "regular file",
        file.mode,
        file.uid,
        file.sha256,
    )
