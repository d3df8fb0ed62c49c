"""Read-ahead: receive messages for an application that does not, to notice the end of the connection."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

MOST_EVENTS = 16
"""Most messages read ahead; hypercorn does not notice the end of a connection while ten messages wait."""
MOST_BYTES = 65_536
"""Size of the messages read ahead from which no further one is read."""


class Ahead:
    """A bounded buffer between a server's ``receive`` and an application. Belongs to one event loop.

    Messages keep their order, and none is lost if a :meth:`receive` is cancelled.
    """

    __slots__ = ("_drained", "_ended", "_events", "_is_over", "_reading", "_receive", "_size", "_waiter")

    def __init__(self, receive: Any, ended: Callable[[], None], drained: Callable[[Any], None]) -> None:
        self._receive = receive
        self._ended = ended
        """Called when the end of the connection was read."""
        self._drained = drained
        """Called with the server's ``receive`` when the buffer is empty, so that the application may use it again."""
        self._events: deque[Any] = deque()
        self._size = 0
        self._is_over = False
        self._reading: asyncio.Future[Any] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def read(self) -> None:
        """Read the next message, unless one is being read or the buffer is full; report an end already read."""
        if self._is_over:
            self._ended()
        elif self._reading is None and len(self._events) < MOST_EVENTS and self._size < MOST_BYTES:
            self._reading = asyncio.ensure_future(self._receive())
            self._reading.add_done_callback(self._buffer)

    async def receive(self) -> Any:
        """The next message, for the application."""
        while not self._events:
            if self._reading is None:
                self._drained(self._receive)
                return await self._receive()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        event = self._events.popleft()
        self._size -= _size(event)
        if not self._events and self._reading is None:
            self._drained(self._receive)
        if isinstance(event, BaseException):
            raise event
        return event

    def stop(self) -> None:
        """Stop reading, since the application has returned."""
        self._size = MOST_BYTES  # the callback of a finished read may still be due
        if self._reading is not None:
            self._reading.cancel()

    def _buffer(self, reading: asyncio.Future[Any]) -> None:
        self._reading = None
        if not reading.cancelled():
            event = reading.exception() or reading.result()
            self._events.append(event)
            self._size += _size(event)
            self._is_over = isinstance(event, BaseException) or event["type"] == "websocket.disconnect"
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif self._is_over:
            self._ended()
        elif not reading.cancelled():
            self.read()


def _size(event: Any) -> int:
    """The bytes of data or characters of text in a message."""
    return 0 if isinstance(event, BaseException) else len(event.get("text") or event.get("bytes") or "")
