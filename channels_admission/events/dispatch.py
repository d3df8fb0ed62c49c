"""Events of one pool in one worker: told by signal, in the log, by mail and to a webhook.

Telling never fails and never waits: each verb returns at once, and everything slow happens later.

- **Signals** go through one queue and one task for each limiter, one event at a time. Synchronous receivers run in
  Django's thread for synchronous code, asynchronous ones on the event loop.
- **Mail and webhook** are handed on at once to the process's :class:`~.webhook.Sender`. They do not wait for receivers.
- **The log** has a line for each change of a level at once, and one line a second at the most for all refusals.

News of the pool (its level, its ledger) come before verdicts, and each of the two keeps its order. The queue holds at
most :data:`MOST_WAITING` events. What finds no room is dropped; news take the place of the latest verdict. The sender
keeps the same rule. Each drop is counted as ``events.dropped``, and the log says so once until there is room again.
"""

import asyncio
import logging
from collections import Counter, deque
from contextvars import Context
from dataclasses import asdict
from typing import Any, NamedTuple

from django.dispatch import Signal

from .. import signals
from ..conf import PoolSettings
from ..conf.alerts import Recipients
from ..conf.shares import classes
from ..core.counters import EVENTS_DROPPED
from ..core.levels import Edge, Level
from ..core.protocol import Ask, Refusal
from ..runtime.faults import Faults
from ..runtime.identity import Worker
from .log import RefusalLog
from .webhook import sender

logger = logging.getLogger("channels_admission")

MOST_WAITING = 1000
"""Events that wait for receivers, in each limiter."""
DEADLINE = 60.0
"""Seconds that receivers have for one signal; then the next one is sent. Asynchronous receivers are cancelled."""
EXIT_TIMEOUT = 0.5
"""Seconds that receivers have left when a limiter ends."""
LEVELS = tuple(Level)
RISES = {
    Level.WARNING: signals.capacity_warning,
    Level.CRITICAL: signals.capacity_critical,
    Level.FULL: signals.capacity_full,
}


class Event(NamedTuple):
    """A signal to send, and the keyword arguments of its receivers."""

    signal: Signal
    details: dict[str, Any]


class EventQueue:
    """The events that wait for receivers: news of the pool first, then verdicts."""

    def __init__(self) -> None:
        self._news: deque[Event] = deque()
        self._verdicts: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._news) + len(self._verdicts)

    def put(self, event: Event, *, is_verdict: bool) -> bool:
        """Let ``event`` wait; False if an event was dropped for want of room, this one or another."""
        is_full = len(self) >= MOST_WAITING
        if is_full and (is_verdict or not self._verdicts):
            return False
        if is_full:
            self._verdicts.pop()
        (self._verdicts if is_verdict else self._news).append(event)
        return not is_full

    def take(self) -> Event:
        return (self._news or self._verdicts).popleft()


class Events:
    """What one limiter tells of its pool. Belongs to one event loop; no method fails.

    Drops are counted in ``counters``; ``worker`` is the one that tells, since a limiter's worker may be renamed.
    """

    def __init__(self, pool: PoolSettings, recipients: Recipients, counters: Counter[str], faults: Faults) -> None:
        self._pool = pool
        self._recipients = recipients
        self._counters = counters
        self._faults = faults
        self.refusals = RefusalLog(pool.name, counters)
        """Told of each refusal by :meth:`~.log.RefusalLog.note`."""
        self._waiting = EventQueue()
        self._full: set[str] = set()
        """The queues in which the log has said that events are dropped."""
        self._task: asyncio.Task[None] | None = None

    def tell_verdict(self, verdict: object, worker: Worker, ask: Ask | None = None) -> None:
        """Tell the verdict on ``ask``, a refusal or a slot, to receivers of its signal."""
        refused = isinstance(verdict, Refusal)
        signal = signals.connection_refused if refused else signals.connection_admitted
        if not (signal.receivers and signal.has_listeners()):  # the first is cheaper
            return
        with self._faults.spare("the signal of a verdict"):
            name = None if ask is None else classes(self._pool)[ask.class_index].name or None
            details: dict[str, Any] = {"class_name": name}
            if isinstance(verdict, Refusal):
                details |= {"reason": verdict.reason, "retry_after": verdict.retry_after}
            self._send(signal, worker, details, is_verdict=True)

    def level(self, edge: Edge, worker: Worker) -> None:
        """The pool has gone from one level to another."""
        with self._faults.spare("the alert of a level"):
            rises = LEVELS.index(edge.level) > LEVELS.index(edge.before)
            text = (
                f"Pool {self._pool.name!r} {'has risen to' if rises else 'is back at'} {edge.level.value}: "
                f"{edge.held:,} of {edge.limit:,} slots held."
            )
            logger.warning("%s", text)
            name = f"capacity_{edge.level.value if rises else 'recovered'}"
            self._alert(name, text, worker, asdict(edge))
            self._send(RISES[edge.level] if rises else signals.capacity_recovered, worker, {"edge": edge})

    def ledger_lost(self, error: str, worker: Worker) -> None:
        """The worker decides alone, since the ledger is away."""
        with self._faults.spare("the alert of a lost ledger"):
            if self._recipients.ledger:
                text = f"Worker {worker.id} has lost the ledger for pool {self._pool.name!r}."
                self._alert("ledger_lost", text, worker)
            self._send(signals.ledger_lost, worker, {"error": error})

    def ledger_regained(self, worker: Worker) -> None:
        """The ledger answers the worker again."""
        with self._faults.spare("the alert of a regained ledger"):
            if self._recipients.ledger:
                text = f"Worker {worker.id} has the ledger for pool {self._pool.name!r} again."
                self._alert("ledger_regained", text, worker)
            self._send(signals.ledger_regained, worker, {})

    async def aclose(self) -> None:
        """Write the last line of refusals, and leave receivers :data:`EXIT_TIMEOUT`."""
        with self._faults.spare("the log of refusals"):
            self.refusals.close()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=EXIT_TIMEOUT)

    def _alert(self, event: str, text: str, worker: Worker, details: dict[str, Any] | None = None) -> None:
        """Hand an alert to the sender, where the settings name recipients."""
        if not self._recipients:
            return
        body = {"event": event, "pool": self._pool.name, **(details or {}), "worker": worker.id, "text": text}
        if sender.send(self._recipients, text, body):
            self._full.discard("alerts")
        else:
            self._drop("alerts", "Mail or webhook is too slow: alerts of pool %r are dropped.")

    def _send(self, signal: Signal, worker: Worker, details: dict[str, Any], *, is_verdict: bool = False) -> None:
        """Queue a signal, where anybody listens to it."""
        if not signal.has_listeners():
            return
        event = Event(signal, {"pool": self._pool.name, "worker": worker.id, **details})
        if not self._waiting.put(event, is_verdict=is_verdict):
            self._drop("signals", "Receivers of signals are too slow: events of pool %r are dropped.")
        if self._task is None:
            # An empty context: a receiver sees nothing of the handshake that came first.
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._deliver(), name="admission events", context=Context())

    async def _deliver(self) -> None:
        try:
            while self._waiting:
                event = self._waiting.take()
                with self._faults.spare("the receivers of signals"):
                    async with asyncio.timeout(DEADLINE):
                        await event.signal.asend_robust(None, **event.details)
        finally:
            self._task = None
            self._full.discard("signals")

    def _drop(self, queue: str, text: str) -> None:
        self._counters[EVENTS_DROPPED] += 1
        if queue not in self._full:
            self._full.add(queue)
            logger.warning(text, self._pool.name)
