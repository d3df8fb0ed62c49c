"""Room in memory for new connections, including the cost of the latest ones that does not show yet. Pure.

The memory of a connection shows in the resident memory only some time after its admission, and a herd is admitted
between two readings. So connections of the last :data:`UNSHOWN` seconds are counted at the recent cost per connection.
No connection is admitted that would take memory above the scaling threshold by this estimate. Sizes are in bytes, and
times in seconds of a monotonic clock.
"""

import math
from collections import deque
from typing import NamedTuple

from ..conf.overload import Thresholds
from .memory import Use

UNSHOWN = 2.0
"""Seconds after which the cost of a connection is taken to show."""
APART = 0.05
"""Least seconds between two samples."""
FIRST = 4 << 20
"""Assumed cost of a connection before any is measured."""
LEAST = 2 << 20
"""Least assumed cost, since the next connections may cost more than the last ones."""
LARGEST_PART = 8
"""Greatest assumed cost, as a divisor of the allowed memory, since other things grow as well."""
UP, DOWN = 8, 64
"""Weights of the old average against a higher and a lower cost, in connections."""
ENOUGH = 16
"""Connections after which the cost is taken to be known."""
SPARE = 10
"""Connections that must still fit below saturation when memory is above scaling, where unshown memory counts twice."""
MOST = 64
"""Most connections before the memory is checked again."""


class Sample(NamedTuple):
    """The resident memory and the connections of the process at one time."""

    at: float
    resident: int
    present: int
    """Open connections and waiting handshakes."""


class Room:
    """The memory that new connections may take; unlimited if no use is known."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._uses: tuple[Use, ...] = ()
        self._resident_then = 0
        self._samples: deque[Sample] = deque()
        self.cost: float = FIRST
        """The recent cost of a connection."""
        self._known = 0
        """Connections measured for it."""
        self.workers = 1
        """Workers that share the memory, this one included."""

    def read(self, uses: tuple[Use, ...], resident: int) -> None:
        """Set the uses, read when the process had ``resident`` bytes."""
        self._uses, self._resident_then = uses, resident

    def newcomers(self, now: float, resident: int, present: int) -> int:
        """How many connections may come before the next call, with these resident bytes and present connections."""
        self._learn(now, resident, present)
        unshown = self._unshown(resident, present)
        spaces = [self._space(use, resident, unshown) for use in self._uses]
        cost = self._bounded_cost()
        fitting = min([MOST, *(math.floor(space / cost) for space in spaces)])
        if fitting < 1 and not unshown and all(self._is_calm(use, resident) for use in self._uses):
            return 1  # without any, the cost would never be measured
        return max(0, fitting)

    def _space(self, use: Use, resident: int, unshown: float) -> float:
        """Bytes of a use that new connections may take."""
        grown = max(0, resident - self._resident_then) if use.is_shared else 0
        used = use.used if use.is_shared else resident
        workers = self.workers if use.is_shared else 1
        limits = self._thresholds
        below = (use.allowed * limits.scaling - used) / workers - grown - unshown
        # Above scaling some are admitted at random, as long as an error in the estimate leads to no shedding.
        spare = SPARE * min(self.cost, self._bounded_cost())
        beyond = (use.allowed * limits.saturation - used - spare) / workers - 2 * (grown + unshown)
        return max(below, beyond)

    def _is_calm(self, use: Use, resident: int) -> bool:
        limits = self._thresholds
        share = limits.scaling if self._known >= ENOUGH else (limits.scaling + limits.saturation) / 2
        used = use.used + max(0, resident - self._resident_then) if use.is_shared else resident
        return used < use.allowed * share

    def _unshown(self, resident: int, present: int) -> float:
        """Bytes that the latest connections have yet to take."""
        cost = self._bounded_cost()
        expected = (each.resident + (present - each.present) * cost for each in self._samples)
        return max(0.0, max(expected, default=0.0) - resident)

    def _bounded_cost(self) -> float:
        greatest = min((use.allowed for use in self._uses), default=math.inf) / LARGEST_PART
        return min(max(LEAST, self.cost), greatest)

    def _learn(self, now: float, resident: int, present: int) -> None:
        """Keep samples for :data:`UNSHOWN` seconds, and measure the cost from older ones."""
        samples = self._samples
        while len(samples) > 1 and samples[1].at <= now - UNSHOWN:
            old = samples.popleft()
            came, since = samples[0].present - old.present, present - old.present
            if came > 0 and since > 0:
                self._adjust(max(0, resident - old.resident) / since, came)
        if not samples or now - samples[-1].at >= APART:
            samples.append(Sample(now, resident, present))

    def _adjust(self, cost: float, count: int) -> None:
        """Adjust the average by ``count`` connections that have cost ``cost`` each."""
        greatest = min((use.allowed for use in self._uses), default=math.inf) / LARGEST_PART
        cost = min(cost, greatest)
        self.cost += (cost - self.cost) * count / (count + (UP if cost > self.cost else min(DOWN, self._known)))
        self._known += count
