"""Closes a worker's connections at a steady pace, so that their clients do not return as a herd.

Connections are closed in a drain, above an enforced limit, at their maximum age, and, without delay, where memory runs
out. Each close tells the client when to come back: by the pool's rate if it has one, otherwise soon, since the closes
are spread already.
"""

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextvars import Context
from heapq import nsmallest
from itertools import islice

from ..core.counters import AGED, AUTHENTICATED, DRAINED, DRY, EVICTED, OUTLIVED, OVERDUE, SHED, UNACCEPTED
from ..core.overrides import Drain, Order
from ..core.protocol import Reply
from ..overload.manager import OverloadManager
from ..quotas.requests import Rules
from ..runtime.faults import Faults
from .books.state import State
from .connections.asgi import REPLACED, RESTART
from .connections.connection import Connection
from .connections.refusal import close_reason, messages
from .line.places import Places

logger = logging.getLogger("channels_admission")

RESTART_REASON = "Service Restart"
POLICY_VIOLATION = 1008
NOT_AUTHENTICATED = "Authentication Required"
"""The reason of a close at ``PENDING_DEADLINE``."""
REPLACED_REASON = "Replaced by a newer connection"
NARROWEST = 0.8
"""The shortest time between two ends, as a share of the mean: what a busy loop was late for is caught up slowly."""
SHORTEST = 0.02
"""Seconds, the shortest mean time: where there are more, some end together."""


async def spread(connections: Sequence[Connection], seconds: float) -> AsyncIterator[Connection]:
    """The connections one after the other, evenly over ``seconds`` with random gaps."""
    loop = asyncio.get_running_loop()
    together = max(1, math.ceil(len(connections) * SHORTEST / seconds)) if seconds else len(connections)
    gap = seconds * together / max(1, len(connections))
    begun, earliest = loop.time(), 0.0
    for place, at in enumerate(range(0, len(connections), together)):
        await asyncio.sleep(max(begun + gap * (place + random.random()), earliest) - loop.time())
        earliest = loop.time() + NARROWEST * gap
        for connection in connections[at : at + together]:
            yield connection


