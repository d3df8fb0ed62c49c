"""Clients that come back while their old socket still counts, under a quota whose oldest connection gives way."""

import asyncio
import time
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed

from channels_admission.client import Ending, connections
from channels_admission.limiter.connections.asgi import REPLACED

from demo.servers import Workers
from support.clients import Client, leave_all

HEARTBEAT = 0.5
LEDGER_TIMEOUT = 2
"""The machine of the tests may be busy."""
MOST = 2


@pytest.mark.parametrize("server", ["uvicorn", "daphne", "hypercorn", "granian"])
async def test_the_oldest_socket_is_closed_on_another_worker_within_a_heartbeat(redis_server, prefix, server):
    settings = {
        "PREFIX": prefix, "HEARTBEAT": HEARTBEAT, "LEASE": 5, "MAX_CONNECTIONS": 10, "PRESSURE": {"lag": None},
        "LEDGER_TIMEOUT": LEDGER_TIMEOUT,
        "QUOTAS": [{"key": "address", "max": MOST, "full": "oldest", "rate": 5, "burst": 20}],
    }  # fmt: skip
    with Workers(server, 2, redis_url=redis_server.url, settings=settings, shared_port=False) as workers:
        one, other = workers.origins
        for origin in workers.origins:  # both have met the ledger, which has settled
            await (await Client.enter(origin)).leave()
        await asyncio.sleep(2 * HEARTBEAT)
        ghosts = [await Client.enter(one) for _ in range(MOST)]
        assert all(ghost.is_open for ghost in ghosts)
        clients = []
        for ghost in ghosts:
            client = await Client.enter(other)
            assert client.is_open
            clients.append(client)
            began = time.monotonic()
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(ghost.socket.recv(), 5)
            assert time.monotonic() - began <= HEARTBEAT + 0.5
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (REPLACED, "Replaced by a newer connection")
        assert all(client.is_open for client in clients)
        await leave_all(clients)


async def test_two_clients_of_ours_do_not_close_each_other_for_ever(redis_server, prefix):
    settings = {
        "PREFIX": prefix, "HEARTBEAT": 0.3, "LEASE": 3, "PRESSURE": {"lag": None}, "RETRY_AFTER": (0.5, 1),
        "LEDGER_TIMEOUT": LEDGER_TIMEOUT,
        "QUOTAS": [{"key": "address", "max": 1, "full": "oldest", "rate": 50, "burst": 100}],
    }  # fmt: skip
    with Workers("uvicorn", 2, redis_url=redis_server.url, settings=settings, shared_port=False) as workers:
        entered, waits, ended = [], [], []

        async def stay(number: int) -> None:
            origin = workers.origins[number]
            uri, options = origin.replace("http", "ws", 1) + "/ws/echo/", {"origin": origin, "proxy": None}
            async for socket in connections(uri, on_wait=waits.append, **options):
                with suppress(ConnectionClosed):  # the ledger may still settle
                    await socket.send("here")
                    await socket.recv()
                    entered.append(number)
                await socket.wait_closed()
                if number not in entered:
                    continue
                ended.append(Ending(socket.close_code, socket.close_reason))

        first = asyncio.create_task(stay(0))
        async with asyncio.timeout(10):
            while not entered:
                await asyncio.sleep(0.02)
        second = asyncio.create_task(stay(1))
        async with asyncio.timeout(10):
            await first
        await asyncio.sleep(1.0)
        assert (entered, [ending.code for ending in ended]) == ([0, 1], [REPLACED])
        assert ended[0].is_final
        assert not second.done()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
