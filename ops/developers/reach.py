"""Which sources the live rules of a machine let pass to a port. Pure: rules in, ranges out.

The rules are walked as the kernel does, first match first, with every source at once. What a rule
asks beyond source and port cannot be known: it may let somebody in, and it never counts as a drop.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ops.render.firewall import CONTAINER_CHAIN, JUMP, Family

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Span = tuple[int, int]  # first and last address, as numbers
Spans = list[Span]  # in order, apart from each other
Chain = Literal["INPUT", "FORWARD"]

_LAST: dict[Family, int] = {"v4": 2**32 - 1, "v6": 2**128 - 1}
EVERYBODY: dict[Family, str] = {"v4": "0.0.0.0/0", "v6": "::/0"}
_MODULES = ("tcp", "conntrack", "state", "comment", "multiport", "iprange")
HOST_CHAINS = ("ufw-user-input", "ufw6-user-input")
_DEPTH = 20  # of chains that jump to each other


@dataclass(frozen=True)
class Table:
    """The filter table of one family: policies and rules as `iptables -S` prints them."""

    policies: Mapping[str, str]
    rules: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Passing:
    """Sources that get through, and the rule that lets them."""

    sources: Spans
    rule: str


@dataclass(frozen=True)
class Rule:
    """`sure`: whether nothing else than source and port decides."""

    text: str
    target: str
    sources: Spans
    sure: bool = True
    never: bool = False
    goto: bool = False


@dataclass
class _Walk:
    table: Table
    family: Family
    chain: Chain
    port: int
    passed: list[Passing] = field(default_factory=list)


def passing(table: Table, family: Family, chain: Chain, port: int) -> list[Passing]:
    """Who reaches a TCP port: of the machine itself (INPUT), or of its containers (FORWARD, where
    the port is the one that the client asked for). In the order in which rules let them in."""
    walk = _Walk(table, family, chain, port)
    left = _through(walk, chain, [Passing([(0, _LAST[family])], "")], 0)
    # without the chain nothing is known to stop anybody
    if table.policies.get(chain, "ACCEPT") == "ACCEPT":
        walk.passed += [replace(each, rule=each.rule or f"-P {chain} ACCEPT") for each in left]
    return [each for each in walk.passed if each.sources]


def shut_but(chains: Mapping[str, Sequence[str]]) -> Table:
    """A table with these chains alone, shut to everybody else: what an inventory means."""
    host_chain = next((name for name in chains if name in HOST_CHAINS), "")
    rules: dict[str, Sequence[str]] = {
        **chains,
        "INPUT": [f"-A INPUT -j {host_chain}"],
        "FORWARD": [JUMP],
        "DOCKER-USER": [f"-A DOCKER-USER -j {CONTAINER_CHAIN}"],
    }
    return Table({"INPUT": "DROP", "FORWARD": "DROP"}, rules)


def mentioned_ports(table: Table, chain: Chain) -> set[int]:
    """The TCP ports that rules let somebody to: there may be one that nobody expects."""
    option = r"--dports?" if chain == "INPUT" else r"--ctorigdstports?"
    ports: set[int] = set()
    for name, rules in table.rules.items():
        if chain == "INPUT" and name.startswith("DOCKER"):
            continue  # there it is the port inside of a container
        for rule in rules:
            found = re.search(
                rf"-p tcp .*{option} (\S+) .*-[jg] (?!DROP|REJECT|LOG|ufw6?-skip)", rule
            )
            if found:
                ports |= {int(each.split(":")[0]) for each in found[1].split(",")}
    return ports


def _through(walk: _Walk, chain: str, incoming: list[Passing], depth: int) -> list[Passing]:
    """Send `incoming` through a chain; what comes back to the one that called it."""
    left, back = incoming, []
    for text in walk.table.rules.get(chain, ()) if depth < _DEPTH else ():
        rule = parse(text, walk.family, walk.chain, walk.port)
        hit = [each for each in _meet(left, rule.sources) if each.sources]
        if rule.never or not hit or rule.target in ("", "LOG", "NFLOG", "MARK", "CONNMARK"):
            continue
        rest = _without(left, rule.sources) if rule.sure else left
        if rule.target == "ACCEPT":
            walk.passed += _called(hit, text)
        elif rule.target == "RETURN":
            back += [replace(each, rule=each.rule or text) for each in hit]
        elif rule.target in walk.table.rules:
            inside = _called(hit, text) if _names_a_source(text) else hit
            returned = _through(walk, rule.target, inside, depth + 1)
            if text == JUMP:  # Docker's own rules then let in whatever a container publishes
                walk.passed += [replace(each, rule=each.rule or text) for each in returned]
            elif rule.goto:
                back += returned
            else:
                rest = [*rest, *returned] if rule.sure else left
        elif rule.target not in ("DROP", "REJECT"):
            rest = left  # a target that is not known may do anything, but it drops for certain not
        left = rest
    return [*left, *back]


def _called(pieces: list[Passing], text: str) -> list[Passing]:
    """Under the name of the rule that let them: of several, the one that says from where."""
    if _names_a_source(text):
        return [replace(each, rule=text) for each in pieces]
    return [replace(each, rule=each.rule or text) for each in pieces]


def _names_a_source(text: str) -> bool:
    return " -s " in text or " --src-range " in text


@functools.lru_cache(maxsize=16384)  # the same rules are asked about each port
def parse(text: str, family: Family, chain: Chain, port: int) -> Rule:
    """What a rule does to a new TCP connection from outside to this port."""
    words = (shlex.split(text) if '"' in text else text.split())[2:]
    rule = Rule(text, "", [(0, _LAST[family])])
    negated = False
    while words:
        word = words.pop(0)
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            return replace(rule, target=words[0], goto=word == "-g")
        if word == "--comment" or (word == "-m" and words[0] in _MODULES):
            words.pop(0)
        elif word in ("-s", "--src-range"):
            rule = _from(rule, words.pop(0), family, negated)
        else:
            value = words.pop(0) if words and not words[0].startswith("-") else ""
            rule = _asks(rule, _matches(word, value, chain, port), negated)
        negated = False
    return rule


def _from(rule: Rule, value: str, family: Family, negated: bool) -> Rule:
    try:
        spans = _negation(spans_of([value]), family) if negated else spans_of([value])
    except ValueError:
        return replace(rule, sure=False)
    return replace(rule, sources=_intersection(rule.sources, spans))


def _asks(rule: Rule, holds: bool | None, negated: bool) -> Rule:
    if holds is None:
        return replace(rule, sure=False)
    return rule if holds != negated else replace(rule, never=True)


def _matches(word: str, value: str, chain: Chain, port: int) -> bool | None:
    """Whether a match holds for such a packet; None where that depends on more."""
    if word == "-p":
        return value in ("tcp", "all")
    if word == "--ctdir":
        return value == "ORIGINAL"
    if word in ("--ctstate", "--state"):
        states = set(value.split(","))
        return bool(states & {"NEW", *(["DNAT"] if chain == "FORWARD" else [])})
    if word == "--ctorigdstport" or (chain == "INPUT" and word in ("--dport", "--dports")):
        return any(_in_range(port, each) for each in value.split(","))
    if word == "-i" and (value == "lo" or value.startswith(("br-", "docker", "veth"))):
        return False
    if word == "-o" and chain == "FORWARD":
        # what is published stands on the stack's own bridge, which bears this prefix
        return True if value == "br-+" else False if value.startswith("docker") else None
    if word == "--dst-type" and chain == "INPUT":
        return value == "LOCAL"
    return True if word == "-m" and value == "addrtype" else None


def _in_range(port: int, text: str) -> bool:
    first, _, last = text.partition(":")
    return int(first or 0) <= port <= int(last or (first if ":" not in text else 65535))


def _meet(pieces: Iterable[Passing], spans: Spans) -> list[Passing]:
    return [replace(each, sources=_intersection(each.sources, spans)) for each in pieces]


def _without(pieces: Iterable[Passing], spans: Spans) -> list[Passing]:
    kept = [replace(each, sources=without(each.sources, spans)) for each in pieces]
    return [each for each in kept if each.sources]


def spans_of(ranges: Iterable[str]) -> Spans:
    """Networks, or `first-last`, as numbers: joined and in order. Raises ValueError."""
    spans = []
    for text in ranges:
        first, dash, last = text.partition("-")
        if dash:
            spans.append((int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last))))
        else:
            network = ipaddress.ip_network(text, strict=False)
            spans.append((int(network[0]), int(network[-1])))
    return union(spans)


def union(spans: Iterable[Span]) -> Spans:
    joined: Spans = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def _intersection(one: Spans, other: Spans) -> Spans:
    return [(max(a, c), min(b, d)) for a, b in one for c, d in other if a <= d and c <= b]


def without(one: Spans, other: Spans) -> Spans:
    """The addresses of `one` that are not in `other`."""
    left = list(one)
    for first, last in other:
        cut: Spans = []
        for a, b in left:
            cut += [(a, min(b, first - 1))] if a < first else []
            cut += [(max(a, last + 1), b)] if b > last else []
        left = cut
    return left


def _negation(spans: Spans, family: Family) -> Spans:
    return without([(0, _LAST[family])], spans)


def networks_of(spans: Spans, family: Family) -> list[str]:
    """The spans as networks, the fewest that say it."""
    kind = ipaddress.IPv4Address if family == "v4" else ipaddress.IPv6Address
    return [
        str(network)
        for first, last in spans
        for network in ipaddress.summarize_address_range(kind(first), kind(last))
    ]


def touches(spans: Spans, address: str) -> bool:
    """Whether any address of a range lies within the spans of its family."""
    return bool(_intersection(spans, spans_of([address])))


def covers(spans: Spans, address: str) -> bool:
    """Whether a range lies wholly within the spans of its family."""
    return not without(spans_of([address]), spans)
