"""How often each key may try: buckets of attempts in bounded memory, for a ledger and for a worker by itself.

Pure; all times are seconds of a clock that never runs backwards. Attempts that pass follow the generic cell rate
algorithm, as in :mod:`.pace`. Refused attempts count as well: each is given the next free turn of its key, so that many
clients behind one key come back one after the other at the rate. A key whose turns reach as far as the longest hint
is locked: nothing passes until it leaves off for the time of one attempt.

``reconcile.lua`` has the same rules in milliseconds, and one contract holds both.
"""

import math
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
"""Keys of which a worker remembers that they are locked, and as many whose attempts it has yet to tell."""
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
    """Seconds until its turn."""


class Buckets:
    """A bucket for each key, full at first; at most ``sets`` times :data:`WAYS` of them."""

    def __init__(self, sets: int = SETS) -> None:
        self._number = sets
        self._sets: dict[int, dict[Key, tuple[float, float]]] = {}
        """When each bucket is full again, and its last turn, of those that are not full or have turns to come."""

    def __len__(self) -> int:
        return sum(map(len, self._sets.values()))

    def take(self, key: Key, now: float, rate: float, burst: int, debt: float, number: int = 1) -> float:
        """Count so many attempts; 0 where the last one passes, else seconds until its turn, at most ``debt``."""
        place = int.from_bytes(key[:2], "big") % self._number
        alive = {key: both for key, both in self._sets.get(place, {}).items() if _is_alive(both, now)}
        full, turn = alive.pop(key, (now, now))
        full = full if now < full <= now + burst / rate else now
        turn = turn if now < turn <= now + debt else now
        is_locked = now < turn and turn + 1 / rate > now + debt + ROUNDING
        tokens = max(0, math.floor(burst - (full - now) * rate + ROUNDING))
        passed = 0 if is_locked else min(number, tokens)
        full += passed / rate
        if refused := number - passed:
            first = full + (1 - burst) / rate
            after = turn + refused / rate if turn > now else now
            turn = min(max(after, first + (refused - 1) / rate), now + debt)
        if len(alive) == WAYS:
            del alive[min(alive, key=lambda each: (max(alive[each]), each))]
        self._sets[place] = {**alive, key: (full, turn)}
        return max(ROUNDING, turn - now) if refused else 0.0


def _is_alive(both: tuple[float, float], now: float) -> bool:
    """Whether a bucket is not full or has turns to come; one that was damaged is neither."""
    return any(each > now for each in both) and all(each <= now + LONGEST for each in both)


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
    """A worker's part of a rate, with a bucket that fills within :data:`FILLS_WITHIN` as every other does."""
    if not bound.rate:
        return bound
    parts = max(1, workers)
    burst = max(1, bound.burst // parts)
    return replace(bound, rate=max(bound.rate / parts, burst / FILLS_WITHIN), burst=burst)
