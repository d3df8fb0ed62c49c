"""Pure decisions: numbers in, answers out. No clock, no I/O, no settings read."""

from .types import Level

CRITICAL_AT = 0.90
"""Share of the limit from which a pool is critical."""

NEAR_FULL = 0.05
"""Share of the limit that must be free for a release to wait a moment for company."""


def level(held: int, limit: int, warn_at: float) -> Level:
    """How near ``held`` slots are to ``limit``; ``warn_at`` is a share of the limit."""
    if held >= limit:
        return Level.FULL
    if held >= CRITICAL_AT * limit:
        return Level.CRITICAL
    if held >= warn_at * limit:
        return Level.WARNING
    return Level.CALM


def share_of_free(total: int, limit: int, workers: int) -> int:
    """One worker's whole-slot part of the free room, the parts of all together never above it."""
    return max(0, limit - total) // max(1, workers)


def scarce(total: int, limit: int) -> bool:
    """Whether a freed slot may be missed elsewhere and should be reported at once."""
    return limit - total <= NEAR_FULL * limit
