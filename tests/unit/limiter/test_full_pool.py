"""A full pool whose clients heed neither hints nor tickets, in virtual time: its slots must not lie idle."""

import asyncio
import random
import statistics
import time

import pytest

from channels_admission.core.protocol import Refusal
from channels_admission.ledger.memory import MemoryLedger

from support.limiters import limiter_over
from support.virtual import run

LIMIT = 50
LEARNT = 3.0
"""Seconds after which the ledger knows that no ticket comes back."""


async def nothing(message=None):
    await asyncio.sleep(0 if message else 1e6)


class Crowd:
    """Clients that come, stay and come again, over and over, as soon as they like."""

    def __init__(self, limiter, stay):
        self.limiter, self.stay, self.inside = limiter, stay, 0
        self.rng = random.Random(1013)

    async def live(self):
        await asyncio.sleep(self.rng.uniform(0, 0.2))
        while True:
            scope = {"type": "websocket", "query_string": b"", "headers": []}
            verdict = await self.limiter.enter(scope, nothing, nothing)
            if not isinstance(verdict, Refusal):
                self.inside += 1
                await verdict.send({"type": "websocket.accept"})
                await asyncio.sleep(self.rng.uniform(*self.stay))
                self.inside -= 1
                self.limiter.leave(verdict)
            await asyncio.sleep(self.rng.uniform(0.05, 0.2))


@pytest.mark.parametrize("stay", [(0.05, 0.3), (2, 4)], ids=["short stays", "longer ones"])
def test_the_slots_of_a_full_pool_are_used_again_by_clients_without_tickets(admission, stay):
    settings, wall = admission(MAX_CONNECTIONS=LIMIT), time.time()

    async def main():
        loop = asyncio.get_running_loop()
        ledger = MemoryLedger(settings, lambda: wall + loop.time(), lambda: wall + loop.time())
        limiter = limiter_over(settings, ledger)
        crowd = Crowd(limiter, stay)
        clients = [asyncio.ensure_future(crowd.live()) for _ in range(3 * LIMIT)]
        await asyncio.sleep(LEARNT)
        inside = []
        for _ in range(200):
            await asyncio.sleep(0.02)
            inside.append(crowd.inside)
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)
        await limiter.aclose()
        return statistics.mean(inside), max(inside)

    usual, most = run(main())
    assert usual > 0.9 * LIMIT
    assert most <= LIMIT
