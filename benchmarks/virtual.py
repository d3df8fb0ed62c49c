"""Event loops in virtual time, alone or several side by side, as those of workers are."""

import asyncio
import math
from collections.abc import Callable, Sequence


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time stands still while it works, and jumps to the next timer when it has nothing to do.

    Time passes by timers, and by :meth:`work`.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__()

    def time(self) -> float:
        return self._now

    def work(self, seconds: float) -> None:
        """Block the event loop for so long."""
        self._now += seconds

    @property
    def due(self) -> float:
        """When it next has something to do."""
        if self._ready:
            return self._now
        return max(self._now, self._scheduled[0]._when) if self._scheduled else math.inf

    def turn(self) -> None:
        """Go on to :attr:`due`, and do once what is to be done then."""
        self._now = self.due
        self.call_soon(self.stop)
        self.run_forever()

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0]._when)
        super()._run_once()


def run_together(loops: Sequence[VirtualLoop], is_over: Callable[[], bool], limit: float) -> None:
    """Run the loops until ``is_over()``, or until all have reached ``limit``: always the one that is due first."""
    while not is_over():
        loop = min(loops, key=lambda each: each.due)
        if loop.due > limit:
            return
        loop.turn()
