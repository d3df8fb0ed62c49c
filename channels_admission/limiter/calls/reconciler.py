"""The exchange of one limiter with its ledger: one task, one call at a time."""

import asyncio
import random
from collections.abc import Sized
from contextlib import suppress
from contextvars import Context
from typing import Protocol

from ...conf import Settings
from ...core.protocol import Reply, Report
from ...events import messages
from ...exceptions import LedgerError, LedgerUnavailable
from ...ledger.base import Forgotten, Ledger, OutOfOrder, done_within
from ...runtime.faults import Faults
from ..books.state import State
from ..queue import Batch
from .pace import IDLE, CallPace
from .schedule import Schedule

FIRST_PROBE = 0.05
"""Seconds until a lost ledger is asked again; doubles up to a heartbeat."""
REST = 1.0
"""Seconds of rest after a turn in which the wait or the call raised; a heartbeat where that is shorter."""
EXIT_TIMEOUT = 0.1
"""Seconds a last report waits for slots that are being released at the same time."""
EXCHANGE = "the exchange with the ledger"


class Client(Protocol):
    """The limiter, as its reconciler sees it."""

    state: State
    faults: Faults
    pace: CallPace

    @property
    def waiting(self) -> Sized:
        """The handshakes that wait for a call."""

    def is_over(self) -> bool:
        """Whether no further call is needed."""

    def tend(self, *, heartbeat: bool) -> None:
        """Do what is due before each call, and before each ``heartbeat``. Never fails."""

    def begin_report(self, now: float, *, heartbeat: bool) -> Batch:
        """The next report, with the handshakes it asks for."""

    def apply(self, batch: Batch, reply: Reply) -> None:
        """Do what the reply says."""

    def go_alone(self, error: LedgerError) -> None:
        """The call has failed, or is late: decide without the ledger."""

    def refuse_late(self) -> None:
        """Refuse the handshakes that wait: the next call will be made too late for them."""

    def came_late(self, took: float) -> None:
        """The ledger has answered a late call, ``took`` seconds after it was made."""

    def close(self) -> None:
        """No call is made any more: decide for all that wait."""

    async def end(self) -> None:
        """The goodbye is said, or could not be. Not called where the event loop is gone."""


