"""Clients and handlers that keep a connection from ending, under every server at once: their slots come back."""

import asyncio
import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import rude
from test_servers import SERVERS

import channels_admission

from clients import look
from conftest import eventually
from demo.servers import Workers

pytestmark = pytest.mark.integration

CLIENTS, AGE = 5, 1
BOUND = 12.5
"""Seconds from the end of a connection's time to its slot free, at the most."""


class Stage:
    """A worker of one server that serves ``rude.py``, with a ledger of its own, and its raw clients."""

    def __init__(self, server: str, settings, keys, redis_url: str, stack: ExitStack) -> None:
        name, args = SERVERS[server]
        own = [Path(channels_admission.__file__).parent.parent, Path(rude.__file__).parent]
        here = {"PYTHONPATH": os.pathsep.join(map(str, own))}
        self.server, self.settings, self.stack = server, settings, stack
        self.workers = stack.enter_context(
            Workers(name, 1, redis_url=redis_url, settings=keys, args=args, application="rude:application", env=here)
        )

    def knock(self, path: str) -> socket.socket:
        """A client that has sent its handshake, with a small window, and reads nothing by itself."""
        client = self.stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", self.workers.port))
        lines = [
            f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.workers.port}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "", "",
        ]  # fmt: skip
        client.sendall("\r\n".join(lines).encode())
        return client

    async def held(self, pool: str = "default") -> int:
        return (await look(pool, self.settings)).held

    async def free_after(self, seconds: float, pool: str = "default") -> float:
        """Seconds until no slot of the pool is held, at the most so many."""
        began = time.monotonic()

        async def is_free():
            return not await self.held(pool)

        await eventually(is_free, seconds, 0.1)
        return time.monotonic() - began


@pytest.fixture
def stages(admission, prefix, redis_server):
    """``stages(**keys)``: one for each server."""
    with ExitStack() as stack:

        def start(**keys) -> list[Stage]:
            started = []
            for server in SERVERS:
                own = {"LEDGER": redis_server.url, "BEAT": 0.5, "LEASE": 5, "PREFIX": f"{prefix}-{server}", **keys}
                started.append(Stage(server, admission(**own), own, redis_server.url, stack))
            return started

        yield start


async def test_clients_that_never_read_keep_no_slot_beyond_their_age(stages):
    async def attack(stage: Stage) -> float:
        for _ in range(CLIENTS):
            stage.knock("/flood")

        async def is_full():
            return await stage.held() == CLIENTS

        await eventually(is_full, 5)
        seconds = await stage.free_after(1.1 * AGE + BOUND + 2)
        pool = await look("default", stage.settings)
        assert (pool.admitted, pool.aged) == (CLIENTS, CLIENTS), stage.server
        return seconds

    started = stages(MAX_CONNECTIONS=CLIENTS, MAX_CONNECTION_AGE=AGE, PRESSURE={"lag": None})
    took = await asyncio.gather(*map(attack, started))
    print({stage.server: round(seconds, 1) for stage, seconds in zip(started, took, strict=True)})
