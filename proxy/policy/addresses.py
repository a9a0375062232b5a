"""Which addresses a subscriber may make us call: those of the public internet, and no other.

A webhook is a request that somebody else wrote the address of. From inside a cluster such a request reaches what the
network keeps from its author: the cloud's metadata service with its credentials, the API server, the app beside us. So
the address itself is judged, after the name was looked up, and an address that carries another one inside is judged by
that one too.
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: the last four bytes are the IPv4 address that is really called, where a network has no IPv4 of its own."""
SPECIAL: Final = tuple(
    ipaddress.ip_network(each)
    for each in (
        "192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "64:ff9b:1::/48", "2001:db8::/32", "3fff::/20", "5f00::/16",
    )
)  # fmt: skip
"""Special-purpose ranges (IANA's registries) that not every version of Python takes for private. In the first one lives
a metadata service, Oracle's."""
METADATA: Final = frozenset({ip_address("168.63.129.16")})
"""Metadata services on addresses that look public: Azure's. The others are link-local, shared or unique local."""


def is_public(address: str) -> bool:
    """Whether `address` (no name, no brackets) may be called for a subscriber. False for what is no address."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return all(_is_public(each) for each in _called(found))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    local = address.is_link_local or address.is_private or any(address in network for network in SPECIAL)
    return address.is_global and not special and not local and address not in METADATA


def _called(address: IPv4Address | IPv6Address) -> tuple[IPv4Address | IPv6Address, ...]:
    """What a call of `address` reaches: itself, what it stands for, or the ways of a tunnel as well."""
    if isinstance(address, IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return (address, *(address.teredo or ()), *((address.sixtofour,) if address.sixtofour else ()))
