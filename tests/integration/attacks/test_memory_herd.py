"""A herd whose every client takes memory, at a worker that has not enough for all: it never passes its limit."""

import asyncio
import threading

import psutil
import pytest

from demo.servers import Workers
from support.clients import enter_many, leave_all, look
from support.waiting import eventually

MIB = 2**20
MORE = 60 * MIB
"""What the worker may use beyond what it needs without clients."""
HOARD = MIB
HERD = 100
FEW = 8
"""Let in of the first herd at the least: each may take 4 MiB below the first threshold, 85 % of some 120 MiB."""
PATH = "/ws/hoard/"
TERMS = {"MAX_CONNECTIONS": 500, "HEARTBEAT": 1, "LEASE": 10, "PRESSURE": {"lag": None}}


class Highest:
    """The most resident memory of a process in the time of the ``with``, looked at every 10 ms."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._process, self._done = psutil.Process(pid), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, self._process.memory_info().rss)


@pytest.fixture
def worker(admission, prefix, redis_server):
    """``worker(**settings)``: one uvicorn."""

    def start(**settings):
        keys = {"LEDGER": redis_server.url, "PREFIX": prefix, **TERMS, **settings}
        admission(**keys)
        return Workers("uvicorn", 1, redis_url=redis_server.url, settings=keys, env={"HOARD": str(HOARD)})

    return start


@pytest.fixture
def limit(worker):
    """Bytes that let a worker have :data:`MORE` than it needs to serve a few."""
    with worker() as running:
        return psutil.Process(running.pids[0]).memory_info().rss + MORE


async def still_there(client) -> bool:
    await client.socket.send("still here")
    return await asyncio.wait_for(client.socket.recv(), 5) == "still here"


async def test_a_herd_that_takes_memory_at_once_never_passes_the_limit(worker, limit):
    with worker(MEMORY_LIMIT=limit) as running, Highest(running.pids[0]) as highest:
        first = await enter_many(HERD, [running.origin], path=PATH)
        inside = [client for client in first if client.is_open]
        assert {client.code for client in first if not client.is_open} == {1013}
        assert FEW <= len(inside) < 2 * FEW
        # Those who are refused come back, again and again.
        for _ in range(8):
            await asyncio.sleep(1.0)
            again = await enter_many(HERD - len(inside), [running.origin], path=PATH)
            inside += [client for client in again if client.is_open]
            await leave_all([client for client in again if not client.is_open])
        assert highest.bytes <= 0.95 * limit
        assert len(inside) > 3 * FEW
        assert all([await still_there(client) for client in inside])
        pool = await eventually(lambda: _settled(len(inside)))
        assert (pool.shed, set(pool.refused)) == (0, {"memory"})
        await leave_all(inside)


async def _settled(held: int):
    pool = await look()
    return pool if pool.held == held and pool.refused else None


async def test_a_herd_that_takes_nothing_is_refused_by_no_estimate(worker):
    with worker() as running:
        clients = await enter_many(400, [running.origin])
        assert all(client.is_open for client in clients)
        assert (await look()).refused == {}
        await leave_all(clients)
