"""How often each key may try: buckets of attempts in bounded memory, for a ledger and for a worker by itself.

Pure; all times are seconds of a clock that never runs backwards. The generic cell rate algorithm, as in :mod:`.pace`,
with one difference: a refused attempt counts as well. A client that goes on knocking is refused for longer, up to the
longest hint there is, and no longer.

``reconcile.lua`` has the same rules in milliseconds, and one contract holds both.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from .conf import PoolSettings
from .quotas import FILLS_WITHIN
from .rules import bounds
from .types import ATTEMPTS, Bound, Claimed, Fair, Key, Tried

SETS, WAYS = 1024, 8
"""Buckets are kept in so many sets of so many. In a full set the one that lacks the fewest attempts makes room."""
OWN_SETS = 256
"""The same, of a worker that decides by itself."""
MOST_KNOWN = 1000
"""Keys of which a worker remembers that they are over their rate, and as many whose attempts it has yet to tell."""
TOLD_PER_CALL = 100
"""Keys whose attempts one report tells."""
MOST_TOLD = 1000
"""Attempts that are told of one key."""
LONGEST = FILLS_WITHIN + 3600.0
"""Seconds that a bucket may lack at the most, the longest hint included; one that lacks more was damaged."""
ROUNDING = 1e-6
"""Attempts that a sum of floating-point numbers may be above a whole one."""


@dataclass(frozen=True, slots=True)
class Over:
    """An attempt is refused."""

    reason: str
    """``attempts:NAME``."""
    wait: float
    """Seconds until the next one may pass, if there is none before."""


class Buckets:
    """A bucket for each key, full at first; at most ``sets`` times :data:`WAYS` of them."""

    def __init__(self, sets: int = SETS) -> None:
        self._number = sets
        self._sets: dict[int, dict[Key, float]] = {}
        """When each bucket is full again, of those that are not."""

    def __len__(self) -> int:
        return sum(map(len, self._sets.values()))

    def take(self, key: Key, now: float, rate: float, burst: int, debt: float, number: int = 1) -> float:
        """Count so many attempts; 0 where the last one passes, else seconds until the next may.

        Refused attempts make the wait at most ``debt`` seconds long.
        """
        place = int.from_bytes(key[:2], "big") % self._number
        alive = {key: full for key, full in self._sets.get(place, {}).items() if now < full <= now + LONGEST}
        empty, longest = now + burst / rate, now + debt + (burst - 1) / rate
        full = alive.pop(key, now)
        full = full if full <= max(empty, longest) else now
        after = full + number / rate
        over = (after - now) * rate > burst + ROUNDING
        full = max(full, min(after, longest)) if over else after
        if len(alive) == WAYS:
            del alive[min(alive, key=lambda each: (alive[each], each))]
        self._sets[place] = {**alive, key: full}
        return max(ROUNDING, full + (1 - burst) / rate - now) if over else 0.0


def judge(buckets: Buckets, fair: Fair, now: float, debt: float) -> dict[int, Over]:
    """Count the attempts of a report; for the asks that are refused, by their place, why."""
    for each in fair.tries:
        bound = fair.quotas[each.quota]
        if bound.rate:
            buckets.take(each.key, now, bound.rate, bound.burst, debt, each.number)
    return {
        place: over
        for place, ask in enumerate(fair.asks)
        if (over := _first(buckets, fair.quotas, ask.tries, now, debt)) is not None
    }


def _first(buckets: Buckets, quotas: Iterable[Bound], tries: Claimed, now: float, debt: float) -> Over | None:
    """The first quota that refuses; with those after it the attempt is not counted."""
    for bound, key in zip(quotas, tries, strict=False):
        if key and bound.rate and (wait := buckets.take(key, now, bound.rate, bound.burst, debt)):
            return Over(f"{ATTEMPTS}{bound.name}", min(wait, debt))
    return None


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
        """The ledger has refused an attempt."""
        place = self._places.get(over.reason)
        key = tries[place] if place is not None and place < len(tries) else None
        if key:
            self._until[key] = now + min(over.wait, self._debt)
            self._until.move_to_end(key)
            if len(self._until) > MOST_KNOWN:
                self._until.popitem(last=False)

    def known(self, tries: Claimed, now: float) -> Over | None:
        """Why the ledger would refuse, as far as is known; the attempt is counted then."""
        for place, key in enumerate(tries):
            if key and (until := self._until.get(key)) is not None:
                bound = self._quotas[place]
                if until > now and bound.rate:
                    self._until[key] = until = min(until + 1 / bound.rate, now + self._debt)
                    self._until.move_to_end(key)
                    self._note(place, key)
                    return Over(f"{ATTEMPTS}{bound.name}", until - now)
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
        over = _first(self._buckets, parts, tries, now, self._debt)
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
    """A worker's part of a rate."""
    if not bound.rate:
        return bound
    parts = max(1, workers)
    return replace(bound, rate=bound.rate / parts, burst=max(1, bound.burst // parts))
