"""The same application, mounted in Starlette, which does not pass on the lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount

from channels_admission.lifespan import admission

from .plain import application as django


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with admission():
        yield


application = Starlette(routes=[Mount("/", django)], lifespan=lifespan)
