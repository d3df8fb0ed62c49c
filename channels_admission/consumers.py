"""The Channels face: a mixin for every kind of consumer, and the slots that a connection holds."""

from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from asgiref.sync import markcoroutinefunction

from . import conf
from .conf import DEFAULT_POOL
from .limiter.connections.slot import KEY
from .limiter.connections.slot import Slot as Slot
from .middleware import Admission, knows_all, passes

NONE: Mapping[str, Slot] = MappingProxyType({})


def slots(scope: Mapping[str, Any]) -> Mapping[str, Slot]:
    """The slots that the connection of an ASGI ``scope`` holds, by the names of their pools.

    Empty where admission is off, and for what is no WebSocket. The same as ``scope["admission"]``, with a type.
    """
    held: Mapping[str, Slot] = scope.get(KEY, NONE)
    return held


class AdmissionMixin:
    """Let a consumer run only with a slot of ``admission_pool``; stands left of the consumer class.

    ::

        class Chat(AdmissionMixin, AsyncWebsocketConsumer):
            admission_pool = "chat"

    A refused connection reaches neither ``connect()`` nor ``disconnect()``, and no channel is
    made for it. Behind an :class:`~.middleware.AdmissionMiddleware` of the same pool the consumer
    takes over the slot already held; with another pool it holds one of each.
    """

    admission_pool = DEFAULT_POOL

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> Any:
        """The consumer as an application; an unknown pool is a :exc:`~.exceptions.ConfigurationError`, so that the
        server does not start."""
        conf.current().pool_for(f"{cls.__module__}.{cls.__qualname__}", cls.admission_pool)
        return super().as_asgi(**initkwargs)  # type: ignore[misc]

    # No coroutine of its own, which would be kept for as long as the connection is open. The mark tells asgiref and
    # servers that it is to be awaited all the same: without it an instance is taken for an application of ASGI 2.
    @markcoroutinefunction
    def __call__(self, scope: Any, receive: Any, send: Any) -> Coroutine[Any, Any, None]:
        consumer = super().__call__  # type: ignore[misc]
        pool = self.admission_pool
        inner = consumer if passes(pool, scope) or knows_all(pool, scope) else Admission(consumer, pool)
        running: Coroutine[Any, Any, None] = inner(scope, receive, send)
        return running

    def admission_authenticated(self) -> None:
        """Say that the client has authenticated: it no longer counts as pending, and has met its deadline."""
        for slot in slots(self.scope).values():  # type: ignore[attr-defined]
            slot.authenticated()
