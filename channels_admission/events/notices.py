"""Notices of single verdicts, for whoever listens to their signals: behind the handshake's back, and free for others.

They are told one after the other, sync receivers in a thread as Django does it. A receiver that
fails or takes its time holds up no handshake. One that cannot keep up misses the notices beyond
:data:`MOST_WAITING`, and the log says so.
"""

import asyncio
import logging
from collections import deque
from contextvars import Context
from typing import Any

from django.dispatch import Signal

from ..conf import PoolSettings
from ..conf.shares import classes
from ..core.protocol import Ask, Refusal
from ..runtime.faults import Faults
from ..runtime.identity import Worker
from ..signals import connection_admitted, connection_refused

logger = logging.getLogger("channels_admission")

MOST_WAITING = 1000


class Notices:
    """The verdicts of one limiter that have yet to be told. Belongs to one event loop."""

    def __init__(self, pool: PoolSettings) -> None:
        self._pool = pool
        self._faults = Faults(f"the notices of pool {pool.name!r}")
        self._waiting: deque[tuple[Signal, dict[str, Any]]] = deque()
        self._complained = False
        self._task: asyncio.Task[None] | None = None

    def tell(self, verdict: object, worker: Worker, ask: Ask | None = None) -> None:
        """Have the verdict on ``ask`` told, if anybody listens: a refusal, or a slot. Never fails."""
        refused = isinstance(verdict, Refusal)
        signal = connection_refused if refused else connection_admitted
        if not signal.has_listeners():
            return
        with self._faults.spare("a notice"):
            self._queue(signal, verdict, worker, ask)

    def _queue(self, signal: Signal, verdict: object, worker: Worker, ask: Ask | None) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._complain()
            return
        group = None if ask is None else classes(self._pool)[ask.group].name
        facts: dict[str, Any] = {"pool": self._pool.name, "worker": worker.id, "class_name": group or None}
        if isinstance(verdict, Refusal):
            facts |= {"reason": verdict.reason, "retry_after": verdict.retry_after}
        self._waiting.append((signal, facts))
        if self._task is None:
            # An empty context: a receiver should see nothing of the handshake that came first.
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name="admission notices", context=Context())

    async def _run(self) -> None:
        try:
            while self._waiting:
                signal, facts = self._waiting.popleft()
                with self._faults.spare("the receivers"):
                    await signal.asend_robust(None, **facts)
        finally:
            self._task, self._complained = None, False

    def _complain(self) -> None:
        if not self._complained:
            self._complained = True
            logger.warning(
                "Receivers are too slow: verdicts of pool %r go untold with %d waiting.", self._pool.name, MOST_WAITING
            )
