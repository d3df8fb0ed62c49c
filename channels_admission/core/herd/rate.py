"""The pace of a pool: how many connections it admits now, and the retry times of the others.

Pure; all times are seconds of a monotonic clock. A ledger keeps a :class:`Pace` for each pool. A limiter gives out
retry times by its :class:`~.limiter.line.retries.RetrySchedule`. ``ledger/lua/rate.lua`` has the same rules in
milliseconds; the contract tests cover both.

- **Rate**: a token bucket by the generic cell rate algorithm (ITU-T I.371). In any window of ``t`` seconds at most
  ``burst + rate * t`` connections enter.
- **Reserves**: a slot in a worker's reserve has its token. The bucket holds at most what these leave of the burst, and
  a token that no handshake has used comes back to it.
- **Slow start**: the rate rises linearly from 0 to its full value. To this end time is slowed instead of the rate:
  *pace time* passes in proportion to the rate in force, so that bucket and schedule only use the full rate.
- **Schedule**: every refused client gets the next free retry time, and the ledger keeps the first one after these.
  Retry times are a little further apart than admissions, so that a late client delays no other. They are closer by
  the share of tickets that is shown, or assumed before the first is due (see :mod:`.core.herd.line`). They begin
  anew where the schedule has become much longer than the line of those that are expected.
- **Speed**: the schedule uses the lowest known speed: the rate, the measured speed of the workers' entrances, and in a
  full pool the speed at which slots become free. If none is known, it uses :data:`PROBING`.
- **Drought**: while no connection is admitted, retry times move away in proportion to the time (:data:`GROWTH`). After
  a pause of one second, clients return within half a second more; during hours of pause, each returns a few times per
  minute.
"""

import math
from dataclasses import dataclass

from ..counters import Reason
from ..levels import ROUNDING
from ..protocol import RetryTimes, Terms
from .bucket import ASIDE, most_held, spare, tokens
from .line import AGAIN, LONGEST, Line

SCHEDULED = 0.97
"""Retry times per possible admission."""
PROBING = 50.0
"""Attempts per second and worker while no speed is known, so that the first clients to return show it.

Fifty refusals take a worker about a hundredth of its time. The 200 clients that four workers refuse at the start of a
herd return within one second.
"""
GROWTH = 0.5
"""The earliest retry time, as a share of the time since the last admission before the refusals."""
EAGER = 0.5
"""Share of the outflow's distance between retry times that a pool keeps while it has just become full."""
MOST_SPEED = 1e6
"""Greatest reported speed, in connections per second."""
SLACK = 2.0
"""How many times longer than the line the schedule may be, before it is drawn back."""
SHUT = (Reason.FULL, Reason.PAUSED)
"""Reasons that hold a pool below its speed; when they end, the schedule starts anew."""


def bounded(speed: float) -> float:
    """A measured speed for a report: finite, in whole thousandths of a connection per second."""
    return round(min(speed, MOST_SPEED), 3) if speed > 0 else 0.0


def paced(elapsed: float, slow_start: float) -> float:
    """The pace time ``elapsed`` seconds after a start, with a slow start of ``slow_start`` seconds."""
    return elapsed * elapsed / (2 * slow_start) if elapsed < slow_start else elapsed - slow_start / 2


def unpaced(passed: float, slow_start: float) -> float:
    """The inverse of :func:`paced`: the seconds after which ``passed`` pace time has passed."""
    return math.sqrt(2 * slow_start * passed) if passed < slow_start / 2 else passed + slow_start / 2


