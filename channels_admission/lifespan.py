"""The worker's first and last word, for servers that speak ASGI's lifespan protocol (uvicorn, hypercorn, granian)."""

from typing import Any

from . import conf
from .house import close_gates, gate_of


class AdmissionLifespan:
    """Open the gates to all pools when the server starts, and say goodbye for them when it stops.

    ::

        ProtocolTypeRouter({"lifespan": AdmissionLifespan(), "http": …, "websocket": …})

    Nothing depends on it: without it a gate opens at its worker's first handshake, and a worker
    that is stopped is missed within a beat or two. With it ``ws_status`` shows a worker from its
    start on, and its goodbye does not depend on which tasks the server lets end.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            event = (await receive())["type"]
            if event == "lifespan.startup":
                settings = conf.current()
                for pool in settings.pools if settings.enabled else ():
                    gate_of(pool, send)
            if event == "lifespan.shutdown":
                await close_gates(exiting=True)
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
