"""A token bucket by the generic cell rate algorithm (ITU-T I.371). Pure; all times are seconds of a monotonic clock."""

import math

from ..levels import ROUNDING
from ..protocol import Terms

ASIDE = 0.5
"""The part of what flows into the bucket of a new pool that is set aside."""


def tokens(full_at: float, now: float, rate: float, burst: float) -> int:
    """Whole tokens in a bucket that is full, with ``burst`` tokens, at ``full_at``."""
    missing = max(0.0, full_at - now) * rate
    return max(0, math.floor(burst - missing + ROUNDING))


def spare(free: int, full_at: float, now: float, rate: float, burst: int) -> int:
    """How many of ``free`` slots need not be kept: one where the bucket is full, since the next token would be lost.

    A bucket of one token must have lost one already, or else no token would ever be kept.
    """
    return int(free >= burst and (now - full_at) * rate >= max(0, 2 - burst) - ROUNDING)


def most_held(terms: Terms) -> int:
    """The most tokens that all reserves together may have."""
    return terms.burst // 2


class TokenBucket:
    """A token bucket with ``rate`` tokens per second, up to ``burst``; initially empty."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._full_at = now + burst / rate

    def left(self, now: float) -> int:
        """Tokens in it."""
        return tokens(self._full_at, now, self._rate, self._burst)

    def spare(self, free: int, now: float) -> int:
        """How many of ``free`` slots need not be kept."""
        return spare(free, self._full_at, now, self._rate, self._burst)

    def take(self, now: float) -> bool:
        """Take a token; return whether there was one."""
        if not self.left(now):
            return False
        self._full_at = max(self._full_at, now) + 1 / self._rate
        return True
