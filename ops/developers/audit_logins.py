"""Keys and accounts: what SSH would let in, against what the file says. Pure.

A key or an account that makes somebody root is reach, whoever put it there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from ops.developers.audit_words import Difference, Row, absent, name_of
from ops.developers.look_logins import key_of
from ops.developers.reality import Account, HostKey, Reality
from ops.render.host import authorized_keys_path
from ops.render.people import GROUP, KEYS_FOLDER, account_of, key_files, tunnel_ports, with_accounts
from ops.settings import Environment, Settings
from ops.settings.people import ACCOUNT_PREFIX

# what sshd says of a developer's login: their key lines say the same, and each alone suffices
_HELD: Mapping[str, str] = {
    "authorizedkeysfile": f"{KEYS_FOLDER}/%u",
    "allowtcpforwarding": "local",
    "permittty": "no",
    "permitlisten": "none",
    "allowstreamlocalforwarding": "no",
    "forcecommand": "/usr/sbin/nologin",
}
# sources of keys that no file on the host tells about
_ELSEWHERE = ("authorizedkeyscommand", "trustedusercakeys")
_PASSWORDS = ("passwordauthentication", "kbdinteractiveauthentication")


@dataclass(frozen=True)
class Line:
    """One key as it should stand: whose, and with which options."""

    person: str
    options: frozenset[str]


def expected_lines(settings: Settings) -> dict[tuple[str, str], Line]:
    """(account, fingerprint) of every key that the file puts on the host."""
    lines = {
        (settings.host.operator_account, fingerprint): Line(name, frozenset())
        for name, operator in settings.operators.items()
        for fingerprint in fingerprints(operator.keys)
    }
    for file in key_files(settings):
        account = PurePosixPath(file.path).name
        for text in file.content.splitlines():
            key = key_of(text)
            if key:
                line = Line(name_of(account), frozenset(key["options"]))
                lines[account, key["fingerprint"]] = line
    return lines


def fingerprints(keys: Iterable[str]) -> list[str]:
    return [key["fingerprint"] for text in keys if (key := key_of(text))]


def holders(settings: Settings) -> dict[str, str]:
    """Whose each fingerprint is, the keys of the expired too."""
    everybody = {**settings.operators, **settings.developers}
    return {
        fingerprint: name
        for name, person in everybody.items()
        for fingerprint in fingerprints(person.keys)
    }


def accounts_by_person(
    environment: Environment, reality: Reality
) -> dict[str, tuple[str, ...]] | None:
    """The accounts that each person's keys open now; None where keys could not be read."""
    if reality.keys is None:
        return None
    whose = holders(environment.settings)
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for key in reality.keys:
        if key.fingerprint in whose and _opens(reality, key.account):
            found[whose[key.fingerprint]][key.account] = None
    return {name: tuple(accounts) for name, accounts in found.items()}


def _opens(reality: Reality, account: str) -> bool:
    """Whether sshd takes any key for the account; where that is not known, yes."""
    told = (reality.sshd or {}).get(account, {})
    if told.get("pubkeyauthentication") == "no" or not account:
        return False
    return not (account == "root" and told.get("permitrootlogin") == "no")


def differences(environment: Environment, reality: Reality, now: datetime) -> Iterator[Difference]:
    if reality.keys is not None:
        yield from _of_keys(environment, reality)
    if reality.accounts is not None:
        yield from _of_developers(environment, reality.accounts, now)
        yield from _of_others(environment, reality, reality.accounts)
    yield from _of_sshd(environment.settings, reality.sshd or {})


