"""When a limiter calls its ledger.

At every heartbeat, as soon as a handshake waits, and shortly after a release. Handshakes that arrive during a call
share the next one, which also reports releases, so that a herd of a thousand costs a handful of calls.
"""

import asyncio
import math
from collections.abc import Sized
from contextlib import suppress

from ...ledger.base import TICKS
from ..books.state import State

RELEASE_PAUSE = 0.1
"""Seconds a release waits for others while the pool has room: at most ten calls a second then, as for a herd.

A handshake that comes meanwhile takes a slot that is still counted, and needs no call at all.
"""
QUIET = 0.3
"""Seconds without a handshake or a release after which the ledger is told of those that needed no call.

:data:`MORE` times as long each time that more have come meanwhile: a trickle would wake an idle worker for each.
"""
MORE = 3
REFILL_PAUSE = 0.02
"""Seconds from one call to the next where only the reserve of slots is low: at most 50 calls a second."""


class Schedule:
    """When the next call is due, for those that are ``waiting`` and for what is to be told.

    Belongs to one event loop, and all times are of its clock.
    """

    def __init__(self, state: State, waiting: Sized, ledger_timeout: float) -> None:
        self._state = state
        self._waiting = waiting
        self._ledger_timeout = ledger_timeout
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self.heartbeat_at = self._loop.time()
        """When the next heartbeat is due; while the ledger is away, the next call."""
        self.quiet_until = 0.0
        """Until when no call is made but a heartbeat."""
        self.is_calling = False
        self._called_at = 0.0
        self._report_at: float | None = None
        self._tell_at = math.inf
        self._quiet = self._touched_at = 0.0
        """Of those that needed no call: the pause after which they are told, and when the last one came."""

    def begin(self, now: float) -> None:
        """A call begins, which tells all that was to be told."""
        self._report_at, self._tell_at = None, math.inf
        self._called_at, self.is_calling = now, True

    def wake(self) -> None:
        """A handshake waits."""
        self._wake.set()

    def report_soon(self) -> None:
        """Tell the ledger of what was taken or given back without it, unless the event loop is closed."""
        if self._report_at is None and not self._loop.is_closed():
            self._report_at = self._loop.time() + (0 if self._state.scarce else RELEASE_PAUSE)
            self._wake.set()

    def report_now(self) -> None:
        """The same, whether or not the pool has room."""
        self._report_at = self._loop.time()
        self._wake.set()

    def report_when_quiet(self) -> None:
        """Tell the ledger of what the reserve has covered, once nothing more comes for a while."""
        self._touched_at = self._loop.time()
        if self._tell_at == math.inf and not self._loop.is_closed():
            self._quiet, self._tell_at = QUIET, self._touched_at + QUIET
            self._wake.set()

    def refill(self) -> None:
        """Ask for slots before their handshakes come."""
        due = max(self._loop.time(), self._called_at + REFILL_PAUSE)
        if not self.is_calling and (self._report_at is None or self._report_at > due):
            self._report_at = due
            self._wake.set()

    async def until_due(self) -> None:
        """Return when the next call should start."""
        while True:
            if self._tell_at <= self._loop.time() < self._touched_at + self._quiet:
                self._quiet *= MORE
                self._tell_at = self._touched_at + self._quiet
            due = self.heartbeat_at
            if not self._state.away:
                told_at = self._tell_at if self._report_at is None else min(self._tell_at, self._report_at)
                due = min(due, self.quiet_until if self._waiting else max(told_at, self.quiet_until))
            if (delay := due - self._loop.time()) <= 0:
                return
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    def is_too_late(self) -> bool:
        """Whether a handshake that comes now would have waited too long when the next call is made."""
        least = self._ledger_timeout * (TICKS - 1) / TICKS  # the first tick may be near
        return self.quiet_until > self._loop.time() + least
