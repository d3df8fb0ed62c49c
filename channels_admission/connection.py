"""An admitted connection, which can be ended from our side of it: at its maximum age, or where memory runs out.

Whatever stands here is paid for every message of every connection, or kept for as long as one is open.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from typing import Any

from .faults import Faults
from .servers import abort
from .slot import Slot

logger = logging.getLogger("channels_admission")

RESTART = 1012
"""Service Restart: come back, to another worker perhaps (IANA's registry of WebSocket close codes)."""
REPLACED = 4409
"""A newer connection took the place of this one under a quota. Clients of ours do not come back by themselves after it:
two pages of one user would close each other's connections for ever."""
SPREAD = 0.1
"""The part of the age by which each connection's own is longer or shorter, so that a herd does not end as one."""
GRACE = 10.0
"""Seconds that an application which does not listen has left before it is cancelled."""
CLOSING = 2.0
"""Seconds that a server has to send a close: a client that does not read can hold it up for ever."""
ABANDONED = 0.5
"""Seconds after :data:`CLOSING` when the slot of an application that was cancelled is free, whatever it does."""
LOOKS = 50
"""Looks at the oldest connections in the time of one age, at the least; one a second otherwise."""


class Connection:
    """One connection between its server and its application. Belongs to the task that made it."""

    __slots__ = (
        "_alarm", "_cancels", "_ending", "_is_closed", "_listener", "_receive", "_send", "_slot", "_task", "due",
    )  # fmt: skip

    def __init__(self, receive: Any, send: Any, slot: Slot | None = None) -> None:
        self._receive = receive
        self._send = send
        self._is_closed = False
        """From either side."""
        self._slot = slot
        self._ending: tuple[int, str] | None = None
        self._cancels = 0
        """How often its task was cancelled from our side."""
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
        left; one that does not listen within :data:`GRACE` is cancelled. The slot is released
        within ``GRACE + CLOSING + ABANDONED`` seconds, even if the server's ``send`` never returns
        and the application ignores its cancellation.
        """
        if self._ending is None:
            self._ending = code, reason
            self._set_alarm(GRACE, self._cancel)
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
                self._is_closed = True
            return event
        finally:
            self._listener = None
        return await self.hang_up()

    async def send(self, message: Any) -> None:
        if not self._is_closed:
            if message["type"] == "websocket.close":
                self._is_closed = True
            await self._send(message)

    async def is_over(self) -> bool:
        """Whether it was us who cancelled its task, which then goes on; asked where it was cancelled. Sends the close.

        Returns within :data:`CLOSING`, or is cancelled again.
        """
        if not self._is_our_cancellation():
            return False
        try:
            await self.hang_up()
        except asyncio.CancelledError:
            if not self._is_our_cancellation():
                raise
        return True

    def alarm(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have ``call`` made with it and ``arguments`` after ``delay`` seconds if its application runs then, once."""
        self._set_alarm(delay, self._ring, call, arguments)

    def leave(self) -> None:
        """The application has returned; nothing is cancelled from now on."""
        self._task = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    async def hang_up(self) -> Any:
        """Close it towards the client as :meth:`end` was told; gives what the application hears.

        Returns within :data:`CLOSING`. Where the close cannot be sent in that time, the transport is aborted.
        """
        code, reason = self._ending or (RESTART, "")
        if not self._is_closed:
            self._is_closed = True
            # In a task of its own: not even a send that ignores its cancellation holds this up.
            closing = asyncio.ensure_future(self._send({"type": "websocket.close", "code": code, "reason": reason}))
            try:
                await asyncio.wait({closing}, timeout=CLOSING)
            finally:
                self._give_up(closing)
        return {"type": "websocket.disconnect", "code": code}

    def _give_up(self, closing: asyncio.Future[Any]) -> None:
        """Abort the transport, unless the close has been sent."""
        if closing.done() and not closing.cancelled():
            if (fault := closing.exception()) is None:
                return
            logger.debug("A close could not be sent.", exc_info=fault)
        else:
            closing.add_done_callback(lambda over: over.cancelled() or over.exception())
            closing.cancel()
        abort(self._send)

    def _set_alarm(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        """One timer at a time: the one before is of no more use."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_later(delay, call, *arguments)

    def _ring(self, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._alarm = None
        call(self, *arguments)

    def _interrupt(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._cancels += 1
            self._task.cancel()
            self._set_alarm(CLOSING + ABANDONED, self._abandon)

    def _abandon(self) -> None:
        """The task goes on though it was cancelled: take its slot and its socket, and cancel it again."""
        self._alarm = None
        if self._slot is not None and self._slot.gate is not None:
            self._slot.gate.connections.pop(self, None)
            self._slot.release()
        abort(self._send)
        if self._task is not None:
            self._cancels += 1
            self._task.cancel()

    def _is_our_cancellation(self) -> bool:
        """Take back the cancellations that are ours, and say whether there was one, and no other."""
        ours, self._cancels = self._cancels, 0
        left = 0
        for _ in range(ours if self._task is not None else 0):
            left = self._task.uncancel()  # type: ignore[union-attr]
        return bool(ours) and not left


class Ages:
    """When the connections of a gate are due to end, the youngest last in ``connections``.

    A timer for each would be most of what an open connection keeps in memory, so one looks after all.
    """

    def __init__(
        self, age: float | None, connections: Mapping[Connection, Any], grow_old: Callable[[Connection], None],
        faults: Faults,
    ) -> None:  # fmt: skip
        self._age = age
        self._connections = connections
        self._grow_old = grow_old
        self._faults = faults
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
        self._look = None
        if self._connections:
            self._wait(age)
        now = self._loop.time()
        for connection in list(self._oldest(now + 2 * SPREAD * age)):
            if connection.due <= now:
                with self._faults.spare("an end at the maximum age"):
                    self._grow_old(connection)

    def _oldest(self, latest: float) -> Iterator[Connection]:
        """Those that may be due: none is that came after one with longer to live than chance could give."""
        for connection in self._connections:
            if connection.due > latest:
                break
            yield connection
