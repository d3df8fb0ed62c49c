"""The pace of a pool: how many may enter at this moment, and when the others should come again.

Pure, like :mod:`.core.levels`; all times are seconds of a clock that never runs backwards. A ledger
keeps a :class:`Pace` for each pool (``ledger/lua/rate.lua`` has the same rules in milliseconds, and one
contract holds both). A limiter gives its retry times away by :class:`~.limiter.retries.RetrySchedule`.

- **Rate**: the generic cell rate algorithm (ITU-T I.371) as a token bucket. In any window of ``t``
  seconds no more than ``burst + rate * t`` enter.
- **Slow start**: the rate grows evenly from nothing to its full value. Instead of the rate it is
  the time that is slowed: *pace time* passes at the share of the rate that is in force, so that
  the bucket and the schedule know the full rate only.
- **Schedule**: every refused client is given the next free retry time, and the ledger keeps the tail.
  Retry times lie a little wider apart than admissions could, so that a late client delays no other.
- **Speed**: the schedule goes by the lowest speed that is known: the rate, the measured speed of the
  workers' entrances, and in a full pool the speed at which slots become free. Where none is known, it
  goes by :data:`PROBING`.
- **Drought**: while nobody is admitted, retry times move away in proportion (:data:`GROWTH`). A pause
  of a second costs a second and a half, and a pause of hours is asked a few times a minute by each client.
"""

import math
from dataclasses import dataclass

from .counters import Reason
from .levels import ROUNDING
from .protocol import Offer, Terms

SCHEDULED = 0.97
"""Retry times given away, as a share of the admissions that are possible."""
PROBING = 50.0
"""Attempts a second for each worker where no speed is known, so that the first to come back find out.

Fifty refusals take a worker about a hundredth of its time, and the two hundred clients that four workers refuse in the
first moment of a herd are back within a second of each other.
"""
GROWTH = 0.5
"""The earliest retry time, as a share of the time since the pool began to refuse and has admitted nobody."""
MOST_SPEED = 1e6
"""The greatest speed that a worker reports, connections a second."""
SHUT = (Reason.FULL, Reason.PAUSED)
"""Reasons for which a pool admits less than its speed: retry times that were given for them end with them."""


def bounded(speed: float) -> float:
    """A measured speed as a report may tell it: finite, in thousandths of a connection a second."""
    return round(min(speed, MOST_SPEED), 3) if speed > 0 else 0.0


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


