"""Tells a client of its refusal, some later than others.

Many clients restart their backoff as soon as a connection opens, and a refusal must open it to be seen. Closed at once,
they would come back at their shortest pause for ever; held for a while, they come back that much later. By default
those that hammer are held before the answer: to the client the handshake takes longer, and nothing opens in that time.
The setting holds all between the accept and the close.
"""

import asyncio
import random

from ..core.counters import REFUSALS_HELD
from ..core.protocol import Refusal
from ..overload.manager import OverloadManager
from ..runtime import daphne
from ..runtime.servers import GRANIAN, LINGER, UVICORN, Unanswered
from .books.state import State
from .connections.asgi import HTTP_2, Receive, Scope, Send, answered, leaves_within
from .connections.refusal import messages
from .connections.returns import Returns

LEFT = Refusal("", 0.0)
"""The verdict on a client that has left while it waited at the entrance: nothing is sent to it."""
LEAST = 0.96
"""The shortest hold of a client that hammers, as a share of the longest."""
SOONEST = 0.5
"""The shortest time that is told after a hold, as our clients wait at least: else the place would be missed."""


class Refuser:
    """Tells the refused clients of one pool."""

    def __init__(self, state: State, overload: OverloadManager | None) -> None:
        self._state = state
        self._overload = overload
        self._time = asyncio.get_running_loop().time
        self._returns = Returns(self._time)
        self._holds: set[asyncio.Timeout] = set()
        self._unanswered = Unanswered(LINGER)

    @property
    def held(self) -> int:
        """Refused clients that are held, now."""
        return len(self._holds)

    async def refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the refusal, unless the client has left."""
        if refusal is LEFT:
            return
        if daphne.is_loaded():
            daphne.extend()
        if (await receive())["type"] == "websocket.disconnect":
            return
        pool = self._state.pool
        if pool.refusal_hold is None and (delay := self._delay(refusal, scope)):
            refusal, has_left = await self._hold(delay, refusal, receive)
            if has_left:
                return
        first, last = messages(scope, refusal, pool)
        await send(first)
        if pool.refusal_hold and last["type"] == "websocket.close" and self._has_room():
            delay = pool.refusal_hold * random.uniform(0.5, 1.0)
            refusal, has_left = await self._hold(delay, refusal, receive)
            if has_left:
                return
            _, last = messages(scope, refusal, pool)
        await send(last)
        if self._state.server == UVICORN:
            self._unanswered.note(send)
        if scope.get("http_version") == HTTP_2:
            await answered(receive)

    def release(self, seconds: float) -> None:
        """Close those that are held within ``seconds``: the worker drains."""
        now = self._time()
        for hold in self._holds:
            due = hold.when()
            if due is not None and not hold.expired():
                hold.reschedule(min(due, now + random.uniform(0, seconds)))

    def _delay(self, refusal: Refusal, scope: Scope) -> float:
        """Seconds until a client gets its answer, so that it can come at its time; 0 unless it hammers.

        A client that has shown a ticket listens, even if it has missed its time behind another socket of its browser
        that is held. One that is passed on gets another answer. Granian does not tell that a client has left before its
        HTTP refusal, and fails to send it.
        """
        if self._state.server == GRANIAN and self._state.pool.refuse_with == "http":
            return 0.0
        if refusal.listens or refusal.is_passed:
            return 0.0
        longest = self._returns.hold(scope, refusal.retry_after)
        if not longest or not self._has_room():
            return 0.0
        if self._overload is not None and self._overload.is_tight:
            return 0.0
        return max(0.0, min(longest * random.uniform(LEAST, 1.0), refusal.retry_after - SOONEST))

    def _has_room(self) -> bool:
        """A held client still costs memory and a descriptor: a worker in trouble holds none, and none that drains."""
        if self._overload is not None and self._overload.refuses:
            return False
        return self.held < self._state.pool.max_refusals_held and not self._state.draining

    async def _hold(self, delay: float, refusal: Refusal, receive: Receive) -> tuple[Refusal, bool]:
        """Hold a client for ``delay`` seconds. What it sends is dropped.

        Gives its refusal with the same retry time, and whether it has left by itself.
        """
        began, hold = self._time(), asyncio.timeout(delay)
        self._holds.add(hold)
        self._state.counters[REFUSALS_HELD] += 1
        try:
            has_left = await leaves_within(hold, receive)
        finally:
            self._holds.discard(hold)
        return refusal.after(self._time() - began, SOONEST), has_left
