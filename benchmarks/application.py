"""The application of one server: the contender named in the environment."""

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
"""Seconds after which a server has logged that it serves."""
contender = CONTENDERS[os.environ["BENCH_CONTENDER"]]


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """Silence the log line per connection, which would add to the cost of the bare consumer."""
    asyncio.get_running_loop().call_later(STARTED, logging.getLogger("uvicorn.error").setLevel, logging.WARNING)
    if contender.ours:
        await AdmissionLifespan()(scope, receive, send)
        return
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


application = ProtocolTypeRouter({"lifespan": lifespan, "websocket": contender.build()})
