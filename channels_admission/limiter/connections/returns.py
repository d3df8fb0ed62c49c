"""Refused clients that come back sooner than they were told, noticed with a table of a fixed size.

A client is known by its address, its path and a few headers, of which only a hash is kept. Several clients may look
like one, such as the tabs of a browser, or the users of a network that send no cookie. So the table keeps the retry
times that were promised to all that look alike, and a visit takes the earliest one that has come. A client which is
mistaken for another one is not harmed: its refusal comes later, and names the same retry time. Only one that seems to
have come back at once after such a refusal, while no other came that looks alike, may be told a later time.
"""

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .asgi import Scope

MOST_CLIENTS = 2000
"""Clients in the table, of the latest refusals."""
SOCKETS = 8
"""Retry times that are kept of each, and sockets that a client may have at different URLs of its path."""
SOON = 1.0
"""Seconds from an answer to the next visit within which that is taken for a return of the same client."""
FEW = 2.0
"""Early visits of all clients for which none is held: clients are held while there are more."""
FORGIVEN = 0.2
"""Early visits that are forgotten per second: fewer than come from one client that hammers and is held each time."""
REMEMBERED = 2 * FEW
"""The most early visits that are not forgotten."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is assumed of clients of one kind."""

    tolerated: float
    """Early visits of one client for which it is not held, as its tabs look alike."""
    together: float
    """Seconds after an answer within which its next visit may be that of another tab."""
    returns: float
    """As how many early visits one counts that comes after that and within :data:`SOON`."""
    hold: float
    """The longest hold before the answer, in seconds."""


PROGRAM = Kind(tolerated=0, together=0.0, returns=FEW + 1, hold=4.4)
"""Most allow a handshake 5 s or more, and so does Daphne."""
PAGE = Kind(tolerated=2, together=0.3, returns=FEW, hold=3.7)
"""Tabs that are opened together connect within a tenth of a second. Some libraries allow a handshake 4 s."""
BROWSER = b"Mozilla/"
"""How browsers begin their ``User-Agent``."""
AGAIN = 7.0
"""The longest hold, in seconds, of a client that has come back at once after it was held. It is held open, so that no
handshake takes longer, and no other socket of its browser waits."""
LEAST = 0.96
"""The shortest hold, as a share of the longest."""
SOONEST = 0.5
"""The shortest time that is told after a hold, as our clients wait at least: else the place would be missed."""
LATE = 1.0
"""Seconds by which a client may miss its retry time and keep its place, with some to spare. A browser opens one socket
to a host at a time: while one is held before its answer, its others wait."""
USER_AGENT = b"user-agent"
HEADERS = frozenset({b"cookie", b"authorization", USER_AGENT, b"x-forwarded-for", b"forwarded"})
"""The headers that tell clients apart. Others, such as the numbers that proxies give to requests, never repeat."""


class Hold(NamedTuple):
    """For how many seconds a refused client is held, and whether its connection is opened before."""

    seconds: float
    is_open: bool = False


NO_HOLD = Hold(0.0)


class Visits(NamedTuple):
    """Of the clients that look like one."""

    early: float
    """Early visits that were not forgotten at the latest visit."""
    latest: float
    """The time of the latest visit."""
    answered: float
    """When its hold ends; its own time if it is not held."""
    was_held: bool
    """Whether it was held, or came at once after one that was."""
    query: int
    """A hash of its query."""
    promised: tuple[float, ...]
    """The retry times that are promised, at least one."""


def client_of(scope: Scope) -> int | None:
    """A hash of what tells the client from others; None if nothing does, since else all would be one client."""
    known = [value for name, value in scope.get("headers") or () if name in HEADERS]
    peer = scope.get("client")
    return hash((scope.get("path"), peer[0] if peer else None, *known)) if known or peer else None


class Returns:
    """Tells which refused clients hammer. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._clients: OrderedDict[int, Visits] = OrderedDict()
        """The latest client is last."""
        self._early, self._at = 0.0, clock()
        """Early visits of all clients that are not forgotten, and the time of the last one."""

    def hold(self, client: int, scope: Scope, retry_after: float, least: float | None) -> Hold:
        """Note a client that is told to come back in ``retry_after`` seconds, and give the hold for it.

        Its answer comes in time for that, unless it is held open. If that passes its retry time, it is to be told to
        come ``least`` seconds after its answer. Without ``least`` it cannot be held open.
        """
        now, query = self._clock(), hash(scope.get("query_string"))
        due = now + retry_after
        seen = self._clients.pop(client, None)
        if seen is None:
            if len(self._clients) >= MOST_CLIENTS:
                self._clients.popitem(last=False)
            self._clients[client] = Visits(0.0, now, now, False, query, (due,))
            return NO_HOLD
        early, promised, hold = seen.early, seen.promised, NO_HOLD
        if early:
            early = max(0.0, early - FORGIVEN * (now - seen.latest))
        since = now - seen.answered
        has_returned = seen.was_held and 0 <= since < SOON
        first = min(promised)
        if first <= now:
            promised = _without(first, promised)
        elif early or query == seen.query or len(promised) >= SOCKETS:
            kind = _kind(scope)
            visits = kind.returns if has_returned or kind.together <= since < SOON else 1.0
            if self._are_many(now, visits) and early + visits > kind.tolerated:
                longest = kind.hold if early > kind.tolerated else min(kind.hold, first + LATE - now)
                # From now on as if all visits were those of one client.
                promised = ()
                if has_returned and least is not None:
                    hold = Hold(AGAIN * random.uniform(LEAST, 1.0), is_open=True)
                    due = told(due, now + hold.seconds, least)
                else:
                    hold = Hold(max(0.0, min(longest * random.uniform(LEAST, 1.0), retry_after - SOONEST)))
            early = min(REMEMBERED, early + visits)
        was_held = bool(hold.seconds) or has_returned
        times = (*promised[1 - SOCKETS :], due) if promised else (due,)
        self._clients[client] = Visits(early, now, now + hold.seconds, was_held, query, times)
        return hold

    def _are_many(self, now: float, more: float) -> bool:
        """Count so many early visits."""
        rest = max(0.0, self._early - FORGIVEN * (now - self._at))
        self._early, self._at = min(REMEMBERED, rest + more), now
        return self._early > FEW


def told(due: float, answered: float, least: float) -> float:
    """The retry time that a client is told after a hold: ``due``, unless it has passed."""
    return due if due >= answered + SOONEST else answered + least


def _kind(scope: Scope) -> Kind:
    for name, value in scope.get("headers") or ():
        if name == USER_AGENT and value.startswith(BROWSER):
            return PAGE
    return PROGRAM


def _without(one: float, times: tuple[float, ...]) -> tuple[float, ...]:
    at = times.index(one)
    return times[:at] + times[at + 1 :]
