"""Refused clients that come back sooner than they were told, noticed with a table of a fixed size.

A client is known by its address, its path and a few headers, of which only a hash is kept. Several clients may look
like one, such as the users of a network that send no cookie. So nothing is done that harms a client which is mistaken
for another one: its refusal comes later, and names the same retry time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .asgi import Scope

MOST_CLIENTS = 2000
"""Clients in the table, of the latest refusals."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is assumed of clients of one kind."""

    tolerated: int
    """Visits of one client of which none counts as early."""
    hold: float
    """The longest hold, in seconds, that each of them bears."""


PROGRAM = Kind(tolerated=1, hold=4.4)
"""Most allow a handshake 5 s or more, and so does Daphne."""
PAGE = Kind(tolerated=8, hold=3.7)
"""The tabs and pages of a browser have sockets of their own and connect one after the other. Some libraries allow a
handshake 4 s."""
BROWSER = b"Mozilla/"
"""How browsers begin their ``User-Agent``."""
FEW = 2.0
"""Early visits for which no client is held: clients are held while there are more."""
FORGIVEN = 0.2
"""Early visits that are forgotten per second: fewer than come from one client that hammers and is held each time."""
SOON = 1.0
"""Seconds from one visit of a client to the next within which an early one shows by itself that the client hammers."""
AT_ONCE = FEW + 1
"""Early visits as which such a visit counts."""
REMEMBERED = 2 * FEW
"""The most early visits that are not forgotten."""
HEADERS = frozenset({b"cookie", b"authorization", b"user-agent", b"x-forwarded-for", b"forwarded"})
"""The headers that tell clients apart. Others, such as the numbers that proxies give to requests, never repeat."""


class Returns:
    """Tells which refused clients hammer. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._clients: OrderedDict[int, tuple[int, float, float]] = OrderedDict()
        """Of each client its visits without a break, its latest retry time and visit; the latest client is last."""
        self._early, self._at = 0.0, clock()
        """Early visits that are not forgotten, and the time of the last one."""

    def hold(self, scope: Scope, retry_after: float) -> float:
        """Note a client that is told to come back in ``retry_after`` seconds, and give the longest hold for it.

        That is 0 unless the client has come early, and at once, or as many have lately.
        """
        now, peer = self._clock(), scope.get("client")
        kind, known = PROGRAM, [peer[0]] if peer else []
        headers: Iterable[tuple[bytes, bytes]] = scope.get("headers") or ()
        for header in headers:
            if header[0] in HEADERS:
                known += header
                if header[0] == b"user-agent" and header[1].startswith(BROWSER):
                    kind = PAGE
        if not known:
            return 0.0  # else all would be one client
        client = hash((scope.get("path"), *known))
        visits, promised, latest = self._clients.pop(client, (0, 0.0, 0.0))
        visits = visits + 1 if now < promised else 1
        if len(self._clients) >= MOST_CLIENTS:
            self._clients.popitem(last=False)
        self._clients[client] = visits, now + retry_after, now
        if visits > kind.tolerated and self._are_many(now, AT_ONCE if now - latest < SOON else 1.0):
            return kind.hold
        return 0.0

    def _are_many(self, now: float, more: float) -> bool:
        """Count so many early visits."""
        rest = max(0.0, self._early - FORGIVEN * (now - self._at))
        self._early, self._at = min(REMEMBERED, rest + more), now
        return self._early > FEW
