"""The monitor of the thread that runs sync code: how long a job waits before it begins, and how many wait."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from asgiref.sync import SyncToAsync

EVERY = 1.0
"""Seconds between two jobs that measure."""


def shared_thread() -> ThreadPoolExecutor | None:
    """The thread that sync consumers and ``database_sync_to_async`` share, as long as it has not been used None."""
    executor: ThreadPoolExecutor | None = getattr(SyncToAsync, "single_thread_executor", None)
    return executor if executor is not None and getattr(executor, "_threads", None) else None


WAITS_IN = "_worker"
"""The function in which a thread of :mod:`concurrent.futures` waits for a job, and in none that it has called."""


class Threads:
    """Seconds that a job of sync code waits for its thread: that of a job of its own, which does nothing.

    While that one waits, the reading is how long it has waited so far. A site without sync code is not measured.
    """

    jobs = 0
    """Other jobs that wait, at the last reading."""
    busy = 0
    """Threads that run a job, at the last reading."""

    def __init__(
        self,
        thread: Callable[[], ThreadPoolExecutor | None] = shared_thread,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._thread, self._clock = thread, clock
        self._asked: float | None = None
        """When the job was handed over that has not begun yet."""
        self._ask_at = clock()
        self._waited = 0.0

    def read(self) -> float | None:
        """The wait; 0 without sync code, and None at the end of the process."""
        executor, now = self._thread(), self._clock()
        if executor is None:
            return 0.0
        self._count(executor)
        if self._asked is None and now >= self._ask_at:
            self._asked, self._ask_at = now, now + EVERY
            try:
                executor.submit(self._begin, now)
            except RuntimeError:
                self._asked = None
                return None
        asked = self._asked
        return round(self._waited if asked is None else max(self._waited, now - asked), 3)

    def _count(self, executor: ThreadPoolExecutor) -> None:
        frames = sys._current_frames()
        running = (frames.get(each.ident or 0) for each in tuple(executor._threads))
        self.busy = sum(frame is not None and frame.f_code.co_name != WAITS_IN for frame in running)
        self.jobs = max(0, executor._work_queue.qsize() - (self._asked is not None))

    def _begin(self, asked: float) -> None:
        self._waited, self._asked = self._clock() - asked, None
