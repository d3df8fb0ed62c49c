"""Four real workers under a crowd while the Redis behind them changes, and what the clients themselves count."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from redis import Redis as Client

from demo.servers import Workers
from support.clients import Crowd, look
from support.redises import Cluster, replicated_cluster, watched
from support.waiting import eventually

LIMIT, HEARTBEAT, LEASE = 40, 0.5, 5
WORKERS, CLIENTS = 4, 80
TIMEOUT = 15.0
"""Seconds until the new primary answers, at the most."""
pytestmark = pytest.mark.fault


@pytest.fixture
def keys(prefix):
    """The workers' settings, but for the ledger."""
    return {
        "MAX_CONNECTIONS": LIMIT, "HEARTBEAT": HEARTBEAT, "LEASE": LEASE, "PREFIX": prefix,
        "WHEN_LEDGER_DOWN": "freeze",
        "EXPECTED_WORKERS": WORKERS, "RETRY_AFTER": [0.5, 1],
    }  # fmt: skip


class Site:
    """The workers, and the crowd that comes and goes."""

    def __init__(self, workers: Workers, crowd: Crowd) -> None:
        self.workers, self.crowd = workers, crowd
        self.pids = workers.pids

    async def admits_again(self) -> float:
        """Seconds until each worker's log says that it lost the ledger, and has it again."""
        started = time.monotonic()
        await eventually(lambda: all(map(self._regained, range(WORKERS))), seconds=TIMEOUT)
        return time.monotonic() - started

    def _regained(self, number: int) -> bool:
        log = self.workers.logs[number].read_text()
        return 0 < log.count("Ledger lost") <= log.count("Ledger regained")

    async def agrees(self) -> float:
        """Seconds until the ledger counts the truth once nobody comes or goes any more."""
        self.crowd.stay()
        await asyncio.sleep(HEARTBEAT)
        started = time.monotonic()
        await eventually(self._is_equal, seconds=2 * HEARTBEAT + 1)
        return time.monotonic() - started

    async def _is_equal(self) -> bool:
        return (await look()).held == self.crowd.open_now

    async def is_right(self, above: int = 0) -> float:
        """Nobody was restarted, and the limit held but for so many; then the seconds of :meth:`agrees`."""
        before = self.crowd.codes[None]
        await eventually(lambda: self.crowd.codes[None] > before + LIMIT)
        assert self.crowd.most <= LIMIT + above
        assert self.crowd.codes[1013] > 0
        again = await self.agrees()
        assert self.workers.pids == self.pids
        assert all(process.poll() is None for process in self.workers.processes)
        assert "Traceback" not in self.workers.log()
        return again


@pytest.fixture
def site(admission, keys, redis_server):
    """``site(ledger)``: the workers under the crowd, with this ledger; the channel layer is elsewhere."""

    @asynccontextmanager
    async def run(ledger: object) -> AsyncIterator[Site]:
        settings = {**keys, "LEDGER": ledger}
        admission(**settings)
        with Workers("uvicorn", WORKERS, redis_url=redis_server.url, settings=settings) as workers:
            async with Crowd(CLIENTS, workers.origins) as crowd:
                await eventually(lambda: crowd.codes[1013] > 0, seconds=20)
                yield Site(workers, crowd)

    return run


@pytest.fixture
def note(figures):
    """``note(fault, running, seconds, again)``: what the fault did to the site."""

    def note(fault: str, running: Site, seconds: float, again: float) -> None:
        figures.note(
            f"{fault}; four uvicorn workers, {CLIENTS} clients that come and go, `freeze`",
            "admissions resume; never above the limit in the clients' own count; then equal to the truth; no restart",
            f"resumed after {seconds:.1f} s; at most {running.crowd.most} of {LIMIT} open; "
            f"equal {again:.2f} s after a heartbeat",
        )

    return note


@pytest.fixture
def cluster(site):
    """The site over a cluster, the cluster, and the slot of its pool."""

    @asynccontextmanager
    async def run() -> AsyncIterator[tuple[Site, Cluster, int]]:
        with replicated_cluster() as servers:
            async with site({"HOSTS": servers.hosts, "CLUSTER": True}) as running:
                yield running, servers, servers.clients[0].execute_command("CLUSTER", "KEYSLOT", "{default}")

    return run


async def by_worker() -> Counter[str]:
    """How many slots each worker holds, as the ledger counts them."""
    return Counter({worker.id: worker.held for worker in (await look()).workers})


@pytest.mark.parametrize("blow", ["killed", "silent"])
async def test_a_primary_with_sentinels(site: Callable, note, blow):
    with watched() as servers:
        async with site(servers.ledger) as running:
            (servers.primary.stop if blow == "killed" else servers.primary.pause)()
            seconds = await running.admits_again()
            if blow == "silent":
                servers.primary.resume()
            again = await running.is_right()
    note(f"Sentinel: the primary is {blow}, then another in its place", running, seconds, again)


async def test_a_primary_whose_last_second_no_replica_has(site: Callable, figures):
    with watched() as servers:
        async with site(servers.ledger) as running:
            for replica in servers.replicas:
                replica.pause()
            # What is sent to a paused replica would wait for it, and be read when it goes on.
            with Client.from_url(servers.primary.url) as primary:
                primary.execute_command("CLIENT", "KILL", "TYPE", "replica")
            before, known = running.crowd.codes[None], await by_worker()
            await asyncio.sleep(1)
            lost = running.crowd.codes[None] - before
            assert lost > LIMIT
            # What a worker holds more than the replicas know may be given away once again.
            above = (await by_worker() - known).total()
            servers.primary.stop()
            for replica in servers.replicas:
                replica.resume()
            seconds = await running.admits_again()
            again = await running.is_right(above)
            most = running.crowd.most
    figures.note(
        "Sentinel: the primary dies with its last second of writes; four uvicorn workers, as above",
        "above the limit by no more than workers hold beyond what the replicas know; equal to the truth; no restart",
        f"{lost} granted in it, {above} slots beyond what they know; resumed after {seconds:.1f} s; "
        f"at most {most} of {LIMIT} open; equal {again:.2f} s after a heartbeat",
    )


@pytest.mark.parametrize("blow", ["killed", "silent"])
async def test_a_primary_of_a_cluster(cluster: Callable, note, blow):
    async with cluster() as (running, servers, slot):
        primary = servers.nodes[servers.owner(slot)]
        (primary.stop if blow == "killed" else primary.pause)()
        seconds = await running.admits_again()
        if blow == "silent":
            primary.resume()
        again = await running.is_right()
    note(f"Cluster: the primary of the pool is {blow}, then its replica in its place", running, seconds, again)


async def test_a_pool_that_moves_to_another_node(cluster: Callable, note):
    """Its slot is open at both nodes, and its keys follow each other."""
    async with cluster() as (running, servers, slot):
        source = servers.owner(slot)
        target = (source + 1) % 3
        servers.begin_to_move(slot, source, target)
        await asyncio.sleep(HEARTBEAT)
        first, *_ = servers.keys(slot, source)
        servers.move(source, target, first)
        await asyncio.sleep(HEARTBEAT)
        servers.end_move(slot, source, target)
        seconds = await running.admits_again()
        again = await running.is_right()
    note("Cluster: the pool moves to another node, key by key", running, seconds, again)
