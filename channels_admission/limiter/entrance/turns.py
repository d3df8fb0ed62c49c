"""Turns: until the event loop, and the thread that runs sync code, have served what waited for them.

A turn of the event loop is a timer that is late by what ran meanwhile. A turn of the thread is an empty call that
comes back when the calls before it are done.
"""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context

from ...overload.threads import shared_thread
from ...runtime.faults import Faults

TICK = 0.002
"""Seconds of the shortest turn. A consumer needs a few iterations of the event loop until it runs."""
BEHIND = 2
"""Calls that wait for the thread, beyond those of others, from which on a turn waits for it as well. A thread that is
behind without newcomers would keep out all of them, also those that do not need it."""
LONGEST_TURN = 0.25
"""Seconds after which a turn no longer waits for the thread."""


class Turns:
    """Turns of one event loop, one at a time. ``over`` is called after each with the seconds that it took too long.

    It must not raise. ``is_needless`` is asked in the next iteration of the event loop whether the turn can be left
    out: its timer would wake a worker for one lone connection of four, which is a tenth of what a connection costs.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        over: Callable[[float], None],
        faults: Faults,
        is_needless: Callable[[], bool] = bool,
    ) -> None:
        self._loop, self._over, self._faults = loop, over, faults
        self._is_needless = is_needless
        self._began = 0.0
        self._timer: asyncio.Handle | None = None
        self._probe: Future[int] | None = None
        """The empty call in the thread, until it has come back."""
        self._awaits_thread = False
        self._others: float = math.inf
        """Calls of others that wait for the thread: the fewest at the beginning of a turn, since the first turn."""
        self._before = 0.0
        """The same, as far as that was known when this turn began."""

    def begin(self, newcomers: int = 0) -> None:
        """A turn begins, unless one is under way; so many ``newcomers`` may have called the thread before."""
        if self._timer is None:
            self._began = self._loop.time()
            with suppress(Exception):  # the end of the turn tells of it
                waiting = _calls(shared_thread())
                self._before = max(0, min(self._others, waiting - newcomers))
                self._others = min(self._others, waiting)
            self._timer = self._loop.call_soon(self._go_through, context=Context())

    def _go_through(self) -> None:
        """Go through with the turn, unless it is needless."""
        left = self._began + TICK - self._loop.time()
        if left > 0:
            with self._faults.spare("the need of a turn"):
                if self._is_needless():
                    self._timer, self._others = None, math.inf
                    return
        self._timer = self._loop.call_later(max(0.0, left), self._end, context=Context())

    def _end(self) -> None:
        """The event loop has had its turn; where sync code is behind, its thread has one as well."""
        self._timer = None
        try:
            self._awaits_thread = self._ask_thread()
        except Exception as error:
            self._faults.note("the turn of the thread", error)
            self._awaits_thread = False
        if self._awaits_thread:
            self._timer = self._loop.call_later(LONGEST_TURN, self._go_on, context=Context())
        else:
            self._tell()

    def _ask_thread(self) -> bool:
        """Whether the thread has been given an empty call. One that has not come back holds up no further turn."""
        if self._probe is not None:
            return False
        thread = shared_thread()
        if thread is None or _calls(thread) - self._before < BEHIND:
            return False
        try:
            self._probe = thread.submit(int)
        except RuntimeError:  # it is shut down
            return False
        self._probe.add_done_callback(self._hear)
        return True

    def _hear(self, probe: "Future[int]") -> None:
        """The thread has had its turn; called there."""
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._come_back, probe, context=Context())

    def _come_back(self, probe: "Future[int]") -> None:
        if probe is self._probe:
            self._probe = None
            if self._awaits_thread:
                self._go_on()

    def _go_on(self) -> None:
        """The turn is over, since the thread has had its own or takes too long for one."""
        self._awaits_thread = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tell()

    def _tell(self) -> None:
        self._over(max(0.0, self._loop.time() - self._began - TICK))
        if self._timer is None:  # no other one follows
            self._others = math.inf


def _calls(thread: ThreadPoolExecutor | None) -> int:
    """Calls that wait for the thread."""
    return 0 if thread is None else thread._work_queue.qsize()
