"""An application of handlers that harm their worker, behind the middleware, for the attack tests."""

import asyncio
import time

import django

django.setup()

from channels.consumer import StopConsumer  # noqa: E402
from channels.generic.websocket import WebsocketConsumer  # noqa: E402

from channels_admission.lifespan import AdmissionLifespan  # noqa: E402
from channels_admission.middleware import AdmissionMiddleware  # noqa: E402

FLOOD = "x" * 65536


async def flood(scope, receive, send):
    """Sends 64 KiB every 5 ms to a client that may not read."""
    await _accept(receive, send)
    while True:
        await send({"type": "websocket.send", "text": FLOOD})
        await asyncio.sleep(0.005)


async def busy(scope, receive, send):
    """Is in the middle of a handler for 45 s."""
    await _accept(receive, send)
    await receive()
    await send({"type": "websocket.send", "text": "busy"})
    await asyncio.sleep(45)


async def undecided(scope, receive, send):
    """Accepts after 45 s."""
    await receive()
    await asyncio.sleep(45)
    await send({"type": "websocket.accept"})


class Blocked(WebsocketConsumer):
    """Blocks the thread that all sync consumers of a worker share, for 4 s."""

    def connect(self):
        time.sleep(4)
        self.accept()

    def disconnect(self, code):
        raise StopConsumer


async def _accept(receive, send):
    await receive()
    await send({"type": "websocket.accept"})


POOLS = {
    "flood": flood,
    "full": flood,
    "busy": busy,
    "undecided": undecided,
    "gone": undecided,
    "blocked": Blocked.as_asgi(),
}
"""What serves the path with the name of each pool."""
_admissions = {f"/{pool}": AdmissionMiddleware(handler, pool) for pool, handler in POOLS.items()}
_lifespan = AdmissionLifespan()


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
    else:
        await _admissions[scope["path"]](scope, receive, send)
