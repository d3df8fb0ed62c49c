"""Refused clients that come back sooner than they were told, noticed with a table of a fixed size.

A client is known by its address, its path and a few headers, of which only a hash is kept. Several clients may look
like one, such as the users of a network that send no cookie. So nothing is done that harms a client which is mistaken
for another one: its refusal comes later, and names the same retry time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from .asgi import Scope

MOST_CLIENTS = 2000
"""Clients in the table, of the latest refusals."""
TOLERATED = 2
"""Visits of one client of which none counts as early."""
OF_A_BROWSER = 8
"""The same of a browser, whose tabs and pages have sockets of their own and connect one after the other."""
BROWSER = b"Mozilla/"
"""How browsers begin their ``User-Agent``."""
FEW = 2.0
"""Early visits for which no client is held: clients are held while there are more."""
FORGIVEN = 0.2
"""Early visits that are forgotten per second: fewer than come from one client that hammers and is held each time."""
REMEMBERED = 2 * FEW
"""The most early visits that are not forgotten."""
HEADERS = frozenset({b"cookie", b"authorization", b"user-agent", b"x-forwarded-for", b"forwarded"})
"""The headers that tell clients apart. Others, such as the numbers that proxies give to requests, never repeat."""


class Returns:
    """Tells which refused clients hammer. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._clients: OrderedDict[int, tuple[int, float]] = OrderedDict()
        """Of each client its visits without a break, and its latest retry time; the latest client is last."""
        self._early, self._at = 0.0, clock()
        """Early visits that are not forgotten, and the time of the last one."""

    def hammers(self, scope: Scope, retry_after: float) -> bool:
        """Note a client that is told to come back in ``retry_after`` seconds.

        Tells whether it has come early, as many have lately.
        """
        now, peer = self._clock(), scope.get("client")
        tolerated, known = TOLERATED, list[object]((peer[0] if peer else None, scope.get("path")))
        headers: Iterable[tuple[bytes, bytes]] = scope.get("headers") or ()
        for header in headers:
            if header[0] in HEADERS:
                known += header
                if header[0] == b"user-agent" and header[1].startswith(BROWSER):
                    tolerated = OF_A_BROWSER
        client = hash(tuple(known))
        visits, promised = self._clients.pop(client, (0, 0.0))
        visits = visits + 1 if now < promised else 1
        if len(self._clients) >= MOST_CLIENTS:
            self._clients.popitem(last=False)
        self._clients[client] = visits, now + retry_after
        return visits > tolerated and self._are_many(now)

    def _are_many(self, now: float) -> bool:
        """Count an early visit."""
        rest = max(0.0, self._early - FORGIVEN * (now - self._at))
        self._early, self._at = min(REMEMBERED, rest + 1), now
        return self._early > FEW
