"""The open connections of a limiter, looked at all at once: which are too old, not answered yet, or busy.

A timer for each would be most of what an open connection keeps in memory.
"""

import asyncio
import random
from collections.abc import Iterator
from contextvars import Context

from ..core.counters import AUTHENTICATED
from ..quotas.requests import Rules, is_authenticated
from ..runtime.faults import Faults
from .books.state import State
from .closer import Closer
from .connections.asgi import Receive, Scope, Send
from .connections.connection import Connection
from .connections.slot import KEY, Held, HeldWithTicket, Slot

SPREAD = 0.1
"""The part of the age by which each connection's own is longer or shorter, so that a herd does not end as one."""
LOOKS = 50
"""Looks at the oldest connections in the time of one age, at the least; one a second otherwise."""
PERIOD = 1.0
"""Seconds between two looks at all connections: what an application does in between is not noticed."""


class Lookout:
    """Opens the connections of ``closer`` and watches them. Belongs to one event loop; all times are of its clock."""

    def __init__(self, state: State, closer: Closer, faults: Faults, rules: Rules | None) -> None:
        self._state = state
        self._pool = pool = state.pool
        self._rules = rules
        self._closer = closer
        self._connections = closer.connections
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._pause = min(PERIOD, (pool.max_connection_age or PERIOD * LOOKS) / LOOKS)
        self._look_at_all = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._accepting = 0

    @property
    def accepting(self) -> int:
        """Connections that were not accepted yet at the last look."""
        return self._accepting if self._connections else 0

    def open(self, slot: Slot, scope: Scope, receive: Receive, send: Send, ticket: str = "") -> Connection:
        """The connection of ``slot``; ``ticket`` is one that is not of this pool."""
        connection = None
        try:
            connection = Connection(receive, send, slot)
            # Not in a copy of the scope, which would be most of what an open connection keeps in memory.
            others = scope[KEY].values() if KEY in scope else ()
            scope[KEY] = HeldWithTicket(slot, others, ticket) if ticket else Held(slot, others)
            deadline = self._pool.pending_deadline
            slot.is_authenticated = deadline is None or is_authenticated(scope)
            if not slot.is_authenticated and deadline is not None:
                connection.alarm(deadline, self._closer.end_unauthenticated, self._rules)
            elif deadline is not None:
                self._state.counters[AUTHENTICATED] = 1
            self._note(connection, scope)
        except BaseException:
            if connection is not None:
                connection.leave()
                self._connections.pop(connection, None)
            slot.release()
            raise
        return connection

    def _note(self, connection: Connection, scope: Scope) -> None:
        """The connection has its slot: end it at its maximum age, and unless its handshake is answered in time."""
        pool, now, age = self._pool, self._loop.time(), 0.0
        if pool.max_connection_age is not None:
            age = pool.max_connection_age * random.uniform(1 - SPREAD, 1 + SPREAD)
        self._connections[connection] = now + age if age else 0.0
        connection.unanswered = now + (pool.accept_deadline or float("inf")), scope
        if self._timer is None:
            self._look_at_all = now + PERIOD
            self._timer = self._loop.call_later(self._pause, self._look, context=Context())

    def _look(self) -> None:
        self._timer = None
        if self._connections:
            self._timer = self._loop.call_later(self._pause, self._look, context=Context())
        now = self._loop.time()
        if self._pool.max_connection_age is not None:
            self._end_the_aged(self._pool.max_connection_age, now)
        if now >= self._look_at_all:
            self._look_at_all = now + PERIOD
            self._look_at_each(now)

    def _look_at_each(self, now: float) -> None:
        waiting = [each for each in self._connections if each.unanswered is not None]
        self._accepting = len(waiting)
        for connection in [each for each in waiting if each.unanswered and each.unanswered[0] <= now]:
            with self._faults.spare("the deadline to accept"):
                self._closer.refuse(connection)
        busy = [each for each in self._connections if each.is_busy()]
        for connection in busy:
            with self._faults.spare("the look ahead"):
                connection.listen_ahead()

    def _end_the_aged(self, age: float, now: float) -> None:
        for connection in list(self._oldest(now + 2 * SPREAD * age)):
            if self._connections.get(connection, now) <= now:
                with self._faults.spare("an end at the maximum age"):
                    self._closer.grow_old(connection)

    def _oldest(self, latest: float) -> Iterator[Connection]:
        """Connections that may be due. The first that is due after ``latest`` ends them: younger ones have time."""
        for connection, due in self._connections.items():
            if due > latest:
                break
            yield connection
