"""A look at the ledger from a synchronous view, beside the last good one that this process remembers."""

import asyncio
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync
from django.http import HttpRequest, JsonResponse

from . import conf, history
from .conf import Settings
from .snapshot import Health, Snapshot, collect


@dataclass(frozen=True, slots=True)
class Look:
    """What was found just now, and the newest numbers there are: the same unless the ledger is down."""

    now: Snapshot
    numbers: Snapshot | None
    """None when the ledger is down and this process has not seen it up with these settings."""

    @property
    def is_stale(self) -> bool:
        return self.numbers is not self.now

    @property
    def age(self) -> float | None:
        """Seconds since the numbers were taken."""
        return None if self.numbers is None else (self.now.taken - self.numbers.taken).total_seconds()


_remembered: tuple[Settings, Snapshot] | None = None


def look() -> Look:
    """Collect a snapshot, which takes at most :data:`~.snapshot.READ_TIMEOUT` seconds."""
    global _remembered
    settings = conf.current()
    now = async_to_sync(collect)(settings)
    if now.ledger.health is not Health.DOWN:
        _remembered = settings, now
        return Look(now, now)
    if _remembered is not None and _remembered[0] is settings:
        return Look(now, _remembered[1])
    return Look(now, None)


def feed(request: HttpRequest) -> JsonResponse:
    """This moment's :meth:`~.snapshot.Snapshot.as_dict`; that the ledger is down is a 200 which says so."""
    return JsonResponse(look().now.as_dict())


def past(request: HttpRequest) -> JsonResponse:
    """Each pool's :meth:`~.history.History.as_dict`, without the minutes where ``?minutes`` does not ask for them."""
    minutes = "minutes" in request.GET
    pools = async_to_sync(_past)(conf.current(), minutes)
    if not minutes:
        for pool in pools.values():
            del pool["minutes"]
    return JsonResponse({"pools": pools})


async def _past(settings: Settings, minutes: bool) -> dict[str, dict[str, Any]]:
    seen = await asyncio.gather(*(history.collect(name, settings, minutes=minutes) for name in settings.pools))
    return {each.pool: each.as_dict() for each in seen}
