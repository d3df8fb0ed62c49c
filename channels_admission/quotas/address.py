"""The address of a client: the peer of its socket, or the address that trusted proxies report.

Pure. A client may forge any header, so a header counts only as far as trusted proxies have written it, from the right.
Anything that is not an address is ignored.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import islice
from typing import Any

from ..conf.proxies import Network, Proxies

MOST_HOPS = 20
"""Most addresses in a header; a longer header is ignored."""
LONGEST_HEADER = 4096
"""Bytes of all lines of a header; of a longer one only the end is read, which the nearest proxies wrote."""
SITE_PREFIX = 64
"""Bits of an IPv6 address that identify the client's network; the client chooses the rest."""

Address = IPv4Address | IPv6Address


def client_of(scope: Any, proxies: Proxies = Proxies()) -> str | None:
    """The client's IPv4 address, or the /64 network of its IPv6 address; None if unknown."""
    address = _client(scope, proxies)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, SITE_PREFIX), strict=False))
    return None if address is None else str(address)


def _client(scope: Any, proxies: Proxies) -> Address | None:
    client = scope.get("client")
    peer = parse(client[0]) if client and isinstance(client[0], str) else None
    if not proxies:
        return peer
    # A peer without an address is a proxy on a Unix socket, which no list of networks can match.
    if peer is None and (not proxies.hops or (client and client[0])):
        return None
    hops = _hops(scope)
    if not hops:
        return peer
    return _by_number(hops, peer, proxies.hops) if proxies.hops else _by_network(hops, peer, proxies.networks)


def _by_number(hops: list[str], peer: Address | None, number: int) -> Address | None:
    return parse(hops[-min(number, len(hops))]) or peer


def _by_network(hops: list[str], peer: Address | None, networks: tuple[Network, ...]) -> Address | None:
    address = peer
    for hop in reversed(hops):
        if address is None or not _is_in(address, networks):
            break
        address = parse(hop)
    return address or peer


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _hops(scope: Any) -> list[str]:
    """The addresses that proxies have written, the nearest last. If both headers exist they must agree, since a client
    may have written one."""
    elements, plain = _elements(scope, b"forwarded"), _elements(scope, b"x-forwarded-for")
    if max(len(elements), len(plain)) > MOST_HOPS:
        return []
    forwarded = list(map(_for, elements))
    if forwarded and plain and list(map(parse, forwarded)) != list(map(parse, plain)):
        return []
    return plain or forwarded


def _elements(scope: Any, name: bytes) -> list[str]:
    """The elements of all lines of a header, at most one more than :data:`MOST_HOPS`."""
    lines = [value for header, value in scope.get("headers", ()) if header.lower() == name]
    whole = b",".join(lines)
    # An element that is cut in two is dropped.
    read = whole if len(whole) <= LONGEST_HEADER else whole[-LONGEST_HEADER:].partition(b",")[2]
    elements = filter(None, map(str.strip, read.decode("latin-1").split(",")))
    return list(islice(elements, MOST_HOPS + 1))


def _for(element: str) -> str:
    """The ``for`` of one element of Forwarded (RFC 7239), without quotes."""
    for pair in element.split(";"):
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return value.strip('"')
    return ""


def parse(text: str) -> Address | None:
    """The address in a text, without brackets, port and zone; IPv4 if mapped into IPv6; None for anything else."""
    if match := re.fullmatch(r"\[([^\]]*)\](?::\d{1,5})?", text) or re.fullmatch(r"([^:]*):\d{1,5}", text):
        text = match[1]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