def _of_keys(environment: Environment, reality: Reality) -> Iterator[Difference]:
    expected = expected_lines(environment.settings)
    found = {(key.account, key.fingerprint) for key in reality.keys or ()}
    for key in reality.keys or ():
        line = expected.get((key.account, key.fingerprint))
        if line:
            yield from _of_options(line, key, reality)
    for key in strange_keys(environment, reality):
        if not key.account:
            text = f"{key.path} holds a key for an account that there is not"
            yield Difference(name_of(PurePosixPath(key.path).name), text)
        elif not (key.fingerprint in reality.logins and _is_login(environment, key.account)):
            person = holders(environment.settings).get(key.fingerprint) or name_of(key.account)
            text = f"{_told(key)} opens {key.account}, and the file does not have it there"
            ours = key.path == authorized_keys_path(environment.settings)
            applies = ours or key.path.startswith(f"{KEYS_FOLDER}/")
            yield Difference(person, text, reaches=True, applies=applies)
    for (account, fingerprint), line in expected.items():
        if (account, fingerprint) not in found:
            yield Difference(line.person, f"the key {fingerprint} does not open {account}")


def _is_login(environment: Environment, account: str) -> bool:
    """Where the key of hosts.py belongs: root's, from the provider, or the account it names."""
    return account in ("root", environment.machine.user)


def strange_keys(environment: Environment, reality: Reality) -> list[HostKey]:
    """Keys on the host that the file does not put there: the login's own among them, not an
    operator's for root, who is root as it is."""
    settings = environment.settings
    expected = expected_lines(settings)
    operators = set(settings.operators)
    whose = holders(settings)
    return [
        key
        for key in reality.keys or ()
        if (key.account, key.fingerprint) not in expected
        and not (key.account and not _opens(reality, key.account))
        and not (whose.get(key.fingerprint) in operators and _is_login(environment, key.account))
    ]


def _told(key: HostKey) -> str:
    return f"the key {key.fingerprint}" + (f" ({key.comment})" if key.comment else "")


def _of_options(line: Line, key: HostKey, reality: Reality) -> Iterator[Difference]:
    """A line that asks less than ours opens more; an operator's asks nothing."""
    if not line.options:
        return
    lacks, has = line.options - set(key.options), set(key.options) - line.options
    ends = {each.name: each.ends for each in reality.accounts or ()}
    if ends.get(key.account) is not None:
        # where sshd cannot read it in the line, the account's own end says the same
        lacks = frozenset(each for each in lacks if not each.startswith("expiry-time="))
    if lacks or has:
        told = [f"lacks {' '.join(sorted(lacks))}"] if lacks else []
        told += [f"has {' '.join(sorted(has))}"] if has else []
        text = f"the key {key.fingerprint} of {key.account} {' and '.join(told)}"
        yield Difference(line.person, text, reaches=True)


def _of_developers(
    environment: Environment, accounts: tuple[Account, ...], now: datetime
) -> Iterator[Difference]:
    settings = environment.settings
    expected = {account_of(name): name for name in with_accounts(settings)}
    found = {each.name: each for each in accounts}
    for each in accounts:
        name = expected.get(each.name)
        if name is None:
            yield from _of_nobody(environment, each)
            continue
        more = [*(["a shell"] if each.shell else []), *(["sudo"] if each.sudo else [])]
        more += [f"the group {group}" for group in each.root_equal]
        more += ["a password"] if each.password else []
        more += [] if each.developer else ["not the group that holds it to tunnels"]
        if more:
            text = f"the account {each.name} has {', '.join(more)}"
            yield Difference(name, text, reaches=True, applies=not each.sudo)
        if each.locked:
            yield Difference(name, f"the account {each.name} is locked")
        yield from _of_end(settings, name, each, now)
    for account, name in expected.items():
        if account not in found:
            yield Difference(name, f"there is no account {account}")


def _of_nobody(environment: Environment, account: Account) -> Iterator[Difference]:
    """An account that no developer of the file has. Only those of the group are ours to remove."""
    running = f" with {account.processes} processes" if account.processes else ""
    named = account.name.startswith(ACCOUNT_PREFIX)
    if account.developer:
        why = absent(environment.settings, name_of(account.name))
        text = f"the account {account.name} is there{running}, and {why}"
        yield Difference(name_of(account.name), text, reaches=True, applies=named)
    elif named and account.name != environment.machine.user:
        text = f"the account {account.name} is there{running}, called as developers' are, and is"
        text += f" not in {GROUP}: somebody else made it, and no deploy removes it"
        yield Difference(name_of(account.name), text, reaches=True, applies=False)


