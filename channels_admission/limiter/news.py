"""What a limiter tells of its pool and its ledger, in the log and as events."""

import asyncio
import math

from ..conf import Settings
from ..core.agreement import numbers_of, text_of
from ..core.counters import HEALED
from ..core.protocol import Reply, Report
from ..events import messages
from ..events.dispatch import Events
from ..exceptions import LedgerError, LedgerUnavailable
from .books.state import State

DAMAGE_TOLD_EVERY = 5.0
"""Seconds from one log line of damaged counts to the next, at the least."""
LATE_AT = 2
"""Late answers in one outage after which the ledger is said to be slow, and not lost."""
SETTINGS_TOLD_EVERY = 600.0
"""Seconds from one WARNING of the same settings in force to the next, at the least, if they come and go."""
MOST_TOLD = 16
"""Settings in force that are remembered as told."""


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
        self._told_settings: dict[str, float] = {}
        """When settings in force were told last as a WARNING, the latest at the end."""
        self._is_alone = True
        """Whether no worker was known whose counts are kept elsewhere."""

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
        pool, worker = self._state.pool.name, self._state.worker.id
        if reply.lapsed and not reply.settling:  # else the ledger lost its data, and no lease ran out
            messages.lapsed(pool, worker, report.held)
        if report.settings != reply.settings:
            self._tell_settings(report, reply.settings)
        if self._is_alone is bool(reply.elsewhere):
            self._is_alone = not reply.elsewhere
            messages.counted_elsewhere(pool, reply.elsewhere)
        if reply.healed:
            self._state.counters[HEALED] += 1
            if self._loop.time() - self._told_of_damage >= DAMAGE_TOLD_EVERY:
                self._told_of_damage = self._loop.time()
                messages.damaged(pool)

    def _tell_settings(self, report: Report, in_force: str) -> None:
        """Tell what comes and goes as a WARNING now and then only, but leave no "the same again" that is not true."""
        now, settings, told = self._loop.time(), self._settings, self._told_settings
        is_old = now - told.get(in_force, -math.inf) < SETTINGS_TOLD_EVERY
        is_untrue = in_force != "" and next(reversed(told), None) == ""
        if is_new := is_untrue or not is_old:
            told.pop(in_force, None)
            told[in_force] = now
            if len(told) > MOST_TOLD:
                del told[next(iter(told))]
        own = numbers_of(text_of(report, settings.lease, settings.heartbeat, settings.site))
        messages.settings_in_force(self._state.pool.name, own, numbers_of(in_force), settings.prefix, is_new=is_new)
