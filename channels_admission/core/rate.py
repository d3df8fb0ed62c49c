"""The pace of a pool: how many may enter at this moment, and when the others should come again.

Pure, like :mod:`.core.levels`; all times are seconds of a clock that never runs backwards. A ledger
keeps a :class:`Pace` for each pool (``ledger/lua/rate.lua`` has the same rules in milliseconds, and one
contract holds both), a limiter keeps a :class:`RetrySchedule` of the moments it may give away.

- **Rate**: the generic cell rate algorithm (ITU-T I.371) as a token bucket. In any window of ``t``
  seconds no more than ``burst + rate * t`` enter.
- **Slow start**: the rate grows evenly from nothing to its full value. Instead of the rate it is
  the time that is slowed: *pace time* passes at the share of the rate that is in force, so that
  the bucket and the schedule know the full rate only.
- **Schedule**: every refused client is given the next free moment, and the ledger keeps the tail.
  Moments lie a little wider apart than admissions could, so that a late client delays no other.
"""

import math
import random

from .counters import ATTEMPTS, QUOTA, Reason
from .levels import ROUNDING
from .protocol import Offer, Terms

SCHEDULED = 0.97
"""Moments given away, as a share of the admissions that are possible."""


def paced(elapsed: float, slow_start: float) -> float:
    """Pace time that has passed, ``elapsed`` seconds after a start that takes ``slow_start`` seconds."""
    return elapsed * elapsed / (2 * slow_start) if elapsed < slow_start else elapsed - slow_start / 2


def unpaced(passed: float, slow_start: float) -> float:
    """Seconds after such a start until so much pace time has passed."""
    return math.sqrt(2 * slow_start * passed) if passed < slow_start / 2 else passed + slow_start / 2


def tokens(full_at: float, now: float, rate: float, burst: int) -> int:
    """Whole tokens in a bucket that will be full at ``full_at``."""
    missing = max(0.0, full_at - now) * rate
    return max(0, math.floor(burst - missing + ROUNDING))


class Bucket:
    """Tokens that come back at ``rate`` a second, up to ``burst``; empty at first."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._full_at = now + burst / rate

    def take(self, now: float) -> bool:
        """Remove a token, if there is one."""
        if not tokens(self._full_at, now, self._rate, self._burst):
            return False
        self._full_at = max(self._full_at, now) + 1 / self._rate
        return True


class Pace:
    """A ledger's half: the bucket, the slow start, the tail of the schedule, and how fast slots become free.

    ``clock`` is the pool's. Begins with one token in the bucket.
    """

    def __init__(self, clock: float, terms: Terms) -> None:
        self._outflow = 0.0
        self._measured_at = clock
        self._measured = 0
        self._begin(clock, terms)

    def _begin(self, clock: float, terms: Terms) -> None:
        self._began = clock
        self._tail = 0.0
        self._was_full = False
        self._full_at = (terms.burst - 1) / terms.rate if terms.rate else 0.0

    def admit(self, wanted: int, clock: float, terms: Terms, *, empty: bool) -> int:
        """How many of ``wanted`` may enter now, the start being slow where they enter an ``empty`` pool."""
        if terms.rate is None:
            return wanted
        granted = min(wanted, self._tokens(clock, terms))
        if terms.slow_start and empty and granted:
            self._begin(clock, terms)
            granted = 1
        self._full_at = max(self._full_at, self._passed(clock, terms)) + granted / terms.rate
        return granted

    def measure(self, clock: float, released: int, every: float) -> None:
        """Learn from the number of slots ever released how fast they become free, once in ``every`` seconds."""
        elapsed = clock - self._measured_at
        if round(1000 * elapsed) >= round(1000 * every):  # in whole milliseconds, as Redis measures
            speed = max(0, released - self._measured) / elapsed
            self._outflow = (self._outflow + speed) / 2 if self._outflow else speed
            self._measured_at, self._measured = clock, released

    def offer(self, clock: float, terms: Terms, refused: int, owed: int, *, full: bool) -> Offer | None:
        """Moments for ``refused`` clients, after those for ``owed`` that were given away already.

        None where no pace is known: there is no rate, or the pool is full, and nobody has left lately.
        """
        speed = terms.rate or 0.0
        if terms.rate is None or (full and self._outflow < speed):
            speed = self._outflow
        if not speed or not refused + owed:
            return None
        if refused:
            # What was promised while slots were missing says nothing of a pool that has room again.
            self._tail, self._was_full = 0.0 if self._was_full and not full else self._tail, full
        low, high = terms.retry_after
        step, elapsed = 1 / (SCHEDULED * speed), clock - self._began
        first = max(self._tail, paced(elapsed + low, terms.slow_start)) + owed * step
        self._tail = min(first + refused * step, max(self._tail, paced(elapsed + high, terms.slow_start)))
        return Offer(first, step, elapsed)

    def _tokens(self, clock: float, terms: Terms) -> int:
        return tokens(self._full_at, self._passed(clock, terms), terms.rate or 0.0, terms.burst)

    def _passed(self, clock: float, terms: Terms) -> float:
        return paced(clock - self._began, terms.slow_start)


class RetrySchedule:
    """A limiter's half: the moments it gives to the clients that it refuses."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._offer: Offer | None = None
        self._at = 0.0
        self._given = 0
        self._reserved = 0
        self.owed = 0
        """Moments given away beyond those that a ledger has reserved."""

    def renew(self, offer: Offer | None, reserved: int, now: float) -> None:
        """Go on from ``offer``, of whose moments so many are this limiter's own."""
        self._offer, self._reserved, self._at, self._given = offer, reserved, now, 0

    def go_alone(self, workers: int, now: float) -> None:
        """Go on without a ledger: at this worker's part of the rate, from the earliest moment on."""
        offer, slow_start = None, self._terms.slow_start
        if self._terms.rate:
            offer = Offer(
                slow_start / 2 + self._terms.retry_after[0], workers / (SCHEDULED * self._terms.rate), slow_start
            )
        self.renew(offer, 0, now)

    def retry_after(self, reason: str, now: float, wait: float = 0.0) -> float:
        """Seconds until a client refused for ``reason`` should come again, or ``wait`` where a client has its own."""
        low, high = self._terms.retry_after
        if reason.startswith(QUOTA):
            return self.chance()
        if reason == Reason.ENTRANCE or reason.startswith(ATTEMPTS):
            return max(low, wait) if wait < high else random.uniform((low + high) / 2, high)
        return self.next(now)

    def chance(self) -> float:
        """Seconds within the bounds, by lot: for whom no moment is any better than another."""
        return random.uniform(*self._terms.retry_after)

    def soon(self, now: float) -> float:
        """The same for one whose connection we end: by the rate, and without one soon, for there may be room."""
        low, high = self._terms.retry_after
        if self._terms.rate and self._offer is not None:
            return self.next(now)
        if self._terms.rate:
            self.owed += 1
        return random.uniform(low, min(2 * low, high))

    def next(self, now: float) -> float:
        """Seconds from now until the next free moment; beyond the bounds, a chance one in their upper half."""
        low, high = self._terms.retry_after
        if self._offer is None:
            return random.uniform(low, high)
        offer, slow_start = self._offer, self._terms.slow_start
        moment = unpaced(offer.first + self._given * offer.step, slow_start) - offer.elapsed - (now - self._at)
        self._given += 1
        if self._given > self._reserved:
            self.owed += 1
        return max(low, moment) if moment <= high else random.uniform((low + high) / 2, high)