class Closer:
    """The connections of one limiter, and the tasks that close them. Belongs to one event loop.

    ``on_drain`` is called as a drain begins, with the seconds that it takes. Balancers have ``delay`` seconds before to
    notice that the worker is not ready.
    """

    def __init__(
        self,
        state: State,
        places: Places,
        faults: Faults,
        on_drain: Callable[[float], object] = float,
        delay: float = 0.0,
    ) -> None:
        self.connections: dict[Connection, float] = {}
        """The youngest last, each with when it ends at its maximum age, or 0."""
        self._state = state
        self._places = places
        self._faults = faults
        self._on_drain = on_drain
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._registered: int | None = None
        """The version of the pool at which this worker was first known to it, once its counts have settled."""
        self._names: set[str] = set()
        """The worker's name, and those that it had before."""
        self._followed: Drain | None = None
        self._enforced: Order | None = None
        self._enforced_by = 0.0
        """Until when connections beyond the limit that is enforced are to be ended."""
        self._is_last = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # What operators have set

    def follow(self, reply: Reply) -> None:
        """Begin or cancel a drain as the ledger's word demands."""
        state = self._state
        if self._registered is None and not reply.settling:
            self._registered = reply.version
        self._names.add(state.worker.id)
        if reply.controls is None or self._is_last:
            return
        ours = [drain for drain in reply.controls.drains if self._is_meant(drain)]
        drain = ours[-1] if ours else None  # the one that was ordered last
        if drain == self._followed:
            return
        if drain is None:
            self._cancel()
            state.leaving = state.draining = False
            logger.warning("Pool %r: this worker drains no longer.", state.pool.name)
        else:
            self._drain(drain.over)
        self._followed = drain

    def _is_meant(self, drain: Drain) -> bool:
        return any(drain.is_of(name, self._registered) for name in self._names)

    def enforce(self, reply: Reply, heartbeat: float) -> None:
        """End this worker's part of what is held beyond a limit, as far as that is due within a heartbeat.

        The time of the order runs from when this worker first hears of it, by its own clock.
        """
        state, order = self._state, self._state.controls.limit
        # Connections that have ended since the report are still counted, and so are the reserves.
        total = reply.total - reply.others_reserve - max(0, state.allowance - reply.granted - state.held)
        if order is None or order.over is None or state.dry_run or state.leaving or total <= reply.limit:
            return
        if self._task is not None and not self._task.done():
            return
        if order != self._enforced:
            self._enforced, self._enforced_by = order, self._loop.time() + order.over
        left = max(heartbeat, self._enforced_by - self._loop.time())
        ending = sum(each.is_ending for each in self.connections)
        part = (state.held * (total - reply.limit) / total - ending) * heartbeat / left
        # By chance up or down: all workers together end as many as are due, at the mean.
        doomed = list(islice(self._youngest(), max(0, math.floor(part + random.random()))))
        if doomed:
            self._begin(self._end_all(doomed, NARROWEST * heartbeat))

    # The end of the worker

    def drain_for_good(self, seconds: float) -> None:
        """Begin a drain that no operator can cancel: the process is about to end."""
        if not self._is_last:
            self._is_last = True
            self._drain(seconds)

    def cancel(self) -> None:
        self._is_last = True
        self._cancel()

    def evict(self, reply: Reply) -> None:
        """End the oldest connections under keys whose quota newer ones have exceeded: all of them, at once.

        The ledger names them as long as they are counted. A dry run counts them, once, and ends none.
        """
        state, slot_ages, claims = self._state, self._state.slot_ages, self._state.claims
        if slot_ages is None or claims is None or not reply.evicted:
            return
        doomed = slot_ages.doomed(reply.evicted, claims.released)
        if not doomed:
            return
        for connection in self.connections:
            slot = connection.slot
            if slot not in doomed or connection.is_ending or slot in slot_ages.spared:
                continue
            state.counters[f"{DRY}{EVICTED}" if state.dry_run else EVICTED] += 1
            if state.dry_run:
                slot_ages.spared.add(slot)
            else:
                connection.end(REPLACED, REPLACED_REASON)

    # Ends one by one

    def grow_old(self, connection: Connection) -> None:
        """The connection has reached its maximum age."""
        self._end(connection, AGED)

    def refuse(self, connection: Connection) -> None:
        """Its application has not answered the handshake by ``ACCEPT_DEADLINE``: refuse it. A dry run counts, once."""
        state = self._state
        if connection.unanswered is None or connection.is_ending:
            return
        _, scope = connection.unanswered
        connection.unanswered = None
        state.counters[f"{DRY}{UNACCEPTED}" if state.dry_run else UNACCEPTED] += 1
        if not state.dry_run:
            connection.refuse(messages(scope, self._places.refuse(UNACCEPTED), state.pool))

    def end_unauthenticated(self, connection: Connection, rules: Rules | None) -> None:
        """``PENDING_DEADLINE`` has come: end the connection unless it has authenticated or ``rules`` exempt it.

        A dry run counts it, and ends none.
        """
        state, slot = self._state, connection.slot
        if slot is None or slot.is_authenticated or (rules is not None and rules.is_exempt(slot.class_index)):
            return
        known = (AUTHENTICATED, OVERDUE, f"{DRY}{OVERDUE}")
        if not any(state.counters[name] for name in known):
            logger.warning(
                "Pool %r: PENDING_DEADLINE ends its first connection, and none has authenticated so far. If users do, "
                "put an AdmissionMiddleware inside the auth stack, or call admission_authenticated().",
                state.pool.name,
            )
        state.counters[f"{DRY}{OVERDUE}" if state.dry_run else OVERDUE] += 1
        if not state.dry_run:
            connection.end(POLICY_VIOLATION, NOT_AUTHENTICATED)

    def end_outlived(self, connection: Connection) -> None:
        """Its client has left, and its application has gone on for as long as it may. A dry run counts, once."""
        state = self._state
        state.counters[f"{DRY}{OUTLIVED}" if state.dry_run else OUTLIVED] += 1
        if not state.dry_run:
            connection.let_go()
            connection.end_in(0)

    def shed(self, overload: OverloadManager, rules: Rules | None) -> None:
        """Where memory runs out, end at once as many connections as the worker may in this heartbeat."""
        if (most := overload.to_shed()) and not self._state.dry_run:
            shares = None if rules is None else rules.shares
            overload.shed(self._end_least(most, shares))

    def _end_least(self, most: int, shares: Sequence[float] | None) -> int:
        """End those of the class with the least share, and of one class the youngest: they lose the least.

        Gives their number.
        """

        def share_of(connection: Connection) -> float:
            return 1.0 if shares is None or connection.slot is None else shares[connection.slot.class_index]

        doomed = nsmallest(most, self._youngest(), key=share_of)
        if not doomed:
            return 0
        pool = self._state.pool
        for connection in doomed:
            with self._faults.spare("an end for want of memory"):
                told = self._places.refuse(SHED)
                connection.end(pool.close_code, close_reason(pool.close_reason, told.retry_after, told.ticket))
        self._state.counters[SHED] += len(doomed)
        logger.warning("Memory runs out: pool %r closes %d of its connections.", pool.name, len(doomed))
        return len(doomed)

    def _youngest(self) -> Iterator[Connection]:
        return (each for each in reversed(self.connections) if not each.is_ending)

    def _drain(self, seconds: float) -> None:
        state, delay = self._state, self._delay
        state.leaving = True
        if state.draining or not delay:
            self._begin_drain(seconds)
        else:
            logger.warning("Pool %r: this worker is not ready, and drains in %g s.", state.pool.name, delay)
            self._cancel()
            self._timer = self._loop.call_later(delay, self._begin_drain, seconds, context=Context())

    def _begin_drain(self, seconds: float) -> None:
        self._state.draining = True
        self._begin(self._end_all(list(self.connections), seconds))
        self._on_drain(seconds)
        logger.warning(
            "Pool %r: this worker drains, %d connections in %g s.",
            self._state.pool.name, len(self.connections), seconds,
        )  # fmt: skip

    async def _end_all(self, connections: Sequence[Connection], seconds: float) -> None:
        with self._faults.spare("a drain"):
            async for connection in spread(connections, seconds):
                self._drain_one(connection)
        for connection in connections:  # none is left unless something went wrong
            self._drain_one(connection)

    def _drain_one(self, connection: Connection) -> None:
        with self._faults.spare("an end in a drain"):
            self._end(connection, DRAINED)

    def _end(self, connection: Connection, why: str) -> None:
        if connection in self.connections and not connection.is_ending:
            told = self._places.end()
            connection.end(RESTART, close_reason(RESTART_REASON, told.retry_after, told.ticket))
            self._state.counters[why] += 1

    def _begin(self, drain: Coroutine[None, None, None]) -> None:
        self._cancel()
        self._task = self._loop.create_task(drain, name="admission drain", context=Context())

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
