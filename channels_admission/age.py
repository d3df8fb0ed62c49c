"""The end of connections that have reached their maximum age.

It rebalances workers over time, and it ends sockets whose clients have gone without a word on
servers that never notice.
"""

import asyncio
import random
from typing import Any

CODE = 1012
"""Service Restart: come back, to another worker perhaps (IANA's registry of WebSocket close codes)."""
REASON = "Service Restart; retry-after=1"
SPREAD = 0.1
"""The part of the age by which each connection's own is longer or shorter, so that a herd does not end as one."""
GRACE = 10.0
"""Seconds that an application which does not listen has left before it is cancelled."""


async def run(inner: Any, age: float, scope: Any, receive: Any, send: Any) -> None:
    """Run ``inner`` for ``age`` seconds or a tenth more or less, then close its connection with 1012.

    The application hears ``websocket.disconnect`` when it listens next, as if the client had left;
    one that does not listen within :data:`GRACE` is cancelled.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + age * random.uniform(1 - SPREAD, 1 + SPREAD)
    is_open = True

    async def close() -> None:
        nonlocal is_open
        if is_open:
            is_open = False
            await send({"type": "websocket.close", "code": CODE, "reason": REASON})

    async def receive_until_the_end() -> Any:
        nonlocal is_open
        try:
            async with asyncio.timeout_at(end) as limit:
                event = await receive()
        except TimeoutError:
            if not limit.expired():
                raise
            await close()
            return {"type": "websocket.disconnect", "code": CODE}
        is_open = is_open and event["type"] != "websocket.disconnect"
        return event

    async def send_until_the_end(message: Any) -> None:
        nonlocal is_open
        if is_open:
            is_open = message["type"] != "websocket.close"
            await send(message)

    try:
        async with asyncio.timeout_at(end + GRACE) as limit:
            await inner(scope, receive_until_the_end, send_until_the_end)
    except TimeoutError:
        if not limit.expired():
            raise
        await close()
