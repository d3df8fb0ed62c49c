"""What a limiter tells of its pool and its ledger, in the log and as events."""

import asyncio
import math

from ..conf import Settings
from ..core.counters import HEALED
from ..core.protocol import Reply, Report
from ..events import messages
from ..events.dispatch import Events
from ..exceptions import LedgerError, LedgerUnavailable
from .state import State

DAMAGE_TOLD_EVERY = 5.0
"""Seconds from one log line of damaged counts to the next, at the least."""
LATE_AT = 2
"""Late answers in one outage after which the ledger is said to be slow, and not lost."""


class News:
    """Tells of one pool, each change once. Belongs to one event loop."""

    def __init__(self, state: State, settings: Settings, events: Events) -> None:
        self._state = state
        self._settings = settings
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._refused_for_good = False
        self._late = 0
        self._told_of_damage = -math.inf

    def lost(self, error: LedgerError, *, is_first: bool) -> None:
        """The ledger is away; ``is_first``: the call before this one was answered."""
        pool, for_good = self._state.pool, not isinstance(error, LedgerUnavailable)
        if is_first or (for_good and not self._refused_for_good):
            messages.lost(pool.name, pool.when_ledger_down, error, for_good=for_good)
        self._refused_for_good = for_good
        if is_first:
            self._late = 0
            self._events.ledger_lost(str(error), self._state.worker)

    def late(self, took: float) -> None:
        """The ledger has answered after ``took`` seconds, when the call was given up; told once in an outage."""
        self._late += 1
        if self._late == LATE_AT:
            messages.late(self._state.pool.name, took, self._settings.ledger_timeout)

    def regained(self) -> None:
        messages.regained(self._state.pool.name)
        self._events.ledger_regained(self._state.worker)

    def replied(self, report: Report, reply: Reply) -> None:
        """Tell what is new in a reply."""
        pool, worker, settings = self._state.pool.name, self._state.worker.id, self._settings
        if reply.lapsed and not reply.settling:  # else the ledger lost its data, and no lease ran out
            messages.lapsed(pool, worker, report.held)
        if report.settings != reply.settings:
            messages.settings_in_force(pool, report, reply, lease=settings.lease, heartbeat=settings.heartbeat)
        if reply.healed:
            self._state.counters[HEALED] += 1
            if self._loop.time() - self._told_of_damage >= DAMAGE_TOLD_EVERY:
                self._told_of_damage = self._loop.time()
                messages.damaged(pool)
