"""Many workers at a full pool in a Redis that has little time for them."""

import asyncio
import sys
import time
from collections import Counter
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
FAILED = 0.01
"""The share of calls that may fail, where the machine itself is busy; a quarter does if each worker asks at will."""
MANY = 100
"""Workers in virtual time."""
COST, OF_A_HEARTBEAT = 0.0156, 1.6
"""Seconds that a call takes there, and how many times that a heartbeat does: all heartbeats take 83 % of Redis."""
RECOVERED_BY = 30
"""Seconds."""


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


def test_workers_come_back_to_a_redis_that_has_just_the_time_for_their_heartbeats(admission):
    settings = admission(MAX_CONNECTIONS=SLOTS, EXPECTED_WORKERS=MANY, LEDGER_TIMEOUT=0.25, HEARTBEAT=3, LEASE=30)
    wall = time.time()

    async def main():
        loop, redis, slots = asyncio.get_running_loop(), Starved(), []
        inner = MemoryLedger(settings, lambda: wall + loop.time(), lambda: wall + loop.time())
        limiters = [limiter_over(settings, SlowLedger(inner, redis)) for _ in range(MANY)]

        def held():
            return sum(each.state.held for each in limiters)

        def away():
            return sum(each.state.away for each in limiters)

        async def knock(limiter, first):
            await asyncio.sleep(first)
            while True:
                if not isinstance(verdict := await limiter.acquire(), Refusal):
                    slots.append(verdict)
                await asyncio.sleep(0.5)

        clients = [asyncio.ensure_future(knock(each, number / MANY)) for number, each in enumerate(limiters)]
        await asyncio.sleep(10)
        redis.cost = COST
        await asyncio.sleep(RECOVERED_BY)
        most, redis.most = [redis.most], 0
        seen, found = [away()], []
        for slot in slots[::50]:
            began = loop.time()
            slot.release()
            while held() < SLOTS and loop.time() < began + 6:
                await asyncio.sleep(0.1)
            seen.append(away())
            found.append(loop.time() - began)
        most.append(redis.most)
        redis.cost = 0.0
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await asyncio.gather(*(each.aclose() for each in limiters))
        return seen, found, most

    away, found, most = run(main())
    assert set(away) == {0}
    assert max(found) <= 6
    assert most == [3, 1]  # at first two are given up, since Redis was fast


@pytest.mark.fault
@pytest.mark.skipif(sys.platform != "linux", reason="needs the figures of Linux for a process")
async def test_many_workers_at_a_full_pool_do_not_drown_a_slow_redis(admission, figures):
    with Redis() as server:
        settings = admission(
            MAX_CONNECTIONS=SLOTS,
            EXPECTED_WORKERS=WORKERS,
            LEDGER=server.url,
            LEDGER_TIMEOUT=0.25,
            HEARTBEAT=3,
            LEASE=30,
        )
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
