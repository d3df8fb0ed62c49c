"""``python -m benchmarks.leases``: measure what short leases cost while nothing happens, in a minute and a half.

Workers with limiters of their own, in one process, send their heartbeats in real time to a new Redis. Their event
loop runs nothing else, so that the CPU time of the process is that of their reports.
"""

import asyncio
import time
from dataclasses import dataclass

from django.conf import settings as django_settings
from redis.asyncio import Redis

from channels_admission import conf
from channels_admission.ledger.redis import RedisLedger
from channels_admission.limiter.books.state import State
from channels_admission.limiter.limiter import Limiter
from channels_admission.runtime.identity import Worker

from demo import servers

LEASES = ((30.0, 3.0), (6.0, 1.0), (3.0, 0.5))
"""Each with its heartbeat."""
WORKERS = (200, 3)
SECONDS = 6.0
"""How long each is measured."""


@dataclass(frozen=True)
class Cost:
    """Of all workers together, in one second."""

    lease: float
    heartbeat: float
    workers: int
    calls: float
    redis: float
    """Seconds of CPU time."""
    process: float
    """Seconds of CPU time of all workers."""


async def measure(url: str, lease: float, heartbeat: float, workers: int) -> Cost:
    django_settings.CHANNELS_ADMISSION = {
        "LEDGER": url, "LEASE": lease, "HEARTBEAT": heartbeat, "LEDGER_TIMEOUT": 2.0, "PREFIX": f"{lease:g}_{workers}",
    }  # fmt: skip
    conf.current.cache_clear()
    settings = conf.current()
    ledgers = [RedisLedger(settings) for _ in range(workers)]
    limiters = [Limiter(State(settings.pool("default"), Worker()), settings, ledger) for ledger in ledgers]
    redis = Redis.from_url(url)
    await asyncio.sleep(2 * heartbeat)
    calls, used, spent, began = _calls(limiters), await _used(redis), time.process_time(), time.monotonic()
    await asyncio.sleep(SECONDS)
    elapsed = time.monotonic() - began
    spent = time.process_time() - spent
    cost = Cost(
        lease, heartbeat, workers, (_calls(limiters) - calls) / elapsed, (await _used(redis) - used) / elapsed,
        spent / elapsed,
    )  # fmt: skip
    for limiter in limiters:
        await limiter.aclose()
    for ledger in ledgers:
        await ledger.aclose()
    await redis.aclose()
    return cost


def _calls(limiters: list[Limiter]) -> int:
    return sum(limiter.state.calls.made for limiter in limiters)


async def _used(redis: Redis) -> float:
    """Seconds of CPU time of Redis."""
    cpu = await redis.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


def main() -> None:
    django_settings.configure(CHANNELS_ADMISSION={}, SECRET_KEY="x")
    with servers.Redis() as redis:
        print("lease  heartbeat  workers  calls/s  of one  Redis, of a core  a worker, of a core")
        for workers in WORKERS:
            for lease, heartbeat in LEASES:
                cost = asyncio.run(measure(redis.url, lease, heartbeat, workers))
                print(
                    f"{lease:5g}  {heartbeat:9g}  {workers:7}  {cost.calls:7.2f}  {cost.calls / workers:6.2f}"
                    f"  {cost.redis:16.3%}  {cost.process / workers:19.3%}"
                )


if __name__ == "__main__":
    main()
