"""What is left to do where our side has closed a stream of HTTP/2.

hypercorn forgets a stream as soon as its application returns, and ends the whole connection, with all the other
WebSockets of that browser, when the client's answer to the close comes after that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

HTTP_2 = "2"
"""Its ``http_version`` in a scope."""
PATIENCE = 2.0
"""Seconds in which a client answers a close."""


async def answered(receive: Callable[[], Awaitable[Any]]) -> None:
    """Return once the client has answered our close, or has had :data:`PATIENCE` to; what else it says is dropped."""
    try:
        async with asyncio.timeout(PATIENCE) as limit:
            while (await receive())["type"] != "websocket.disconnect":
                pass
    except TimeoutError:
        if not limit.expired():
            raise
