"""The test project with an event loop that something blocks again and again, as a call that waits would."""

import asyncio
import time

from project.asgi import application as project

BLOCKED, FREE = 0.3, 0.2
"""Seconds."""


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        asyncio.get_running_loop().call_later(FREE, _block)
    await project(scope, receive, send)


def _block() -> None:
    time.sleep(BLOCKED)
    asyncio.get_running_loop().call_later(FREE, _block)