class Drought:
    """A series of refusals without an admission."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._last = 0.0

    def end(self) -> None:
        """End the drought after an admission."""
        self._since = None

    def soonest(self, now: float, retry_after: tuple[float, float]) -> float:
        """Seconds until the earliest retry time of a client that is refused ``now``.

        A drought also ends after the longest retry time without a refusal.
        """
        low, high = retry_after
        if self._since is None or now - self._last > high:
            self._since = now
        self._last = now
        return min(high, max(low, GROWTH * (now - self._since)))


@dataclass(frozen=True, slots=True)
class Situation:
    """The state of a pool that determines its retry times."""

    why: Reason | None = None
    """Why less is granted than wanted, or would be now."""
    workers: int = 1
    """Workers that admit connections."""
    speed: float = 0.0
    """Connections per second through the entrances of all workers; 0 if unknown."""
    is_open: bool = True
    """Whether the pool has more room than is about to be taken."""
    settles_in: float = 0.0
    """Seconds until the ledger grants freely again."""


class Pace:
    """The token bucket, slow start and schedule of a pool in the ledger, and the speed at which slots become free.

    ``clock`` is the pool's. The bucket starts with one token.
    """

    def __init__(self, clock: float, terms: Terms) -> None:
        self._outflow = self._lately = 0.0
        self._measured_at = clock
        self._measured = 0
        self._drought = Drought()
        self.line = Line()
        """To be advanced before each use of the pace."""
        self._new_since: float | None = clock
        """When the pool began; None after a loss of data."""
        self._aside = 0.0
        """Tokens in the bucket that are set aside."""
        self._begin(clock, terms)

    def _begin(self, clock: float, terms: Terms) -> None:
        self._began = clock
        self._next_free = 0.0
        self._shut_at: float | None = None
        """When the pool became full or paused."""
        self._full_at = (terms.burst - 1) / terms.rate if terms.rate else 0.0

    def empty(self, clock: float, terms: Terms) -> None:
        """Take all tokens, after a loss of data: as many connections may just have entered. Releases count anew."""
        self._measured = 0
        self._new_since = None
        if terms.rate:
            self._full_at = self._passed(clock, terms) + terms.burst / terms.rate

    def set_aside(self, clock: float, terms: Terms, *, is_settling: bool, is_earlier: bool) -> None:
        """While a new pool settles, set aside a part of what flows into the bucket, until it is half of the burst.

        Reserves that no worker has told of are paid for: by these tokens, or by one that comes from an earlier pool
        after all.
        """
        self._aside = 0.0
        if terms.rate and is_settling and self._new_since == self._began:
            self._aside = min(most_held(terms), ASIDE * self._passed(clock, terms) * terms.rate)
            if is_earlier:
                self.take(most_held(terms), clock, terms)

    def free(self, room: int, clock: float, terms: Terms, *, empty: bool) -> int:
        """How many of ``room`` free slots may be taken now; a slow start begins with one if the pool is ``empty``."""
        if terms.rate is None:
            return room
        free = min(room, self._tokens(clock, terms))
        return min(1, free) if terms.slow_start and empty else free

    def spare(self, free: int, clock: float, terms: Terms) -> int:
        """How many of ``free`` slots need not be kept for tickets."""
        return spare(free, self._full_at, self._passed(clock, terms), terms.rate, terms.burst) if terms.rate else 0

    def admit(self, wanted: int, clock: float, terms: Terms, *, empty: bool) -> int:
        """How many of ``wanted`` enter now."""
        granted = self.free(wanted, clock, terms, empty=empty)
        if granted:
            self._drought.end()
        if terms.rate and terms.slow_start and empty and granted:
            self._begin(clock, terms)
        self.take(granted, clock, terms)
        return granted

    def hold(self, reserve: int, clock: float, terms: Terms, *, is_settling: bool) -> None:
        """Leave room in the bucket for ``reserve`` tokens of workers, so that all together are at most the burst.

        While the pool settles, some of them are not known. Reserves from before there was a rate may be larger than the
        burst.
        """
        held = min(max(reserve, most_held(terms) - self._aside) if is_settling else reserve, terms.burst)
        if terms.rate and held:
            self._full_at = max(self._full_at, self._passed(clock, terms) + held / terms.rate)

    def take_back(self, unused: int, terms: Terms) -> None:
        """Tokens that no handshake has used are the bucket's again."""
        if terms.rate:
            self._full_at -= unused / terms.rate

    def most_in_reserve(self, own: int, others: int, workers: int, clock: float, terms: Terms) -> float:
        """The most tokens in the reserve of one of so many ``workers``, beside those in the reserves of ``others``.

        Its ``own`` are at most half of its part of the tokens that are left.
        """
        if not terms.rate:
            return math.inf
        return min(most_held(terms) - others, (self._tokens(clock, terms) + own) // (2 * workers))

    def take(self, number: int, clock: float, terms: Terms) -> None:
        """Take tokens that there are."""
        if terms.rate:
            self._full_at = max(self._full_at, self._passed(clock, terms)) + number / terms.rate

    def measure(self, clock: float, released: int, every: float, *, admitting: bool = False) -> None:
        """Measure how fast slots become free, once in ``every`` seconds, by the number ``released`` ever.

        Releases of the unfinished interval count as its least speed. ``admitting``: whether workers have admitted
        connections on slots that they held already.
        """
        if admitting:
            self._drought.end()
        elapsed = clock - self._measured_at
        if round(1000 * elapsed) >= round(1000 * every):  # in whole milliseconds, as Redis measures
            speed = max(0, released - self._measured) / elapsed
            self._outflow = (self._outflow + speed) / 2 if self._outflow else speed
            self._measured_at, self._measured = clock, released
        self._lately = max(0, released - self._measured) / every

    def turns(self, clock: float, terms: Terms, number: int, now: Situation) -> tuple[float, ...]:
        """The seconds until so many due tickets that found nothing free should be shown again, in their order.

        They wait for a short time by the speed, once the pool has settled, or by the schedule where time does not help
        soon.
        """
        if not number:
            return ()
        soonest = self._soonest(clock, terms, now)
        most = self._settles_in(terms, now) + max(terms.retry_after[0], AGAIN)
        if now.why is Reason.PAUSED or soonest > most:
            retry_times = self.retry_times(clock, terms, number, 0, now)
            times = (retry_times.first + rank * retry_times.step for rank in range(number)) if retry_times else ()
            return tuple(unpaced(time, terms.slow_start) - (clock - self._began) for time in times)
        step = 1 / self._speed(terms, now)
        waits = tuple(min(most, soonest + rank * step) for rank in range(number))
        for wait in waits:
            self.line.promise(self.line._now / 1000 + wait, again=True)
        return waits

    def retry_times(
        self, clock: float, terms: Terms, refused: int, unreserved: int, now: Situation
    ) -> RetryTimes | None:
        """Retry times for ``refused`` clients, after ``unreserved`` ones given out already; None for no clients."""
        if not refused + unreserved:
            return None
        self._open_or_shut(clock, now, by_refusal=refused > 0)
        high, elapsed = terms.retry_after[1], clock - self._began
        soonest = paced(elapsed + self._soonest(clock, terms, now), terms.slow_start)
        step = 1 / (SCHEDULED * self._speed(terms, now))
        if refused:
            self._next_free = min(self._next_free, soonest + SLACK * self.line.ahead * step)
        first = max(self._next_free, soonest)
        if now.why is Reason.FULL and self._shut_at is not None and clock - self._shut_at < high:
            # A speed that was measured for so long says nothing of a later time. Clients that came at once may leave
            # at once.
            left = paced(clock - self._shut_at + elapsed, terms.slow_start) - first
            step = max(1 / (SCHEDULED * self._most(terms, now)), min(EAGER * step, left / (refused + unreserved)))
        step *= self.line.overbooked
        self._promise(first, step, refused + unreserved, elapsed, terms.slow_start)
        first += unreserved * step
        longest = paced(elapsed + LONGEST, terms.slow_start)
        self._next_free = min(first + refused * step, max(self._next_free, longest))
        return RetryTimes(first, step, elapsed)

    def _promise(self, first: float, step: float, number: int, elapsed: float, slow_start: float) -> None:
        """Promise ``number`` retry times; ``elapsed`` is now."""

        def before(time: float) -> int:
            return math.ceil((paced(elapsed + time, slow_start) - first) / step - ROUNDING)

        self.line.promise_series(number, unpaced(first, slow_start) - elapsed, before)

    def _soonest(self, clock: float, terms: Terms, now: Situation) -> float:
        return max(self._drought.soonest(clock, terms.retry_after), self._settles_in(terms, now))

    def _settles_in(self, terms: Terms, now: Situation) -> float:
        return min(terms.retry_after[1], now.settles_in)

    def _open_or_shut(self, clock: float, now: Situation, *, by_refusal: bool) -> None:
        """Note when the pool became full or paused. Once it is open again, the schedule starts anew."""
        shut = now.why in SHUT if by_refusal else self._shut_at is not None and not now.is_open
        if not shut and self._shut_at is not None:
            self._next_free = 0.0
        self._shut_at = (clock if self._shut_at is None else self._shut_at) if shut else None

    def _speed(self, terms: Terms, now: Situation) -> float:
        """The lowest known speed."""
        outflow = max(self._outflow, self._lately)
        return min(self._most(terms, now), outflow) if outflow and now.why is Reason.FULL else self._most(terms, now)

    def _most(self, terms: Terms, now: Situation) -> float:
        """The lowest known speed, without the speed at which slots become free."""
        probing = PROBING * max(1, now.workers)
        speeds = [speed for speed in (terms.rate, now.speed) if speed]
        return min([*speeds, probing] if now.why is Reason.FULL else speeds, default=probing)

    def _tokens(self, clock: float, terms: Terms) -> int:
        return tokens(self._full_at, self._passed(clock, terms), terms.rate or 0.0, terms.burst - self._aside)

    def _passed(self, clock: float, terms: Terms) -> float:
        return paced(clock - self._began, terms.slow_start)
