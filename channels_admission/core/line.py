"""The line of a pool: the retry times that refused clients were promised, and what is kept for those that return. Pure.

Each refused client gets a ticket for the retry time that it is told, whether or not it will return at that time, or can
hand a ticket back at all. So a ledger counts, in buckets of :data:`WIDTH`, how many tickets it promised and how many of
these were shown. By these counts it shares out what is free:

- Tickets that are due go first, the earliest place before others. Up to nine tenths of what is free is kept for those
  that are expected and have not come, for :data:`GRACE` after their time.
- Everybody else gets the rest, never less than a tenth (:data:`LEAST`), and what has been free for a grace.
- The schedule promises more times than there are admissions, by the share of tickets that was lately shown
  (:attr:`Line.overbooked`). A ticket that is shown counts as shown whether or not there is a slot for it: otherwise
  overbooked tickets that find nothing would count as missed, and the overbooking would grow without end.

Times are seconds of the pool's clock. ``ledger/lua/line.lua`` has the same rules in milliseconds.
"""

import math

from .levels import ROUNDING

GRACE = 1.5
"""Seconds after its time for which a ticket is good."""
WIDTH = 0.5
"""Seconds of a bucket."""
LEAST = 0.1
"""The least share of what is free for clients without a ticket, and of the tickets promised that count as kept."""
FADING = 0.8
"""What a bucket leaves of the weight of those before it in the share of tickets shown."""
PRIOR = 5.0
"""Tickets that count as promised and shown before any was."""


class Line:
    """The line of one pool."""

    def __init__(self) -> None:
        self._promised: dict[int, int] = {}
        self._shown: dict[int, int] = {}
        self._sum_promised = self._sum_shown = 0.0
        """Of the buckets whose grace is over, fading."""
        self._credit = 0.0
        """Slots that clients without a ticket are owed, in part, of those that tickets got."""
        self._window = 0.0
        self._left, self._left_before = math.inf, 0.0
        """The least that was left free in this grace and in the one before."""

    @property
    def is_empty(self) -> bool:
        """Whether no ticket is expected."""
        return not self._promised

    @property
    def share(self) -> float:
        """The share of tickets that was lately shown in time."""
        return (self._sum_shown + PRIOR) / (self._sum_promised + PRIOR)

    @property
    def overbooked(self) -> float:
        """By what the schedule's steps are multiplied."""
        return max(LEAST, self.share)

    def advance(self, now: float) -> None:
        """Learn from the buckets whose grace is over."""
        first = math.floor((now - GRACE) / WIDTH)
        for bucket in sorted(each for each in self._promised if each < first):
            self._sum_promised = FADING * self._sum_promised + self._promised[bucket]
            self._sum_shown = FADING * self._sum_shown + self._shown.get(bucket, 0)
            del self._promised[bucket]
            self._shown.pop(bucket, None)
        if now - self._window >= GRACE:
            self._window, self._left_before, self._left = now, self._left, math.inf

    def promise(self, time: float, number: int = 1) -> None:
        bucket = math.floor(time / WIDTH)
        self._promised[bucket] = self._promised.get(bucket, 0) + number

    def show(self, due: float) -> None:
        """A ticket is shown that was due at ``due``."""
        bucket = math.floor(due / WIDTH)
        if self._shown.get(bucket, 0) < self._promised.get(bucket, 0):
            self._shown[bucket] = self._shown.get(bucket, 0) + 1

    def expected(self, now: float) -> float:
        """Tickets that are due and have not been shown, of those that will be by the share."""
        return sum(
            max(0.0, self.share * promised * _overlap(bucket, now) - self._shown.get(bucket, 0))
            for bucket, promised in self._promised.items()
        )

    def share_out(self, now: float, free: int, due: int, others: int) -> tuple[int, int]:
        """How many of ``free`` slots go to tickets that are ``due`` and were shown, and to clients without one."""
        first = min(others, free, math.floor(self._credit + ROUNDING))
        tickets = min(due, free - first)
        rest = free - first - tickets
        kept = math.ceil(self.expected(now) - ROUNDING)
        unclaimed = math.floor(min(rest, self._left, self._left_before))
        more = min(others - first, rest, max(rest - kept, math.floor(LEAST * rest), unclaimed))
        credit = min(self._credit + tickets * LEAST / (1 - LEAST), max(1.0, LEAST * free))
        self._credit = max(0.0, credit - first - more)
        self._left = min(self._left, rest - more)
        return tickets, first + more


def _overlap(bucket: int, now: float) -> float:
    """The part of a bucket that is in the grace before ``now``."""
    begins = bucket * WIDTH
    return max(0.0, min(now, begins + WIDTH) - max(now - GRACE, begins)) / WIDTH
