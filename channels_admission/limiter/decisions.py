"""Every yes and no of one limiter."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from ..conf import Settings
from ..core.counters import ATTEMPTS, Reason
from ..core.herd.tickets import Ticket
from ..core.protocol import Ask, Refusal, Reply
from ..core.quotas.attempts import Over
from ..events.log import RefusalLog
from ..overload.manager import OverloadManager
from ..runtime.faults import Faults
from .books.slots import Slots
from .books.state import State
from .calls.pace import CallPace
from .connections.asgi import Scope
from .connections.slot import Owner, Slot
from .entrance.entrance import Door, Entrance
from .line.places import Places
from .queue import Batch, Handshake, Queue, Shortage, may_retry
from .verdicts import Verdicts

MOST_WAITING = 5000
"""Handshakes that may wait in one limiter; further ones are refused at once."""


class Decider(Owner, Door, Protocol):
    """The limiter, as its decisions see it."""

    settings: Settings
    faults: Faults
    entrance: Entrance
    pace: CallPace

    def wake(self) -> None:
        """Ask the ledger: a handshake waits."""

    def is_too_late(self) -> bool:
        """Whether a handshake that comes now will have waited too long when the ledger is asked next."""

    def refill(self) -> None:
        """Ask the ledger for slots before their handshakes come."""


class Decisions:
    """Admits and refuses the handshakes of ``owner`` by its books, its monitors and the replies of its ledger.

    Belongs to one event loop.
    """

    def __init__(
        self, owner: Decider, state: State, places: Places, overload: OverloadManager | None, log: RefusalLog
    ) -> None:
        self._owner = owner
        self._state = state
        self._places = places
        self._overload = overload
        self._rules = owner.rules
        self._entrance = owner.entrance
        self._faults = owner.faults
        self._loop = asyncio.get_running_loop()
        self.slots = Slots(owner, state, self._loop.time)
        self.queue = Queue(owner.settings.ledger_timeout, self._expire, owner.faults)
        self.shortage = Shortage(owner.pace)
        self._log = log
        self._verdicts = Verdicts(owner, state, self.slots, places, log)
        self._most = state.pool.max_per_worker
        self._is_closed = False

    def close(self) -> None:
        """Decide for all that wait, and from now on without the ledger."""
        self._is_closed = True
        for part in (self.queue.close, self._log.close, self.decide_all):
            with self._faults.spare("the end"):
                part()

    @property
    def present(self) -> int:
        """Connections that hold a slot, and handshakes that wait for one."""
        return self._state.held + len(self.queue)

    async def acquire(
        self, ask: Ask | None = None, ticket: Ticket | None = None, scope: Scope | None = None
    ) -> Slot | Refusal:
        """A slot, or a refusal, within ``LEDGER_TIMEOUT``. Cancelling it costs no slot.

        ``ask`` comes from :attr:`rules`, where the pool has any. The exempt are always admitted. A ``ticket`` that is
        due is refused for no shortage of which the ledger has told others, and for no crowd at the entrance. The
        ``scope`` tells whether a balancer may try another worker.
        """
        state, class_index, is_exempt = self._state, 0, False
        if self._rules is not None:
            ask = ask or Ask()
            class_index, is_exempt = ask.class_index, self._verdicts.is_exempt(ask)
            if refusal := self._verdicts.refuse_attempt(ask, ticket=ticket, is_asked=True):
                return refusal
        reason: str | None = state.closed
        if not reason and not is_exempt:
            if self._most is not None and self.present >= self._most:
                reason = Reason.WORKER
            elif self._overload is not None:
                reason = self._overload.refusing()
        if reason:
            return self._verdicts.refuse_unasked(reason, ask, ticket, scope)
        if self._entrance.is_full and not (is_exempt or (ticket is not None and self._places.is_due(ticket))):
            return self._verdicts.refuse(Reason.ENTRANCE, ask, ticket=ticket, wait=self._entrance.hint())
        if state.away or self._is_closed:
            return self._verdicts.alone(ask, ticket=ticket)
        # A slot that is counted still.
        if ticket is None and state.held < state.allowance and not self.queue.waiting and state.may_enter(ask):
            slot = self.slots.take(ask, None)
            if state.ready < state.reserve.least:
                self._owner.refill()
            elif state.reserve.most:
                self._owner.report_when_quiet()
            return slot
        if not is_exempt:
            if ticket is None or not self._places.is_awaited(ticket):
                reason = self.shortage.reason(class_index, self._loop.time())
            if len(self.queue) >= MOST_WAITING or self._owner.is_too_late():
                reason = reason or Reason.CROWD
            if reason:
                return self._verdicts.refuse_unasked(reason, ask, ticket)
        return await self._wait(ask, ticket=ticket, scope=scope)

    async def let_in(
        self, slot: Slot, ask: Ask | None, ticket: Ticket | None = None, scope: Scope | None = None
    ) -> Slot | Refusal:
        """``slot`` when its connection may enter, or a refusal. Cancelling it costs no slot."""
        try:
            place = self._places.rank(ticket)
            reason = await self._entrance.wait(self._owner, is_exempt=self._verdicts.is_exempt(ask), place=place)
        except BaseException:
            slot.release()
            raise
        return slot if reason is None else self.withdraw(slot, reason, ticket, scope)

    def withdraw(self, slot: Slot, reason: str, ticket: Ticket | None, scope: Scope | None) -> Slot | Refusal:
        """Refuse a handshake that has its slot already."""
        self.slots.withdraw(slot)
        wait = self._entrance.hint() if reason == Reason.ENTRANCE else 0.0
        return self._verdicts.refuse(reason, ticket=ticket and self._places.renumbered(ticket), wait=wait, scope=scope)

    async def extend(self, slot: Slot, ask: Ask) -> Refusal | None:
        """Count ``slot`` under what is asked for as well, or refuse that."""
        if self._state.away or self._is_closed:
            verdict = self._verdicts.alone(ask, slot)
        else:
            verdict = self._verdicts.refuse_attempt(ask, slot, is_asked=True) or await self._wait(ask, slot)
        return verdict if isinstance(verdict, Refusal) else None

    async def _wait(
        self, ask: Ask | None, slot: Slot | None = None, ticket: Ticket | None = None, scope: Scope | None = None
    ) -> Slot | Refusal:
        """The ledger's verdict."""
        handshake = self.queue.join(ask, slot)
        handshake.scope = scope
        if ticket is not None:
            handshake.ticket = ticket
            handshake.place = self._places.rank(ticket)
        if len(self.queue) == 1:
            self._owner.wake()
        try:
            return await handshake
        except asyncio.CancelledError:
            if slot is None and handshake.done() and not handshake.cancelled():
                verdict = handshake.result()
                if isinstance(verdict, Slot):
                    verdict.release()
            raise

    def refuse_waiting(self, reason: Reason, *, is_exempt_spared: bool = False) -> None:
        """Refuse every handshake that waits for a slot, or all but the exempt."""
        for handshake in self.queue.waiting:
            is_spared = is_exempt_spared and self._verdicts.is_exempt(handshake.ask)
            if handshake.slot is None and not (handshake.done() or is_spared):
                self._decide(handshake, self._verdicts.refuse_waiting, reason)
        self.queue.drop_answered()

    # With the ledger

    def begin_batch(self, now: float) -> Batch:
        """The handshakes that a call ``now`` asks for."""
        if self.queue.waiting:
            with self._faults.spare("the queue of handshakes"):
                return self.queue.batch(now, shared=self._rules is not None)
        return Batch([], None if self._rules is None else (), True, now)  # the report matters more

    def answer(self, batch: Batch, reply: Reply) -> None:
        """Give the handshakes of ``batch`` the verdicts of the ledger. What was granted and cannot be given is free."""
        try:
            if reply.turns:
                batch.hear_turns(reply)
            if batch.asks is None:
                self._answer_all(batch, reply)
            else:
                self._answer_each(batch, reply)
        except Exception as error:
            self._faults.note("the answer to handshakes", error)
            for ask in batch.untold(reply):
                self.slots.give_up(ask)
        else:
            self._faults.recover("the answer to handshakes")
        self._state.reserve.end_grants()

    def _answer_all(self, batch: Batch, reply: Reply) -> None:
        shortfall = reply.shortfall or Reason.FULL
        if reply.shortfall:
            self.shortage.note_pool(shortfall, batch.refused(reply), batch.started)
        elif reply.total < reply.limit:
            self.shortage.end(has_line=reply.has_line)
        for index in reply.granted_shown:
            handshake = batch.handshakes[index]
            if self._state.has_room and not handshake.done():
                self._decide(handshake, lambda _: self.slots.admit())
        for turn in reply.turns:
            handshake = batch.handshakes[turn.handshake]
            if not handshake.done():
                self._decide(handshake, self._verdicts.refuse_waiting, shortfall)
        self._share_out(shortfall)

    def _share_out(self, shortfall: Reason) -> None:
        """Admit in the order of arrival while slots are counted, then refuse those that the call has asked for."""
        for handshake in self.queue.take(lambda each: self._state.has_room or each.is_asked):
            if self._state.has_room:
                self._decide(handshake, lambda _: self.slots.admit())
            else:
                self._decide(handshake, self._verdicts.refuse_waiting, shortfall)

    def _answer_each(self, batch: Batch, reply: Reply) -> None:
        now, waits = self._loop.time(), iter(reply.waits)
        for handshake, ask, reason in zip(batch.handshakes, batch.asks or (), reply.verdicts, strict=True):
            batch.told += 1
            if may_retry(ask, reason):
                self.shortage.note_class(ask.class_index, reason, now)
            wait = 0.0
            if reason.startswith(ATTEMPTS):
                wait = next(waits, 0.0)
                self._verdicts.learn(Over(reason, wait), ask, now)
            is_given = not handshake.done() and self._decide(handshake, self._carry_out, ask, reason, wait)
            if not (is_given or reason):
                self.slots.give_up(ask)
        self.queue.drop_answered()

    def _carry_out(self, handshake: Handshake, ask: Ask, reason: str, wait: float) -> Slot | Refusal:
        """The ledger's verdict on one handshake."""
        if reason:
            return self._verdicts.refuse_waiting(handshake, reason, wait)
        return self.slots.give(ask, handshake.slot)

    def _decide(self, handshake: Handshake, verdict: Callable[..., Slot | Refusal], *arguments: Any) -> bool:
        """Answer a handshake with the verdict, or where that raises with a refusal; tells whether it could be made."""
        try:
            handshake.set_result(verdict(handshake, *arguments))
        except Exception as error:
            self._faults.note("a verdict", error)
            handshake.set_result(Refusal(Reason.LEDGER, self._state.terms.retry_after[1]))
            return False
        return True

    def _expire(self, handshake: Handshake) -> None:
        self._decide(handshake, self._verdicts.overdue)

    def decide_all(self) -> None:
        """Decide for all that wait without the ledger, those with due tickets first."""
        for handshake in sorted(self.queue.take(), key=lambda each: each.place):
            self._decide(handshake, lambda each: self._verdicts.alone(each.ask, each.slot, each.ticket))
