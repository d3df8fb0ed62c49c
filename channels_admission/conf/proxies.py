"""``TRUSTED_PROXIES`` read: which proxies are believed about the address of a client."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from .validators import Wrong

MOST_PROXIES = 10
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Proxies:
    """Whom to believe: the last ``hops`` proxies, or those in ``networks``; by default nobody."""

    hops: int = 0
    networks: tuple[Network, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.hops or self.networks)


def trusted_proxies(value: Any) -> Proxies:
    """``TRUSTED_PROXIES`` read: a number of proxies, or a list of their networks."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_PROXIES:
        return Proxies(hops=value)
    if isinstance(value, list | tuple):
        try:
            return Proxies(networks=tuple(ip_network(each) for each in value if isinstance(each, str) or _refuse()))
        except ValueError as error:
            raise Wrong(f"a list of networks such as '10.0.0.0/8' ({error})") from error
    raise Wrong(f"a number of proxies from 0 to {MOST_PROXIES}, or a list of networks such as ['10.0.0.0/8']")


def _refuse() -> bool:
    raise ValueError("each is a text")
