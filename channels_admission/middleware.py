"""The ASGI face: a slot for every WebSocket that goes further in, a refusal for the rest."""

import asyncio
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlparse

from . import conf
from .core.protocol import Refusal
from .limiter.connections.asgi import HTTP_2, Application, Receive, Scope, Send, answered
from .limiter.connections.slot import KEY, Slot
from .limiter.registry import limiter_of
from .quotas.requests import is_authenticated
from .runtime.layers import ended_by_layer


class Admission:
    """Runs ``inner`` with a slot of ``pool`` in its scope, or refuses the handshake.

    All of an open connection is in one frame, since every frame is kept for as long as it is open.
    """

    __slots__ = ("inner", "pool")

    def __init__(self, inner: Any, pool: str) -> None:
        self.inner: Application = inner
        self.pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if passes(self.pool, scope):
            await self.inner(scope, receive, send)
            return
        if slot := scope.get(KEY, {}).get(self.pool):
            await self._run_again(slot, scope, receive, send)
            return
        limiter = limiter_of(self.pool, send)
        connection = await limiter.enter(scope, receive, send)
        if isinstance(connection, Refusal):
            await limiter.refuse(connection, scope, receive, send)
            return
        try:
            running = self.inner(scope, connection.receive, connection.send)
            del self  # A mixin makes one for each connection, and it would be kept.
            await running
        except asyncio.CancelledError:
            if not await connection.is_over():
                raise
        except Exception:
            if connection.is_open and (counter := ended_by_layer()):
                limiter.state.counters[counter] += 1
            raise
        finally:
            limiter.leave(connection)
        if scope.get("http_version") == HTTP_2 and connection.is_closed_by_us:
            await answered(receive)

    async def _run_again(self, slot: Slot, scope: Scope, receive: Receive, send: Send) -> None:
        """Run ``inner`` with the slot that the connection has, if it may be counted for what the scope now tells."""
        limiter = slot.limiter
        if is_authenticated(scope):
            slot.authenticated()
        refusal = None if limiter is None else await limiter.claim(slot, scope)
        if limiter is None or refusal is None:
            await self.inner(scope, receive, send)
        else:
            await limiter.refuse(refusal, scope, receive, send)


class AdmissionMiddleware(Admission):
    """Admit WebSockets to ``inner`` as far as ``pool`` has slots, and close the others with 1013.

    Counts nothing twice: a connection that already holds a slot of the pool passes through, unless
    the pool has quotas or classes and its scope now tells more of it, such as its user: what that
    claims is added to its slot, or it is refused after all. Other scope types pass through as well.
    An unknown pool is a :exc:`~.exceptions.ConfigurationError`.
    """

    def __init__(self, inner: Any, pool: str = conf.DEFAULT_POOL) -> None:
        super().__init__(inner, pool)
        conf.current().pool(pool)


def passes(pool: str, scope: Scope) -> bool:
    """Whether the connection needs nothing of ``pool`` that it does not have, as far as its scope tells."""
    if scope["type"] != "websocket" or not conf.current().enabled:
        return True
    slot = scope[KEY].get(pool) if KEY in scope else None
    return slot is not None and (slot.limiter is None or (slot.limiter.rules is None and slot.is_authenticated))


def knows_all(pool: str, scope: Scope) -> bool:
    """Whether the connection has a slot of ``pool``, and its scope tells nothing that has yet to be claimed."""
    slot: Slot | None = scope[KEY].get(pool) if KEY in scope else None
    if slot is None:
        return False
    if is_authenticated(scope):
        slot.authenticated()
    limiter = slot.limiter
    return limiter is None or limiter.rules is None or not limiter.rules.ask_again(scope, slot.claims, slot.class_index)


class ReadableOrigin:
    """Refuse WebSocket handshakes whose Origin header no validator can read, with HTTP 403 and without a log line.

    Stands outside of ``AllowedHostsOriginValidator`` or ``OriginValidator``, and leaves all others to their verdict.
    """

    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner: Application = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not _is_readable(scope.get("headers") or ()):
            if (await receive())["type"] == "websocket.connect":
                await send({"type": "websocket.close", "code": 1008})
        else:
            await self.inner(scope, receive, send)


def _is_readable(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether every Origin can be taken apart as the validator does it."""
    try:
        for name, value in headers:
            if name == b"origin":
                origin = urlparse(value.decode("latin-1"))
                _ = origin.port, origin.hostname
    except ValueError:
        return False
    return True
