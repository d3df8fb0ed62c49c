"""The test project with sync code that blocks its thread for a while, as a sync consumer that waits would."""

import asyncio
import time

from asgiref.sync import sync_to_async

from project.asgi import application as project

BLOCKED = 6.0
"""Seconds."""

jobs: set[asyncio.Task[None]] = set()


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        jobs.add(asyncio.ensure_future(sync_to_async(time.sleep)(BLOCKED)))
    await project(scope, receive, send)
