"""When a pool will reach its limit, if it grows on as in the last hours. Pure but for :func:`collect`."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from ..conf import Settings
from . import history
from .history import History, Series

WINDOW = 6 * 60
"""Minutes from which the growth is estimated."""
STEP = 15
"""Minutes of which the median counts as one point, so that a herd or a restart counts little."""
ENOUGH = 8
"""Points below which nothing is estimated: two hours."""
HORIZON = 4
"""How many times the observed time an estimate may look ahead."""


@dataclass(frozen=True, slots=True)
class Growth:
    """The growth of a pool; ``per_hour`` is None where its history is too short."""

    pool: str
    held: int | None
    """Slots held in the last quarter of an hour, as a median; None where that is unknown."""
    limit: int | None
    hours: float
    """Observed."""
    per_hour: float | None = None
    """Slots, as the median of the slopes between all points."""
    reached_in: float | None = None
    """Seconds until the limit, if the pool grows on like this; None if it does not grow, or that lies too far ahead."""


async def collect(settings: Settings) -> tuple[Growth, ...]:
    """The growth of every pool, in their order."""
    return tuple(map(growth, await asyncio.gather(*(history.collect(name, settings) for name in settings.pools))))


def growth(past: History) -> Growth:
    """The growth over the last hours of the history by minutes."""
    points = list(_points(past.minutes))
    limit = next((each for each in reversed(past.minutes.limit) if each is not None), None)
    hours = (points[-1][0] - points[0][0]) / 60 if points else 0.0
    held = round(points[-1][1]) if points and points[-1][0] >= WINDOW - STEP else None
    if len(points) < ENOUGH or held is None or limit is None:
        return Growth(past.pool, held, limit, hours)
    slope = median((late - early) / (then - now) for (now, early), (then, late) in combinations(points, 2))
    seconds = 60 * max(0, limit - held) / slope if slope > 0 else None
    is_near = seconds is not None and seconds <= HORIZON * 3600 * hours
    return Growth(past.pool, held, limit, hours, round(60 * slope, 1), seconds if is_near else None)


def _points(minutes: Series) -> Iterator[tuple[float, float]]:
    """The minute at the middle of each step of the window, and the median of what was held in it."""
    window: Sequence[int | None] = minutes.held[-WINDOW:]
    for start in range(len(window) % STEP, len(window), STEP):
        known = [held for held in window[start : start + STEP] if held is not None]
        if 2 * len(known) > STEP:
            yield WINDOW - len(window) + start + STEP / 2, median(known)
