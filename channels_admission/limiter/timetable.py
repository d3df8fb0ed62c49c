"""When a limiter calls its ledger: at its beat, as soon as somebody waits, and a moment after a release."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

from ..conf import Settings
from .state import State

CROWD_PAUSE = 0.005
"""Seconds from one call to the next for each handshake that the first one decided, if there were several."""
LONGEST_PAUSE = 0.4
"""The most of ``LEDGER_TIMEOUT`` that such a pause may take: a large herd makes ten calls a second."""
RELEASE_PAUSE = 0.1
"""Seconds a release waits for company while the pool has room: at most ten calls a second then, as for a herd.

Whoever comes meanwhile takes a slot that is still counted, and needs no call at all.
"""
FIRST_PROBE = 0.05
"""Seconds until a lost ledger is asked again; doubles up to a beat."""


def crowd_pause(crowd: int, ledger_timeout: float) -> float:
    """Seconds from a call that decided so many handshakes to the next one."""
    return min(CROWD_PAUSE * crowd, LONGEST_PAUSE * ledger_timeout)


class Timetable:
    """The next call of one limiter. Belongs to one event loop, and all times are of its clock."""

    def __init__(self, state: State, settings: Settings) -> None:
        self._state = state
        self._settings = settings
        self.loop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        self._beat_at = self.loop.time()
        self._quiet_until = 0.0
        self._report_at: float | None = None
        self._backoff = FIRST_PROBE

    # What there is to call for

    def report_soon(self) -> None:
        """Tell the ledger of what was taken or given back without it."""
        if self._report_at is None:
            self._report_at = self.loop.time() + (0 if self._state.scarce else RELEASE_PAUSE)
            self._bell.set()

    def report_now(self) -> None:
        """The same, whether or not the pool has room."""
        self._report_at = self.loop.time()
        self._bell.set()

    def ring(self) -> None:
        """Somebody waits."""
        self._bell.set()

    # What comes of a call

    def is_beat(self, now: float) -> bool:
        return now >= self._beat_at

    def begin(self) -> None:
        """A report is on its way that tells all there is."""
        self._report_at = None

    def rest(self, started: float, crowd: int) -> None:
        """A call has decided a crowd of handshakes: let others gather for the next one."""
        self._quiet_until = started + crowd_pause(crowd, self._settings.ledger_timeout)

    def await_beat(self, started: float) -> None:
        self._beat_at = started + self._settings.heartbeat * random.uniform(0.9, 1.0)

    def beat_now(self) -> None:
        self._beat_at = self.loop.time()

    def await_probe(self, *, is_first: bool) -> None:
        """A call has failed, perhaps the first one: try again after a while."""
        backoff = FIRST_PROBE if is_first else self._backoff
        self._beat_at = self.loop.time() + backoff * random.uniform(0.5, 1.5)
        self._backoff = min(2 * backoff, self._settings.heartbeat / 1.5)

    # Waiting for it

    async def until_due(self, is_awaited: Callable[[], bool]) -> None:
        """Return when the next call should start; ``is_awaited`` says whether somebody waits for its answer."""
        while (delay := self._due(is_awaited()) - self.loop.time()) > 0:
            self._bell.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._bell.wait()

    def _due(self, is_awaited: bool) -> float:
        due = self._beat_at
        if not self._state.away:
            if is_awaited:
                due = min(due, self._quiet_until)
            if self._report_at is not None:
                due = min(due, max(self._report_at, self._quiet_until))
        return due
