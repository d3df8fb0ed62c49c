"""The application of one server: that of the contender whose name is in the environment."""

import asyncio
import logging
import os
from typing import Any

import django

django.setup()

from channels.routing import ProtocolTypeRouter  # noqa: E402

from channels_admission.lifespan import AdmissionLifespan  # noqa: E402

from .contenders import CONTENDERS  # noqa: E402

STARTED = 0.3
"""Seconds after which a server has said that it serves."""
contender = CONTENDERS[os.environ["BENCH_CONTENDER"]]


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """Let no server write a line for each connection, which would be a part of what the bare one costs."""
    asyncio.get_running_loop().call_later(STARTED, logging.getLogger("uvicorn.error").setLevel, logging.WARNING)
    if contender.ours:
        await AdmissionLifespan()(scope, receive, send)
        return
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


application = ProtocolTypeRouter({"lifespan": lifespan, "websocket": contender.build()})
