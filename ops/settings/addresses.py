"""Addresses and ranges that people come from, in one canonical form. Pure: it resolves nothing."""

from __future__ import annotations

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# the largest ranges that one holder has had assigned
_WIDEST = {4: 8, 6: 16}
# below it lie the IPv4 addresses in IPv6 clothes, ::ffff:198.51.100.7 and the like
_FIRST_IPV6 = ipaddress.IPv6Address("::1:0:0:0").packed


def check_address(text: str) -> str:
    """A range of any width in canonical form: `198.51.100.7/32`, `2001:db8::/64`.

    Raises ValueError with the reason.
    """
    network = _network(text)
    # the first addresses of a range tell nothing about one that holds the whole internet
    if "%" in text or (network.is_multicast and not is_wide(network)):
        raise ValueError(f"{text!r} is no address that somebody can come from")
    as_ipv4 = network.version == 6 and network.network_address.packed < _FIRST_IPV6
    if as_ipv4 and not is_wide(network):
        raise ValueError(f"{text!r} stands for an IPv4 address; write that")
    return str(network)


def check_width(text: str) -> str:
    """A canonical range that one holder can have. Raises ValueError for a wider one."""
    network = ipaddress.ip_network(text)
    if is_wide(network):
        raise ValueError(
            f"{text!r} lists too much of the internet (/{_WIDEST[network.version]} at most);"
            " list the addresses people work from"
        )
    return text


def is_wide(network: Network | str) -> bool:
    """Whether a range is wider than any one holder's: only `anywhere` lists such a one."""
    network = ipaddress.ip_network(network)
    return network.prefixlen < _WIDEST[network.version]


def short(address: str) -> str:
    """A canonical range as people write it: one address without its /32 or /128."""
    network = ipaddress.ip_network(address)
    return str(network.network_address) if network.num_addresses == 1 else address


def overlap(one: str, other: str) -> bool:
    """Whether two canonical ranges have an address in common."""
    first, second = ipaddress.ip_network(one), ipaddress.ip_network(other)
    return first.version == second.version and first.overlaps(second)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        wider = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address or CIDR range") from None
    host = text.partition("/")[0]
    raise ValueError(f"{text!r} has host bits set: write {wider} for all of it, or {host} for one")