class Drought:
    """Refusals that follow one another while nobody is admitted."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._last = 0.0

    def end(self) -> None:
        """Somebody was admitted."""
        self._since = None

    def soonest(self, now: float, retry_after: tuple[float, float]) -> float:
        """How far away the earliest retry time is for one that is refused ``now``.

        A drought is over when nobody was refused for as long as a client may be told to wait.
        """
        low, high = retry_after
        if self._since is None or now - self._last > high:
            self._since = now
        self._last = now
        return min(high, max(low, GROWTH * (now - self._since)))


@dataclass(frozen=True, slots=True)
class Situation:
    """What a ledger knows of a pool when it schedules retry times."""

    why: Reason | None = None
    """Why less is granted than wanted; without anybody refused, what holds now."""
    workers: int = 1
    """Those that take connections."""
    speed: float = 0.0
    """Connections a second that their entrances let in, added up; 0 where unknown."""
    is_open: bool = True
    """Whether it has room, and more than is about to be taken."""
    settles_in: float = 0.0
    """Seconds until the ledger grants freely again."""


class Pace:
    """A ledger's half: the bucket, the slow start, the tail of the schedule, and how fast slots become free.

    ``clock`` is the pool's. Begins with one token in the bucket.
    """

    def __init__(self, clock: float, terms: Terms) -> None:
        self._outflow = self._lately = 0.0
        self._measured_at = clock
        self._measured = 0
        self._drought = Drought()
        self._begin(clock, terms)

    def _begin(self, clock: float, terms: Terms) -> None:
        self._began = clock
        self._tail = 0.0
        self._shut_at: float | None = None
        """Since when the pool has been full or paused."""
        self._full_at = (terms.burst - 1) / terms.rate if terms.rate else 0.0

    def admit(self, wanted: int, clock: float, terms: Terms, *, empty: bool) -> int:
        """How many of ``wanted`` may enter now, the start being slow where they enter an ``empty`` pool."""
        granted = wanted if terms.rate is None else self._spend(wanted, terms.rate, clock, terms, empty=empty)
        if granted:
            self._drought.end()
        return granted

    def _spend(self, wanted: int, rate: float, clock: float, terms: Terms, *, empty: bool) -> int:
        granted = min(wanted, self._tokens(clock, terms))
        if terms.slow_start and empty and granted:
            self._begin(clock, terms)
            granted = 1
        self._full_at = max(self._full_at, self._passed(clock, terms)) + granted / rate
        return granted

    def measure(self, clock: float, released: int, every: float, *, admitting: bool = False) -> None:
        """Learn from the number of slots ever released how fast they become free, once in ``every`` seconds.

        What has become free in the seconds that are not over yet counts as well, as the least that it may come to.
        ``admitting`` says that workers have admitted somebody on slots that were theirs already.
        """
        if admitting:
            self._drought.end()
        elapsed = clock - self._measured_at
        if round(1000 * elapsed) >= round(1000 * every):  # in whole milliseconds, as Redis measures
            speed = max(0, released - self._measured) / elapsed
            self._outflow = (self._outflow + speed) / 2 if self._outflow else speed
            self._measured_at, self._measured = clock, released
        self._lately = max(0, released - self._measured) / every

    def offer(self, clock: float, terms: Terms, refused: int, owed: int, now: Situation) -> Offer | None:
        """Retry times for ``refused`` clients, after those for ``owed`` that were given away already; None for none."""
        if not refused + owed:
            return None
        self._open_or_shut(clock, now, by_refusal=refused > 0)
        high = terms.retry_after[1]
        soonest = max(self._drought.soonest(clock, terms.retry_after), min(high, now.settles_in))
        elapsed = clock - self._began
        first = max(self._tail, paced(elapsed + soonest, terms.slow_start))
        step = 1 / (SCHEDULED * self._speed(terms, now))
        if now.why is Reason.FULL and self._shut_at is not None and clock - self._shut_at < high:
            # What has been seen for so long says nothing of a later time.
            left = paced(clock - self._shut_at + elapsed, terms.slow_start) - first
            step = min(step, max(left / (refused + owed), 1 / (SCHEDULED * self._most(terms, now))))
        first += owed * step
        self._tail = min(first + refused * step, max(self._tail, paced(elapsed + high, terms.slow_start)))
        return Offer(first, step, elapsed)

    def _open_or_shut(self, clock: float, now: Situation, *, by_refusal: bool) -> None:
        """Note since when it has been shut. What was promised meanwhile says nothing of a pool that is open again."""
        shut = now.why in SHUT if by_refusal else self._shut_at is not None and not now.is_open
        if not shut and self._shut_at is not None:
            self._tail = 0.0
        self._shut_at = (clock if self._shut_at is None else self._shut_at) if shut else None

    def _speed(self, terms: Terms, now: Situation) -> float:
        """The lowest of those known."""
        outflow = max(self._outflow, self._lately)
        return min(self._most(terms, now), outflow) if outflow and now.why is Reason.FULL else self._most(terms, now)

    def _most(self, terms: Terms, now: Situation) -> float:
        """The lowest of those known, apart from the outflow."""
        probing = PROBING * max(1, now.workers)
        speeds = [speed for speed in (terms.rate, now.speed) if speed]
        return min([*speeds, probing] if now.why is Reason.FULL else speeds, default=probing)

    def _tokens(self, clock: float, terms: Terms) -> int:
        return tokens(self._full_at, self._passed(clock, terms), terms.rate or 0.0, terms.burst)

    def _passed(self, clock: float, terms: Terms) -> float:
        return paced(clock - self._began, terms.slow_start)
