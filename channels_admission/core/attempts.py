"""How often each key may try: buckets of attempts in bounded memory, for a ledger and for a worker by itself.

Pure; all times are seconds of a clock that never runs backwards. Attempts that pass follow the generic cell rate
algorithm, as in :mod:`.rate`. Refused attempts count as well: each is given the next free turn of its key, so that many
clients behind one key come back one after the other at the rate. A key whose turns reach as far as the longest hint
is locked: nothing passes until it leaves off for the time of one attempt.

``ledger/lua/attempts.lua`` has the same rules in milliseconds, and one contract holds both.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .counters import ATTEMPTS
from .protocol import Claimed, Fair, Key
from .shares import Bound

SETS, WAYS = 1024, 8
"""Buckets are kept in so many sets of so many. In a full set the one that lacks the fewest attempts makes room."""
FILLS_WITHIN = 3600
"""Seconds in which an empty bucket of attempts is full again at the latest."""
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
        if (over := first_over(buckets, fair.quotas, ask.tries, now, debt)) is not None
    }


def first_over(buckets: Buckets, quotas: Iterable[Bound], tries: Claimed, now: float, debt: float) -> Over | None:
    """The first quota that refuses; with those after it the attempt is not counted."""
    for bound, key in zip(quotas, tries, strict=False):
        if key and bound.rate and (wait := buckets.take(key, now, bound.rate, bound.burst, debt)):
            return Over(f"{ATTEMPTS}{bound.name}", min(wait, debt))
    return None
