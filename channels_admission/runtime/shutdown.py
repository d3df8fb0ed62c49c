"""A worker that is asked to stop drains first, where its server lets it.

A server that handles SIGTERM by a function of Python's ``signal`` (uvicorn, daphne) has it called
when the drain is over, or at once where the signal comes again. One that handles it in its event
loop (hypercorn, granian) cannot be held up, and stops as it always does.

Where nobody handles SIGTERM (hypercorn's second and further processes, Daphne in a test) it kills the process at once,
and a goodbye must come first: :func:`leave_first`.
"""

import _thread
import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Any

OF_EVENT_LOOPS = ("asyncio", "uvloop")
"""Modules whose handlers stand for one that the event loop calls by itself."""


def drain_first(drain: Callable[[], Awaitable[None]]) -> bool:
    """Have SIGTERM begin ``drain`` on the running event loop, and only then do what it did; whether that is possible.

    Where it was so prepared before, the newer drain takes the place of the older.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _Patience):
        handler.drain, handler.loop = drain, asyncio.get_running_loop()
        return True
    module = str(getattr(handler, "__module__", None))
    if not callable(handler) or isinstance(handler, _Goodbye) or module.startswith(OF_EVENT_LOOPS):
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGTERM, _Patience(handler, drain))
    return True


class _Patience:
    """A handler that lets a drain come before another handler."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any], drain: Callable[[], Awaitable[None]]) -> None:
        self.drain = drain
        self.loop = asyncio.get_running_loop()
        self._handler = handler
        self._task: asyncio.Task[None] | None = None
        self._is_asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked or self.loop.is_closed():
            self._handler(number, frame)
        else:
            self._is_asked = True
            self.loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        self._task = self.loop.create_task(self._drain(number), name="admission drain before the end")

    async def _drain(self, number: int) -> None:
        try:
            await self.drain()
        finally:
            self._handler(number, None)


def leave_first(say: Callable[[], object]) -> bool:
    """Where SIGTERM kills the process at once, have it call ``say`` before; whether it did, and that is possible."""
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _Goodbye):
        return True
    if handler is not signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGTERM, _Goodbye(say))
    return True


class _Goodbye:
    """A handler after which a signal does what it does by default.

    While it says its word it pays no heed to the signal: ``multiprocessing`` sends it to its daemons a second time.
    """

    def __init__(self, say: Callable[[], object]) -> None:
        self._say = say
        self._is_asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked:
            return
        self._is_asked = True
        try:
            self._say()
        finally:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def aside(work: Callable[[], object], seconds: float) -> None:
    """Do ``work`` in a thread, and wait for at most ``seconds``; for signal handlers.

    ``threading`` would take locks that the code which the signal interrupted may hold.
    """
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        with suppress(Exception):
            work()
        done.release()

    _thread.start_new_thread(run, ())
    done.acquire(timeout=seconds)
