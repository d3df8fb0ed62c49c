"""How near a pool is to its limit. Pure: numbers in, answers out."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How near a pool is to its limit, from the lowest up."""

    CALM = "calm"
    WARNING = "warning"
    CRITICAL = "critical"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Edge:
    """A pool went from one level to another, with so many slots held of so many."""

    before: Level
    level: Level
    held: int
    limit: int


CRITICAL_AT = 0.90
"""Share of the limit from which a pool is critical."""

HYSTERESIS = 0.05
"""Share of the limit by which a pool must fall below a level's threshold to leave it, where alerts are sent."""

NEAR_FULL = 0.05
"""Share of the limit that must be free for a release to wait a moment for company."""

ROUNDING = 1e-6
"""Slots that a product of floating-point numbers may be short of a whole one."""


def level(held: int, limit: int, warn_at: float) -> Level:
    """How near ``held`` slots are to ``limit``; ``warn_at`` is a share of the limit."""
    if held >= limit:
        return Level.FULL
    if held >= CRITICAL_AT * limit:
        return Level.CRITICAL
    if held >= warn_at * limit:
        return Level.WARNING
    return Level.CALM


def alert(held: int, limit: int, warn_at: float, before: Level) -> Level:
    """The same for alerts: a level once reached is left only well below its threshold."""
    levels = list(Level)
    for level, threshold in ((Level.FULL, 1.0), (Level.CRITICAL, CRITICAL_AT), (Level.WARNING, warn_at)):
        if levels.index(level) <= levels.index(before):
            threshold -= HYSTERESIS
        if held >= threshold * limit:
            return level
    return Level.CALM


def share_of_free(total: int, limit: int, workers: int) -> int:
    """One worker's whole-slot part of the free room, the parts of all together never above it."""
    return max(0, limit - total) // max(1, workers)


def scarce(total: int, limit: int) -> bool:
    """Whether a freed slot may be missed elsewhere and should be reported at once."""
    return limit - total <= NEAR_FULL * limit
