"""The attempts that a worker decides by itself: its part of each rate, and the keys that it knows to be locked.

Pure; all times are seconds of a clock that never runs backwards. The buckets are those of ``core.attempts``. What is
decided here is told to the ledger with the next report.
"""

from collections import Counter, OrderedDict
from dataclasses import replace
from itertools import islice

from ..conf import PoolSettings
from ..conf.shares import bounds
from ..core.attempts import FILLS_WITHIN, Buckets, Over, first_over
from ..core.counters import ATTEMPTS
from ..core.protocol import Claimed, Key, Tried
from ..core.shares import Bound

OWN_SETS = 256
"""Sets of buckets, of ``WAYS`` each, that a worker keeps."""
MOST_KNOWN = 1000
"""Keys of which a worker remembers that they are locked, and as many whose attempts it has yet to tell."""
TOLD_PER_CALL = 100
"""Keys whose attempts one report tells."""
MOST_TOLD = 1000
"""Attempts that are told of one key."""


class Attempts:
    """A worker's part: what it knows to be over its rate, and what it decides where the ledger is not asked."""

    def __init__(self, pool: PoolSettings) -> None:
        self._quotas = bounds(pool)
        self._places = {f"{ATTEMPTS}{bound.name}": place for place, bound in enumerate(self._quotas)}
        self._debt = pool.retry_after[1]
        self._buckets = Buckets(OWN_SETS)
        self._until: OrderedDict[Key, float] = OrderedDict()
        """Until when a key is refused without asking; the one refused last is the last."""
        self._untold: Counter[tuple[int, Key]] = Counter()

    def learn(self, over: Over, tries: Claimed, now: float) -> None:
        """The ledger has refused an attempt: a key that is locked needs no call until it leaves off."""
        place = self._places.get(over.reason)
        key = tries[place] if place is not None and place < len(tries) else None
        if key:
            self._bar(key, over.wait, 1 / (self._quotas[place or 0].rate or 1.0), now)

    def _bar(self, key: Key, wait: float, step: float, now: float) -> None:
        """Refuse a key whose last turn is so far away without asking, for as long as it is locked."""
        locked = min(wait, wait + step - self._debt)
        if locked > 0:
            self._until[key] = now + locked
            self._until.move_to_end(key)
        else:
            self._until.pop(key, None)
        if len(self._until) > MOST_KNOWN:
            self._until.popitem(last=False)

    def known(self, tries: Claimed, now: float) -> Over | None:
        """Why the ledger would refuse, as far as is known; the attempt is counted then."""
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
        """Decide one attempt by this worker's part of each rate, and count it."""
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
        """What a report says of them, once: one that is lost is not told again."""
        places = list(islice(self._untold, TOLD_PER_CALL))
        return tuple(Tried(place, key, self._untold.pop((place, key))) for place, key in places)


def _part(bound: Bound, workers: int) -> Bound:
    """A worker's part of a rate, with a bucket that fills within :data:`FILLS_WITHIN` as every other does."""
    if not bound.rate:
        return bound
    parts = max(1, workers)
    burst = max(1, bound.burst // parts)
    return replace(bound, rate=max(bound.rate / parts, burst / FILLS_WITHIN), burst=burst)
