"""Addresses: who gets through the firewall in force, against whom the file lets through. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ops.developers import reach
from ops.developers.audit_words import Difference, Row, name_of, owners, people, source_in
from ops.developers.reach import Chain, Passing, Spans, Table, covers, passing, union
from ops.developers.reality import Reality
from ops.render.firewall import CONTAINER_CHAIN, FAMILIES, Family, expected_chains, family_of
from ops.settings import Environment

CHAINS: tuple[Chain, ...] = ("INPUT", "FORWARD")
QUIET = (" -j DROP", " -j REJECT", " -j LOG")  # what such a rule does lets nobody in


@dataclass(frozen=True)
class Door:
    """One port in one family: who gets through by which rule, and who should."""

    family: Family
    port: int
    live: list[Passing]
    wanted: Spans

    @cached_property
    def spans(self) -> Spans:
        return union(span for each in self.live for span in each.sources)

    def strangers(self) -> Iterator[Passing]:
        for each in self.live:
            beyond = reach.without(each.sources, self.wanted)
            if beyond:
                yield Passing(beyond, each.rule)


@dataclass(frozen=True)
class Stranger:
    """A source that nobody declared, with the ports it reaches and the rules that let it."""

    person: str
    source: str
    ports: tuple[int, ...]
    rules: tuple[str, ...]


def reached(
    doors: Sequence[Door] | None, addresses: Iterable[str]
) -> dict[str, tuple[int, ...] | None]:
    """The ports that each whole range reaches; None where the firewall could not be read."""
    if doors is None:
        return dict.fromkeys(addresses)
    return {
        address: tuple(
            sorted(
                door.port
                for door in doors
                if door.family == family_of(address) and covers(door.spans, address)
            )
        )
        for address in addresses
    }


def doors_now(environment: Environment, reality: Reality) -> list[Door] | None:
    """Every port that matters as the live rules have it; None where they could not be read."""
    return None if reality.tables is None else live_doors(environment, reality.tables)


def live_doors(environment: Environment, tables: Mapping[Family, Table]) -> list[Door]:
    """Every port that matters: SSH and the edge, and what rules name besides."""
    return list(_doors(environment, tables))


def _doors(environment: Environment, tables: Mapping[Family, Table]) -> Iterator[Door]:
    settings, ssh_port = environment.settings, environment.machine.port
    usual: dict[Chain, set[int]] = {
        "INPUT": {ssh_port},
        "FORWARD": {*settings.edge_ports(), *settings.world_ports()},
    }
    expected = expected_chains(settings, ssh_port)
    for family in FAMILIES:
        meant = reach.shut_but(expected[family])
        for chain in CHAINS:
            for port in sorted(usual[chain] | reach.mentioned_ports(tables[family], chain)):
                wanted = union(
                    span for each in passing(meant, family, chain, port) for span in each.sources
                )
                live = passing(tables[family], family, chain, port)
                yield Door(family, port, live, wanted)


def declared(environment: Environment, address: str, port: int) -> list[str]:
    """The listed ranges that let some of an address reach a port; the world's, where it may."""
    settings, family = environment.settings, family_of(address)
    meant = reach.shut_but(expected_chains(settings, environment.machine.port)[family])
    return [
        source_in(each.rule, family)
        for chain in CHAINS
        for each in passing(meant, family, chain, port)
        if reach.touches(each.sources, address)
    ]


def undeclared(environment: Environment, reality: Reality, doors: Sequence[Door]) -> list[Stranger]:
    """Sources that get through and that the file does not let through, each once."""
    ports: dict[tuple[Family, str], set[int]] = defaultdict(set)
    rules: dict[tuple[Family, str], dict[str, None]] = defaultdict(dict)
    for door in doors:
        for each in door.strangers():
            source = (door.family, source_in(each.rule, door.family))
            ports[source].add(door.port)
            rules[source][each.rule] = None
    return [
        Stranger(_whose(environment, reality, source), source, tuple(sorted(ports[key])), tuple(by))
        for key, by in rules.items()
        for source in [key[1]]
    ]


