"""The limiter: what a worker's event loop knows of one pool, and does there."""

import asyncio
from collections.abc import Awaitable, Callable

from ..conf import Settings
from ..core.counters import Reason
from ..core.protocol import Refusal, Reply, Report
from ..core.readings import Told, Work
from ..events.dispatch import Events
from ..exceptions import LedgerError
from ..ledger.base import Ledger
from ..overload.manager import OverloadManager
from ..quotas.requests import Rules
from ..runtime.descriptors import spares
from ..runtime.faults import Faults
from ..runtime.identity import gone_of
from ..runtime.servers import has_left
from .books.state import State
from .calls.pace import CallPace
from .calls.reconciler import Reconciler
from .closer import Closer
from .connections.asgi import Receive, Scope, Send
from .connections.connection import Connection
from .connections.slot import KEY, Slot
from .connections.tickets import take
from .decisions import Decisions
from .entrance.entrance import Entrance
from .line.places import Places
from .line.retries import RetrySchedule
from .lookout import Lookout
from .news import News
from .queue import Batch
from .refusing import LEFT, Refuser


class Limiter:
    """A worker's connections to one pool, from handshake to end. Belongs to one event loop.

    ``settings`` are the worker's. No handshake waits for ``ledger`` longer than ``LEDGER_TIMEOUT``.
    """

    def __init__(
        self,
        state: State,
        settings: Settings,
        ledger: Ledger,
        overload: OverloadManager | None = None,
        on_end: Callable[["Limiter"], Awaitable[None]] | None = None,
        entrance: Entrance | None = None,
    ) -> None:
        self.pool = pool = state.pool
        self.settings = settings
        self.state = state
        self.overload = overload
        self.faults = faults = Faults(f"pool {pool.name!r}", state.counters)
        self.rules = Rules(pool, settings, state.counters) if pool.is_shared else None
        """What its handshakes must ask for; None where they ask for a slot and nothing else."""
        self.entrance = entrance or Entrance(settings.entrance_wait, faults)
        """Shared by all limiters of the event loop."""
        self.events = Events(pool, settings.alerts, state.counters, faults)
        self._news = News(state, settings, self.events)
        self._loop = asyncio.get_running_loop()
        self.pace = CallPace(state, settings.ledger_timeout, settings.heartbeat)
        self.retries = RetrySchedule(state, settings.heartbeat)
        self.places = Places(state, self.retries)
        self.decisions = Decisions(self, state, self.places, overload, self.events.refusals)
        self.acquire = self.decisions.acquire
        self.take_back, self.acquaint = self.decisions.slots.take_back, self.decisions.slots.acquaint
        self._refuser = Refuser(state, overload)
        self.closer = Closer(state, self.places, faults, self._begin_drain, settings.drain_delay)
        self.connections = self.closer.connections
        """The open connections, the youngest last, each with when it ends at its maximum age, if any."""
        self.refuse, self.end_outlived = self._refuser.refuse, self.closer.end_outlived
        self.lookout = Lookout(state, self.closer, faults, self.rules)
        self.waiting = self.decisions.queue.waiting
        self.reconciler = Reconciler(self, ledger, settings)
        schedule = self.reconciler.schedule
        self.wake, self.report_soon, self.report_now = schedule.wake, schedule.report_soon, schedule.report_now
        self.refill, self.report_when_quiet = schedule.refill, schedule.report_when_quiet
        self.is_too_late = schedule.is_too_late
        self._gone: tuple[str, ...] = ()
        """Neighbours whose process has ended, to be told."""
        self._on_end = on_end
        if overload is not None:
            overload.faults.books.append(state.counters)
        self.task = self.reconciler.start()

    @property
    def present(self) -> int:
        """Connections that hold a slot, and handshakes that wait for one."""
        return self.decisions.present

    @property
    def saturated(self) -> bool:
        """Whether this worker refuses every handshake because of a monitor."""
        return self.overload is not None and self.overload.saturated

    @property
    def is_full(self) -> bool:
        """Whether this worker holds ``MAX_PER_WORKER`` slots."""
        most = self.pool.max_per_worker
        return most is not None and self.present >= most

    # Connections

    async def enter(self, scope: Scope, receive: Receive, send: Send) -> Connection | Refusal:
        """Decide a handshake: its connection, which holds a slot until :meth:`leave`, or a refusal.

        Cancelling it costs no slot.
        """
        came = self._loop.time()
        ticket = self.places.read(text) if (text := take(scope)) else None
        ask = None if self.rules is None else self.rules.ask(scope)
        verdict = await self.decisions.acquire(ask, ticket, scope)
        if isinstance(verdict, Slot):
            if self.entrance.room > 1:
                self.entrance.room -= 1
            elif KEY not in scope:  # else it has been let in with its first slot
                verdict = await self.decisions.let_in(verdict, ask, ticket, scope)
                if isinstance(verdict, Slot) and has_left(send):
                    verdict.release()
                    return LEFT
            if self.state.draining and isinstance(verdict, Slot):  # since the verdict: the drain does not know of it
                verdict = self.decisions.withdraw(verdict, Reason.DRAINING, ticket, scope)
        self.events.tell_verdict(verdict, self.state.worker, ask)
        if isinstance(verdict, Refusal):
            return self.places.heard(verdict, text) if text else verdict
        if ticket is not None:
            self.places.redeem(ticket)
            text = ""
        self.state.waits.note(self._loop.time() - came)
        return self.lookout.open(verdict, scope, receive, send, text)

    def leave(self, connection: Connection) -> None:
        """The application of the connection has returned."""
        connection.leave()
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """Release the slot of the connection, whether or not its application goes on."""
        self.connections.pop(connection, None)
        if connection.slot is not None:
            connection.slot.release()

    async def claim(self, slot: Slot, scope: Scope) -> Refusal | None:
        """Count ``slot`` under what the scope now tells as well. Where that is refused, the slot is released."""
        ask = None if self.rules is None else self.rules.ask_again(scope, slot.claims, slot.class_index)
        refusal = None if ask is None else await self.decisions.extend(slot, ask)
        if refusal is not None:
            self.events.tell_verdict(refusal, self.state.worker, ask)
            slot.release()
        return refusal

    # Reports and replies

    def refuse_late(self) -> None:
        self.decisions.refuse_waiting(Reason.CROWD, is_exempt_spared=True)

    def begin_report(self, now: float, *, heartbeat: bool) -> Batch:
        batch, accepting = self.decisions.begin_batch(now), self.lookout.accepting
        told = Told(work=Work(accepting=accepting))
        with self.faults.spare("the readings"):
            if self.overload is not None:
                told = self.overload.told(accepting)
        batch.report = self.state.begin_report(
            batch.wanted,
            asks=batch.asks or (),
            shown=batch.shown,
            told=told,
            unreserved=self.retries.unreserved,
            gone=self._gone,
            heartbeat=heartbeat,
            now=now,
        )
        return batch

    def apply(self, batch: Batch, reply: Reply) -> None:
        """Do what the reply to ``batch`` says, in this order. Only the books can fail it, and then nothing is done."""
        state, report, was_away = self.state, batch.report, self.state.away
        state.settle(report, reply)
        self.places.clock.hear(reply.now)
        self._gone = ()
        self.retries.unreserved -= report.unreserved
        if was_away:
            self._do("the news of a regained ledger", self._news.regained)
        if reply.retry_times:
            self._do("the retry times", self.retries.renew, reply.retry_times, batch.reserved(reply), self._loop.time())
        if report.heartbeat or was_away:
            self._do("the neighbours", self._meet, reply)
        self._do("the news of the pool", self._news.replied, report, reply)
        for edge in reply.edges:
            self._do("the alert of a level", self.events.level, edge, state.worker)
        self._do("the drains", self.closer.follow, reply)
        if reply.evicted:
            self._do("the end of connections beyond a quota", self.closer.evict, reply)
        if report.heartbeat:
            self._do("the end of connections beyond a limit", self.closer.enforce, reply, self.settings.heartbeat)
        if state.closed:
            self._do("the refusal of all that wait", self.decisions.refuse_waiting, state.closed)
        self.decisions.answer(batch, reply)

    def _do(self, part: str, step: Callable[..., object], *arguments: object) -> None:
        """Make one step of :meth:`apply`; an exception ends no other."""
        try:
            step(*arguments)
        except Exception as error:
            self.faults.note(part, error)
        else:
            self.faults.recover(part)

    def _meet(self, reply: Reply) -> None:
        """Look which neighbours are gone."""
        if self.overload is not None:
            self.overload.meet(self.pool.name, len(reply.neighbours))
        self._gone = gone_of(reply.neighbours, self.state.worker.locks)
        if self._gone:
            self.report_now()

    # Without the ledger

    def go_alone(self, error: LedgerError) -> None:
        is_first = not self.state.away
        self.state.fail(self.places.clock.time())
        self._news.lost(error, is_first=is_first)
        if is_first:
            with self.faults.spare("the retry times without a ledger"):
                self.retries.go_alone(self._loop.time())
        with self.faults.spare("the decision alone"):
            self.decisions.decide_all()

    def came_late(self, took: float) -> None:
        with self.faults.spare("the news of a slow ledger"):
            self._news.late(took)

    # The task

    def is_over(self) -> bool:
        return self.state.retired and self.present == 0

    def tend(self, *, heartbeat: bool) -> None:
        """Revive the monitors, end connections where memory runs out, and keep spare descriptors."""
        overload = self.overload
        if overload is not None and heartbeat:
            with self.faults.spare("the revival of the monitors"):
                overload.revive()
        if overload is not None and (heartbeat or overload.is_out_of_memory):
            with self.faults.spare("the end of connections for want of memory"):
                self.closer.shed(overload, self.rules)
        if heartbeat or spares.is_short:
            with self.faults.spare("the spare descriptors"):
                spares.fill()

    def drain(self, seconds: float) -> None:
        """Refuse newcomers, and end all connections within ``seconds``, after ``DRAIN_DELAY``: the process will end."""
        self.closer.drain_for_good(seconds)

    def _begin_drain(self, seconds: float) -> None:
        """Close those that are held within ``seconds``, and refuse those that wait."""
        self._refuser.release(seconds)
        self.decisions.refuse_waiting(Reason.DRAINING)
        self.report_soon()

    def retire(self) -> None:
        """Stop when the last slot is released: other settings are in force, and another limiter serves them."""
        self.state.retired = True
        self.report_now()

    async def aclose(self, *, exiting: bool = False) -> None:
        """Say goodbye to the ledger; handshakes that come later are decided alone.

        ``exiting`` says that the process ends now, and with it every connection that still holds a slot.
        """
        await self.reconciler.aclose(exiting=exiting)

    def last_report(self) -> Report:
        """The goodbye of a process that ends at once, and with it all of its connections."""
        self.state.held = 0
        return self.state.begin_report(goodbye=True)

    # For the parts: see :class:`~.limiter.connections.slot.Owner` and :class:`.Client`

    def close(self) -> None:
        self.decisions.close()
        with self.faults.spare("the end"):
            self.closer.cancel()

    async def end(self) -> None:
        if self.overload is not None:
            self.overload.faults.leave_out(self.state.counters)
        try:
            with self.faults.spare("the end of the events"):
                await self.events.aclose()
        finally:  # receivers may take all the time that is left
            if self._on_end is not None:
                await self._on_end(self)
