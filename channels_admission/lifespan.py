"""Start and end of a worker by ASGI's lifespan protocol (uvicorn, hypercorn, granian)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from . import conf
from .limiter.registry import close_limiters, limiter_of
from .runtime.faults import Faults

FAULTS = Faults("the lifespan")


class AdmissionLifespan:
    """ASGI application: open the limiters of all pools at startup, and close them at shutdown.

    ::

        ProtocolTypeRouter({"lifespan": AdmissionLifespan(), "http": …, "websocket": …})

    It is optional: ``ws_status`` then shows a worker from its start on. Without it a limiter opens at the first
    handshake, and the worker says goodbye at the end of its process.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            event = (await receive())["type"]
            if event == "lifespan.startup":
                _open(send)
            if event == "lifespan.shutdown":
                await _close()
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return


@asynccontextmanager
async def admission() -> AsyncIterator[None]:
    """The same for another framework, whose lifespan is not passed on to mounted applications.

    ::

        @asynccontextmanager
        async def lifespan(app):
            async with admission():
                yield

        app = FastAPI(lifespan=lifespan)
        app.mount("/", django_application)
    """
    _open()
    try:
        yield
    finally:
        await _close()


def _open(send: Any = None) -> None:
    """Open the limiters of all pools, unless ``ENABLED`` is false."""
    settings = conf.current()
    for pool in settings.pools if settings.enabled else ():
        with FAULTS.spare("the opening of a limiter"):  # else the first handshake opens it
            limiter_of(pool, send)


async def _close() -> None:
    """Close all limiters."""
    with FAULTS.spare("the goodbye"):  # else the leases run out
        await close_limiters(exiting=True)
