"""Whether memory has room for one more connection, although what the last ones cost has not shown yet. Pure.

What a connection costs shows in the resident memory only some time after it was let in, and a herd
is let in between two readings. So those who came in the last :data:`UNSHOWN` seconds are counted with
what a connection has lately cost, and nobody is let in who would take memory past the first threshold
by that. All sizes are in bytes, and times in seconds of a clock that never runs backwards.
"""

import math
from collections import deque
from typing import NamedTuple

from ..conf.overload import Thresholds
from .memory import Use

UNSHOWN = 2.0
"""Seconds until a connection is taken to have shown what it costs."""
APART = 0.05
"""Seconds from one sample to the next that is kept."""
FIRST = 4 << 20
"""What a connection is taken to cost while nothing is known of it."""
LEAST = 2 << 20
"""What one is taken to cost at the least: those that come next may cost more than the last ones did."""
LARGEST_PART = 8
"""A connection is taken to cost at most the memory there is, divided by this: other things grow as well."""
UP, DOWN = 8, 64
"""Connections that count half where they cost more than the ones before, and at the most where they cost less."""
ENOUGH = 16
"""Connections from which on it is known what one costs."""
SPARE = 10
"""Connections that must still fit below saturation beyond the first threshold, where what is unshown counts twice."""
MOST = 64
"""The most newcomers before the memory is looked at again."""


class Sample(NamedTuple):
    """What the process had at a time."""

    at: float
    resident: int
    present: int
    """Connections let in and not gone, and handshakes that wait."""


class Room:
    """The memory that newcomers may take. It has no end where no use is known."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._uses: tuple[Use, ...] = ()
        self._resident_then = 0
        self._samples: deque[Sample] = deque()
        self.cost: float = FIRST
        """What a connection has lately cost."""
        self._known = 0
        """Connections from which that was learnt."""
        self.workers = 1
        """Processes that share memory with this one and let in newcomers as well, itself included."""

    def read(self, uses: tuple[Use, ...], resident: int) -> None:
        """These are the uses, as read when the process had so many resident bytes."""
        self._uses, self._resident_then = uses, resident

    def newcomers(self, now: float, resident: int, present: int) -> int:
        """How many may come before this is asked again, with so much resident and so many present now."""
        self._learn(now, resident, present)
        unshown = self._unshown(resident, present)
        spaces = [self._space(use, resident, unshown) for use in self._uses]
        cost = self._bounded_cost()
        fitting = min([MOST, *(math.floor(space / cost) for space in spaces)])
        if fitting < 1 and not unshown and all(self._is_calm(use, resident) for use in self._uses):
            return 1  # or nothing would ever be learnt
        return max(0, fitting)

    def _space(self, use: Use, resident: int, unshown: float) -> float:
        """Bytes that newcomers may take of it."""
        grown = max(0, resident - self._resident_then) if use.is_shared else 0
        used = use.used if use.is_shared else resident
        workers = self.workers if use.is_shared else 1
        limits = self._thresholds
        below = (use.allowed * limits.scaling - used) / workers - grown - unshown
        # Beyond the first threshold it is chance that lets some in, as far as an error closes nobody.
        spare = SPARE * min(self.cost, self._bounded_cost())
        beyond = (use.allowed * limits.saturation - used - spare) / workers - 2 * (grown + unshown)
        return max(below, beyond)

    def _is_calm(self, use: Use, resident: int) -> bool:
        limits = self._thresholds
        share = limits.scaling if self._known >= ENOUGH else (limits.scaling + limits.saturation) / 2
        used = use.used + max(0, resident - self._resident_then) if use.is_shared else resident
        return used < use.allowed * share

    def _unshown(self, resident: int, present: int) -> float:
        """What those who came lately have yet to take."""
        cost = self._bounded_cost()
        expected = (each.resident + (present - each.present) * cost for each in self._samples)
        return max(0.0, max(expected, default=0.0) - resident)

    def _bounded_cost(self) -> float:
        greatest = min((use.allowed for use in self._uses), default=math.inf) / LARGEST_PART
        return min(max(LEAST, self.cost), greatest)

    def _learn(self, now: float, resident: int, present: int) -> None:
        """Keep what is seen for a while, and learn from what has been kept long enough."""
        samples = self._samples
        while len(samples) > 1 and samples[1].at <= now - UNSHOWN:
            old = samples.popleft()
            came, since = samples[0].present - old.present, present - old.present
            if came > 0 and since > 0:
                self._adjust(max(0, resident - old.resident) / since, came)
        if not samples or now - samples[-1].at >= APART:
            samples.append(Sample(now, resident, present))

    def _adjust(self, cost: float, count: int) -> None:
        """So many connections have cost so much each."""
        greatest = min((use.allowed for use in self._uses), default=math.inf) / LARGEST_PART
        cost = min(cost, greatest)
        self.cost += (cost - self.cost) * count / (count + (UP if cost > self.cost else min(DOWN, self._known)))
        self._known += count