def _of_end(settings: Settings, name: str, account: Account, now: datetime) -> Iterator[Difference]:
    end = settings.developers[name].ends()
    wanted = end.date() if end else None
    if account.ends == wanted:
        return
    told = f"ends on {account.ends}" if account.ends else "never ends"
    text = f"the account {account.name} {told}, and the file says {wanted or 'never'}"
    later = account.ends is None or (wanted is not None and account.ends > wanted)
    if account.ends is not None and account.ends <= now.date():
        text += ": it is shut"
    yield Difference(name, text, reaches=later)


def _of_others(
    environment: Environment, reality: Reality, accounts: tuple[Account, ...]
) -> Iterator[Difference]:
    """Accounts that are root, or take a password, and that nobody declared."""
    declared = {"root", environment.settings.host.operator_account, environment.machine.user}
    ours = {account_of(name) for name in with_accounts(environment.settings)}
    sshd = reality.sshd or {}
    for each in accounts:
        if each.developer or each.name in ours:
            continue
        if each.name not in declared:
            why = [*(["sudo"] if each.sudo else []), *(["user id 0"] if each.uid == 0 else [])]
            why += [f"the group {group}" for group in each.root_equal]
            if why:
                text = (
                    f"the account {each.name} is root by {', '.join(why)}, and nobody declared it"
                )
                yield Difference("", text, reaches=True, applies=False)
        told = sshd.get(each.name, {})
        asked = any(told.get(key) == "yes" for key in _PASSWORDS)
        barred = each.name == "root" and told.get("permitrootlogin") != "yes"
        if each.password and each.shell and asked and not barred:
            yield Difference("", f"sshd takes the password of {each.name}", reaches=True)


def _of_sshd(settings: Settings, sshd: Mapping[str, Mapping[str, str]]) -> Iterator[Difference]:
    for key in _ELSEWHERE:
        values = {told.get(key, "none") for told in sshd.values()} - {"none"}
        if values:
            text = f"sshd has {key} {', '.join(sorted(values))}: whom it lets in cannot be seen"
            yield Difference("", text, reaches=True, applies=False)
    ports = " ".join(f"127.0.0.1:{port}" for port in tunnel_ports(settings))
    for name in with_accounts(settings):
        told = sshd.get(account_of(name))
        if told is None:
            continue
        wrong = [
            f"{key} {told.get(key, '?')}"
            for key, value in {**_HELD, "permitopen": ports}.items()
            if told.get(key) != value
        ]
        if wrong:
            text = f"sshd does not hold {account_of(name)} to tunnels: {', '.join(wrong)}"
            yield Difference(name, text, reaches=True)


def strangers(environment: Environment, reality: Reality) -> Iterator[Row]:
    """A row for each key and each account that the file does not have."""
    ssh = (environment.machine.port,)
    powerful = {
        each.name
        for each in reality.accounts or ()
        if each.uid == 0 or each.sudo or each.root_equal
    } | {"root"}
    whose = holders(environment.settings)
    for key in strange_keys(environment, reality):
        login = key.fingerprint in reality.logins and _is_login(environment, key.account)
        person = whose.get(key.fingerprint) or name_of(key.account)
        who = "the login of hosts.py" if login else person or "not in the inventory"
        name = key.comment or key.fingerprint[:19]
        yield Row(
            who=who,
            source=_from(key) or "any open to SSH",
            ports=ssh if key.account else (),
            account=f"{key.account or key.path} ({name})",
            rights="root" if key.account in powerful else "account",
            listed=False,
        )


def _from(key: HostKey) -> str:
    found = [re.sub(r'^from="?|"$', "", each) for each in key.options if each.startswith("from=")]
    return ", ".join(found)
