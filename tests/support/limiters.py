"""Limiters of the pool ``default`` for tests."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from channels_admission.conf import Settings
from channels_admission.ledger.base import Ledger
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.books.state import State
from channels_admission.limiter.limiter import Limiter
from channels_admission.limiter.registry import limiter_of
from channels_admission.runtime.identity import Worker

from support.faulty import FaultyLedger


def limiter_over(settings: Settings, ledger: Ledger) -> Limiter:
    """A limiter of a worker of its own, which asks ``ledger``."""
    return Limiter(State(settings.pool("default"), Worker()), settings, ledger)


@asynccontextmanager
async def over_a_road(settings: Settings) -> AsyncIterator[Limiter]:
    """A limiter over a memory ledger with a road that can break."""
    limiter = limiter_over(settings, FaultyLedger(MemoryLedger(settings)))
    try:
        yield limiter
    finally:
        await limiter.aclose()


def patient_limiter() -> Limiter:
    """The event loop's own limiter. Its entrance refuses nobody: a busy or traced machine is no herd."""
    limiter = limiter_of("default")
    limiter.entrance._longest = math.inf
    return limiter
