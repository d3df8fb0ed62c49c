"""An ASGI connection: its types, its close codes, and its end."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HTTP_2 = "2"
"""The ``http_version`` of HTTP/2 in a scope."""
ANSWER_TIMEOUT = 2.0
"""Seconds for a client of HTTP/2 to answer a close."""
RESTART = 1012
"""Service Restart: reconnect, perhaps to another worker (IANA's registry of WebSocket close codes)."""
REPLACED = 4409
"""A newer connection has replaced this one under a quota. The package's clients do not reconnect after it, since two
pages of one user would close each other's connections forever."""
NO_CODE = 1006
"""The code that an application receives if the client gets an HTTP response, which has no close code."""


async def leaves_within(limit: asyncio.Timeout, receive: Receive) -> bool:
    """Wait for the client to leave, until the limit, and tell whether it has. What it sends is dropped."""
    try:
        async with limit:
            while True:
                if (await receive())["type"] == "websocket.disconnect":
                    return True
                await asyncio.sleep(0)  # else a receive that never waits would stop the event loop
    except TimeoutError:
        if not limit.expired():
            raise
        return False


async def answered(receive: Receive) -> None:
    """Wait for the client's answer to a close, for at most :data:`ANSWER_TIMEOUT` seconds; drop its other messages.

    hypercorn forgets a stream of HTTP/2 when its application returns. If the client answers the close after that,
    hypercorn ends the whole connection, with all other WebSockets of that browser.
    """
    await leaves_within(asyncio.timeout(ANSWER_TIMEOUT), receive)
