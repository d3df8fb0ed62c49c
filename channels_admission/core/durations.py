"""Durations counted by a few bounds, as the counters that make a histogram over all workers."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 5.0, math.inf)
"""Seconds. A duration counts at the first that it does not exceed; 0.25 is the default of ``LEDGER_TIMEOUT``."""


def counters_of(kind: str) -> tuple[str, ...]:
    """The name of the counter for each of the :data:`BOUNDS`."""
    return tuple(f"{kind}.le.{bound:g}" for bound in BOUNDS)


class Durations:
    """How long each of many events took. ``names`` are those of :func:`counters_of`, and ``total`` the milliseconds."""

    def __init__(self, names: Sequence[str], total: str) -> None:
        self._names = names
        self._total = total
        self._counts = [0] * len(BOUNDS)
        self.seconds = 0.0

    def note(self, seconds: float) -> None:
        """Count one event."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def prolong(self, seconds: float) -> None:
        """The last event took so much longer; it stays where it was counted."""
        self.seconds += max(0.0, seconds)

    @property
    def counters(self) -> Mapping[str, int]:
        """The counters for a report; those that are 0 are left out."""
        counts = {self._total: int(1000 * self.seconds), **dict(zip(self._names, self._counts, strict=True))}
        return {name: count for name, count in counts.items() if count}
