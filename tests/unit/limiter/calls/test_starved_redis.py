"""Many workers at a full pool in a Redis that has little time for them."""

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from statistics import median

import pytest

from benchmarks.pileup import LEAVE, ROUNDS, SHARE, SLOTS, pile_up
from channels_admission.core.protocol import Refusal
from channels_admission.ledger.memory import MemoryLedger

from demo.servers import Redis
from support.faulty import FaultyLedger
from support.limiters import limiter_over
from support.virtual import run

WORKERS = 50
FAILED = 0.1
"""The share of calls that may fail: a busy machine lets all wait that are under way, some 10 of 200 to 800. A quarter
fails if each worker asks at will."""
KEYS = {"MAX_CONNECTIONS": SLOTS, "EXPECTED_WORKERS": WORKERS, "LEDGER_TIMEOUT": 0.25, "HEARTBEAT": 3, "LEASE": 30}
MANY, KNOCKS = 100, 200
"""In virtual time the workers, and handshakes a second at all of them together."""
COST, OF_A_HEARTBEAT = 0.0156, 1.7
"""Seconds that a call takes there, and how many times that a heartbeat does: all heartbeats take 88 % of Redis."""


class Starved:
    """A Redis in virtual time that answers one call after the other, also those that nobody waits for any more."""

    def __init__(self) -> None:
        self.cost = 0.0
        self.free_at = 0.0
        self.under_way: Counter[FaultyLedger] = Counter()
        self.most = 0
        """Calls of one worker under way at one time."""

    def begin(self, ledger, report) -> float:
        """When the call is answered."""
        cost = self.cost * (OF_A_HEARTBEAT if report.heartbeat else 1)
        self.free_at = max(self.free_at, asyncio.get_running_loop().time()) + cost
        self.under_way[ledger] += 1
        self.most = max(self.most, self.under_way[ledger])
        return self.free_at


class SlowLedger(FaultyLedger):
    """A worker's road to it."""

    def __init__(self, inner, redis):
        super().__init__(inner)
        self._redis = redis

    async def reconcile(self, pool, report):
        return await asyncio.shield(self._answer(pool, report, self._redis.begin(self, report)))

    async def _answer(self, pool, report, at):
        await asyncio.sleep(at - asyncio.get_running_loop().time())
        self._redis.under_way[self] -= 1
        return await super().reconcile(pool, report)


@dataclass
class Seen:
    """Of many workers at a full pool in a Redis that has become slow."""

    failed: list[int]
    """Calls, in its first 20 seconds and later."""
    most: list[int]
    """Calls of one worker under way at one time, in the same."""
    away: int
    """Workers without their ledger, at any time later."""
    found: float
    """Seconds until a slot was held again that had become free, at the most."""


def starve(settings, workers, cost):
    wall = time.time()

    async def main():
        loop, redis, slots = asyncio.get_running_loop(), Starved(), []
        inner = MemoryLedger(settings, lambda: wall + loop.time(), lambda: wall + loop.time())
        limiters = [limiter_over(settings, SlowLedger(inner, redis)) for _ in range(workers)]

        def held():
            return sum(each.state.held for each in limiters)

        def away():
            return sum(each.state.away for each in limiters)

        def failed():
            return sum(each.state.calls.failed for each in limiters)

        async def knock(limiter, first):
            await asyncio.sleep(first)
            while True:
                if not isinstance(verdict := await limiter.acquire(), Refusal):
                    slots.append(verdict)
                await asyncio.sleep(workers / KNOCKS)

        clients = [asyncio.ensure_future(knock(each, number / workers)) for number, each in enumerate(limiters)]
        await asyncio.sleep(10)
        assert held() == SLOTS
        redis.cost = cost
        await asyncio.sleep(20)
        seen = Seen([failed()], [redis.most], away(), 0.0)
        redis.most = 0
        for slot in slots[::50]:
            began = loop.time()
            slot.release()
            while held() < SLOTS and loop.time() < began + 10:
                await asyncio.sleep(0.1)
                seen.away = max(seen.away, away())
            seen.found = max(seen.found, loop.time() - began)
        seen.failed.append(failed() - seen.failed[0])
        seen.most.append(redis.most)
        redis.cost = 0.0
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await asyncio.gather(*(each.aclose() for each in limiters))
        return seen

    return run(main())


def test_workers_come_back_to_a_redis_that_has_just_the_time_for_their_heartbeats(admission):
    seen = starve(admission(**KEYS), MANY, COST)
    assert seen.failed[0] > MANY
    assert seen.failed[1] == seen.away == 0
    assert seen.most[0] <= 3  # at first two are given up, since Redis was fast
    assert seen.most[1] == 1
    assert seen.found < 6


@pytest.mark.fault
@pytest.mark.skipif(sys.platform != "linux", reason="needs the figures of Linux for a process")
async def test_many_workers_at_a_full_pool_do_not_drown_a_slow_redis(admission, figures):
    with Redis() as server:
        settings = admission(LEDGER=server.url, **KEYS)
        pile = await pile_up(server, settings, WORKERS)
    assert (pile.held, pile.most) == (SLOTS, SLOTS)
    assert pile.failed <= FAILED * pile.calls
    # Now and then some are kept for clients in the line, and found after its grace.
    assert median(pile.refilled) <= pile.stated
    figures.note(
        f"{WORKERS} workers, {SLOTS} full slots, {SHARE:.0%} of a core for Redis; {ROUNDS} times {LEAVE} clients leave",
        "few calls fail; never above the limit; the slots are held again after two pauses and two calls, in the median",
        f"{pile.failed} of {pile.calls} calls, {pile.away} workers away at once; at most {pile.most} of {SLOTS}; "
        f"{median(pile.refilled):.2f} s, {max(pile.refilled):.1f} s at the latest; {pile.rate:.0f} calls a second",
    )
