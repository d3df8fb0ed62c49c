"""The ASGI face: a slot for every WebSocket that goes further in, a refusal for the rest."""

import asyncio
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlparse

from channels.exceptions import ChannelFull

from . import conf
from .connections import http2, refusal
from .connections.connection import Connection
from .connections.http2 import HTTP_2
from .connections.slot import Held, Slot
from .core.counters import CHANNELS_FULL, DRY, OVERDUE
from .core.protocol import Ask, Refusal
from .limiter import hold
from .limiter.limiter import Limiter
from .limiter.registry import limiter_of
from .quotas.requests import Rules, is_authenticated
from .runtime import daphne
from .runtime.servers import UVICORN, abort_later

LINGER = 3.0
"""Seconds in which a refused client has answered the close, under a server that would wait for longer."""
KEY = "admission"
"""Where the held slots travel in the scope: a :class:`~.connections.slot.Held`, which maps pools to slots."""
POLICY_VIOLATION = 1008
NOT_AUTHENTICATED = "Authentication Required"
"""What a stranger sees at its deadline."""


class Admission:
    """Runs ``inner`` with a slot of ``pool`` in its scope, or refuses the handshake.

    All of an open connection is in one frame, since every frame is kept for as long as it is open.
    """

    __slots__ = ("inner", "pool")

    def __init__(self, inner: Any, pool: str) -> None:
        self.inner = inner
        self.pool = pool

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        slot = None if passes(self.pool, scope) else await _slot(self.pool, scope, receive, send)
        if slot is None:
            await self.inner(scope, receive, send)
            return
        if isinstance(slot, Refusal):
            return
        limiter: Any = slot.limiter
        connection = _enter(receive, send, slot, limiter, scope)
        try:
            running = self.inner(scope, connection.receive, connection.send)
            del self  # A mixin makes one for each connection, and it would be kept.
            await running
        except asyncio.CancelledError:
            if not await connection.is_over():
                raise
        except ChannelFull:
            limiter.state.counters[CHANNELS_FULL] += 1
            raise
        finally:
            connection.leave()
            limiter.connections.pop(connection, None)
            slot.release()
        if scope.get("http_version") == HTTP_2 and connection.is_closed_by_us:
            await http2.answered(receive)


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


def passes(pool: str, scope: Any) -> bool:
    """Whether the connection needs nothing of ``pool`` that it does not have, as far as its scope tells."""
    if scope["type"] != "websocket" or not conf.current().enabled:
        return True
    slot = scope[KEY].get(pool) if KEY in scope else None
    return slot is not None and (slot.limiter is None or (slot.limiter.rules is None and slot.is_authenticated))


def knows_all(pool: str, scope: Any) -> bool:
    """Whether the connection has a slot of ``pool``, and its scope tells nothing that has yet to be claimed."""
    slot = scope[KEY].get(pool) if KEY in scope else None
    return slot is not None and _learned(slot, scope) is None


async def _slot(pool: str, scope: Any, receive: Any, send: Any) -> Slot | Refusal | None:
    """A new slot, or None where it has one and may go on; where it is refused, that has been told to its client."""
    verdict: Slot | Refusal | None
    if slot := scope.get(KEY, {}).get(pool):
        limiter, ask = slot.limiter, _learned(slot, scope)
        verdict = await limiter.claim(slot, ask) if ask else None
        if verdict is not None:
            slot.release()
    else:
        limiter = limiter_of(pool, send)
        ask = None if limiter.rules is None else limiter.rules.ask(scope)
        verdict = await limiter.acquire(ask)
    if verdict is not None:
        limiter.events.tell_verdict(verdict, limiter.state.worker, ask)
    if isinstance(verdict, Refusal):
        await _refuse(verdict, limiter, scope, receive, send)
    return verdict


def _learned(slot: Slot, scope: Any) -> Ask | None:
    """What is to be asked for beside the slot, from what its scope now tells."""
    if is_authenticated(scope):
        slot.authenticated()
    rules: Rules | None = slot.limiter and slot.limiter.rules
    return None if rules is None else rules.ask_again(scope, slot.claims, slot.group)


def _enter(receive: Any, send: Any, slot: Slot, limiter: Limiter, scope: Any) -> Connection:
    """A connection that the limiter knows, with its slot in the scope; without a connection the slot is released."""
    connection: Connection | None = None
    try:
        connection = Connection(receive, send, slot)
        # Not in a copy of the scope, which would be most of what an open connection keeps in memory.
        scope[KEY] = Held(slot, scope[KEY].values() if KEY in scope else ())
        deadline = limiter.pool.pending_deadline
        slot.is_authenticated = deadline is None or is_authenticated(scope)
        if deadline is not None and not slot.is_authenticated:
            connection.alarm(deadline, _end_a_stranger, slot, limiter)
        limiter.connections[connection] = 0.0
        limiter.lookout.note(connection, scope)
    except BaseException:
        if connection is not None:
            connection.leave()
            limiter.connections.pop(connection, None)
        slot.release()
        raise
    return connection


def _end_a_stranger(connection: Connection, slot: Slot, limiter: Limiter) -> None:
    """End the connection of a stranger at ``PENDING_DEADLINE``: not of who is exempt by then, and none in a dry run."""
    if slot.is_authenticated or (limiter.rules is not None and limiter.rules.is_exempt(slot.group)):
        return
    state = limiter.state
    state.counters[f"{DRY}{OVERDUE}" if state.dry_run else OVERDUE] += 1
    if not state.dry_run:
        connection.end(POLICY_VIOLATION, NOT_AUTHENTICATED)


async def _refuse(verdict: Refusal, limiter: Limiter, scope: Any, receive: Any, send: Any) -> None:
    if daphne.is_loaded():
        daphne.extend()
    if (await receive())["type"] == "websocket.disconnect":
        return
    delay = hold.seconds(limiter, verdict.reason)
    first, last = refusal.messages(scope, verdict.after(delay, limiter.pool.retry_after[0]), limiter.pool)
    await send(first)
    if delay and last["type"] == "websocket.close" and await hold.leaves_within(delay, limiter, receive):
        return
    await send(last)
    if limiter.state.server == UVICORN:
        abort_later(send, LINGER)
    if scope.get("http_version") == HTTP_2:
        await http2.answered(receive)


class ReadableOrigin:
    """Refuse WebSocket handshakes whose Origin header no validator can read, with HTTP 403 and without a log line.

    Stands outside of ``AllowedHostsOriginValidator`` or ``OriginValidator``, and leaves all others to their verdict.
    """

    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
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
