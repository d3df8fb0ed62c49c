"""The ASGI face: a slot for every WebSocket that goes further in, a refusal for the rest."""

from typing import Any

from . import conf, hold, refusal
from .connection import Connection
from .gate import Gate, Slot
from .house import gate_of
from .servers import daphne, name_of
from .types import Refusal

KEY = "admission"
"""Where the held slots travel in the scope: a dict from pool name to :class:`~.gate.Slot`."""


class AdmissionMiddleware:
    """Admit WebSockets to ``inner`` as far as ``pool`` has slots, and close the others with 1013.

    Counts nothing twice: a connection that already holds a slot of the pool passes through. Other
    scope types pass through as well. An unknown pool is a
    :exc:`~channels_admission.exceptions.ConfigurationError`.
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
    if scope["type"] != "websocket" or not settings.enabled or pool in scope.get(KEY, ()):
        await inner(scope, receive, send)
        return
    gate = gate_of(pool, name_of(send))
    verdict = await gate.acquire()
    if isinstance(verdict, Refusal):
        await _refuse(verdict, gate, scope, receive, send)
        return
    await _run(inner, verdict, gate, scope, receive, send)


async def _run(inner: Any, slot: Slot, gate: Gate, scope: Any, receive: Any, send: Any) -> None:
    scope = {**scope, KEY: {**scope.get(KEY, {}), gate.pool.name: slot}}
    connection = Connection(receive, send)
    gate.connections[connection] = None
    try:
        await connection.run(inner, scope, gate.pool.max_connection_age)
    finally:
        del gate.connections[connection]
        slot.release()


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
