"""Attempts that a worker decides alone: its part of each rate, and the keys that it knows to be locked.

Pure; all times are seconds of a monotonic clock. The buckets are those of ``core.attempts``. The next report tells the
ledger of these attempts.
"""

from collections import Counter, OrderedDict
from dataclasses import replace
from itertools import islice

from ..conf import PoolSettings
from ..conf.shares import bounds
from ..core.counters import ATTEMPTS
from ..core.protocol import Claimed, Key, Tried
from ..core.quotas.attempts import FILLS_WITHIN, Buckets, Over, first_over
from ..core.quotas.shares import Bound

OWN_SETS = 256
"""Sets of a worker's buckets, each with ``WAYS`` buckets."""
MOST_KNOWN = 1000
"""Most locked keys that a worker remembers, and most keys with unreported attempts."""
TOLD_PER_CALL = 100
"""Most keys whose attempts one report contains."""
MOST_TOLD = 1000
"""Most attempts of one key in a report."""


class Attempts:
    """The attempts of one worker in one pool, as far as they are decided without the ledger."""

    def __init__(self, pool: PoolSettings) -> None:
        self._quotas = bounds(pool)
        self._places = {f"{ATTEMPTS}{bound.name}": place for place, bound in enumerate(self._quotas)}
        self._debt = pool.retry_after[1]
        self._buckets = Buckets(OWN_SETS)
        self._until: OrderedDict[Key, float] = OrderedDict()
        """The end of the lock of each known key, the latest refusal last."""
        self._untold: Counter[tuple[int, Key]] = Counter()

    def learn(self, over: Over, tries: Claimed, now: float) -> None:
        """Remember the key of an attempt that the ledger has refused, if it is locked: it then needs no call."""
        place = self._places.get(over.reason)
        key = tries[place] if place is not None and place < len(tries) else None
        if key:
            self._bar(key, over.wait, 1 / (self._quotas[place or 0].rate or 1.0), now)

    def _bar(self, key: Key, wait: float, step: float, now: float) -> None:
        """Remember until when a key is locked, whose last turn is ``wait`` seconds away."""
        locked = min(wait, wait + step - self._debt)
        if locked > 0:
            self._until[key] = now + locked
            self._until.move_to_end(key)
        else:
            self._until.pop(key, None)
        if len(self._until) > MOST_KNOWN:
            self._until.popitem(last=False)

    def known(self, tries: Claimed, now: float) -> Over | None:
        """The refusal of an attempt under a key known to be locked, counted; None if no key is."""
        for place, key in enumerate(tries):
            if key and (until := self._until.get(key)) is not None:
                bound = self._quotas[place]
                if until > now and bound.rate:
                    self._bar(key, self._debt, 1 / bound.rate, now)
                    self._note(place, key)
                    return Over(f"{ATTEMPTS}{bound.name}", self._debt)
                if until <= now:
                    del self._until[key]
        return None

    def alone(self, tries: Claimed, now: float, workers: int) -> Over | None:
        """Decide and count one attempt by this worker's part of each rate."""
        if not any(tries):
            return None
        if over := self.known(tries, now):
            return over
        parts = [_part(bound, workers) for bound in self._quotas]
        over = first_over(self._buckets, parts, tries, now, self._debt)
        for place, key in enumerate(tries):
            if key:
                self._note(place, key)
                if over and over.reason == f"{ATTEMPTS}{self._quotas[place].name}":
                    break
        return over

    def _note(self, place: int, key: Key) -> None:
        if len(self._untold) < MOST_KNOWN or (place, key) in self._untold:
            self._untold[place, key] = min(self._untold[place, key] + 1, MOST_TOLD)

    def tell(self) -> tuple[Tried, ...]:
        """The attempts for the next report; they are not repeated if it is lost."""
        places = list(islice(self._untold, TOLD_PER_CALL))
        return tuple(Tried(place, key, self._untold.pop((place, key))) for place, key in places)


def _part(bound: Bound, workers: int) -> Bound:
    """A worker's part of a rate, at least as much as fills its bucket within :data:`FILLS_WITHIN`."""
    if not bound.rate:
        return bound
    parts = max(1, workers)
    burst = max(1, bound.burst // parts)
    return replace(bound, rate=max(bound.rate / parts, burst / FILLS_WITHIN), burst=burst)
