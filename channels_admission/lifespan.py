"""The worker's first and last word, for servers that speak ASGI's lifespan protocol (uvicorn, hypercorn, granian)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from . import conf
from .limiter.registry import close_limiters, limiter_of
from .runtime.faults import Faults

FAULTS = Faults("the lifespan")


class AdmissionLifespan:
    """Open the limiters to all pools when the server starts, and say goodbye for them when it stops.

    ::

        ProtocolTypeRouter({"lifespan": AdmissionLifespan(), "http": …, "websocket": …})

    Nothing depends on it: without it a limiter opens at the first handshake, and the worker says goodbye at its end
    all the same. With it ``ws_status`` shows a worker from its start on.
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
    """The same within the lifespan of another framework, which does not pass it on to what is mounted in it.

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
    """Open the limiters to all pools, where admission is on."""
    settings = conf.current()
    for pool in settings.pools if settings.enabled else ():
        with FAULTS.spare("the opening of a limiter"):  # the first handshake opens it then
            limiter_of(pool, send)


async def _close() -> None:
    """Say goodbye for all limiters."""
    with FAULTS.spare("the goodbye"):  # the leases tell it then
        await close_limiters(exiting=True)
