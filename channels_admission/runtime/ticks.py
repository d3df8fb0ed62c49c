"""Waits that are counted in ticks of the event loop."""

import asyncio
from collections.abc import Iterable
from typing import Any

TICKS = 10
"""Ticks of a wait. A late tick counts once: a busy event loop is not a silent ledger."""


async def done_within(tasks: Iterable[asyncio.Future[Any]], seconds: float) -> bool:
    """Whether one of ``tasks`` is done within ``seconds``; those that are not go on."""
    for _ in range(TICKS):
        done, _ = await asyncio.wait(tasks, timeout=seconds / TICKS)
        if done:
            return True
    return False
