"""Levels: how near a pool is to its limit. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How near a pool is to its limit, in rising order."""

    CALM = "calm"
    WARNING = "warning"
    CRITICAL = "critical"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Edge:
    """A change of a pool's level, with the slots held and the limit at that time."""

    before: Level
    level: Level
    held: int
    limit: int


CRITICAL_AT = 0.90
"""Share of the limit from which a pool is critical."""

HYSTERESIS = 0.05
"""Share of the limit by which a pool must fall below a level's threshold before alerts see it leave the level."""

NEAR_FULL = 0.05
"""Share of the limit that must be free for a release to wait for others, to be reported with them."""

RESERVE_PARTS = 32
"""The reserves of all workers together are at most one such part of the free slots."""

ROUNDING = 1e-6
"""Tolerance for sums and products of floating-point numbers, in slots, tokens and attempts."""


def level(held: int, limit: int, warn_at: float) -> Level:
    """The level of a pool with ``held`` slots; ``warn_at`` is a share of the limit."""
    if held >= limit:
        return Level.FULL
    if held >= CRITICAL_AT * limit:
        return Level.CRITICAL
    if held >= warn_at * limit:
        return Level.WARNING
    return Level.CALM


def alert(held: int, limit: int, warn_at: float, before: Level) -> Level:
    """The same for alerts, with hysteresis: a level is left only well below its threshold."""
    levels = list(Level)
    for level, threshold in ((Level.FULL, 1.0), (Level.CRITICAL, CRITICAL_AT), (Level.WARNING, warn_at)):
        if levels.index(level) <= levels.index(before):
            threshold -= HYSTERESIS
        if held >= threshold * limit:
            return level
    return Level.CALM


def share_of_free(total: int, limit: int, workers: int) -> int:
    """One worker's part of the free slots, rounded down; the parts of all workers never exceed them."""
    return max(0, limit - total) // max(1, workers)


def most_in_reserve(free: int, workers: int) -> int:
    """Most slots in one worker's reserve, where so many slots are free, its reserve included."""
    return free // (RESERVE_PARTS * max(1, workers))


def scarce(total: int, limit: int) -> bool:
    """Whether free slots are few, so that a release must be reported at once."""
    return limit - total <= NEAR_FULL * limit
