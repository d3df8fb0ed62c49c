"""One client of a Python library: ``python -m benchmarks.foreign.programs NAME URL``."""

import asyncio
import sys
from contextlib import suppress

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def websockets(url: str) -> None:
    async for connection in connect(url, proxy=None):
        with suppress(ConnectionClosed):
            async for _ in connection:
                pass


async def gql(url: str) -> None:
    from gql import Client, gql
    from gql.transport.exceptions import TransportError
    from gql.transport.websockets import WebsocketsTransport

    client = Client(transport=WebsocketsTransport(url=url))
    session = await client.connect_async(reconnecting=True)
    while True:
        with suppress(TransportError):
            async for _ in session.subscribe(gql("subscription { ticks }")):
                pass
        # As in gql's own examples.
        await asyncio.sleep(1)


CLIENTS = {"websockets": websockets, "gql": gql}

if __name__ == "__main__":
    asyncio.run(CLIENTS[sys.argv[1]](sys.argv[2]))
