"""Refused clients that are kept a while before the close.

Many clients start their backoff over as soon as a connection opens, and a refusal must open it to
be seen: closed at once they would come back at their shortest pause, for ever. Held a while, they
come back that much later.
"""

import asyncio
import random
from typing import Any

from ..core.counters import Reason
from .limiter import Limiter


def seconds(limiter: Limiter, reason: str) -> float:
    """How long to hold one more client of the limiter's pool, refused for ``reason``: ``REFUSAL_HOLD``, or half, or 0.

    A worker in trouble, or one that drains, holds nobody: a held client still costs memory and a descriptor.
    """
    if (
        reason in limiter.settings.pressure
        or reason == Reason.DRAINING
        or limiter.refusals_held >= limiter.pool.max_refusals_held
    ):
        return 0.0
    return limiter.pool.refusal_hold * random.uniform(0.5, 1.0)


async def leaves_within(delay: float, limiter: Limiter, receive: Any) -> bool:
    """Hold a client for ``delay`` seconds, and say whether it left by itself; what it sends is thrown away."""
    limiter.refusals_held += 1
    try:
        async with asyncio.timeout(delay) as limit:
            while (await receive())["type"] != "websocket.disconnect":
                pass
    except TimeoutError:
        if not limit.expired():
            raise
        return False
    finally:
        limiter.refusals_held -= 1
    return True
