"""The limit of patience: ``LEDGER_TIMEOUT``, in ticks that the event loop gets to see."""

import asyncio
from collections.abc import Callable

from ..runtime.faults import Faults

TICKS = 10
"""Ticks in ``LEDGER_TIMEOUT``. One that comes late counts once: a busy event loop is no silent ledger."""


class Patience:
    """Ticks for as long as somebody waits. Belongs to one event loop."""

    def __init__(self, seconds: float, faults: Faults) -> None:
        self.now = 0
        """The tick."""
        self._seconds = seconds
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._watches: list[Callable[[], bool]] = []

    def watch(self, look: Callable[[], bool]) -> None:
        """Call ``look`` at every tick; it says whether somebody still waits."""
        self._watches.append(look)

    def begin(self) -> int:
        """Go on ticking; the tick at which whoever begins to wait now has waited long enough."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds / TICKS, self._tick)
        return self.now + TICKS

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = None
        self.now += 1
        waits = [self._still_waits(look) for look in self._watches]
        if any(waits):
            self.begin()

    def _still_waits(self, look: Callable[[], bool]) -> bool:
        with self._faults.spare("the limit of patience"):
            return look()
        return True
