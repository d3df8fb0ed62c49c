"""Waiting for what another task or process does."""

import asyncio


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
