"""Whether somebody who was removed is really gone: each probe with its answer. Changes nothing.

Every probe goes another way than the removal did: the live rules are walked, SSH and the token, or
what the stack has for one, are tried. One that cannot be made is unknown, and unknown is not gone.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from ops.clients.ssh import Remote
from ops.developers import audit_logins, audit_sources
from ops.developers.accounts import accounts_of
from ops.developers.audit_words import owners, source_in
from ops.developers.probe import Probe, unknown
from ops.developers.reach import touches
from ops.developers.reality import Reality, look
from ops.render.firewall import family_of
from ops.render.people import account_of
from ops.settings import Environment
from ops.settings.addresses import overlap, short
from ops.settings.people import Developer

LOGIN_SECONDS = 20.0


def prove_gone(environment_before: Environment, name: str, remote: Remote) -> list[Probe]:
    """Every way in that the person had, tried. `environment_before`: with the person still in it.

    Raises UnreachableError without a login on the host.
    """
    with ThreadPoolExecutor(1) as aside:  # round trips of their own, side by side
        developer = environment_before.settings.developers[name]
        ids = [each for each in (developer.token, developer.retiring) if each]
        tokens = aside.submit(prove_refused, environment_before, name, ids, remote)
        reality = look(environment_before, remote)
    # the refused login comes last: sshd is slower with an address that it has refused
    return [
        *judged(environment_before, name, reality),
        *tokens.result(),
        *_login(environment_before, name),
    ]


def judged(before: Environment, name: str, reality: Reality) -> list[Probe]:
    """The probes that the host's real state answers. Pure."""
    developer = before.settings.developers[name]
    after = without(before, name)
    return [
        *_addresses(after, developer, reality),
        *_connections(after, developer, reality),
        _account(account_of(name), reality),
        _keys_for(account_of(name), reality),
        *_keys(after, developer, reality),
        *accounts_of(before.settings).gone(developer, name, reality),
    ]


def without(environment: Environment, name: str) -> Environment:
    """The environment as it is once the person is no longer in it."""
    settings = environment.settings
    rest = {other: one for other, one in settings.developers.items() if other != name}
    return replace(environment, settings=settings.model_copy(update={"developers": rest}))


def _addresses(after: Environment, gone: Developer, reality: Reality) -> Iterator[Probe]:
    ports = sorted({after.machine.port, *after.settings.edge_ports()})
    doors = audit_sources.doors_now(after, reality) or []
    for address in gone.addresses:
        for port in ports:
            what = f"{short(address)} reaches port {port}"
            if reality.tables is None:
                yield unknown(what, reality, "firewall")
                continue
            rules = [
                (source_in(each.rule, door.family), each.rule)
                for door in doors
                if door.port == port and door.family == family_of(address)
                for each in door.live
                if touches(each.sources, address)
            ]
            yield _door(after, what, address, port, rules)


def _door(
    after: Environment, what: str, address: str, port: int, rules: list[tuple[str, str]]
) -> Probe:
    if not rules:
        return Probe(what, "no: no rule lets it pass", True)
    declared = audit_sources.declared(after, address, port)
    strange = [rule for source, rule in rules if source not in declared]
    if strange:
        return Probe(what, f"yes, by {strange[0]}", False)
    told = ", ".join(f"{short(source)} ({_by(after, source)})" for source, _ in rules)
    return Probe(what, f"yes, and it stays open: {told} is listed", True)


def _by(after: Environment, source: str) -> str:
    return ", ".join(owners(after.settings, [source])) or "open to the world"


def _connections(after: Environment, gone: Developer, reality: Reality) -> Iterator[Probe]:
    for address in gone.addresses:
        what = f"a connection from {short(address)} is open"
        if reality.connections is None:
            yield unknown(what, reality, "connections")
            continue
        found = [each for each in reality.connections if overlap(address, each.source)]
        told = ", ".join(f"{each.count} from {each.source} to port {each.port}" for each in found)
        # whoever shares the address may have them open
        shared = [each for each in found if owners(after.settings, [each.source])]
        if not found:
            yield Probe(what, "no", True)
        elif len(shared) == len(found):
            names = owners(after.settings, [each.source for each in shared])
            yield Probe(what, f"{told}: an address of {', '.join(names)}, too", True)
        else:
            yield Probe(what, f"yes: {told}", False)


