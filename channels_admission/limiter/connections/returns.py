"""Refused clients that come back sooner than they were told, noticed with a table of a fixed size.

A client is known by its address, its URL and a few headers, of which only a hash is kept. Several clients may look
like one, such as the tabs of a browser or the users of a network that send no cookie. So each may be told to come back
a few times before one more visit counts as early.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from .asgi import Scope

MOST_CLIENTS = 2000
"""Clients in the table, of the latest refusals."""
PROMISES = 3
"""Retry times of one client that may all lie ahead: refused once more before the first of them, it has come early."""
FEW = 4.0
"""Early visits for which no client is held: clients are held while there are more."""
FORGIVEN = 0.1
"""Early visits that are forgotten per second: fewer than come from one client that hammers and is held each time."""
REMEMBERED = 2 * FEW
"""The most early visits that are not forgotten."""
NEW: tuple[float, tuple[float, ...]] = (0.0, ())
HEADERS = frozenset({b"cookie", b"authorization", b"user-agent", b"x-forwarded-for", b"forwarded"})
"""The headers that tell clients apart. Others, such as the numbers that proxies give to requests, never repeat."""


class Returns:
    """Tells which refused clients hammer. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._clients: OrderedDict[int, tuple[float, tuple[float, ...]]] = OrderedDict()
        """By client, since when it has come without a break, and the latest retry times that it was told.

        The latest client is last.
        """
        self._early, self._at = 0.0, clock()
        """Early visits that are not forgotten, and the time of the last one."""

    def hammering(self, scope: Scope, retry_after: float) -> float:
        """Note a client that is told to come back in ``retry_after`` seconds.

        Gives for how many seconds it has hammered: if it has come early, as many have lately, since the first visit.
        """
        now, peer = self._clock(), scope.get("client")
        known: list[object] = [peer[0] if peer else None, scope.get("path"), scope.get("query_string")]
        headers: Iterable[tuple[bytes, bytes]] = scope.get("headers") or ()
        for header in headers:
            if header[0] in HEADERS:
                known += header
        client = hash(tuple(known))
        since, promised = self._clients.pop(client, NEW)
        is_early = len(promised) == PROMISES and min(promised) > now
        if now >= max(promised, default=now):
            since = now
        if len(self._clients) >= MOST_CLIENTS:
            self._clients.popitem(last=False)
        self._clients[client] = since, (*promised[1 - PROMISES :], now + retry_after)
        return now - since if is_early and self._are_many(now) else 0.0

    def _are_many(self, now: float) -> bool:
        """Count an early visit."""
        rest = max(0.0, self._early - FORGIVEN * (now - self._at))
        self._early, self._at = min(REMEMBERED, rest + 1), now
        return self._early > FEW
