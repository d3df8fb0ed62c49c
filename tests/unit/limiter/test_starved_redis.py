"""Many workers at a full pool in a Redis that has little time for them."""

import asyncio
import random
import sys
import time
from statistics import median

import pytest

from channels_admission.ledger import open_ledger
from channels_admission.limiter.limiter import Slot

from demo.servers import Redis
from support.limiters import limiter_over
from support.starving import starved
from support.waiting import eventually

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(sys.platform != "linux", reason="needs the figures of Linux for a process"),
]
GATES, LIMIT, LEAVE = 50, 500, 10
SHARE = 0.05
ROUNDS = 8
FAILED = 0.1
"""The share of calls that may fail where the machine itself is busy; a quarter does if each worker asks at will."""


class Site:
    """Gates at which clients knock without end."""

    def __init__(self, settings) -> None:
        self.ledgers = [open_ledger(settings) for _ in range(GATES)]
        self.gates = [limiter_over(settings, ledger) for ledger in self.ledgers]
        self.slots: list[Slot] = []
        self.away = 0
        """The most gates that were ever away at once."""
        self.rng = random.Random(1013)
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def held(self) -> int:
        return sum(gate.state.held for gate in self.gates)

    @property
    def calls(self) -> int:
        return sum(gate.state.calls.made for gate in self.gates)

    @property
    def failed(self) -> int:
        return sum(gate.state.calls.failed for gate in self.gates)

    def knock(self) -> None:
        self.tasks = [asyncio.ensure_future(self.knock_at(gate)) for gate in self.gates]

    async def knock_at(self, gate) -> None:
        while True:
            verdict = await gate.acquire()
            if isinstance(verdict, Slot):
                self.slots.append(verdict)
            self.away = max(self.away, sum(gate.state.away for gate in self.gates))
            assert self.held <= LIMIT
            await asyncio.sleep(self.rng.uniform(0, 0.05))

    async def is_full(self) -> float:
        """Seconds until it is."""
        began = time.monotonic()
        await eventually(lambda: self.held == LIMIT, seconds=20)
        return time.monotonic() - began

    def leave(self) -> None:
        self.rng.shuffle(self.slots)
        for _ in range(LEAVE):
            self.slots.pop().release()

    async def aclose(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.gather(*(gate.aclose() for gate in self.gates))
        await asyncio.gather(*(ledger.aclose() for ledger in self.ledgers))


async def test_many_workers_at_a_full_pool_do_not_drown_a_slow_redis(admission, figures):
    with Redis() as server:
        settings = admission(
            MAX_CONNECTIONS=LIMIT, EXPECTED_WORKERS=GATES, LEDGER=server.url, LEDGER_TIMEOUT=0.25, HEARTBEAT=3, LEASE=30
        )
        site = Site(settings)
        site.knock()
        await site.is_full()
        with starved(server.process.pid, SHARE):
            site.leave()
            await site.is_full()  # until all know how slow it is, and that no ticket comes back
            site.away, before, began, refilled = 0, (site.calls, site.failed), time.monotonic(), []
            for _ in range(ROUNDS):
                site.leave()
                refilled.append(await site.is_full())
            calls, failed = site.calls - before[0], site.failed - before[1]
            rate = calls / (time.monotonic() - began)
            pause = max(gate.pace.shortage for gate in site.gates)
        away, held = site.away, site.held
        await site.aclose()
    assert failed <= FAILED * calls
    assert held == LIMIT
    # Now and then some are kept for clients in the line, and found after its grace.
    assert median(refilled) <= 2 * (pause + settings.ledger_timeout)
    figures.note(
        f"{GATES} workers, {LIMIT} full slots, {SHARE:.0%} of a core for Redis; {ROUNDS} times {LEAVE} clients leave",
        "few calls fail; never above the limit; the slots are held again after two pauses and two calls, in the median",
        f"{failed} of {calls} calls, {away} workers away at once; at most {LIMIT} of {LIMIT}; "
        f"{median(refilled):.2f} s, {max(refilled):.1f} s at the latest; {rate:.0f} calls a second",
    )