def _account(account: str, reality: Reality) -> Probe:
    what = f"the account {account} can be used"
    if reality.accounts is None:
        return unknown(what, reality, "accounts")
    found = next((each for each in reality.accounts if each.name == account), None)
    running = (reality.sessions or {}).get(account, 0)
    if found is None:
        if running:
            return Probe(what, f"it is gone, but {running} SSH sessions of it run", False)
        return Probe(what, "no: there is no such account, and no session of it", True)
    ended = found.ends is not None and found.ends <= datetime.now(UTC).date()
    if (found.locked and ended) and not found.processes:
        return Probe(what, "no: it is locked and has ended, and no process of it runs", True)
    shut = "locked" if found.locked else "not locked"
    return Probe(what, f"yes: it is there, {shut}, with {found.processes} processes", False)


def _keys_for(account: str, reality: Reality) -> Probe:
    """Keys for the account, in the file of now or not, from whichever address they would open."""
    what = f"a key opens {account} from anywhere"
    if reality.keys is None:
        return unknown(what, reality, "keys")
    found = [
        each for each in reality.keys if account in (each.account, PurePosixPath(each.path).name)
    ]
    if found:
        told = ", ".join(f"{each.fingerprint} in {each.path}" for each in found)
        return Probe(what, f"yes: {told}", False)
    return Probe(what, f"no: it is named by none of {len(reality.keys)} keys on the host", True)


def _keys(after: Environment, gone: Developer, reality: Reality) -> Iterator[Probe]:
    whose = audit_logins.holders(after.settings)
    for fingerprint in audit_logins.fingerprints(gone.keys):
        what = f"the key {fingerprint} opens an account"
        if reality.keys is None:
            yield unknown(what, reality, "keys")
            continue
        places = [each.path for each in reality.keys if each.fingerprint == fingerprint]
        if not places:
            yield Probe(what, f"no: it is none of {len(reality.keys)} keys on the host", True)
        elif fingerprint in whose:
            yield Probe(what, f"yes: it is the key of {whose[fingerprint]}, too", True)
        else:
            yield Probe(what, f"yes: {', '.join(places)}", False)


def _login(before: Environment, name: str) -> Iterator[Probe]:
    """One login with all keys of the person: sshd counts attempts, and shuts out who makes many.

    It proves that the account opens nothing here, no more: `from=` refuses a key that is offered
    from this machine's address for a live account, too. Of keys, the listing is the evidence.
    Their private halves are not here. sshd is offered the public ones, and says whether it would
    take one before it asks for a signature.
    """
    account, keys = account_of(name), before.settings.developers[name].keys
    what = f"{account} logs in over SSH from this machine"
    machine = replace(before.machine, user=account, key="")
    ssh = Remote(replace(before, machine=machine))
    with tempfile.TemporaryDirectory() as folder:
        options = ["-v", "-F", "none", "-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes"]
        options += ["-o", "PreferredAuthentications=publickey"]
        if not keys:
            options += ["-o", "IdentityFile=none"]
        for number, key in enumerate(keys):
            path = Path(folder, f"{number}.pub")
            path.write_text(f"{key}\n", encoding="utf-8")
            options += ["-i", str(path)]
        try:
            done = subprocess.run(
                [*ssh.ssh_command(*options), "true"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LOGIN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield Probe(what, f"unknown: no answer within {LOGIN_SECONDS:.0f} s", False)
            return
    yield login_answer(what, len(keys), done.returncode, done.stderr)


def login_answer(what: str, keys: int, code: int, said: str) -> Probe:
    """What ssh -v said of the attempt."""
    if code == 0 or "Authenticated to " in said:
        return Probe(what, "yes: it logged in", False)
    if "Server accepts key" in said:
        return Probe(what, "yes: sshd takes a key of theirs", False)
    if re.search(r"Permission denied \(", said):
        offered = said.count("Offering public key")
        if offered < keys:
            return Probe(what, f"unknown: {offered} of {keys} keys were tried", False)
        return Probe(what, f"no: refused here, with {keys} keys of theirs offered", True)
    last = [line for line in said.splitlines() if line.strip() and not line.startswith("debug")]
    return Probe(what, f"unknown: {last[-1] if last else 'ssh said nothing'}", False)


def prove_refused(
    environment: Environment, name: str, ids: Iterable[str], remote: Remote
) -> list[Probe]:
    """What these ids stand for, shown to the stack. `environment`: with the person still in it."""
    return accounts_of(environment.settings).refused(environment, name, ids, remote)
