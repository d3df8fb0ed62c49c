"""The limiter: one event loop's door to one pool.

One task per limiter talks to the ledger, one call at a time. Handshakes that arrive while a call is
under way share the next one, and releases ride along, so that a herd of a thousand costs a
handful of calls. Nothing here waits on the ledger longer than ``LEDGER_TIMEOUT``.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context

from ..conf import PoolSettings, Settings
from ..connections.connection import Connection
from ..connections.slot import Slot
from ..core.counters import Reason
from ..core.protocol import Ask, Refusal, Report
from ..core.rate import RetrySchedule
from ..events.dispatch import Events
from ..ledger.base import Ledger
from ..overload.manager import OverloadManager
from ..quotas.requests import Rules
from ..runtime.faults import Faults
from ..runtime.identity import Worker
from ..runtime.reserve import reserve
from .closer import Closer
from .lookout import Lookout
from .patience import Patience
from .queue import Queue
from .reconciler import Reconciler
from .state import State
from .timetable import Timetable
from .verdicts import Fullness, Verdicts

MOST_WAITING = 5000
"""Handshakes that may wait in one limiter; a herd above it is refused without a thought."""
REST = 1.0
"""Seconds of rest after a turn in which the wait or the call raised; a beat where that is shorter."""
PATIENCE_AT_EXIT = 0.1
"""Seconds a last report waits for slots that are being released at the same time."""
NOT_FULL = (0.0, "")


class Limiter:
    """A worker's slots in one pool, its waiting handshakes and its beat. Belongs to one event loop."""

    def __init__(
        self,
        pool: PoolSettings,
        settings: Settings,
        ledger: Ledger,
        worker: Worker,
        server: str = "",
        pressure: OverloadManager | None = None,
        on_end: Callable[["Limiter"], Awaitable[None]] | None = None,
        state: State | None = None,
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.state = state = state or State(pool, worker, server)
        self.faults = faults = Faults(f"pool {pool.name!r}", state.counters)
        self.rules = Rules(pool, settings) if pool.is_shared else None
        """What its handshakes must ask for; None where they ask for a slot and nothing else."""
        self.events = events = Events(pool, settings.alerts, state.counters, faults)
        self.refusals_held = 0
        """Refused clients that are kept a while, now."""
        self.connections: dict[Connection, float] = {}
        """The connections that hold its slots, the youngest last, each with when it ends at its maximum age, if any."""
        self._ledger = ledger
        self._pressure = pressure
        if pressure is not None:
            pressure.faults.books.append(state.counters)
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._schedule = RetrySchedule(state.terms)
        self._timetable = Timetable(state, settings)
        self._patience = Patience(settings.ledger_timeout, faults)
        self._fullness = Fullness(settings.ledger_timeout)
        self._verdicts = Verdicts(self, state, self.rules, self._schedule, events, self._timetable)
        self._queue = Queue(state, self.rules, self._verdicts, self._fullness, self._patience, self._timetable, faults)
        self.drains = Closer(state, self._schedule, self.connections, faults)
        self.lookout = Lookout(pool, self.connections, self.drains, faults)
        self._reconciler = Reconciler(
            ledger, settings, state, pressure, self._queue, self._schedule, self.drains, self._timetable,
            self._patience, events, faults,
        )  # fmt: skip
        self._retired = False
        self._parting = False
        self._exiting = False
        # An empty context: the limiter outlives the handshake that opened it, and should keep nothing of it.
        self.task = self._loop.create_task(self._run(), name=f"admission limiter {pool.name!r}", context=Context())

    @property
    def calls(self) -> int:
        """Calls made to the ledger so far."""
        return self.state.calls.made

    @property
    def present(self) -> int:
        """Connections that hold a slot, and handshakes that wait for one."""
        return self.state.held + len(self._queue.waiting)

    @property
    def saturated(self) -> bool:
        """Whether this worker refuses every handshake for what its monitors read."""
        return self._pressure is not None and self._pressure.saturated

    # For handshakes and connections

    async def acquire(self, ask: Ask | None = None) -> Slot | Refusal:
        """A slot, or a refusal, within ``LEDGER_TIMEOUT``. Cancelling it costs no slot.

        ``ask`` comes from the pool's :class:`~.requests.Rules`, where it has any. The exempt are always admitted.
        """
        state, group, is_exempt = self.state, 0, False
        if self.rules is not None:
            ask = ask or Ask()
            group = ask.group
            is_exempt = self.rules.is_exempt(group)
            if refused := self._verdicts.over(ask, is_asked=True):
                return refused
        refuse: Callable[..., Slot | Refusal] = self._verdicts.refuse if ask is None else self._verdicts.turn_away
        reason: str | None = state.closed
        if not reason and not is_exempt and self._pressure is not None:
            reason = self._pressure.refusing()
        if reason:
            return refuse(reason, ask)
        if state.away or self._parting:
            return self._verdicts.alone(ask)
        # A slot that is counted still. Where the pool is shared, the ledger alone knows who may have it.
        if ask is None and state.has_room and not self._queue.waiting:
            return self._verdicts.admit()
        until, why = self._fullness.until.get(group, NOT_FULL)
        if self._loop.time() < until and not is_exempt:
            self._fullness.turned_away += 1
            return refuse(why, ask)
        if len(self._queue.waiting) >= MOST_WAITING and not is_exempt:
            return refuse(Reason.CROWD, ask)
        return await self._queue.verdict(ask)

    async def claim(self, slot: Slot, ask: Ask) -> Refusal | None:
        """Let the connection that holds ``slot`` have what it asks for as well, or refuse it."""
        if self.state.away or self._parting:
            verdict = self._verdicts.alone(ask, slot)
        else:
            refused = self._verdicts.over(ask, slot, is_asked=True)
            verdict = refused or await self._queue.verdict(ask, slot)
        return verdict if isinstance(verdict, Refusal) else None

    def take_back(self, slot: Slot) -> None:
        """The slot was released."""
        if self.state.elders is not None:
            self.state.elders.forget(slot)
        self.state.release(slot.claims, slot.group)
        self._timetable.report_soon()

    def acquaint(self, slot: Slot) -> None:
        """The slot's connection has authenticated."""
        if self.rules is None or self.state.claims is None:
            return
        known = self.rules.without_pending(slot.claims)
        if known != slot.claims:
            self.state.claims.give(self.rules.pending)
            slot.claims = known
            self._timetable.report_soon()

    # The beat

    async def _run(self) -> None:
        """Beat until the limiter is closed, or nobody is left of one that was retired; no exception ends it."""
        try:
            while not (self._retired and self.present == 0):
                await self._turn()
        finally:
            await self._part()

    async def _turn(self) -> None:
        """Wait for the next call to be due, and make it, whatever goes wrong before; after a fault, take a rest."""
        sound = 0
        with self.faults.spare("the wait for the next call"):
            await self._timetable.until_due(self._reconciler.is_awaited)
            sound += 1
        if self._pressure is not None:
            with self.faults.spare("the revival of the monitors"):
                self._pressure.revive()
        with self.faults.spare("the end of connections for want of memory"):
            self._shed()
        with self.faults.spare("the heartbeat"):
            await self._reconciler.exchange()
            sound += 1
        with self.faults.spare("the reserve of descriptors"):
            reserve.fill()
        if sound < 2:
            with self.faults.spare("the rest after a fault"):
                await asyncio.sleep(min(REST, self.settings.heartbeat))

    def _shed(self) -> None:
        """Where memory runs out, end what the worker may of its connections in this beat.

        Those of the class with the least share first, and of one class the youngest, which have the least to lose.
        """
        if self._pressure is None or self.state.dry_run:
            return
        if most := self._pressure.to_shed():
            self._pressure.shed(self.drains.shed(most, self._share_of))

    def _share_of(self, connection: Connection) -> float:
        """The share of the pool that the connection's class may fill; without classes, the same for all."""
        if self.rules is None or connection.slot is None:
            return 1.0
        return self.rules.shares[connection.slot.group]

    # Parting

    def drain(self, seconds: float) -> None:
        """Refuse newcomers, and end all connections within ``seconds``: the process is about to end."""
        self.drains.drain_for_good(seconds)
        self._queue.turn_away(Reason.DRAINING)
        self._timetable.report_soon()

    def retire(self) -> None:
        """Stop when the last slot is released: other settings are in force, and another limiter serves them."""
        self._retired = self.state.retired = True
        self._timetable.report_now()

    async def aclose(self, *, exiting: bool = False) -> None:
        """Say goodbye to the ledger; handshakes that come later are decided alone.

        ``exiting`` says that the process ends now, and with it every connection that still holds a slot.
        """
        self._exiting = exiting
        self.task.cancel()
        try:
            await asyncio.wait([self.task])
        except asyncio.CancelledError:  # there is no time left
            self.task.cancel()
            raise
        if not self.task.cancelled() and (fault := self.task.exception()):
            raise fault

    def last_report(self) -> Report:
        """What is to be told of a process that ends at once, and with it all of its connections."""
        self.state.held = 0
        return self.state.report(goodbye=True)

    async def _part(self) -> None:
        self._parting = True
        for end in (
            self._patience.cancel, self.drains.cancel, self._queue.answer_alone, self.events.refusals.close,
        ):  # fmt: skip
            with self.faults.spare("the end"):
                end()
        try:
            with self.faults.spare("the goodbye"):
                await self._say_goodbye()
        finally:
            if self._pressure is not None:
                self._pressure.faults.leave_out(self.state.counters)
            if self._on_end is not None:
                await self._on_end(self)

    async def _say_goodbye(self) -> None:
        patience = self._loop.time() + PATIENCE_AT_EXIT
        while self.state.held and self._loop.time() < patience:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if self._exiting:
            self.state.held = 0
        try:
            await self._reconciler.part()
        finally:
            await self.events.aclose()