class Reconciler:
    """Calls ``ledger`` for ``client``. Belongs to one event loop, and all times are of its clock."""

    def __init__(self, client: Client, ledger: Ledger, settings: Settings) -> None:
        self.ledger = ledger
        self._client = client
        self._settings = settings
        self._state = client.state
        self._faults = client.faults
        self._loop = asyncio.get_running_loop()
        self.schedule = Schedule(client.state, client.waiting, settings.ledger_timeout)
        self._backoff = FIRST_PROBE
        self._longest_backoff = settings.heartbeat / 1.5
        self._is_exiting = False
        self._pace = client.pace
        self.task: asyncio.Task[None] | None = None

    # The task

    def start(self) -> asyncio.Task[None]:
        """Begin to make calls, unless it has begun."""
        if self.task is not None:
            return self.task
        # An empty context: the task outlives the handshake that opened the limiter, and keeps nothing of it.
        name = f"admission limiter {self._state.pool.name!r}"
        self.task = self._loop.create_task(self._run(), name=name, context=Context())
        return self.task

    async def aclose(self, *, exiting: bool = False) -> None:
        """Say goodbye; ``exiting`` where every connection that still holds a slot ends with the process now."""
        task, self._is_exiting = self.start(), exiting
        task.cancel()
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:  # there is no time left
            task.cancel()
            raise
        if not task.cancelled() and (fault := task.exception()):
            raise fault

    async def _run(self) -> None:
        """Make calls until the client is over. No exception ends it."""
        is_abandoned = False
        try:
            while not self._client.is_over():
                await self.turn()
        except GeneratorExit:  # its event loop is gone, and this may interrupt another limiter's call
            is_abandoned = True
            raise
        finally:
            self._client.close()
            if not is_abandoned:
                await self._end()

    async def _end(self) -> None:
        is_abandoned = False
        try:
            with self._faults.spare("the goodbye"):
                await self._say_goodbye()
        except GeneratorExit:
            is_abandoned = True
            raise
        finally:
            if not is_abandoned:
                await self._client.end()

    async def turn(self) -> None:
        """Wait for the next call to be due and make it, whatever goes wrong before; after a fault, rest."""
        is_sound = False
        with self._faults.spare("the wait for the next call"):
            await self.schedule.until_due()
            is_sound = True
        self._client.tend(heartbeat=self._is_heartbeat(self._loop.time()))
        with self._faults.spare("the heartbeat"):
            await self.exchange()
            if is_sound:
                return
        with self._faults.spare("the rest after a fault"):
            await asyncio.sleep(min(REST, self._settings.heartbeat))

    # One exchange

    async def exchange(self) -> None:
        """One call, and a second one where only the connection broke. Whatever goes wrong in it is one failed call."""
        try:
            await self._attempt()
        except Exception as error:
            self._faults.note(EXCHANGE, error)
            self._fail(LedgerUnavailable(f"an unexpected {type(error).__name__}"))
        else:
            if not self._state.away:
                self._faults.recover(EXCHANGE)

    async def _attempt(self) -> None:
        try:
            try:
                await self._call()
            except LedgerUnavailable as error:
                if not error.reset or self._state.away:
                    raise
                await self._call()
        except Forgotten:
            messages.lapsed(self._state.pool.name, self._state.worker.id, self._state.held)
            self._begin_anew()
        except OutOfOrder as error:
            messages.taken_name(self._state.worker.id, error)
            self._begin_anew()
        except LedgerError as error:
            self._fail(error)

    async def _call(self) -> None:
        state, schedule, started = self._state, self.schedule, self._loop.time()
        batch = self._client.begin_report(started, heartbeat=self._is_heartbeat(started))
        report, was_away = batch.report, state.away
        schedule.begin(started)
        try:
            with state.calls.timing(self._loop.time):
                reply = await self._ask(report)
        finally:
            schedule.is_calling = False
        self._client.apply(batch, reply)
        self._backoff = FIRST_PROBE
        self._pace.count(reply.version, started)
        if report.heartbeat or was_away:
            schedule.heartbeat_at = started + self._settings.heartbeat * random.uniform(0.9, 1.0)
        if was_away:
            schedule.report_now()
        elif state.unreported or state.draining != report.draining:
            schedule.report_soon()
        if state.is_low:
            schedule.refill()
        pause = self._pace.call
        if report.wanted > 1 and batch.is_all:
            pause = max(pause, self._pace.crowd(report.wanted))
        if reply.turns:  # tickets ask in a shortage as well, also those that are shown again and again
            pause = max(pause, self._pace.shortage)
        schedule.quiet_until = started + pause
        if schedule.is_too_late():
            self._client.refuse_late()

    def _is_heartbeat(self, now: float) -> bool:
        """Whether a call ``now`` is the heartbeat, since the next one could only come after it is due."""
        return now + self._pace.call >= self.schedule.heartbeat_at

    async def _ask(self, report: Report) -> Reply:
        """The ledger's reply, or :exc:`LedgerUnavailable` when it takes too long.

        No other call is made while a late one may still be answered, so that many workers do not drown a slow Redis.
        The answer is dropped: it tells that the ledger is there, and how slow it is.
        """
        started, timeout, longest = self._loop.time(), self._pace.timeout, self._pace.longest
        call = self._loop.create_task(self.ledger.reconcile(self._state.pool.name, report))
        call.add_done_callback(_take_exception)  # whether or not anybody asks for it
        try:
            if await done_within((call,), timeout) and not call.cancelled():
                return call.result()
            late = LedgerUnavailable(f"no answer within {timeout:g} s")
            if longest > timeout:
                self._client.go_alone(late)
                if await done_within((call,), longest - timeout) and not call.cancelled():
                    call.result()
                    self._came_late(self._loop.time() - started)
            raise late
        except asyncio.CancelledError:
            # It may answer its cancellation with another error, or not at all.
            call.cancel()
            await asyncio.wait((call,), timeout=self._settings.ledger_timeout)
            raise
        except Exception:
            call.cancel()
            raise

    def _came_late(self, took: float) -> None:
        """The ledger is there and has too much to do: leave it more time than it took."""
        self._backoff = max(self._backoff, min(IDLE * took, self._longest_backoff))
        self._client.came_late(took)

    def _begin_anew(self) -> None:
        """Go on under another name, and report at once."""
        self._state.rename()
        self.schedule.heartbeat_at = self._loop.time()

    def _fail(self, error: LedgerError) -> None:
        """Decide alone until the ledger answers again, and ask it again after a while."""
        self.schedule.heartbeat_at = self._loop.time() + self._backoff * random.uniform(0.5, 1.5)
        self._backoff = min(2 * self._backoff, self._longest_backoff)
        self._client.go_alone(error)

    async def _say_goodbye(self) -> None:
        """Make the last report once the last slots are released. Where it fails, the lease runs out."""
        state, deadline = self._state, self._loop.time() + EXIT_TIMEOUT
        while state.held and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if self._is_exiting:
            state.held = 0
        with suppress(LedgerError, TimeoutError):
            async with asyncio.timeout(self._settings.ledger_timeout):
                report = state.begin_report(goodbye=True, now=self._loop.time())
                await self.ledger.reconcile(state.pool.name, report)


def _take_exception(call: asyncio.Task[Reply]) -> None:
    """Mark the exception of a call as seen, so that asyncio does not log it."""
    if not call.cancelled():
        call.exception()
