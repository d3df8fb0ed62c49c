"""TCP connections that send nothing take all descriptors of a worker, under every server at once."""

import asyncio
import socket
import time
from contextlib import ExitStack

import psutil
import redis

from channels_admission.core.levels import Level

from demo.consumers import PID
from demo.servers import Redis, Workers
from support.clients import Client, enter_many, look
from support.waiting import eventually

SERVERS = ("uvicorn", "daphne", "hypercorn", "granian")
FILES, LIVE, LIMIT = 160, 3, 6
HEARTBEAT, LEASE = 1, 6
ATTACK = 7.0
"""Seconds, more than a lease."""
HANDSHAKE = (
    "GET /ws/echo/ HTTP/1.1\r\nHost: 127.0.0.1:{0}\r\nOrigin: http://127.0.0.1:{0}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Siege:
    """One worker with few descriptors, its clients, and who besieges it."""

    def __init__(self, server: str, settings, keys, redis_url: str, stack: ExitStack) -> None:
        limited = ["/bin/sh", "-c", f'ulimit -n {FILES}; exec "$0" "$@"']
        self.settings, self.stack = settings, stack
        self.workers = stack.enter_context(Workers(server, 1, redis_url=redis_url, settings=keys, launcher=limited))
        self.idle: list[socket.socket] = []

    def knock(self) -> None:
        client = self.stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", self.workers.port))
        self.idle.append(client)

    async def worker(self):
        (worker,) = (await look("default", self.settings)).workers
        return worker

    async def is_besieged(self) -> bool:
        worker = await self.worker()
        return any(load.name == "descriptors" and load.pressure >= 1 for load in worker.load)

    def cut(self) -> None:
        """End the worker's connections to Redis, so that it needs descriptors for new ones."""
        (pid,) = self.workers.pids
        with redis.Redis.from_url(self.settings.ledger.host["address"]) as client:
            port = client.connection_pool.connection_kwargs["port"]
            own = [
                each for each in psutil.Process(pid).net_connections("tcp") if each.raddr and each.raddr.port == port
            ]
            assert own
            for each in own:
                client.client_kill_filter(addr=f"{each.laddr.ip}:{each.laddr.port}")

    async def run(self) -> float:
        """Seconds from the end of the attack until a newcomer is let in."""
        clients = await enter_many(LIVE, [self.workers.origin])
        assert all(client.is_open for client in clients)
        for _ in range(FILES + 60):
            self.knock()
        await eventually(self.is_besieged, ATTACK, 0.1)
        began = time.monotonic()
        await asyncio.to_thread(self.cut)
        # One of them does send its handshake, and is told what is scarce.
        self.idle[0].send(HANDSHAKE.format(self.workers.port).encode())
        while time.monotonic() - began < ATTACK:
            pool = await look("default", self.settings)
            assert [worker.held for worker in pool.workers] == [LIVE]
            assert pool.workers[0].silence < LEASE
            await asyncio.sleep(0.5)
        assert pool.refused == {"descriptors": 1}
        for client in self.idle:
            client.close()
        ended = time.monotonic()
        newcomer = await self.newcomer()
        recovered = time.monotonic() - ended
        clients += [newcomer, *await enter_many(2 * LIMIT, [self.workers.origin])]
        assert sum(client.is_open for client in clients) == LIMIT
        for client in clients[:LIVE]:
            await client.socket.send(PID)
            assert await asyncio.wait_for(client.socket.recv(), 5)
        pool = await look("default", self.settings)
        assert (pool.held, pool.level) == (LIMIT, Level.FULL)
        for client in clients:
            await client.leave()
        return recovered

    async def newcomer(self) -> Client:
        """The first client that is let in, of one each tenth of a second."""
        deadline = time.monotonic() + 4 * HEARTBEAT
        while not (client := await Client.enter(self.workers.origin)).is_open:
            assert time.monotonic() < deadline
            await client.leave()
            await asyncio.sleep(0.1)
        return client


async def test_idle_connections_take_all_descriptors_and_harm_nothing_else(admission, prefix, redis_server):
    keys = {"HEARTBEAT": HEARTBEAT, "LEASE": LEASE, "MAX_CONNECTIONS": LIMIT}
    with ExitStack() as stack:
        ledger = stack.enter_context(Redis())  # of its own, since the channel layer is not to be cut
        sieges = []
        for server in SERVERS:
            own = {**keys, "PREFIX": f"{prefix}-{server}", "LEDGER": ledger.url}
            sieges.append(Siege(server, admission(**own), own, redis_server.url, stack))
        recovered = await asyncio.gather(*(siege.run() for siege in sieges))
        assert max(recovered) <= 2 * HEARTBEAT, dict(zip(SERVERS, recovered, strict=True))
