"""An admitted connection, which can be ended from our side of it: at its maximum age, or where memory runs out."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

RESTART = 1012
"""Service Restart: come back, to another worker perhaps (IANA's registry of WebSocket close codes)."""
SPREAD = 0.1
"""The part of the age by which each connection's own is longer or shorter, so that a herd does not end as one."""
GRACE = 10.0
"""Seconds that an application which does not listen has left before it is cancelled."""


class Connection:
    """One connection between its server and its application. Belongs to one event loop."""

    __slots__ = ("_ending", "_is_open", "_listening", "_overdue", "_receive", "_send", "_task")

    def __init__(self, receive: Any, send: Any) -> None:
        self._receive = receive
        self._send = send
        self._is_open = True
        self._ending: tuple[int, str] | None = None
        self._overdue = False
        self._listening: asyncio.Timeout | None = None
        self._task: asyncio.Task[Any] | None = None

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
            loop = asyncio.get_running_loop()
            loop.call_later(GRACE, self._cancel)
            if self._listening is not None:
                self._listening.reschedule(loop.time())

    async def run(self, inner: Any, scope: Any, age: float | None, grow_old: Callable[["Connection"], None]) -> None:
        """Run ``inner``, and call ``grow_old`` after ``age`` seconds or a tenth more or less."""
        self._task = asyncio.current_task()
        timer = None
        if age is not None:
            age *= random.uniform(1 - SPREAD, 1 + SPREAD)
            timer = asyncio.get_running_loop().call_later(age, grow_old, self)
        try:
            await inner(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self._overdue or self._ending is None or self._task is None or self._task.uncancel():
                raise
            await self._close(*self._ending)
        finally:
            self._task = None
            if timer is not None:
                timer.cancel()

    async def receive(self) -> Any:
        try:
            async with asyncio.timeout(None if self._ending is None else 0) as self._listening:
                event = await self._receive()
            self._is_open = self._is_open and event["type"] != "websocket.disconnect"
            return event
        except TimeoutError:
            if self._ending is None:
                raise
        finally:
            self._listening = None
        await self._close(*self._ending)
        return {"type": "websocket.disconnect", "code": self._ending[0]}

    async def send(self, message: Any) -> None:
        if self._is_open:
            self._is_open = message["type"] != "websocket.close"
            await self._send(message)

    async def _close(self, code: int, reason: str) -> None:
        await self.send({"type": "websocket.close", "code": code, "reason": reason})

    def _cancel(self) -> None:
        if self._task is not None:
            self._overdue = True
            self._task.cancel()
