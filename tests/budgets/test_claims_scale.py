"""A hundred thousand clients, each with a key of its own: what they cost, and what the death of a worker does."""

import time

import pytest
import redis

from channels_admission.core.protocol import KEY_BYTES

from support.claimants import Claimant, ask
from support.reports import HEARTBEAT, LEASE

WORKERS, HELD, PER_CALL = 4, 25_000, 200
BYTES = 200
"""In Redis, a held connection with one quota."""
INTERRUPTED = 3
"""Calls that may have taken longer since the machine gave the time of Redis to others."""
pytestmark = [pytest.mark.integration, pytest.mark.fault]


class Server:
    """A Redis from an operator's side."""

    def __init__(self, url: str, prefix: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.prefix = prefix
        self.client.config_set("slowlog-log-slower-than", 300)
        self.client.config_set("slowlog-max-len", 10_000)
        self.client.slowlog_reset()

    def slowest(self) -> float:
        """Milliseconds of the slowest call since the last look that nobody interrupted, by the clock of the server."""
        took = [each["duration"] / 1000 for each in self.client.slowlog_get(10_000) if b"EVAL" in each["command"][:7]]
        self.client.slowlog_reset()
        return sorted([0.0] * INTERRUPTED + took)[-INTERRUPTED]

    def memory(self) -> int:
        return sum(self.client.memory_usage(name, samples=0) for name in self.client.scan_iter(f"{self.prefix}:*"))

    def keys(self) -> int:
        """Keys of clients that are counted, those of each worker as well."""
        names = self.client.scan_iter(f"{self.prefix}:*claims*")
        return sum(len(field) == KEY_BYTES for name in names for field in self.client.hkeys(name))


async def fill(workers: list[Claimant], held: int) -> None:
    for number, worker in enumerate(workers):
        for start in range(0, held, PER_CALL):
            view = await worker.claim(
                *[ask(f"{number}:{client}") for client in range(start, min(held, start + PER_CALL))]
            )
            assert not any(view.verdicts)


async def test_a_key_for_each_connection(in_redis, clock, redis_server, figures):
    server = Server(redis_server.url, in_redis._settings.prefix)
    workers = [Claimant(in_redis, f"{number:x}", limit=10**6) for number in range(WORKERS)]
    for worker in workers:
        await worker.claim()
    clock.now += 2 * HEARTBEAT
    for worker in workers:
        await worker.claim()
    empty = server.memory()
    await fill(workers, HELD)
    size, filling = (server.memory() - empty) / (WORKERS * HELD), server.slowest()
    assert server.keys() == 2 * WORKERS * HELD
    assert size <= BYTES

    _, *living = workers
    began, calls = time.perf_counter(), 0
    for _ in range(int(LEASE / HEARTBEAT) + 1):
        clock.now += HEARTBEAT
        for worker in living:
            view = await worker.claim()
    assert view.total == (WORKERS - 1) * HELD
    while view.sweep:
        view = await living[0].claim()
        calls += 1
    reaping, took = server.slowest(), time.perf_counter() - began
    assert calls <= HELD / PER_CALL + 2
    assert server.keys() == 2 * (WORKERS - 1) * HELD
    figures.note(
        f"{WORKERS * HELD:,} connections held, each under a key of its own; then a worker with {HELD:,} dies",
        f"at most {BYTES} bytes a connection; each call tells and sweeps {PER_CALL} keys at most",
        f"{size:.0f} bytes; slowest call while filling {filling:.2f} ms, while sweeping {reaping:.2f} ms "
        f"({calls} calls, {took:.1f} s)",
    )


async def test_a_pool_that_is_not_shared_has_no_claims(in_redis, redis_server):
    server = Server(redis_server.url, in_redis._settings.prefix)
    worker = Claimant(in_redis, "a", limit=10**6)
    await worker.say(wanted=25_000)
    before = server.memory()
    await worker.say(held=25_000, wanted=75_000)
    assert abs(server.memory() - before) < 64
    assert not list(server.client.scan_iter(f"{server.prefix}:*claims*"))
