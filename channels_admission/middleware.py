"""The ASGI face: a slot for every WebSocket that goes further in, a refusal for the rest."""

import asyncio
from typing import Any

from channels.exceptions import ChannelFull

from . import conf, hold, refusal
from .connection import Connection
from .gate import Gate, Slot
from .house import gate_of
from .rules import is_authenticated
from .servers import daphne, name_of
from .types import CHANNELS_FULL, OVERDUE, Refusal

KEY = "admission"
"""Where the held slots travel in the scope: a dict from pool name to :class:`~.gate.Slot`."""
POLICY_VIOLATION = 1008
NOT_AUTHENTICATED = "Authentication Required"
"""What a stranger sees at its deadline."""


class AdmissionMiddleware:
    """Admit WebSockets to ``inner`` as far as ``pool`` has slots, and close the others with 1013.

    Counts nothing twice: a connection that already holds a slot of the pool passes through, unless
    the pool has quotas or classes and its scope now tells more of it, such as its user: what that
    claims is added to its slot, or it is refused after all. Other scope types pass through as well.
    An unknown pool is a :exc:`~channels_admission.exceptions.ConfigurationError`.
    """

    def __init__(self, inner: Any, pool: str = conf.DEFAULT_POOL) -> None:
        self.inner = inner
        self.pool = pool
        conf.current().pool(pool)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await admit(self.inner, self.pool, scope, receive, send)


async def admit(inner: Any, pool: str, scope: Any, receive: Any, send: Any) -> None:
    """Run ``inner`` with a slot of ``pool`` in its scope, or refuse the handshake."""
    settings = conf.current()
    if scope["type"] != "websocket" or not settings.enabled:
        await inner(scope, receive, send)
        return
    if slot := scope.get(KEY, {}).get(pool):
        await _go_on(inner, slot, scope, receive, send)
        return
    gate = gate_of(pool, name_of(send))
    verdict = await gate.acquire(None if gate.rules is None else gate.rules.ask(scope))
    gate.notices.tell(verdict, gate.account.worker)
    if isinstance(verdict, Refusal):
        await _refuse(verdict, gate, scope, receive, send)
        return
    await _run(inner, verdict, gate, scope, receive, send)


async def _go_on(inner: Any, slot: Slot, scope: Any, receive: Any, send: Any) -> None:
    """Run ``inner`` with the slot it has, or refuse what its scope now tells of it."""
    if gate := slot.gate:
        if is_authenticated(scope):
            slot.authenticated()
        ask = gate.rules and slot.ask and gate.rules.ask_again(scope, slot.ask)
        if ask and (refusal := await gate.claim(slot, ask)):
            gate.notices.tell(refusal, gate.account.worker)
            await _refuse(refusal, gate, scope, receive, send)
            return
    await inner(scope, receive, send)


async def _run(inner: Any, slot: Slot, gate: Gate, scope: Any, receive: Any, send: Any) -> None:
    scope = {**scope, KEY: {**scope.get(KEY, {}), gate.pool.name: slot}}
    connection = Connection(receive, send)
    gate.connections[connection] = slot
    slot.is_authenticated = gate.pool.pending_deadline is None or is_authenticated(scope)
    timer = None if slot.is_authenticated else _set_deadline(slot, gate, connection)
    try:
        await connection.run(inner, scope, gate.pool.max_connection_age, gate.drains.grow_old)
    except ChannelFull:
        gate.account.counters[CHANNELS_FULL] += 1
        raise
    finally:
        if timer is not None:
            timer.cancel()
        del gate.connections[connection]
        slot.release()


def _set_deadline(slot: Slot, gate: Gate, connection: Connection) -> asyncio.TimerHandle:
    """End the connection of a stranger who is one still after ``PENDING_DEADLINE``."""

    def look() -> None:
        if not slot.is_authenticated:
            gate.account.counters[OVERDUE] += 1
            connection.end(POLICY_VIOLATION, NOT_AUTHENTICATED)

    return asyncio.get_running_loop().call_later(gate.pool.pending_deadline or 0, look)


async def _refuse(verdict: Refusal, gate: Gate, scope: Any, receive: Any, send: Any) -> None:
    if daphne.is_loaded():
        daphne.extend()
    if (await receive())["type"] == "websocket.disconnect":
        return
    delay = hold.seconds(gate, verdict.reason)
    first, last = refusal.messages(scope, verdict.after(delay, gate.pool.retry_after[0]), gate.pool)
    await send(first)
    if delay and last["type"] == "websocket.close" and await hold.leaves_within(delay, gate, receive):
        return
    await send(last)
