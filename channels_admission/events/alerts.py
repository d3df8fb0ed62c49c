"""What a worker tells of a pool: by signal, in the log, and to the recipients of ``ALERTS``."""

import asyncio
import logging
from collections import deque
from contextvars import Context
from dataclasses import asdict
from typing import Any

from django.dispatch import Signal

from .. import signals
from ..conf.alerts import Recipients
from ..core.levels import Edge, Level
from ..runtime.faults import Faults
from .webhook import outbox

logger = logging.getLogger("channels_admission")

SIGNALS = {
    Level.WARNING: signals.capacity_warning,
    Level.CRITICAL: signals.capacity_critical,
    Level.FULL: signals.capacity_full,
}
MOST_WAITING = 100
"""Signals that wait for slow receivers; the oldest beyond them are dropped."""
PATIENCE_AT_EXIT = 0.5
"""Seconds that receivers have left when the worker stops."""


class Alerts:
    """One worker's voice for one pool. Belongs to one event loop.

    Receivers run one signal at a time beside the event loop: asynchronous ones on it, others in
    Django's thread for synchronous code. One that fails is logged by Django.
    """

    def __init__(self, pool: str, recipients: Recipients) -> None:
        self._pool = pool
        self._faults = Faults(f"the alerts of pool {pool!r}")
        self._recipients = recipients
        self._waiting: deque[tuple[Signal, dict[str, Any]]] = deque(maxlen=MOST_WAITING)
        self._task: asyncio.Task[None] | None = None

    def tell(self, edge: Edge, worker: str) -> None:
        """The pool has gone from one level to another."""
        levels = list(Level)
        rises = levels.index(edge.level) > levels.index(edge.before)
        name = edge.level.value if rises else "recovered"
        sentence = (
            f"Pool {self._pool!r} {'is' if rises else 'is back at'} {edge.level.value}: "
            f"{edge.held:,} of {edge.limit:,} slots held."
        )
        logger.warning("%s", sentence)
        self._send(SIGNALS[edge.level] if rises else signals.capacity_recovered, edge=edge, worker=worker)
        if self._recipients:
            facts = {
                "event": f"capacity_{name}",
                "pool": self._pool,
                **asdict(edge),
                "worker": worker,
                "text": sentence,
            }
            outbox.send(self._recipients, sentence, facts)

    def lose(self, worker: str, error: str) -> None:
        """The ledger is away."""
        self._send(signals.ledger_lost, worker=worker, error=error)
        self._tell_of_ledger("ledger_lost", f"Worker {worker} has lost the ledger for pool {self._pool!r}.", worker)

    def regain(self, worker: str) -> None:
        """The ledger answers again."""
        self._send(signals.ledger_regained, worker=worker)
        self._tell_of_ledger(
            "ledger_regained", f"Worker {worker} has the ledger for pool {self._pool!r} again.", worker
        )

    def _tell_of_ledger(self, event: str, sentence: str, worker: str) -> None:
        if self._recipients and self._recipients.ledger:
            outbox.send(
                self._recipients, sentence, {"event": event, "pool": self._pool, "worker": worker, "text": sentence}
            )

    async def aclose(self) -> None:
        """Leave receivers a moment."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=PATIENCE_AT_EXIT)

    def _send(self, signal: Signal, **facts: Any) -> None:
        if signal.has_listeners():
            self._waiting.append((signal, facts))
            if self._task is None or self._task.done():
                loop = asyncio.get_running_loop()
                self._task = loop.create_task(self._deliver(), name="admission alerts", context=Context())

    async def _deliver(self) -> None:
        while self._waiting:
            signal, facts = self._waiting.popleft()
            with self._faults.spare("the receivers"):
                await signal.asend_robust(sender=None, pool=self._pool, **facts)
