"""A herd whose ``connect()`` costs CPU time, under real servers and with default settings: who is served in between."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect

from channels_admission.core.herd.window import START

from demo.clients import crowd
from demo.servers import Workers

CLIENTS = 150
"""For each worker."""


async def ask(watching):
    await watching.send("most")
    return int(await watching.recv())


@pytest.mark.alone
@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_the_connected_are_served_while_a_herd_connects(redis_server, prefix, server):
    settings = {"PRESSURE": {}, "PREFIX": prefix, "LEDGER": redis_server.url}
    # On a busy machine a handshake may take longer than the five seconds for which Daphne waits.
    args = ["--websocket_connect_timeout", "60"] if server == "daphne" else []
    with Workers(server, 2, redis_url=redis_server.url, settings=settings, args=args, shared_port=False) as workers:
        async with AsyncExitStack() as stack:
            urls = [f"ws://127.0.0.1:{port}/ws/watch/" for port in workers.ports]
            watches = [
                await stack.enter_async_context(connect(url, origin=origin, proxy=None))
                for url, origin in zip(urls, workers.origins, strict=True)
            ]
            herds = [crowd(origin, "/ws/heavy/", CLIENTS) for origin in workers.origins]
            clients = [
                client for herd in await asyncio.gather(*map(stack.enter_async_context, herds)) for client in herd
            ]
            most = [await ask(watching) for watching in watches]
    assert max(most) <= 8 * START
    refused = [client for client in clients if client.worker is None]
    assert len(clients) - len(refused) >= CLIENTS / 4
    assert {client.code for client in refused} <= {1013}
