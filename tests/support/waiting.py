"""Waiting for what another task or process does."""

import asyncio
import math

from channels_admission.limiter.limiter import Limiter
from channels_admission.limiter.registry import limiter_of


async def eventually(holds, seconds: float = 5.0, every: float = 0.01):
    """Wait until ``holds()``, or the awaited result of it, is true; fail after ``seconds``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        value = holds()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if loop.time() > deadline:
            raise AssertionError(f"still not true after {seconds} s")
        await asyncio.sleep(every)


def patient_limiter(pool: str = "default") -> Limiter:
    """The limiter of a pool, whose entrance keeps nobody out for long waits: a busy or traced machine is no herd."""
    limiter = limiter_of(pool)
    limiter.entrance._longest = math.inf
    return limiter
