"""A pool's past, collected once into frozen series that charts are drawn from. Looking never writes."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import conf
from ..conf import Settings
from ..core.readings import Moment
from ..exceptions import LedgerError
from ..ledger import open_ledger
from ..ledger.base import MINUTES, SECONDS
from .snapshot import READ_TIMEOUT


@dataclass(frozen=True, slots=True)
class Series:
    """Points at equal distances, of which the last still runs."""

    step: int
    """Seconds from one point to the next."""
    start: int = 0
    """Unix time at which the first one begins."""
    held: tuple[int | None, ...] = ()
    """The most slots held in each; None where no worker had been heard for a lease."""
    limit: tuple[int | None, ...] = ()
    admitted: tuple[int, ...] = ()
    """Connections admitted in each."""
    refused: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The same of those refused, by reason."""


@dataclass(frozen=True, slots=True)
class History:
    """The last quarter of an hour in seconds, and the last day in minutes; both empty where the ledger is down."""

    pool: str
    now: int
    """Unix time by the ledger."""
    seconds: Series
    minutes: Series
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


async def collect(pool: str, settings: Settings | None = None, *, minutes: bool = True) -> History:
    """Look at what the ledger remembers of a pool, over a connection of its own; its ``minutes`` only if wanted.

    A ledger that is down is a fact, not an exception. An unknown pool is a :exc:`~.exceptions.ConfigurationError`.
    """
    settings = settings or conf.current()
    settings.pool(pool)
    ledger = open_ledger(settings)
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            past = await ledger.past(pool, minutes=minutes)
    except (LedgerError, TimeoutError) as error:
        problem = str(error) or f"no answer within {READ_TIMEOUT:g} s"
        return History(pool, 0, Series(1), Series(60), problem)
    finally:
        await ledger.aclose()
    return History(
        pool,
        past.now,
        _series(past.seconds, past.now, 1, SECONDS, settings.lease),
        _series(past.minutes, past.now // 60, 60, MINUTES, settings.lease) if minutes else Series(60),
    )


def _series(moments: tuple[Moment, ...], now: int, step: int, size: int, lease: float) -> Series:
    """The ``size`` points that end with ``now``; a worker is believed for its lease, and so is what was held."""
    of = {moment.at: moment for moment in moments}
    places = range(now - size + 1, now + 1)
    found = [of.get(at) for at in places]
    heard = _heard(found, lease / step)
    reasons = sorted({reason for moment in moments for reason in moment.refused})
    return Series(
        step=step,
        start=places[0] * step,
        held=tuple(moment.held if moment else None for moment in heard),
        limit=tuple(moment.limit if moment else None for moment in heard),
        admitted=tuple(moment.admitted if moment else 0 for moment in found),
        refused={
            reason: tuple(moment.refused.get(reason, 0) if moment else 0 for moment in found) for reason in reasons
        },
    )


def _heard(moments: list[Moment | None], for_points: float) -> list[Moment | None]:
    """Each moment in which a worker was heard, in the places after it for so long."""
    heard: list[Moment | None] = []
    last, age = None, 0
    for moment in moments:
        last, age = (moment, 0) if moment and moment.held is not None else (last, age + 1)
        heard.append(last if age <= for_points else None)
    return heard