def _whose(environment: Environment, reality: Reality, source: str) -> str:
    """Who is to be asked about a source: the one whose address it holds, or whose keys name it."""
    try:
        held = owners(environment.settings, [source])
    except ValueError:  # "all but ...": nobody's
        return ""
    for key in reality.keys or ():
        name = name_of(key.account)
        if name and not held and source in _sources_of(key.options):
            return name
    return held[0] if len(held) == 1 else ""


def _sources_of(options: Sequence[str]) -> list[str]:
    told = [each for each in options if each.startswith("from=")]
    return [source for each in told for source in each[5:].strip('"').split(",")]


def strangers(
    environment: Environment, reality: Reality, doors: Sequence[Door] | None
) -> Iterator[Row]:
    """A row for each source on the host that the file does not have."""
    for each in undeclared(environment, reality, doors or ()):
        yield Row(each.person or "not listed", each.source, each.ports, "", listed=False)


def differences(
    environment: Environment, reality: Reality, doors: Sequence[Door] | None
) -> Iterator[Difference]:
    """Live rules first, then what UFW would put in force at the next boot."""
    if reality.tables is not None and doors is not None:
        told = list(_of_doors(environment, reality, doors))
        yield from told
        known = {each.rule for door in doors for each in door.strangers()}
        shut_out = any(not each.reaches for each in told)
        yield from _of_rules(environment, reality.tables, known, tell_missing=not shut_out)
    if reality.stored is not None:
        expected = expected_chains(environment.settings, environment.machine.port)
        later = {
            family: reach.shut_but(
                {**dict.fromkeys(expected[family], ()), **reality.stored[family]}
            )
            for family in FAMILIES
        }
        at_boot = live_doors(environment, later)
        yield from _of_doors(environment, reality, at_boot, " after the next boot")


def _of_doors(
    environment: Environment, reality: Reality, doors: Sequence[Door], when: str = ""
) -> Iterator[Difference]:
    for each in undeclared(environment, reality, doors):
        held = ", ".join(owners_or_none(environment, each.source))
        wider = f", more than is listed for {held}" if held else ", and nobody listed it"
        yield Difference(
            each.person,
            f"{each.source} reaches {_ports(each.ports)}{when}{wider}: {each.rules[0]}",
            reaches=True,
            applies=any(_is_ours(rule) for rule in each.rules),
        )
    for name, addresses in people(environment.settings):
        for address in addresses:
            shut = [
                door.port
                for door in doors
                if door.family == family_of(address)
                and covers(door.wanted, address)
                and not covers(door.spans, address)
            ]
            if shut:
                yield Difference(name, f"{address} does not reach {_ports(sorted(shut))}{when}")


def _is_ours(rule: str) -> bool:
    """Whether a deploy replaces what is in that chain, or puts its own before it."""
    chain = rule.split(" ")[1]
    return rule.startswith("-P ") or chain in (
        "FORWARD",
        "DOCKER-USER",
        CONTAINER_CHAIN,
        *reach.HOST_CHAINS,
    )


def owners_or_none(environment: Environment, source: str) -> list[str]:
    try:
        return owners(environment.settings, [source])
    except ValueError:
        return []


def _of_rules(
    environment: Environment,
    tables: Mapping[Family, Table],
    known: Collection[str],
    *,
    tell_missing: bool,
) -> Iterator[Difference]:
    """Rules that are not ours, or lacking, that no sentence about an address has told yet."""
    expected = expected_chains(environment.settings, environment.machine.port)
    for family in FAMILIES:
        for chain, wanted in expected[family].items():
            live = tables[family].rules.get(chain, ())
            for rule in live:
                if rule not in wanted and rule not in known:
                    opens = not any(quiet in rule for quiet in QUIET)
                    yield Difference("", f"a rule that is not ours ({family}): {rule}", opens)
            for rule in wanted:
                if rule not in live and tell_missing:
                    yield Difference("", f"a rule is missing ({family}): {rule}")


def _ports(ports: Sequence[int]) -> str:
    return f"port{'s' if len(ports) > 1 else ''} {', '.join(map(str, ports))}"
