"""An ASGI connection: its types, and its end."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


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
