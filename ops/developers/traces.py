"""What a host has of one person, by name: account, keys, tokens, addresses. Pure.

It never says that there is nothing where that could not be read.
"""

from __future__ import annotations

import contextlib

from ops.developers import audit_sources
from ops.developers.accounts import accounts_of
from ops.developers.reality import HostKey, Reality
from ops.render.people import KEYS_FOLDER, account_of, with_accounts
from ops.settings import Developer, Environment, Settings
from ops.settings.addresses import check_address, is_wide, overlap

NEEDED = ("accounts", "keys")  # what is told by name


def of_name(settings: Settings, reality: Reality, name: str) -> list[str]:
    """What stands on the host under that name, whoever is in the file; in words, a line each."""
    account = account_of(name)
    found = [
        f"the account {each.name}, with {each.processes} processes"
        for each in reality.accounts or ()
        if each.name == account and each.developer
    ]
    found += [f"the key {each.fingerprint} of {account}" for each in _keys(reality, name)]
    return found + accounts_of(settings).traces(reality, name)


def unread(settings: Settings, reality: Reality) -> dict[str, str]:
    """What of it could not be read: part -> reason."""
    needed = (*NEEDED, *accounts_of(settings).parts)
    return {part: reality.unknown[part] for part in needed if part in reality.unknown}


def stand_in(reality: Reality, name: str) -> Developer:
    """A developer of that name as far as the host tells: for the proof of a removal."""
    told = [option for key in _keys(reality, name) for option in key.options]
    sources = [option.removeprefix("from=") for option in told if option.startswith("from=")]
    addresses: dict[str, None] = {}
    for each in ",".join(source.strip('"') for source in sources).split(","):
        with contextlib.suppress(ValueError):  # a pattern, which none of our lines has
            addresses[check_address(each)] = None
    # nobody typed it: a person without an address is no mistake here
    return Developer.model_construct(addresses=list(addresses))


def is_wholly_absent(environment: Environment, reality: Reality, name: str) -> bool:
    """Whether the host has nothing of somebody who is in the file, and should have something.

    They were removed with another checkout, or never applied. An address that somebody else has,
    too, says nothing either way.
    """
    settings = environment.settings
    developer = settings.current_developers()[name]
    ids = {developer.token, developer.retiring} - {""}
    known = accounts_of(settings)
    if of_name(settings, reality, name) or known.holds(developer, name, reality):
        return False
    ports = {each: _port(environment, each) for each in _own(settings, name, developer)}
    if not (ports or ids or name in with_accounts(settings)):
        return False
    reached = audit_sources.reached(audit_sources.doors_now(environment, reality), ports)
    return not any(port in (reached[address] or ()) for address, port in ports.items())


def _keys(reality: Reality, name: str) -> list[HostKey]:
    account = account_of(name)
    path = f"{KEYS_FOLDER}/{account}"
    # one that is only called like that is somebody else's, and so are its keys
    foreign = any(each.name == account and not each.developer for each in reality.accounts or ())
    return [
        each
        for each in reality.keys or ()
        if each.path == path or (each.account == account and not foreign)
    ]


def _own(settings: Settings, name: str, developer: Developer) -> list[str]:
    """The addresses of theirs that nobody else is listed with."""
    others = [
        address
        for people in (settings.operators, settings.current_developers())
        for other, one in people.items()
        if other != name
        for address in one.addresses
    ]
    return [
        address
        for address in developer.addresses
        if not any(
            overlap(address, other)
            for other in others
            # the whole internet reaches the edge alone, and no one else's SSH
            if is_wide(address) or not is_wide(other)
        )
    ]


def _port(environment: Environment, address: str) -> int:
    """A port that nobody else's rule opens to the address: one of the internet never has SSH."""
    return environment.settings.edge.port if is_wide(address) else environment.machine.port
