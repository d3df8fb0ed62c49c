"""Signal handlers: drain before a worker stops, where its server allows it.

Where a server handles SIGTERM with a Python signal handler (uvicorn, daphne), :func:`drain_first` calls that handler
after the drain, or at once if the signal comes again. A server that handles SIGTERM in its event loop (hypercorn,
granian) cannot be delayed, and stops as usual.

Without a handler (hypercorn's second and further processes, Daphne in a test) SIGTERM kills the process at once.
:func:`leave_first` lets the worker say goodbye before that.
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
"""Modules whose signal handlers are placeholders for those that the event loop calls."""


def drain_first(drain: Callable[[], Awaitable[None]]) -> bool:
    """Have SIGTERM run ``drain`` on the running event loop before its handler; return whether that is possible.

    A second call replaces the earlier ``drain``.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _DrainFirst):
        handler.drain, handler.loop = drain, asyncio.get_running_loop()
        return True
    module = str(getattr(handler, "__module__", None))
    if not callable(handler) or isinstance(handler, _Goodbye) or module.startswith(OF_EVENT_LOOPS):
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGTERM, _DrainFirst(handler, drain))
    return True


class _DrainFirst:
    """A signal handler that drains before it calls another handler."""

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
    """Have SIGTERM call ``say`` before it kills the process; False if another handler exists or none can be set."""
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _Goodbye):
        return True
    if handler is not signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        return False
    signal.signal(signal.SIGTERM, _Goodbye(say))
    return True


class _Goodbye:
    """A signal handler that calls ``say``, and then raises the signal with its default action.

    It ignores the signal while ``say`` runs: ``multiprocessing`` sends it to its daemons a second time.
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
    """Run ``work`` in a thread, and wait for at most ``seconds``; for signal handlers.

    ``threading`` would take locks that the interrupted code may hold.
    """
    done = _thread.allocate_lock()
    done.acquire()

    def run() -> None:
        with suppress(Exception):
            work()
        done.release()

    _thread.start_new_thread(run, ())
    done.acquire(timeout=seconds)
