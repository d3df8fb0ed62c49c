"""Clients and handlers that keep a connection from ending, under every server at once: their slots come back."""

import asyncio
import os
import socket
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

import channels_admission

from demo.servers import Workers
from support import TESTS
from support.clients import look
from support.servers import SERVERS
from support.waiting import eventually

CLIENTS, AGE, GRACE, DEADLINE, LONG_DEADLINE = 5, 1, 1, 1, 8
LOOK, LATE = 1, 2
"""Seconds from one look at what an application does to the next, and by which a busy machine may be late."""
BOUND = 12.5
"""Seconds from the end of a connection's time to its slot free, at the most."""

LINGER = 3


def reset(client: socket.socket) -> None:
    """Leave without a word."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


class Stage:
    """A worker of one server that serves ``rude.py``, with a ledger of its own, and its raw clients."""

    def __init__(self, server: str, settings, keys, redis_url: str, stack: ExitStack) -> None:
        name, args = SERVERS[server]
        own = [Path(channels_admission.__file__).parent.parent, TESTS]
        here = {"PYTHONPATH": os.pathsep.join(map(str, own))}
        self.server, self.settings, self.stack = server, settings, stack
        self.workers = stack.enter_context(
            Workers(
                name, 1, redis_url=redis_url, settings=keys, args=args, application="support.rude:application", env=here
            )
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

    async def hears(self, client: socket.socket, what: bytes) -> None:
        """Read until the client has been sent that."""
        heard = b""
        client.settimeout(0)

        def has_heard() -> bool:
            nonlocal heard
            with suppress(BlockingIOError):
                heard += client.recv(65536)
            return what in heard

        await eventually(has_heard, 10)

    async def is_full(self, pool: str) -> None:
        async def full() -> bool:
            return await self.held(pool) == CLIENTS

        await eventually(full, 10, 0.1)

    async def held(self, pool: str) -> int:
        return (await look(pool, self.settings)).held

    async def free_after(self, seconds: float, pool: str) -> float:
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
                own = {"LEDGER": redis_server.url, "HEARTBEAT": 0.5, "LEASE": 5, "PREFIX": f"{prefix}-{server}", **keys}
                started.append(Stage(server, admission(**own), own, redis_server.url, stack))
            return started

        yield start


async def flood(stage: Stage) -> float:
    """Clients that never read, and are sent 64 KiB every 5 ms: their slots are free a bounded time after their age."""
    for _ in range(CLIENTS):
        stage.knock("/flood")
    await stage.is_full("flood")
    seconds = await stage.free_after(1.1 * AGE + BOUND + LATE, "flood")
    assert (await look("flood", stage.settings)).aged == CLIENTS
    return seconds


async def busy(stage: Stage) -> float:
    """Clients that leave in the middle of a handler of 45 s."""
    clients = [stage.knock("/busy") for _ in range(CLIENTS)]
    await stage.is_full("busy")
    for client in clients:
        await stage.hears(client, b"HTTP/1.1 101")
        client.sendall(b"\x81\x82\0\0\0\0go")
        await stage.hears(client, b"busy")
        reset(client)
    seconds = await stage.free_after(GRACE + 2 * LOOK + LATE, "busy")
    assert (await look("busy", stage.settings)).outlived == CLIENTS
    return seconds


async def undecided(stage: Stage) -> float:
    """Clients whom a consumer does not accept in time are refused with a hint."""
    clients = [stage.knock("/undecided") for _ in range(CLIENTS)]
    await stage.is_full("undecided")
    seconds = await stage.free_after(DEADLINE + LOOK + LATE, "undecided")
    for client in clients:
        await stage.hears(client, b"Try Again Later; ticket=")
    pool = await look("undecided", stage.settings)
    assert (pool.admitted, pool.unaccepted, pool.refused) == (CLIENTS, CLIENTS, {})
    return seconds


async def blocked(stage: Stage) -> float:
    """The same with sync consumers, of which one blocks the thread of all for longer than the deadline."""
    clients = [stage.knock("/blocked") for _ in range(CLIENTS)]
    await stage.is_full("blocked")
    seconds = await stage.free_after(DEADLINE + LOOK + LATE, "blocked")
    for client in clients:
        await stage.hears(client, b"Try Again Later; ticket=")
    return seconds


async def gone(stage: Stage) -> float:
    """Clients that leave before they are accepted are dropped at once; granian tells of it after the accept alone."""
    clients = [stage.knock("/gone") for _ in range(CLIENTS)]
    await stage.is_full("gone")
    for client in clients:
        reset(client)
    last = LONG_DEADLINE if stage.server == "granian" else 2 * LOOK
    return await stage.free_after(last + LOOK + LATE, "gone")


async def full(stage: Stage) -> float:
    """Refused clients that never answer the close are cut off, but not before any client could answer."""
    client = stage.knock("/full")
    await stage.hears(client, b"Try Again Later; ticket=")
    began = time.monotonic()

    def is_cut_off() -> bool:
        try:
            return client.recv(4096) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    await eventually(is_cut_off, LINGER + LATE)
    seconds = time.monotonic() - began
    if stage.server == "daphne":
        assert seconds > LINGER - 1 - 0.1
    return seconds


@pytest.mark.alone
async def test_every_slot_comes_back_in_time_on_every_server(stages):
    # Those of other pools would wait at the entrance for the thread that an attack blocks, and be refused for that.
    started = stages(
        MAX_CONNECTIONS=CLIENTS,
        ENTRANCE_WAIT=None,
        PRESSURE={"lag": None},
        POOLS={
            "flood": {"MAX_CONNECTION_AGE": AGE},
            "busy": {"DISCONNECT_GRACE": GRACE},
            "undecided": {"ACCEPT_DEADLINE": DEADLINE},
            "blocked": {"ACCEPT_DEADLINE": DEADLINE},
            "full": {"MAX_CONNECTIONS": 0},
            "gone": {"ACCEPT_DEADLINE": LONG_DEADLINE},
        },
    )
    attacks = [(stage, attack) for stage in started for attack in (flood, busy, undecided, blocked, gone, full)]
    took = await asyncio.gather(*(attack(stage) for stage, attack in attacks))
    for (stage, attack), seconds in zip(attacks, took, strict=True):
        print(f"{stage.server} {attack.__name__}: {seconds:.1f} s")
