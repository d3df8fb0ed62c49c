"""Connections that come and go at real limiters, while the test breaks what is behind them."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from channels_admission.conf import DEFAULT_POOL, Settings
from channels_admission.ledger import open_ledger
from channels_admission.limiter.books.state import State
from channels_admission.limiter.limiter import Limiter, Slot
from channels_admission.runtime.identity import Worker

from support.waiting import eventually


class Churn:
    """Clients of some limiters, each of whom holds a slot for a moment, over and over."""

    def __init__(self, limiters: list[Limiter], settings: Settings) -> None:
        self.limiters = limiters
        self.settings = settings
        self.most = 0
        """Slots held at once, in truth."""
        self.reader = open_ledger(settings)
        self._moving = asyncio.Event()
        self._moving.set()
        self._clients: list[asyncio.Future[None]] = []

    @property
    def held(self) -> int:
        return sum(limiter.state.held for limiter in self.limiters)

    @property
    def is_away(self) -> list[bool]:
        """Whether each of the limiters decides alone."""
        return [limiter.state.away for limiter in self.limiters]

    @property
    def shares(self) -> int:
        """The slots beyond their own that all limiters together may take alone, under ``share``."""
        return sum(limiter.state._share for limiter in self.limiters)

    def come(self, count: int) -> None:
        """So many more clients for each limiter."""
        clients = [asyncio.ensure_future(self._come_and_go(limiter)) for limiter in self.limiters for _ in range(count)]
        self._clients.extend(clients)

    async def leave(self) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def move(self) -> None:
        self._moving.set()

    def rest(self) -> None:
        """Let those inside stay, and nobody else come."""
        self._moving.clear()

    async def regained(self, since: float, within: float) -> float:
        """Seconds from ``since``, a monotonic moment, until every limiter has lost the ledger and has it again."""
        lost = set()

        def all_have() -> bool:
            lost.update(number for number, away in enumerate(self.is_away) if away)
            return len(lost) == len(self.limiters) and not any(self.is_away)

        await eventually(all_have, seconds=within - (time.monotonic() - since))
        return time.monotonic() - since

    async def agrees(self) -> bool:
        """Whether the ledger counts for each limiter what it holds."""
        (reading,) = await self.reader.read((DEFAULT_POOL,))
        truth = {limiter.state.worker.id: limiter.state.held for limiter in self.limiters}
        return {worker.worker: worker.held for worker in reading.workers} == truth

    async def _come_and_go(self, limiter: Limiter) -> None:
        while True:
            await self._moving.wait()
            verdict = await limiter.acquire()
            if not isinstance(verdict, Slot):
                await asyncio.sleep(random.uniform(0.02, 0.1))
                continue
            self.most = max(self.most, self.held)
            try:
                await asyncio.sleep(random.uniform(0.1, 0.6))
                await self._moving.wait()
            finally:
                verdict.release()


@asynccontextmanager
async def churn(settings: Settings, limiters: int, clients: int) -> AsyncIterator[Churn]:
    """So many limiters, each with a ledger of its own, as in so many processes; and clients for each of them."""
    ledgers = [open_ledger(settings) for _ in range(limiters)]
    pool = settings.pool(DEFAULT_POOL)
    churn = Churn([Limiter(State(pool, Worker()), settings, ledger) for ledger in ledgers], settings)
    churn.come(clients)
    try:
        yield churn
    finally:
        await churn.leave()
        for limiter in churn.limiters:
            await limiter.aclose()
        for ledger in [*ledgers, churn.reader]:
            await ledger.aclose()
