"""Workaround for hypercorn after the package has closed a stream of HTTP/2.

hypercorn forgets a stream when its application returns. If the client answers the close after that, hypercorn ends the
whole connection, with all other WebSockets of that browser.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

HTTP_2 = "2"
"""The ``http_version`` of HTTP/2 in a scope."""
ANSWER_TIMEOUT = 2.0
"""Seconds for a client to answer a close."""


async def answered(receive: Callable[[], Awaitable[Any]]) -> None:
    """Wait for the client's answer to a close, for at most :data:`ANSWER_TIMEOUT` seconds; drop its other messages."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT) as limit:
            while (await receive())["type"] != "websocket.disconnect":
                pass
    except TimeoutError:
        if not limit.expired():
            raise
