"""Tells a client of its refusal, and holds the connection for a short time before the close.

Many clients restart their backoff as soon as a connection opens, and a refusal must open it to be seen. Closed at once,
they would come back at their shortest pause for ever; held for a while, they come back that much later.
"""

import random
from collections.abc import Collection

from ..core.counters import Reason
from ..core.protocol import Refusal
from ..runtime import daphne
from ..runtime.servers import UVICORN, abort_later
from .connections import http2
from .connections.asgi import Receive, Scope, Send, leaves_within
from .connections.http2 import HTTP_2
from .connections.refusal import messages
from .state import State

LEFT = Refusal("", 0.0)
"""The verdict on a client that has left while it waited at the entrance: nothing is sent to it."""
LINGER = 3.0
"""Seconds in which a refused client has answered the close, under a server that would wait for longer."""


class Refuser:
    """Tells the refused clients of one pool. ``monitors`` name the reasons for which no client is held."""

    def __init__(self, state: State, monitors: Collection[str]) -> None:
        self._state = state
        self._monitors = monitors
        self.held = 0
        """Refused clients that are held, now."""

    async def refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the refusal, unless the client has left."""
        if refusal is LEFT:
            return
        if daphne.is_loaded():
            daphne.extend()
        if (await receive())["type"] == "websocket.disconnect":
            return
        pool, delay = self._state.pool, self.hold_seconds(refusal.reason)
        first, last = messages(scope, refusal.after(delay, pool.retry_after[0]), pool)
        await send(first)
        if delay and last["type"] == "websocket.close" and await self._hold(delay, receive):
            return
        await send(last)
        if self._state.server == UVICORN:
            abort_later(send, LINGER)
        if scope.get("http_version") == HTTP_2:
            await http2.answered(receive)

    def hold_seconds(self, reason: str) -> float:
        """How long to hold one more client: between half of ``REFUSAL_HOLD`` and all of it, or 0.

        A held client still costs memory and a descriptor: a worker in trouble holds none, and neither one that drains.
        """
        pool = self._state.pool
        if reason in self._monitors or reason == Reason.DRAINING or self.held >= pool.max_refusals_held:
            return 0.0
        return pool.refusal_hold * random.uniform(0.5, 1.0)

    async def _hold(self, delay: float, receive: Receive) -> bool:
        """Hold a client for ``delay`` seconds, and tell whether it left by itself. What it sends is dropped."""
        self.held += 1
        try:
            return await leaves_within(delay, receive)
        finally:
            self.held -= 1
