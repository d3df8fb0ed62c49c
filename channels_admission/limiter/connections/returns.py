"""Refused clients that come back sooner than they were told, noticed with a table of a fixed size.

A client is known by its address, its path and a few headers, of which only a hash is kept. Several clients may look
like one, such as the tabs of a browser, or the users of a network that send no cookie. So the table keeps the retry
times that were promised to all that look alike, and a visit takes the earliest one that has come. Nothing is done that
harms a client which is mistaken for another one: its refusal comes later, and names the same retry time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .asgi import Scope

MOST_CLIENTS = 2000
"""Clients in the table, of the latest refusals."""
SOCKETS = 8
"""Retry times that are kept of each, and sockets that a client may have at different URLs of its path."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is assumed of clients of one kind."""

    tolerated: float
    """Early visits of one client for which it is not held, as its tabs look alike."""
    soon: float
    """Seconds from one visit to the next within which an early one shows by itself that the client hammers."""
    hold: float
    """The longest hold, in seconds, that each of them bears. It does not grow with what one has borne: the sockets of a
    browser that wait behind a held one look like one that comes back, and would wait for longer."""


PROGRAM = Kind(tolerated=0, soon=1.0, hold=4.4)
"""Most allow a handshake 5 s or more, and so does Daphne."""
PAGE = Kind(tolerated=2, soon=0.1, hold=3.7)
"""Two tabs hardly connect in the same tenth of a second. Some libraries allow a handshake 4 s."""
BROWSER = b"Mozilla/"
"""How browsers begin their ``User-Agent``."""
FEW = 2.0
"""Early visits of all clients for which none is held: clients are held while there are more."""
FORGIVEN = 0.2
"""Early visits that are forgotten per second: fewer than come from one client that hammers and is held each time."""
AT_ONCE = FEW + 1
"""Early visits as which one counts that comes within ``soon``."""
REMEMBERED = 2 * FEW
"""The most early visits that are not forgotten."""
LATE = 1.0
"""Seconds by which a client may miss its retry time and keep its place, with some to spare. A browser opens one socket
to a host at a time: while one is held, its others wait."""
HEADERS = frozenset({b"cookie", b"authorization", b"user-agent", b"x-forwarded-for", b"forwarded"})
"""The headers that tell clients apart. Others, such as the numbers that proxies give to requests, never repeat."""

Visits = tuple[float, float, int, tuple[float, ...]]
"""Of the clients that look like one: the early visits that are not forgotten, the time of the latest visit and a hash
of its query, and the retry times that are promised, at least one."""


class Returns:
    """Tells which refused clients hammer. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._clients: OrderedDict[int, Visits] = OrderedDict()
        """The latest client is last."""
        self._early, self._at = 0.0, clock()
        """Early visits of all clients that are not forgotten, and the time of the last one."""

    def hold(self, scope: Scope, retry_after: float) -> float:
        """Note a client that is told to come back in ``retry_after`` seconds, and give the longest hold for it.

        That is 0 unless the client has come early, and at once, or as many have lately.
        """
        known = [value for name, value in scope.get("headers") or () if name in HEADERS]
        peer = scope.get("client")
        if not known and not peer:
            return 0.0  # else all would be one client
        client = hash((scope.get("path"), peer[0] if peer else None, *known))
        now, query, hold = self._clock(), hash(scope.get("query_string")), 0.0
        seen = self._clients.pop(client, None)
        if seen is None:
            if len(self._clients) >= MOST_CLIENTS:
                self._clients.popitem(last=False)
            self._clients[client] = 0.0, now, query, (now + retry_after,)
            return 0.0
        early, latest, asked, promised = seen
        if early:
            early = max(0.0, early - FORGIVEN * (now - latest))
        first = min(promised)
        if first <= now:
            promised = _without(first, promised)
        elif early or query == asked or len(promised) >= SOCKETS:
            kind = _kind(known)
            visits = AT_ONCE if now - latest < kind.soon else 1.0
            if self._are_many(now, visits) and early + visits > kind.tolerated:
                # From now on as if all visits were those of one client.
                hold, promised = kind.hold if early > kind.tolerated else min(kind.hold, first + LATE - now), ()
            early = min(REMEMBERED, early + visits)
        due = now + retry_after
        self._clients[client] = early, now, query, (*promised[1 - SOCKETS :], due) if promised else (due,)
        return hold

    def _are_many(self, now: float, more: float) -> bool:
        """Count so many early visits."""
        rest = max(0.0, self._early - FORGIVEN * (now - self._at))
        self._early, self._at = min(REMEMBERED, rest + more), now
        return self._early > FEW


def _kind(known: Iterable[bytes]) -> Kind:
    for value in known:
        if value.startswith(BROWSER):
            return PAGE
    return PROGRAM


def _without(one: float, times: tuple[float, ...]) -> tuple[float, ...]:
    at = times.index(one)
    return times[:at] + times[at + 1 :]
