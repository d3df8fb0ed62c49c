"""Tells a client of its refusal, some later than others.

Many clients restart their backoff as soon as a connection opens, and a refusal must open it to be seen. Closed at once,
they would come back at their shortest pause for ever; held for a while, they come back that much later. By default
those that hammer are held: first before the answer, since to the client the handshake takes longer, and nothing opens
in that time; and those that come back at once after that between the accept and the close, until another client comes
that looks alike. The setting holds all between the accept and the close.
"""

import asyncio
import random
from dataclasses import replace

from ..core.counters import REFUSALS_HELD
from ..core.protocol import Refusal
from ..overload.manager import OverloadManager
from ..runtime import daphne
from ..runtime.servers import GRANIAN, LINGER, UVICORN, Unanswered
from .books.state import State
from .connections.asgi import HTTP_2, Receive, Scope, Send, answered, leaves_within
from .connections.refusal import messages
from .connections.returns import NO_HOLD, SOONEST, Hold, Returns, client_of, told

LEFT = Refusal("", 0.0)
"""The verdict on a client that has left while it waited at the entrance: nothing is sent to it."""


class Refuser:
    """Tells the refused clients of one pool."""

    def __init__(self, state: State, overload: OverloadManager | None) -> None:
        self._state = state
        self._overload = overload
        self._time = asyncio.get_running_loop().time
        self._returns = Returns(self._time)
        self._holds: set[asyncio.Timeout] = set()
        self._open: dict[int, asyncio.Timeout] = {}
        """The hold that is open of each client that is known to hammer."""
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
        first, last = messages(scope, refusal, pool)
        is_closed = last["type"] == "websocket.close"
        client = client_of(scope) if pool.refusal_hold is None else None
        hold = NO_HOLD if client is None else self._hold_for(client, refusal, scope, may_open=is_closed)
        if hold.seconds and not hold.is_open:
            held = await self._hold(hold.seconds, receive)
            if held is None:
                return
            first, last = messages(scope, _after(refusal, held, SOONEST), pool)
        await send(first)
        least = pool.retry_after[0]
        if pool.refusal_hold and is_closed and self._has_room():
            hold, least = Hold(pool.refusal_hold * random.uniform(0.5, 1.0), is_open=True), SOONEST
        if hold.is_open:
            held = await self._hold(hold.seconds, receive, client)
            if held is None:
                return
            _, last = messages(scope, _after(refusal, held, least), pool)
        await send(last)
        if self._state.server == UVICORN:
            self._unanswered.note(send)
        if scope.get("http_version") == HTTP_2:
            await answered(receive)

    def release(self, seconds: float) -> None:
        """Close those that are held within ``seconds``: the worker drains."""
        now = self._time()
        for hold in self._holds:
            _end(hold, now + random.uniform(0, seconds))

    def _hold_for(self, client: int, refusal: Refusal, scope: Scope, *, may_open: bool) -> Hold:
        """The hold for a refused client, if it hammers. One that is open ends, since there are several clients.

        A client that has shown a ticket listens, even if it has missed its time behind another socket of its browser
        that is held. One that is passed on gets another answer. Granian does not tell that a client has left before its
        HTTP refusal, and fails to send it.
        """
        if other := self._open.pop(client, None):
            _end(other, self._time())
        if self._state.server == GRANIAN and self._state.pool.refuse_with == "http":
            return NO_HOLD
        if refusal.listens or refusal.is_passed:
            return NO_HOLD
        least = self._state.pool.retry_after[0] if may_open else None
        hold = self._returns.hold(client, scope, refusal.retry_after, least)
        if not hold.seconds or not self._has_room():
            return NO_HOLD
        if self._overload is not None and self._overload.is_tight:
            return NO_HOLD
        return hold

    def _has_room(self) -> bool:
        """A held client still costs memory and a descriptor: a worker in trouble holds none, and none that drains."""
        if self._overload is not None and self._overload.refuses:
            return False
        return self.held < self._state.pool.max_refusals_held and not self._state.draining

    async def _hold(self, seconds: float, receive: Receive, client: int | None = None) -> float | None:
        """Hold a client, and one whose hash is given at most until another comes that looks alike.

        What it sends is dropped. Gives how long it was held, None if it has left by itself.
        """
        began, hold = self._time(), asyncio.timeout(seconds)
        self._holds.add(hold)
        if client is not None:
            self._open[client] = hold
        self._state.counters[REFUSALS_HELD] += 1
        try:
            has_left = await leaves_within(hold, receive)
        finally:
            self._holds.discard(hold)
            if client is not None and self._open.get(client) is hold:
                del self._open[client]
        return None if has_left else self._time() - began


def _after(refusal: Refusal, held: float, least: float) -> Refusal:
    """The refusal after a hold: its time is the same, or ``least`` from now if that has passed."""
    return replace(refusal, retry_after=told(refusal.retry_after, held, least) - held)


def _end(hold: asyncio.Timeout, at: float) -> None:
    """End a hold then, unless it ends sooner."""
    due = hold.when()
    if due is not None and not hold.expired():
        hold.reschedule(min(due, at))
