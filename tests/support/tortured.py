"""A worker to be tortured: a process with the product's limiter over the Redis ledger, and clients that come and go.

What it holds stands in memory that it shares with the other workers and the judge; see :class:`Cells`.
"""

import asyncio
import json
import logging
import mmap
import random
import sys
import time
from pathlib import Path

from django.conf import settings as django_settings

from channels_admission import conf
from channels_admission.core.protocol import Reply, Report
from channels_admission.ledger import open_ledger
from channels_admission.limiter.books.state import State
from channels_admission.limiter.limiter import Limiter, Slot
from channels_admission.runtime.identity import Worker

WORKERS = 8
CLIENTS = 10
"""In each worker; at high tide they want half as many slots again as the torture's pool has."""
TIDE = 2.0
"""Seconds from high to low tide. At low tide the pool has room, which ``share`` may lend out."""


class Cells:
    """What the workers hold in truth, a byte for each, and what they may have borrowed, a byte for each.

    The eight bytes lie in one aligned word, which a processor reads in one step: a slot that passes from one worker to
    another between two reads cannot be seen twice. A worker counts a slot here *after* it was admitted, and discounts
    it *before* it gives it back, so the sum is never above the truth, and every excess seen here is real.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 4096)

    @classmethod
    def create(cls, path: Path) -> "Cells":
        path.write_bytes(bytes(4096))
        return cls(path)

    @property
    def held(self) -> bytes:
        return self.memory[0:WORKERS]

    @property
    def borrowed(self) -> bytes:
        return self.memory[WORKERS : 2 * WORKERS]

    @property
    def quiet(self) -> bool:
        """Whether the clients shall stay as they are."""
        return self.memory[2 * WORKERS] == 1

    def be_quiet(self) -> None:
        self.memory[2 * WORKERS] = 1

    def add(self, worker: int, slots: int) -> None:
        self.memory[worker] += slots

    def borrow(self, worker: int, slots: int) -> None:
        self.memory[WORKERS + worker] = slots

    def clear(self, worker: int) -> None:
        """For a worker that is as good as dead."""
        self.memory[worker] = self.memory[WORKERS + worker] = 0


class Borrower(State):
    """Books that also say what their worker may hold beyond what the ledger counts, by the README's rule.

    That is its part of the room last seen free, from the loss of the ledger until a reply in which the total is
    within the limit again.
    """

    def __init__(self, pool: conf.PoolSettings, worker: Worker, cells: Cells, number: int) -> None:
        super().__init__(pool, worker)
        self.cells, self.number = cells, number
        self.part = pool.max_connections // pool.expected_workers
        self.borrowed = 0

    def fail(self, now: float) -> None:
        if not self.away and self.pool.when_ledger_down == "share":
            self._note(self.borrowed + self.part)
        super().fail(now)

    def settle(self, report: Report, reply: Reply) -> None:
        super().settle(report, reply)
        self.part = max(0, reply.limit - reply.total) // reply.workers
        if reply.total <= reply.limit:
            # What it borrowed while the reply was on its way is in no total yet.
            self._note(max(0, self.held - self.allowance))

    def _note(self, slots: int) -> None:
        self.borrowed = slots
        self.cells.borrow(self.number, slots)


class Client:
    """Comes, stays, leaves and comes again, now and then with too little time for the verdict."""

    def __init__(self, limiter: Limiter, cells: Cells, number: int, rng: random.Random) -> None:
        self.limiter, self.cells, self.number, self.rng = limiter, cells, number, rng

    async def live(self) -> None:
        while not self.cells.quiet:
            timeout = self.rng.choice([0.003, None, None, None])
            try:
                async with asyncio.timeout(timeout):
                    verdict = await self.limiter.acquire()
            except TimeoutError:
                continue
            if isinstance(verdict, Slot):
                await self._stay(verdict)
            else:
                await asyncio.sleep(self.rng.uniform(0.05, 0.2))

    async def _stay(self, slot: Slot) -> None:
        self.cells.add(self.number, +1)
        await asyncio.sleep(self.rng.uniform(0.1, 0.8))
        if self.cells.quiet:
            await asyncio.Event().wait()
        self.cells.add(self.number, -1)
        slot.release()
        is_low = time.monotonic() % (2 * TIDE) < TIDE
        await asyncio.sleep(self.rng.uniform(0.3, 1.2) if is_low else self.rng.uniform(0, 0.1))


async def serve(cells: Cells, number: int, rng: random.Random) -> None:
    settings = conf.current()
    pool = settings.pool("default")
    worker = Worker()
    state = Borrower(pool, worker, cells, number)
    limiter = Limiter(state, settings, open_ledger(settings))
    await asyncio.gather(*(Client(limiter, cells, number, rng).live() for _ in range(CLIENTS)))
    await asyncio.Event().wait()


if __name__ == "__main__":
    place, number, seed, keys = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING)
    django_settings.configure(CHANNELS_ADMISSION=json.loads(keys), SECRET_KEY="torture")
    asyncio.run(serve(Cells(Path(place)), int(number), random.Random(f"{seed} {number}")))
