"""The history of a pool, read from the ledger into frozen series for charts. Reading never writes."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import conf
from ..conf import Settings
from ..core.readings import HistoryBucket
from ..exceptions import LedgerError
from ..ledger import connected, open_ledger
from ..ledger.base import MINUTES, SECONDS
from .snapshot import READ_TIMEOUT
from .values import FORMAT


@dataclass(frozen=True, slots=True)
class Series:
    """Points at equal intervals. The last interval is not over yet."""

    step: int
    """Seconds from one point to the next."""
    start: int = 0
    """Unix time at which the first point begins."""
    held: tuple[int | None, ...] = ()
    """Most slots held during each point; None where no worker had reported for a lease."""
    limit: tuple[int | None, ...] = ()
    admitted: tuple[int, ...] = ()
    """Connections admitted during each point."""
    refused: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Connections refused during each point, by reason."""


@dataclass(frozen=True, slots=True)
class History:
    """The last 15 minutes by second and the last 24 hours by minute; both are empty when the ledger is down."""

    pool: str
    now: int
    """Unix time by the ledger's clock."""
    seconds: Series
    minutes: Series
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


async def collect(pool: str, settings: Settings | None = None, *, minutes: bool = True) -> History:
    """Read a pool's history over a connection of its own. Without ``minutes`` only the seconds are read.

    A ledger that is down sets ``error`` and raises nothing. An unknown pool raises
    :exc:`~.exceptions.ConfigurationError`.
    """
    settings = settings or conf.current()
    settings.pool(pool)
    try:
        async with connected(open_ledger(settings), READ_TIMEOUT) as ledger:
            past = await ledger.past(pool, minutes=minutes)
    except LedgerError as error:
        return History(pool, 0, Series(1), Series(60), str(error))
    return History(
        pool,
        past.now,
        _series(past.seconds, past.now, 1, SECONDS, settings.lease),
        _series(past.minutes, past.now // 60, 60, MINUTES, settings.lease) if minutes else Series(60),
    )


async def collect_all(settings: Settings, pools: Iterable[str], *, minutes: bool = True) -> dict[str, Any]:
    """The history of the pools as plain values, with its format; without ``minutes`` only the seconds."""
    seen = await asyncio.gather(*(collect(pool, settings, minutes=minutes) for pool in pools))
    told = {each.pool: each.as_dict() for each in seen}
    if not minutes:
        for each in told.values():
            del each["minutes"]
    return {"format": FORMAT, "pools": told}


def _series(buckets: tuple[HistoryBucket, ...], now: int, step: int, size: int, lease: float) -> Series:
    """The ``size`` points that end with ``now``. ``held`` stays valid for a lease, as a worker's report does."""
    of = {bucket.at: bucket for bucket in buckets}
    places = range(now - size + 1, now + 1)
    found = [of.get(at) for at in places]
    heard = _heard(found, lease / step)
    reasons = sorted({reason for bucket in buckets for reason in bucket.refused})
    return Series(
        step=step,
        start=places[0] * step,
        held=tuple(bucket.held if bucket else None for bucket in heard),
        limit=tuple(bucket.limit if bucket else None for bucket in heard),
        admitted=tuple(bucket.admitted if bucket else 0 for bucket in found),
        refused={
            reason: tuple(bucket.refused.get(reason, 0) if bucket else 0 for bucket in found) for reason in reasons
        },
    )


def _heard(buckets: list[HistoryBucket | None], for_points: float) -> list[HistoryBucket | None]:
    """The buckets with a worker's report, each repeated for up to ``for_points`` places after it."""
    heard: list[HistoryBucket | None] = []
    last, age = None, 0
    for bucket in buckets:
        last, age = (bucket, 0) if bucket and bucket.held is not None else (last, age + 1)
        heard.append(last if age <= for_points else None)
    return heard
