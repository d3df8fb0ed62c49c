"""``TRUSTED_PROXIES``: the proxies whose headers tell the address of a client."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from .validators import Wrong

MOST_PROXIES = 10
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Proxies:
    """Trusted proxies: the last ``hops``, or those in ``networks``; none by default."""

    hops: int = 0
    networks: tuple[Network, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.hops or self.networks)


def trusted_proxies(value: Any) -> Proxies:
    """Validate ``TRUSTED_PROXIES``: a number of proxies, or a list of their networks."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_PROXIES:
        return Proxies(hops=value)
    if isinstance(value, list | tuple):
        try:
            return Proxies(networks=tuple(map(_network, value)))
        except ValueError as error:
            raise Wrong(f"a list of networks such as '10.0.0.0/8' ({error})") from error
    raise Wrong(f"a number of proxies from 0 to {MOST_PROXIES}, or a list of networks such as ['10.0.0.0/8']")


def _network(value: Any) -> Network:
    if not isinstance(value, str):  # ip_network reads numbers, too
        raise ValueError("each is a text")
    return ip_network(value)
