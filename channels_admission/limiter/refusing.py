"""Tells a client of its refusal, and holds the connection for a short time before the close.

Many clients restart their backoff as soon as a connection opens, and a refusal must open it to be seen. Closed at once,
they would come back at their shortest pause for ever; held for a while, they come back that much later. The setting
holds all, or with None only those that hammer, and only while there are several.
"""

import asyncio
import random

from ..core.protocol import Refusal
from ..overload.manager import OverloadManager
from ..runtime import daphne
from ..runtime.servers import LINGER, UVICORN, abort_later
from .connections import http2
from .connections.asgi import Receive, Scope, Send, leaves_within
from .connections.http2 import HTTP_2
from .connections.refusal import messages
from .connections.returns import Returns
from .state import State

LEFT = Refusal("", 0.0)
"""The verdict on a client that has left while it waited at the entrance: nothing is sent to it."""
HOLD = 4.9
"""The longest hold of a client that hammers: clients that were connected for 5 s forget their failures."""
LEAST = 0.8
"""The shortest such hold, as a share of the longest."""


class Refuser:
    """Tells the refused clients of one pool."""

    def __init__(self, state: State, overload: OverloadManager | None) -> None:
        self._state = state
        self._overload = overload
        self._time = asyncio.get_running_loop().time
        self._returns = Returns(self._time)
        self._holds: set[asyncio.Timeout] = set()

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
        pool, began = self._state.pool, self._time()
        first, last = messages(scope, refusal, pool)
        await send(first)
        if last["type"] == "websocket.close" and (delay := self._hold_seconds(refusal, scope)):
            if await self._hold(delay, receive):
                return
            _, last = messages(scope, refusal.after(self._time() - began, pool.retry_after[0]), pool)
        await send(last)
        if self._state.server == UVICORN:
            abort_later(send, LINGER)
        if scope.get("http_version") == HTTP_2:
            await http2.answered(receive)

    def release(self, seconds: float) -> None:
        """Close those that are held within ``seconds``: the worker drains."""
        now = self._time()
        for hold in self._holds:
            due = hold.when()
            if due is not None and not hold.expired():
                hold.reschedule(min(due, now + random.uniform(0, seconds)))

    def _hold_seconds(self, refusal: Refusal, scope: Scope) -> float:
        """How long to hold one more client, or 0.

        ``REFUSAL_HOLD`` holds each, between half of it and all of it. With None only clients that hammer are held: as
        long as that has gone on already, so that a page with many sockets hardly notices, and within their retry time.
        """
        pool = self._state.pool
        if pool.refusal_hold is None:
            if refusal.is_kept or not (lasted := self._returns.hammering(scope, refusal.retry_after)):
                return 0.0
            if not self._has_room() or (self._overload is not None and self._overload.is_tight):
                return 0.0
            return min(HOLD * random.uniform(LEAST, 1.0), refusal.retry_after, lasted)
        return pool.refusal_hold * random.uniform(0.5, 1.0) if pool.refusal_hold and self._has_room() else 0.0

    def _has_room(self) -> bool:
        """A held client still costs memory and a descriptor: a worker in trouble holds none, and none that drains."""
        if self._overload is not None and self._overload.refuses:
            return False
        return self.held < self._state.pool.max_refusals_held and not self._state.draining

    async def _hold(self, delay: float, receive: Receive) -> bool:
        """Hold a client for ``delay`` seconds, and tell whether it left by itself. What it sends is dropped."""
        hold = asyncio.timeout(delay)
        self._holds.add(hold)
        try:
            return await leaves_within(hold, receive)
        finally:
            self._holds.discard(hold)
