"""``python -m benchmarks.pileup [WORKERS ...]``: many workers at a full pool, over a Redis that gets 5 % of a core.

It prints JSON. The workers are the package's own limiters, each with a connection of its own, on one event loop.
Clients knock at each of them without end. In each round a few clients leave, and the next round begins when all slots
are held again.
"""

import asyncio
import json
import logging
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.test import override_settings

from channels_admission import conf
from channels_admission.conf import DEFAULT_POOL, Settings
from channels_admission.core.protocol import Refusal
from channels_admission.ledger import open_ledger
from channels_admission.limiter.books.state import State
from channels_admission.limiter.connections.slot import Slot
from channels_admission.limiter.limiter import Limiter
from channels_admission.runtime.identity import Worker

from .starving import starved
from demo.servers import Redis

ROOT = Path(__file__).resolve().parent.parent
SIZES = (10, 50, 200)
"""Workers."""
SLOTS, LEAVE = 500, 10
SHARE = 0.05
"""Of a core, for Redis."""
KNOCKS = 2000
"""Handshakes a second at all workers together: more would take the time of this process."""
TIMEOUT = 20.0
"""Seconds after which slots that are still free are lost."""
LONGEST = 60.0
"""Seconds after which workers that are still away are lost."""
POLL = 0.01
LEAST_PAUSE = 0.1
"""Seconds of the shortest pause, as docs/scaling.md says."""
ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Pile:
    """What was seen while Redis was slow. Times in seconds."""

    workers: int
    held: int
    """Of :data:`SLOTS`, in the end."""
    most: int
    """Slots held at one time."""
    calls: int
    failed: int
    away: int
    """The most workers that were without their ledger at once."""
    rate: float
    """Calls a second of all."""
    refilled: list[float]
    """How long it took in each round until the slots that became free were held again."""
    stated: float
    """Within how long slots that become free are found: two pauses between calls, and two calls. Those that are kept
    for clients in the line are found after their grace."""


class Site:
    """Workers at which clients knock without end."""

    def __init__(self, within: Settings, workers: int) -> None:
        self._ledgers = [open_ledger(within) for _ in range(workers)]
        pool = within.pool(DEFAULT_POOL)
        self.limiters = [Limiter(State(pool, Worker()), within, each) for each in self._ledgers]
        self.slots: list[Slot] = []
        self.away = self.most = 0
        self._rng = random.Random(1013)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def held(self) -> int:
        return sum(each.state.held for each in self.limiters)

    def count(self, what: str) -> int:
        """Calls that were ``made``, or ``failed``."""
        return sum(getattr(each.state.calls, what) for each in self.limiters)

    def stated(self) -> float:
        return 2 * max(max(LEAST_PAUSE, each.pace.shortage) + each.state.calls.lately for each in self.limiters)

    def knock(self) -> None:
        self._tasks = [asyncio.ensure_future(self._knock_at(each)) for each in self.limiters]

    async def _knock_at(self, limiter: Limiter) -> None:
        while True:
            verdict = await limiter.acquire()
            if not isinstance(verdict, Refusal):
                self.slots.append(verdict)
                self.most = max(self.most, self.held)
            await asyncio.sleep(self._rng.uniform(0, 2 * len(self.limiters) / KNOCKS))

    async def is_full(self) -> float:
        """Seconds until it is."""
        began = time.monotonic()
        while self.held < SLOTS and time.monotonic() < began + TIMEOUT:
            await asyncio.sleep(POLL)
            self.away = max(self.away, sum(each.state.away for each in self.limiters))
        return time.monotonic() - began

    async def is_back(self) -> None:
        """Return when every worker has its ledger."""
        began = time.monotonic()
        while any(each.state.away for each in self.limiters) and time.monotonic() < began + LONGEST:
            await asyncio.sleep(POLL)

    def leave(self) -> None:
        """Let a few clients go."""
        self._rng.shuffle(self.slots)
        for _ in range(min(LEAVE, len(self.slots))):
            self.slots.pop().release()

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(each.aclose() for each in self.limiters))
        await asyncio.gather(*(each.aclose() for each in self._ledgers))


async def pile_up(redis: Redis, within: Settings, workers: int, rounds: int = ROUNDS) -> Pile:
    """Fill the pool, slow Redis down, and let clients leave."""
    assert redis.process is not None
    site = Site(within, workers)
    try:
        site.knock()
        await site.is_full()
        with starved(redis.process.pid, SHARE):
            site.leave()
            await site.is_full()  # until all know that no ticket comes back
            await asyncio.sleep(2 * within.heartbeat)
            await site.is_back()  # and how slow Redis is
            site.away, calls, failed, began = 0, site.count("made"), site.count("failed"), time.monotonic()
            refilled, stated = [], 0.0
            for _ in range(rounds):
                site.leave()
                refilled.append(await site.is_full())
                stated = max(stated, site.stated())
            calls, failed = site.count("made") - calls, site.count("failed") - failed
            rate = calls / (time.monotonic() - began)
            return Pile(workers, site.held, site.most, calls, failed, site.away, rate, refilled, stated)
    finally:
        await site.aclose()


async def _measure(sizes: Iterable[int]) -> list[Pile]:
    piles = []
    for workers in sizes:
        with Redis() as redis:
            keys = {"LEDGER": redis.url, "MAX_CONNECTIONS": SLOTS, "EXPECTED_WORKERS": workers}
            with override_settings(CHANNELS_ADMISSION=keys):
                piles.append(await pile_up(redis, conf.current(), workers))
    return piles


def measure(sizes: Sequence[int] = SIZES) -> list[dict[str, Any]]:
    """The piles, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.pileup", *map(str, sizes)]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    settings.configure(CHANNELS_ADMISSION={}, SECRET_KEY="for benchmarks only")
    logging.getLogger("channels_admission").addHandler(logging.NullHandler())
    print(json.dumps([asdict(pile) for pile in asyncio.run(_measure(map(int, sys.argv[1:] or SIZES)))]))


if __name__ == "__main__":
    main()
