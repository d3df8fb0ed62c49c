"""A ledger whose road to the real one the test can slow down, cut or break."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from channels_admission.core.protocol import Reply, Report
from channels_admission.core.readings import Reading
from channels_admission.exceptions import LedgerError, LedgerUnavailable
from channels_admission.ledger.base import Ledger


def lose_changes(monkeypatch, ledger: type[Ledger], pool: str) -> None:
    """Let no change of the pool's controls reach such ledgers."""
    control = ledger.control

    async def control_others(self, name, *args):
        if name == pool:
            raise LedgerUnavailable("gone")
        return await control(self, name, *args)

    monkeypatch.setattr(ledger, "control", control_others)


class FaultyLedger:
    """Passes calls on to ``inner``, after ``delay`` seconds, unless told to fail them or swallow their replies."""

    kind = "faulty"
    address = "nowhere"

    def __init__(self, inner: Ledger) -> None:
        self.inner = inner
        self.delay = 0.0
        self.error: LedgerError | None = None
        self.errors: list[LedgerError] = []
        """Raised by the next calls, one each, before they reach the ledger."""
        self.silent = False
        self.reports: list[Report] = []

    async def connect(self, within: float) -> None:
        await self.inner.connect(within)

    async def reconcile(self, pool: str, report: Report) -> Reply:
        self.reports.append(report)
        if self.errors:
            raise self.errors.pop(0)
        if self.error is not None:
            raise self.error
        await asyncio.sleep(self.delay)
        reply = await self.inner.reconcile(pool, report)
        if self.silent:
            await asyncio.Event().wait()
        return reply

    async def read(self, pools: tuple[str, ...]) -> tuple[Reading, ...]:
        return await self.inner.read(pools)

    async def aclose(self) -> None:
        await self.inner.aclose()

    @asynccontextmanager
    async def away(self, error: LedgerError) -> AsyncIterator[None]:
        self.error = error
        try:
            yield
        finally:
            self.error = None
