"""Rates of attempts per key: token buckets in bounded memory, for a ledger and for a worker that decides alone.

Pure; all times are seconds of a monotonic clock. Attempts that pass follow the generic cell rate algorithm, as in
:mod:`.rate`. Each refused attempt reserves the next free turn of its key, so that many clients behind one key return
one after the other at the rate. A key with turns reserved up to the longest retry time is locked: no attempt passes
until none is made for the time of one attempt.

``ledger/lua/attempts.lua`` has the same rules in milliseconds; the contract tests cover both.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..counters import ATTEMPTS
from ..levels import ROUNDING
from ..protocol import Claimed, Fair, Key
from .shares import Bound

SETS, WAYS = 1024, 8
"""Number of sets, and buckets per set. In a full set the fullest bucket is dropped."""
FILLS_WITHIN = 3600
"""Seconds within which an empty bucket fills."""
LONGEST = FILLS_WITHIN + 3600.0
"""Most seconds until a bucket is full, the longest retry time included; a bucket with more is damaged."""


@dataclass(frozen=True, slots=True)
class Over:
    """A refused attempt."""

    reason: str
    """``attempts:NAME``."""
    wait: float
    """Seconds until its turn."""


class Buckets:
    """A bucket for each key, initially full; at most ``sets`` × :data:`WAYS` buckets."""

    def __init__(self, sets: int = SETS) -> None:
        self._number = sets
        self._sets: dict[int, dict[Key, tuple[float, float]]] = {}
        """For each bucket that is not full or has turns left: when it is full, and its last turn."""

    def __len__(self) -> int:
        return sum(map(len, self._sets.values()))

    def take(self, key: Key, now: float, rate: float, burst: int, debt: float, number: int = 1) -> float:
        """Count ``number`` attempts; 0 if the last one passes, else the seconds until its turn, at most ``debt``."""
        place = int.from_bytes(key[:2], "big") % self._number
        alive = {key: both for key, both in self._sets.get(place, {}).items() if _is_alive(both, now)}
        full, turn = alive.pop(key, (now, now))
        full = full if now < full <= now + burst / rate + ROUNDING else now
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
    """Whether a bucket is not full or has turns left, and is not damaged."""
    return any(each > now for each in both) and all(each <= now + LONGEST for each in both)


def judge(buckets: Buckets, fair: Fair, now: float, debt: float) -> dict[int, Over]:
    """Count the attempts of a report; the refused ones, by the index of their ask."""
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
    """The refusal by the first exceeded quota, if any; the attempt is not counted under later quotas."""
    for bound, key in zip(quotas, tries, strict=False):
        if key and bound.rate and (wait := buckets.take(key, now, bound.rate, bound.burst, debt)):
            return Over(f"{ATTEMPTS}{bound.name}", min(wait, debt))
    return None
