"""An admitted connection, which can be ended from our side of it: at its maximum age, or where memory runs out.

Whatever stands here is paid for every message of every connection, or kept for as long as one is open.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from typing import Any

RESTART = 1012
"""Service Restart: come back, to another worker perhaps (IANA's registry of WebSocket close codes)."""
SPREAD = 0.1
"""The part of the age by which each connection's own is longer or shorter, so that a herd does not end as one."""
GRACE = 10.0
"""Seconds that an application which does not listen has left before it is cancelled."""
LOOKS = 50
"""Looks at the oldest connections in the time of one age, at the least; one a second otherwise."""


class Connection:
    """One connection between its server and its application. Belongs to the task that made it."""

    __slots__ = (
        "_alarm", "_ending", "_listener", "_overdue", "_receive", "_send", "_task", "due",
    )  # fmt: skip

    def __init__(self, receive: Any, send: Any) -> None:
        self._receive = receive
        self._send = send
        """None once it is closed, from either side."""
        self._ending: tuple[int, str] | None = None
        self._overdue = False
        self._listener: asyncio.Task[Any] | None = None
        """Who waits for a message, until it is interrupted."""
        self._task = asyncio.current_task()
        self._alarm: asyncio.TimerHandle | None = None
        self.due = 0.0
        """When it ends at its maximum age, in the loop's time, where there is one."""

    @property
    def is_ending(self) -> bool:
        """Whether it was ended from our side."""
        return self._ending is not None

    def end(self, code: int, reason: str) -> None:
        """Close it, once; ``reason`` has at most 123 bytes.

        The application hears ``websocket.disconnect`` when it listens next, as if the client had
        left; one that does not listen within :data:`GRACE` is cancelled.
        """
        if self._ending is None:
            self._ending = code, reason
            asyncio.get_running_loop().call_later(GRACE, self._cancel)
            self._interrupt()

    async def receive(self) -> Any:
        # What asyncio.timeout does, without its cost for each message: end() cancels whoever listens.
        self._listener = listener = asyncio.current_task()
        cancelling = listener.cancelling()  # type: ignore[union-attr]
        if self._ending is not None:  # what the server has at hand comes first
            asyncio.get_running_loop().call_soon(self._interrupt)
        try:
            event = await self._receive()
        except asyncio.CancelledError:
            if self._listener is not None or listener.uncancel() > cancelling:  # type: ignore[union-attr]
                raise
        else:
            if self._listener is None:
                listener.uncancel()  # type: ignore[union-attr]
            if event["type"] == "websocket.disconnect":
                self._send = None
            return event
        finally:
            self._listener = None
        return await self.hang_up()

    async def send(self, message: Any) -> None:
        send = self._send
        if send is not None:
            if message["type"] == "websocket.close":
                self._send = None
            await send(message)

    def is_overdue(self) -> bool:
        """Whether it was us who cancelled its task, which then goes on: asked where it was cancelled, at most once."""
        return self._overdue and self._task is not None and not self._task.uncancel()

    def alarm(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have ``call`` made with it and ``arguments`` after ``delay`` seconds if its application runs then, once."""
        self._alarm = asyncio.get_running_loop().call_later(delay, self._ring, call, arguments)

    def leave(self) -> None:
        """The application has returned; nothing is cancelled from now on."""
        self._task = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    async def hang_up(self) -> Any:
        """Close it towards the client as :meth:`end` was told; gives what the application hears."""
        code, reason = self._ending or (RESTART, "")
        await self.send({"type": "websocket.close", "code": code, "reason": reason})
        return {"type": "websocket.disconnect", "code": code}

    def _ring(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._alarm = None
        call(self, *arguments)

    def _interrupt(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._overdue = True
            self._task.cancel()


class Ages:
    """When the connections of a gate are due to end, the youngest last in ``connections``.

    A timer for each would be most of what an open connection keeps in memory, so one looks after all.
    """

    def __init__(
        self, age: float | None, connections: Mapping[Connection, Any], grow_old: Callable[[Connection], None]
    ) -> None:
        self._age = age
        self._connections = connections
        self._grow_old = grow_old
        self._loop = asyncio.get_running_loop()
        self._look: asyncio.TimerHandle | None = None

    def note(self, connection: Connection) -> None:
        """``grow_old`` is to be called with it after ``age`` seconds, or a tenth more or less."""
        if self._age is not None:
            connection.due = self._loop.time() + self._age * random.uniform(1 - SPREAD, 1 + SPREAD)
            if self._look is None:
                self._wait(self._age)

    def _wait(self, age: float) -> None:
        self._look = self._loop.call_later(min(1.0, age / LOOKS), self._end_the_aged, age, context=Context())

    def _end_the_aged(self, age: float) -> None:
        now = self._loop.time()
        for connection in list(self._oldest(now + 2 * SPREAD * age)):
            if connection.due <= now:
                self._grow_old(connection)
        self._look = None
        if self._connections:
            self._wait(age)

    def _oldest(self, latest: float) -> Iterator[Connection]:
        """Those that may be due: none is that came after one with longer to live than chance could give."""
        for connection in self._connections:
            if connection.due > latest:
                break
            yield connection
